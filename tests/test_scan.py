"""Many steps as one program: always the numbers of the loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._dynamo import config

import pure_sgd as ps
from pure_sgd.training import one_program, scanned
from pure_sgd.tree import packing

(X, Y), _ = ps.data.linear_regression(ps.random.key(0), n=40, features=3)
MODEL = ps.models.linear(3)
LOSS = ps.empirical_risk(lambda params, x, y: ps.losses.squared_error(MODEL.apply(params, x), y))
TX = ps.chain(
    ps.clip_by_global_norm(1.0),
    ps.sgd(ps.cosine_decay_schedule(0.1, 20), momentum=0.9, weight_decay=1e-3),
    ps.params_ema(0.9),
)
INDICES = torch.cat([ps.epoch_indices(40, 8, seed=0, epoch=epoch) for epoch in range(4)])
BATCHES = X[INDICES], Y[INDICES]


def counting(tx: Any = TX, loss: Any = LOSS) -> tuple[Any, list[None]]:
    """A new step, and a list that grows whenever it runs uncompiled."""
    calls: list[None] = []

    def counted(params: Any, batch: Any) -> Any:
        if not torch.compiler.is_compiling():
            calls.append(None)
        return loss(params, batch)

    return ps.make_step(counted, tx), calls


def start(tx: Any = TX, dtype: torch.dtype = torch.float32) -> ps.TrainState:
    params = ps.tree.map(lambda p: p.to(dtype), MODEL.init(ps.random.key(1)))
    return ps.init_train_state(params, tx)


def loop(step: Any, state: ps.TrainState, batches: Any) -> tuple[ps.TrainState, dict[str, torch.Tensor]]:
    """The definition."""
    seen = []
    for k in range(len(batches[0])):
        state, metrics = step(state, ps.tree.map(lambda leaf, k=k: leaf[k], batches))
        seen.append(metrics)
    return state, {name: torch.stack([metrics[name] for metrics in seen]) for name in seen[0]}


def assert_same(one: Any, other: Any, rtol: float = 0.0, atol: float = 0.0) -> None:
    assert ps.tree.structure(one) == ps.tree.structure(other)
    for (path, a), (_, b) in zip(ps.tree.named_leaves(one), ps.tree.named_leaves(other), strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol, msg=lambda text, path=path: f"{path}: {text}")


def test_torch_has_the_loop_that_scan_compiles_to():
    """A prototype of torch. Where a version has moved it, runs stay right and become slow."""
    scan = one_program._loop_operator()
    assert scan is not None, "torch._higher_order_ops.scan is gone: see one_program._loop_operator"

    @torch.compile(backend="eager", fullgraph=True)
    def running_sums(start: torch.Tensor, numbers: torch.Tensor) -> Any:
        return scan(lambda total, new: ([total[0] + new[0]], [2 * total[0]]), [start], [numbers])

    (total,), (doubled,) = running_sums(torch.tensor(1.0), torch.tensor([1.0, 2.0, 3.0]))
    assert total == 7
    assert doubled.tolist() == [2.0, 4.0, 8.0]


def test_it_is_the_loop_bit_for_bit_and_compiles_once_for_any_length():
    step, calls = counting()
    many = {n: ps.tree.map(lambda leaf, n=n: leaf[:n], BATCHES) for n in (20, 7, 2, 13)}
    found = {20: ps.scan(step, start(), many[20], backend="aot_eager")}
    with config.patch(error_on_recompile=True):
        found |= {n: ps.scan(step, start(), many[n], backend="aot_eager") for n in (7, 2, 13, 20)}
    assert len(calls) == 1  # to see what its metrics are: no Python runs between two steps
    for n, batches in many.items():
        expected = loop(step, start(), batches)
        assert_same(found[n], expected)
        assert all(metric.shape == (n,) for metric in found[n][1].values())
    assert found[20][0].step == 20
    assert found[20][1].keys() == {"loss", "grad_norm", "learning_rate"}


def test_a_round_of_the_loop_may_take_several_steps():
    step, calls = counting()
    for n in (20, 7, 2, 18):
        batches = ps.tree.map(lambda leaf, n=n: leaf[:n], BATCHES)
        with config.patch(error_on_recompile=n != 20):
            found = ps.scan(step, start(), batches, backend="eager", unroll=3)
        assert_same(found, loop(step, start(), batches))
        assert len(calls) == 1 + n
        del calls[1:]


def test_the_state_goes_on_and_no_argument_changes():
    step, _ = counting()
    state, halves = start(), [ps.tree.map(lambda leaf, k=k: leaf[k : k + 10], BATCHES) for k in (0, 10)]
    before = ps.tree.map(torch.clone, (state, halves))
    middle, _ = ps.scan(step, state, halves[0], backend="aot_eager")
    end, _ = ps.scan(step, middle, halves[1], backend="aot_eager")
    assert_same(end, loop(step, start(), BATCHES)[0])
    assert_same((state, halves), before)
    assert not hasattr(halves[0][0], "_dynamo_dynamic_indices")  # nor does what others compile of it
    owners = [leaf.untyped_storage().data_ptr() for leaf in ps.tree.leaves(end)]
    assert len(set(owners)) == len(owners)  # so it can be donated


@pytest.mark.parametrize("gather_bytes", [2**24, 1, 5 * 8 * 4 * 4])
def test_rows_of_data_are_gathered_in_chunks(monkeypatch: Any, gather_bytes: int):
    monkeypatch.setattr(scanned, "GATHER_BYTES", gather_bytes)
    sizes, rows_of = [], scanned._rows_of
    monkeypatch.setattr(scanned, "_rows_of", lambda *both: (sizes.append(len(both[0])), rows_of(*both))[1])
    step, _ = counting()
    found = ps.scan_indices(step, start(), (X, Y), INDICES[:19], backend="eager")
    assert_same(found, loop(step, start(), (X[INDICES[:19]], Y[INDICES[:19]])))
    assert sizes[::2] == {2**24: [19], 1: [3] + 8 * [2], 5 * 8 * 4 * 4: [7, 6, 6]}[gather_bytes]


@pytest.mark.parametrize("case", ["compile=False", "one step", "a leaf requires a gradient", "no such loop"])
def test_where_there_is_no_program_the_loop_itself_runs(monkeypatch: Any, case: str):
    if case == "no such loop":
        monkeypatch.setattr(one_program, "_loop_operator", lambda: None)
    step, calls = counting()
    n = 1 if case == "one step" else 5
    batches = ps.tree.map(lambda leaf: leaf[:n].clone(), BATCHES)
    if "gradient" in case:
        batches[0].requires_grad_()
    compile = case != "compile=False"
    found = ps.scan(step, start(), batches, compile=compile)
    assert len(calls) == n
    assert_same(found, loop(step, start(), batches))
    if "gradient" in case:
        found[1]["loss"][-1].backward()
        assert batches[0].grad is not None


def test_a_run_is_mapped_over_learning_rates_and_differentiated():
    batches, rates = ps.tree.map(torch.Tensor.double, BATCHES), torch.tensor([0.01, 0.1]).double()

    def last_loss(rate: torch.Tensor, run: Any = ps.scan) -> torch.Tensor:
        tx = ps.sgd(rate, momentum=0.9)
        return run(ps.make_step(LOSS, tx), start(tx, torch.float64), batches)[1]["loss"][-1]

    alone = torch.stack([last_loss(rate, loop) for rate in rates])
    torch.testing.assert_close(torch.func.vmap(last_loss)(rates), alone)
    slopes, eps = torch.func.vmap(torch.func.grad(last_loss))(rates), 1e-6
    numeric = [(last_loss(rate + eps, loop) - last_loss(rate - eps, loop)) / (2 * eps) for rate in rates]
    torch.testing.assert_close(slopes, torch.stack(numeric), rtol=1e-5, atol=1e-7)


def test_what_one_way_to_compile_cannot_do_the_next_one_does(monkeypatch: Any):
    @torch.compile(fullgraph=True, backend="eager")
    def refused(*args: Any) -> Any:
        torch._dynamo.graph_break()

    programs = one_program._programs
    monkeypatch.setattr(one_program, "_programs", lambda *args: [refused, *programs(*args)])
    step, calls = counting()
    for _ in range(2):
        assert_same(ps.scan(step, start(), BATCHES, backend="eager"), loop(step, start(), BATCHES))
    assert len(calls) == 1 + 2 * 20


def test_inside_another_program_it_is_unrolled():
    step, few = counting()[0], ps.tree.map(lambda leaf: leaf[:2], BATCHES)
    around = torch.compile(lambda state: ps.scan(step, state, few), backend="eager", fullgraph=True)
    assert_same(around(start()), loop(step, start(), few))


@pytest.mark.slow
@pytest.mark.parametrize("choice, unroll", [(0, 1), (1, 1), (0, 2)])
@pytest.mark.parametrize("name", ["multi_steps", "default"])
def test_compiled_by_inductor(monkeypatch: Any, name: str, choice: int, unroll: int):
    """Each of the two ways alone, so that the second cannot make up for the first."""
    programs = one_program._programs
    monkeypatch.setattr(one_program, "_programs", lambda *args: programs(*args)[choice : choice + 1])
    tx = OPTIMIZERS.get(name, TX)
    step, calls = counting(tx)
    before = start(tx)
    first = ps.scan_indices(step, before, (X, Y), INDICES, unroll=unroll)
    with config.patch(error_on_recompile=True):
        again = ps.scan_indices(step, before, (X, Y), INDICES, unroll=unroll)
        half = ps.scan_indices(step, before, (X, Y), INDICES[:7], unroll=unroll)[0]
        found = ps.scan_indices(step, half, (X, Y), INDICES[7:], unroll=unroll)
    assert len(calls) == 1
    assert_same(again, first)
    # Within a round each step is compiled by itself, and rounds as it will.
    assert_same(found[0], first[0], rtol=0 if unroll == 1 else 1e-5, atol=0 if unroll == 1 else 1e-6)
    assert_same(before, start(tx))
    assert_same(first, loop(step, start(tx), BATCHES), rtol=1e-5, atol=1e-5)
    owners = [leaf.untyped_storage().data_ptr() for leaf in ps.tree.leaves(first)]
    assert len(set(owners)) == len(owners)


def test_a_large_state_is_donated_to_its_step(monkeypatch: Any):
    monkeypatch.setattr(scanned, "LARGE_STATE", 1)
    step, calls = counting()
    state = start()
    before = ps.tree.map(torch.clone, state)
    found = ps.scan_indices(step, state, (X, Y), INDICES, backend="aot_eager")
    assert not calls
    assert_same(found, loop(step, start(), BATCHES))
    assert_same(state, before)


OPTIMIZERS = {
    "multi_steps": ps.multi_steps(ps.sgd(0.1, momentum=0.9), 3),
    "apply_if_finite": ps.apply_if_finite(ps.adam(0.1), 2),
    "inject": ps.inject_hyperparams(ps.sgd)(learning_rate=ps.cosine_decay_schedule(0.1, 10)),
    "plateau": ps.chain(ps.sgd(0.1), ps.reduce_on_plateau(patience=1, accumulation_size=2)),
    "schedule_free": ps.schedule_free_adamw(0.1, warmup_steps=3),
    "lookahead": ps.lookahead(ps.adamw(0.1), 3, 0.5),
    "freeze": ps.chain(ps.freeze({"w": False, "b": True}), ps.sgd(0.1)),
    "sam": ps.sam(ps.sgd(0.1), ps.sgd(0.05)),
    "none": ps.identity(),
}


#: One that skips, one that branches, one that keeps no state; the others run with the slow tests.
QUICK = ("multi_steps", "sam", "none")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in OPTIMIZERS]
)
def test_optimizers_that_branch_and_count(name: str):
    tx = OPTIMIZERS[name]
    step, calls = counting(tx)
    found = ps.scan(step, start(tx), BATCHES, backend="eager")
    assert len(calls) == 1
    assert_same(found, loop(step, start(tx), BATCHES), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("few", [0, 1024])
def test_a_state_of_several_dtypes(monkeypatch: Any, few: int):
    """Moments of bfloat16 parameters are float32, the learning rate is float64, the count int64."""
    monkeypatch.setattr(packing, "FEW", few)
    tx, dtype = ps.adam(0.1), torch.bfloat16
    step, calls = counting(tx)
    batches = ps.tree.map(lambda leaf: leaf.to(dtype), BATCHES)
    found = ps.scan(step, start(tx, dtype), batches, backend="eager")
    assert len(calls) == 1
    assert_same(found, loop(step, start(tx, dtype), batches))


def test_numbers_of_all_dtypes_come_back_from_few_vectors(monkeypatch: Any):
    extremes = [
        torch.tensor([-0.0, torch.inf, torch.nan]),
        torch.finfo(torch.float32).tiny / 8 * torch.ones(2),
    ]
    leaves = [leaf.to(dtype) for dtype in packing.REALS for leaf in extremes]
    leaves += [torch.tensor(torch.iinfo(dtype).max, dtype=dtype) for dtype in packing.INTEGERS[1:]]
    leaves += [torch.tensor([[True], [False]]), torch.tensor(1 + 2j), torch.ones(0), torch.tensor(2**63 - 1)]
    for few, vectors in ((1024, 3), (0, 11)):
        monkeypatch.setattr(packing, "FEW", few)
        packed = packing.pack(leaves)
        assert len(packed) == vectors
        assert len({vector.data_ptr() for vector in packed} | {leaf.data_ptr() for leaf in leaves}) >= vectors
        for found, leaf in zip(packing.unpack(packed, leaves), leaves, strict=True):
            assert found.dtype == leaf.dtype
            torch.testing.assert_close(found, leaf, rtol=0, atol=0, equal_nan=True)
        stacked = packing.unpack([torch.stack([vector, vector]) for vector in packed], leaves)
        assert [leaf.shape for leaf in stacked] == [(2, *leaf.shape) for leaf in leaves]


def test_buffers_and_metrics_of_the_loss():
    params = {"w": torch.zeros(3), "buffers": {"seen": torch.tensor(0), "on": torch.tensor(True)}}

    def loss(params: Any, data: Any) -> Any:
        error = data[0] @ params["w"] - data[1]
        buffers = {"seen": params["buffers"]["seen"] + len(data[1]), "on": params["buffers"]["on"]}
        return error.square().mean(), {"errors": error, "buffers": buffers}

    tx = ps.sgd(0.1)
    step, state = ps.make_step(loss, tx, has_aux=True), ps.init_train_state(params, tx)
    found = ps.scan(step, state, BATCHES, backend="eager")
    assert_same(found, loop(step, state, BATCHES))
    assert found[0].params["buffers"]["seen"] == 160
    assert found[1]["errors"].shape == (20, 8)


def test_each_step_has_its_program():
    """Torch counts the versions of a code object, and all steps share theirs."""
    with config.patch(recompile_limit=1):
        for rate in (0.1, 0.2):
            tx = ps.sgd(rate)
            step, calls = counting(tx)
            found = ps.scan(step, start(tx), BATCHES, backend="eager")
            assert len(calls) == 1
            assert_same(found, loop(step, start(tx), BATCHES))


def test_a_step_that_torch_cannot_compile_runs_uncompiled_and_says_so():
    plain, doubled = (ps.make_step(lambda *both, c=c: c * LOSS(*both), TX) for c in (1, 2))

    def step(state: ps.TrainState, batch: Any) -> Any:
        return (doubled if float(batch[1][0]) > 0 else plain)(state, batch)

    with pytest.warns(UserWarning, match="scan: this step runs uncompiled, for torch says: "):
        found = ps.scan(step, start(), BATCHES, backend="eager")
    assert_same(found, loop(step, start(), BATCHES))
    assert_same(ps.scan(step, start(), BATCHES, backend="eager"), found)  # and once only


def test_what_the_step_has_to_say_is_heard():
    tx = ps.scale_by_adam()
    step = ps.make_step(lambda params, batch: batch[0] @ params["w"], tx)
    with pytest.raises(ps.PureSGDError, match=r"shape \(8,\)"):
        ps.scan(step, start(tx), BATCHES)


@pytest.mark.parametrize(
    "batches, message",
    [
        ((), "batches: holds no tensor"),
        ((X[:5], Y[:4]), r"batches\[1\]: holds 4 steps where batches\[0\] holds 5"),
        ((X[:0], Y[:0]), r"batches\[0\]: holds no step"),
        ((X, torch.tensor(1.0)), r"batches\[1\]: holds no step"),
    ],
)
def test_batches_share_a_number_of_steps(batches: Any, message: str):
    with pytest.raises(ps.PureSGDError, match=message):
        ps.scan(ps.make_step(LOSS, TX), start(), batches)


def test_a_round_has_a_step():
    with pytest.raises(ps.PureSGDError, match="unroll"):
        ps.scan(ps.make_step(LOSS, TX), start(), BATCHES, unroll=0)


@pytest.mark.parametrize(
    "indices, message",
    [
        (torch.ones(3, 2), "dtype torch.float32"),
        (torch.tensor(3), r"shape \(\)"),
        (torch.ones(0, 2, dtype=torch.int64), "indices: holds no step"),
    ],
)
def test_indices_are_rows(indices: torch.Tensor, message: str):
    with pytest.raises(ps.PureSGDError, match=message):
        ps.scan_indices(ps.make_step(LOSS, TX), start(), (X, Y), indices)
