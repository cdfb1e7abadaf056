"""Many steps as one program: always the numbers of the loop."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo import config
from torch._inductor.async_compile import AsyncCompile

import pure_sgd as ps
from pure_sgd.training import one_program, scanned
from pure_sgd.training.programs import cpp_loop

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
ORIGINAL = AsyncCompile.cpp_pybinding


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


def test_the_state_goes_on_and_no_argument_changes():
    step, _ = counting()
    state, halves = start(), [ps.tree.map(lambda leaf, k=k: leaf[k : k + 10], BATCHES) for k in (0, 10)]
    before = ps.tree.map(torch.clone, (state, halves))
    middle, _ = ps.scan(step, state, halves[0], backend="aot_eager")
    end, _ = ps.scan(step, middle, halves[1], backend="aot_eager")
    assert_same(end, loop(step, start(), BATCHES)[0])
    assert_same((state, halves), before)
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
    assert sizes[::2] == {2**24: [19], 1: 19 * [1], 5 * 8 * 4 * 4: [7, 6, 6]}[gather_bytes]


@pytest.mark.parametrize("case", ["compile=False", "a leaf requires a gradient"])
def test_where_there_is_no_program_the_loop_itself_runs(case: str):
    step, calls = counting()
    batches = ps.tree.map(lambda leaf: leaf[:5].clone(), BATCHES)
    if "gradient" in case:
        batches[0].requires_grad_()
    compile = case != "compile=False"
    found = ps.scan(step, start(), batches, compile=compile)
    assert len(calls) == 5
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


@pytest.fixture
def only_in_cpp(monkeypatch: Any) -> None:
    """So that the second way cannot make up for the first."""
    monkeypatch.setattr(one_program, "compile_step", lambda *args, **options: pytest.fail("not in C++"))


def test_a_loop_in_cpp_has_the_numbers_of_python():
    scales = torch.tensor([1.0, 0.5, 2.0])

    def body(carry: Any, row: Any) -> Any:
        (w, count, on, nothing, a, b), (x, shift) = carry, row
        new = w * scales + (x.flip(0) @ torch.ones(2, 3)) - on.to(x)
        return [new, count // 2 + shift, ~on, nothing, b, a], [
            new.sum(),
            x[1:],
            count,
            new.double() @ scales.double(),
            shift.int().expand(2, 2) @ torch.ones(2, 2, dtype=torch.int32),
        ]

    start = [torch.ones(3), torch.tensor(2**62 + 1), torch.tensor(True), torch.ones(0, 2), *torch.ones(2)]
    xs, shifts = torch.linspace(-1, 1, 14).reshape(2, 7).T.reshape(7, 2), torch.arange(7)
    expected: Any = start, []
    for row in zip(xs, shifts, strict=True):
        new, seen = body(expected[0], row)
        expected = new, [*expected[1], seen]
    expected = expected[0], [torch.stack(column) for column in zip(*expected[1], strict=True)]
    before = ps.tree.map(torch.clone, start)
    for _ in range(2):  # the second finds what Inductor has kept of the first
        loop_of = cpp_loop.cpp_loop(body, start, [xs[0], shifts[0]])
        assert_same(loop_of(start, [xs, shifts]), expected, rtol=1e-6)
    assert_same(start, before)
    divided = cpp_loop.cpp_loop(lambda c, r: ([c[0] // r[0]], []), [shifts[1]], [shifts[1]])
    with pytest.raises(ps.PureSGDError, match="divides an integer by zero"):
        divided([shifts[1]], [shifts])


@pytest.mark.parametrize(
    "body",
    [
        lambda carry, row: ([torch.linalg.inv(carry[0])], []),  # a call of LAPACK
        lambda carry, row: ([carry[0].double()], []),  # another dtype, which its memory does not hold
        lambda carry, row: ([carry[0] @ row[0][0]], []),  # another shape
        lambda carry, row: ([carry[0] + torch.rand(3, 3)], []),  # a hidden state
        lambda carry, row: ([carry[0] + float(row[0].sum())], []),  # a value
        lambda carry, row: ([torch.tensor(row[0].numpy())], []),  # a number that only looks like a constant
    ],
)
def test_what_is_more_than_kernels_is_no_loop(body: Any):
    with pytest.raises(Exception, match=r".") as refusal:
        cpp_loop.cpp_loop(body, [torch.eye(3)], [torch.eye(3)])
    assert not isinstance(refusal.value, ps.PureSGDError)


def test_what_a_body_reads_besides_its_arguments_is_read_at_each_call():
    scale, part = torch.tensor([1.0, 2.0]), torch.arange(6.0).reshape(2, 3).T[1:]

    def body(carry: Any, row: Any) -> Any:
        return [carry[0] * scale + part.sum(0) + row[0] + torch.tensor([0.5, 0.25])], [scale + row[0]]

    start, rows = [torch.zeros(2)], [torch.arange(3.0)]
    loop_of = cpp_loop.cpp_loop(body, start, [rows[0][0]])
    for factor in (1.0, 3.0):
        scale.mul_(factor)
        part.sub_(factor)
        carry = start
        for row in rows[0]:
            carry, _ = body(carry, [row])
        assert_same(loop_of(start, rows), (carry, [scale + rows[0][:, None]]))
    scale.resize_(3)
    with pytest.raises(ps.PureSGDError, match="a tensor that step reads has another shape now"):
        loop_of(start, rows)


@pytest.mark.parametrize("mapped", [False, True], ids=["alone", "mapped"])
def test_a_step_that_changes_what_it_reads_is_refused(mapped: bool):
    count, start = torch.tensor(0.0), ps.init_train_state(torch.tensor(0.0), ps.identity())

    def step(state: ps.TrainState, batch: Any) -> Any:
        count.add_(1)
        return state._replace(params=state.params + count * batch), {}

    def run(shift: torch.Tensor) -> torch.Tensor:
        return ps.scan(step, start, X[:5, 0] + shift)[0].params

    with pytest.raises(ps.PureSGDError, match="step changes a tensor that it reads besides its arguments"):
        (torch.func.vmap(run) if mapped else run)(torch.zeros(2) if mapped else torch.tensor(0.0))


def test_two_threads_make_their_loops_at_once():
    def made(k: int) -> Any:
        def body(carry: Any, row: Any) -> Any:
            return [carry[0] * (k + 2) + row[0]], [carry[0] - k]

        zero = torch.tensor(1.0)
        return cpp_loop.cpp_loop(body, [zero], [zero])([zero], [torch.ones(3)])

    with ThreadPoolExecutor(2) as pool:
        for k, (carry, seen) in enumerate(pool.map(made, range(2))):
            factor = k + 2
            values = [1, factor + 1, factor**2 + factor + 1, factor**3 + factor**2 + factor + 1]
            assert carry[0] == values[3]
            assert seen[0].tolist() == [value - k for value in values[:3]]
    assert AsyncCompile.cpp_pybinding is ORIGINAL


@pytest.mark.usefixtures("only_in_cpp")
def test_inputs_may_lie_in_memory_in_any_way():
    def step(state: ps.TrainState, batch: Any) -> Any:
        w, b, none = state.params
        x, y = batch
        new = [w + x.T @ x + b, b + y, none + y]
        return state._replace(params=new), {"sum": new[0].sum(1), "none": none * 2, "y": y}

    batches = torch.arange(60.0).reshape(2, 3, 10).permute(2, 1, 0)[1::2], torch.arange(10)[::2]
    strided = torch.arange(16.0).reshape(4, 4)[::2, ::2].T
    for w, b in [(torch.tensor(2.0).expand(2, 2), torch.ones(3)[1]), (strided, strided[0, 1])]:
        state = ps.init_train_state([w, b, torch.ones(0, 3)], ps.identity())
        assert_same(ps.scan(step, state, batches), loop(step, state, batches))


@pytest.mark.usefixtures("only_in_cpp")
@pytest.mark.parametrize("draw", ["bits", pytest.param("normal", marks=pytest.mark.slow)])
def test_steps_that_draw_random_numbers_are_a_loop_bit_for_bit(draw: str):
    own = ps.random.key(3)

    def step(state: ps.TrainState, k: torch.Tensor) -> Any:
        noise = getattr(ps.random, draw)(ps.random.fold_in(own, k), (2, 3))
        return state._replace(params=state.params - 0.5 * noise), {"noise": noise}

    state = ps.init_train_state(torch.zeros(2, 3, dtype=torch.float64), ps.identity())
    found = ps.scan(step, state, torch.arange(6))
    assert_same(found, ps.scan(step, state, torch.arange(6), compile=False))


@pytest.mark.parametrize(
    "variable, value", [("CXX", "/nonexistent"), ("TORCHINDUCTOR_CACHE_DIR", "/proc/nothing")]
)
@pytest.mark.slow
def test_without_a_compiler_or_a_cache_the_loop_itself_runs(variable: str, value: str, tmp_path: Path):
    program = f"""
        import os
        import torch._dynamo  # which cannot be imported without the cache
        import pure_sgd as ps
        os.environ["{variable}"] = "{value}"
        step = ps.make_step(ps.empirical_risk(lambda p, x: (p - x) ** 2 / 2), ps.sgd(0.5))
        state = ps.init_train_state(torch.tensor(0.0), ps.sgd(0.5))
        run = lambda compile, x: ps.scan(step, state, (x,), compile=compile)[0].params
        x = torch.arange(12.0).reshape(3, 4)
        assert run(True, x) == run(False, x)
        mapped = torch.func.vmap(lambda shift: run(True, x + shift))(torch.ones(2))
        assert torch.equal(mapped, run(False, x + 1).expand(2))
    """
    environment = {**os.environ, variable: value, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], env=environment, capture_output=True, text=True
    )
    assert not done.returncode, done.stderr
    assert "scan: this step runs uncompiled" in done.stderr


def test_kernels_that_were_noted_still_run_for_others():
    graph, x = torch.fx.symbolic_trace(lambda x: x * 1.2345 + 1), torch.ones(3)
    with cpp_loop._noted() as calls:
        program: Any = torch._inductor.compile(graph, [x])
        program(x)
    assert len(calls) == 1
    torch.testing.assert_close(program(x), torch.full((3,), 2.2345))


def test_what_is_no_loop_in_cpp_is_called_in_turn(monkeypatch: Any):
    def refused(*args: Any) -> Any:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(one_program, "_in_cpp", refused)
    monkeypatch.setattr(one_program, "compile_step", lambda step, **options: step)
    step, calls = counting()
    assert_same(ps.scan(step, start(), BATCHES), loop(step, start(), BATCHES))
    assert len(calls) == 1 + 2 * 20


def test_inside_another_program_it_is_unrolled():
    step, few = counting()[0], ps.tree.map(lambda leaf: leaf[:2], BATCHES)
    around = torch.compile(lambda state: ps.scan(step, state, few), backend="eager", fullgraph=True)
    assert_same(around(start()), loop(step, start(), few))


def test_a_large_state_is_donated_to_its_step(monkeypatch: Any):
    monkeypatch.setattr(one_program, "LARGE_STATE", 1)
    step, calls = counting()
    state = start()
    before = ps.tree.map(torch.clone, state)
    found = ps.scan_indices(step, state, (X, Y), INDICES, backend="aot_eager")
    assert len(calls) == 1
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


IN_CPP = ("default", *OPTIMIZERS)

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


@pytest.mark.usefixtures("only_in_cpp")
@pytest.mark.parametrize(
    "name", [name if name == "default" else pytest.param(name, marks=pytest.mark.slow) for name in IN_CPP]
)
def test_steps_in_cpp(name: str):
    tx = OPTIMIZERS.get(name, TX)
    step, calls = counting(tx)
    before = start(tx)
    first = ps.scan_indices(step, before, (X, Y), INDICES)
    traced = len(calls)  # no Python runs between two steps, and another number of them compiles nothing
    again = ps.scan_indices(step, before, (X, Y), INDICES)
    half = ps.scan_indices(step, before, (X, Y), INDICES[:7])[0]
    found = ps.scan_indices(step, half, (X, Y), INDICES[7:])
    assert len(calls) == traced <= 4
    assert_same(again, first)
    assert_same(found[0], first[0])
    assert_same(before, start(tx))
    assert_same(first, loop(step, start(tx), BATCHES), rtol=1e-5, atol=1e-5)
    owners = [leaf.untyped_storage().data_ptr() for leaf in ps.tree.leaves(first)]
    assert len(set(owners)) == len(owners)


def test_a_state_of_several_dtypes():
    """Moments of bfloat16 parameters are float32, the learning rate is float64, the count int64."""
    tx, dtype = ps.adam(0.1), torch.bfloat16
    step, calls = counting(tx)
    batches = ps.tree.map(lambda leaf: leaf.to(dtype), BATCHES)
    found = ps.scan(step, start(tx, dtype), batches, backend="eager")
    assert len(calls) == 1
    assert_same(found, loop(step, start(tx, dtype), batches))


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
