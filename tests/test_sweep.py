"""A sweep: many runs as one mapped call, each the run that it would be alone."""

from __future__ import annotations

import functools
from importlib import import_module
from typing import Any

import pytest
import torch

import pure_sgd as ps

functorch: Any = import_module("torch._C._functorch")

(X, Y), _ = ps.data.linear_regression(ps.random.key(0), n=40, features=3)
DATA = X.double(), Y.double()
MODEL = ps.models.mlp((3, 4, 1))
LOSS = ps.empirical_risk(lambda params, x, y: ps.losses.squared_error(MODEL.apply(params, x), y[None]))


def train(rate: Any, seed: Any, decay: Any = 0.9, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """Three epochs from a random start, in a random order, by an optimizer with state and an average."""
    tx = ps.chain(ps.sgd(rate, momentum=decay, weight_decay=1e-3), ps.params_ema(0.9))
    key, data = ps.random.key(seed), ps.tree.map(lambda leaf: leaf.to(dtype), DATA)
    step, state = ps.make_step(LOSS, tx), ps.init_train_state(MODEL.init(key, dtype), tx)
    losses = []
    for epoch in range(3):
        for rows in ps.epoch_indices(40, 10, seed, epoch):
            state, metrics = step(state, ps.data.take(data, rows))
            losses.append(metrics["loss"])
    averaged = ps.eval_params(state.opt_state, state.params)
    return {"losses": torch.stack(losses), "risk": LOSS(averaged, data), "state": state}


def assert_same(one: Any, other: Any, tolerance: float = 1e-12) -> None:
    assert ps.tree.structure(one) == ps.tree.structure(other)
    for (path, a), (_, b) in zip(ps.tree.named_leaves(one), ps.tree.named_leaves(other), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=lambda m, p=path: f"{p}: {m}")


def sentence_of(call: Any) -> str:
    with pytest.raises(ps.PureSGDError) as caught:
        call()
    return str(caught.value)


def test_every_run_of_a_product_is_the_run_alone():
    rates, seeds, decays = [0.01, 0.1], range(3), torch.tensor([0.0, 0.5], dtype=torch.float64)
    grids, results = ps.sweep(train, rate=rates, seed=seeds, decay=decays)
    assert [list(grid) for grid in grids.values()] == [rates, [0, 1, 2], [0.0, 0.5]]
    assert results["losses"].shape == (2, 3, 2, 12)
    assert results["state"].params["layers"][0]["w"].shape == (2, 3, 2, 3, 4)
    for i, rate in enumerate(rates):
        for j, seed in enumerate(seeds):
            for k, decay in enumerate([0.0, 0.5]):
                found = ps.tree.map(lambda leaf, at=(i, j, k): leaf[at], results)
                assert_same(found, train(rate, seed, decay))


def test_zipped_grids_go_side_by_side():
    result = ps.sweep(train, rate=[0.01, 0.1, 0.2], seed=[5, 7, 5], zipped=True)
    assert result.results["risk"].shape == (3,)
    for i, (rate, seed) in enumerate([(0.01, 5), (0.1, 7), (0.2, 5)]):
        assert_same(ps.tree.map(lambda leaf, i=i: leaf[i], result.results), train(rate, seed))


@pytest.mark.parametrize("chunk_size", [1, 2, 4, 6, 100])
def test_chunks_change_nothing_but_how_many_runs_are_mapped_at_once(chunk_size: int):
    sizes = []

    def run(rate: torch.Tensor, seed: torch.Tensor) -> torch.Tensor:
        sizes.append((len(functorch.get_unwrapped(rate)), len(functorch.get_unwrapped(seed))))
        return rate * seed

    result = ps.sweep(run, rate=[0.5, 2.0], seed=range(3), chunk_size=chunk_size)
    whole = [(2, 3)]
    expected = {1: [(1, 1)] * 6, 2: [(1, 2), (1, 1)] * 2, 4: [(1, 3)] * 2, 6: whole, 100: whole}
    assert sizes == expected[chunk_size]
    assert result.results.tolist() == [[0.0, 0.5, 1.0], [0.0, 2.0, 4.0]]


def test_what_torch_maps_once_only_is_mapped_once():
    """Over all points at once, where mapped over one grid after the other torch refuses it."""

    def run(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if functorch.maybe_current_level() > 1:
            raise RuntimeError("only once")
        return x - y

    assert ps.sweep(run, x=[1, 2], y=[10, 20, 30]).results.tolist() == [[-9, -19, -29], [-8, -18, -28]]


def test_hyperparameters_leave_the_dtypes_of_a_run_alone():
    result = ps.sweep(functools.partial(train, dtype=torch.float32), rate=[0.01, 0.1], seed=[0])
    alone = train(0.01, 0, dtype=torch.float32)
    assert_same(
        ps.tree.map(lambda leaf: leaf[0, 0], result.results["state"].params), alone["state"].params, 1e-5
    )


def test_a_grid_is_anything_that_makes_one_tensor():
    rows = torch.arange(6.0).reshape(3, 2)
    grids, sums = ps.sweep(lambda row: row.sum(), row=rows)
    assert_same((grids, sums), ({"row": rows}, torch.tensor([1.0, 5.0, 9.0])))
    assert_same(ps.sweep(lambda row: row.sum(), row=list(rows)).results, sums)
    assert ps.sweep(lambda x: x, x=(n for n in [1, 2.5])).results.tolist() == [1.0, 2.5]
    assert ps.sweep(lambda x: x, x=range(2)).grids["x"].dtype == torch.int64
    assert ps.sweep(lambda **given: given["run"], run=[3]).results.tolist() == [3]


def test_a_result_may_hold_what_does_not_depend_on_the_grid_or_no_tensor_at_all():
    result = ps.sweep(lambda x: {"same": torch.ones(2), "none": None, "b": (x,)}, x=[1, 2], chunk_size=1)
    assert_same(result.results, {"same": torch.ones(2, 2), "none": None, "b": (torch.tensor([1, 2]),)})


def scanned(rate: Any, seed: Any, make: Any = ps.sgd, compile: bool = True, **hyperparams: Any) -> Any:
    """Two epochs from a random start, in a random order, by one compiled loop each."""
    tx = ps.chain(make(rate, **hyperparams), ps.params_ema(0.9))
    step, state = ps.make_step(LOSS, tx), ps.init_train_state(MODEL.init(ps.random.key(seed)), tx)
    seen = []
    for epoch in range(2):
        rows = ps.epoch_indices(40, 10, seed, epoch)
        state, metrics = ps.scan_indices(step, state, (X, Y), rows, compile=compile)
        seen.append(metrics)
    return state, seen


@pytest.fixture
def compiled(monkeypatch: Any) -> list[None]:
    """One entry for each loop in C++ that is made."""
    from pure_sgd.training.programs import cpp_loop

    made, original = [], cpp_loop.cpp_loop

    def counted(*arguments: Any) -> Any:
        loop = original(*arguments)
        made.append(None)
        return loop

    monkeypatch.setattr(cpp_loop, "cpp_loop", counted)
    monkeypatch.setattr("pure_sgd.training.mapped_scan._programs", {})
    return made


@pytest.mark.parametrize(
    "make",
    [
        lambda rate: ps.sgd(lambda step: rate * ps.cosine_decay_schedule(1.0, 8)(step), momentum=rate),
        pytest.param(
            lambda rate: ps.chain(ps.clip_by_global_norm(1.0), ps.adamw(rate)), marks=pytest.mark.slow
        ),
        pytest.param(ps.lion, marks=pytest.mark.slow),
    ],
    ids=["sgd", "clipped adamw", "lion"],
)
def test_scans_are_one_loop_of_all_runs(make: Any, compiled: list[None]):
    run = functools.partial(scanned, make=make)
    rates, seeds = [0.01, 0.1, 0.3], [0, 7]
    found = ps.sweep(run, rate=rates, seed=seeds).results
    assert len(compiled) == 1
    for i, rate in enumerate(rates):
        for j, seed in enumerate(seeds):
            alone = run(torch.tensor(rate, dtype=torch.float64), seed, compile=False)
            assert_same(ps.tree.map(lambda leaf, at=(i, j): leaf[at], found), alone, 1e-4)


@pytest.mark.parametrize("draw", ["bits", pytest.param("normal", marks=pytest.mark.slow)])
def test_runs_that_draw_random_numbers_are_one_loop_bit_for_bit(draw: str, compiled: list[None]):
    def run(rate: Any, seed: Any, compile: bool = True) -> Any:
        own = ps.random.key(seed)

        def step(state: Any, k: torch.Tensor) -> Any:
            noise = getattr(ps.random, draw)(ps.random.fold_in(own, k), (3,))
            return state._replace(params=state.params - rate * noise), {"noise": noise}

        state = ps.init_train_state(torch.zeros(3, dtype=torch.float64), ps.identity())
        return ps.scan(step, state, torch.arange(5), compile=compile)

    found = ps.sweep(run, rate=[0.5, 0.25], seed=[3, 8, 2**40]).results
    assert len(compiled) == 1
    assert_same(
        found,
        ps.sweep(functools.partial(run, compile=False), rate=[0.5, 0.25], seed=[3, 8, 2**40]).results,
        0.0,
    )


def test_the_loop_of_a_sweep_is_kept_for_the_next(compiled: list[None]):
    first = ps.sweep(scanned, rate=[0.01, 0.1], seed=[0, 1, 2], momentum=[0.5])
    second = ps.sweep(scanned, rate=[0.2, 0.3], seed=[5, 6, 7], momentum=[0.9])
    assert len(compiled) == 1
    for sweep, momentum in ((first, 0.5), (second, 0.9)):
        for i, rate in enumerate(sweep.grids["rate"]):
            for j, seed in enumerate(sweep.grids["seed"]):
                alone = scanned(rate, int(seed), compile=False, momentum=momentum)
                found = ps.tree.map(lambda leaf, at=(i, j, 0): leaf[at], sweep.results)
                assert_same(found, alone, 1e-4)


def test_runs_that_do_something_else_get_another_loop(compiled: list[None]):
    def run(start: torch.Tensor, factor: float) -> torch.Tensor:
        def step(state: Any, batch: Any) -> Any:
            return state._replace(params=factor * state.params + batch[0]), {}

        return ps.scan(step, ps.init_train_state(start, ps.sgd(0.1)), (torch.ones(3),))[0].params

    for count, factor in enumerate([2.0, 3.0, 2.0]):
        found = ps.sweep(lambda start, factor=factor: run(start, factor), start=torch.zeros(2)).results
        assert found.tolist() == [1 + factor + factor**2] * 2
        assert len(compiled) == min(count + 1, 2)


@pytest.mark.slow
def test_zipped_and_cut_into_chunks_the_loop_is_the_same(compiled: list[None]):
    rates, seeds = [0.01, 0.1, 0.2, 0.3], [3, 1, 2, 1]
    found = ps.sweep(scanned, rate=rates, seed=seeds, zipped=True, chunk_size=2, progress=False).results
    assert len(compiled) == 1
    for i, (rate, seed) in enumerate(zip(rates, seeds, strict=True)):
        alone = scanned(torch.tensor(rate, dtype=torch.float64), seed, compile=False)
        assert_same(ps.tree.map(lambda leaf, i=i: leaf[i], found), alone, 1e-4)


@pytest.mark.parametrize("kind", ["in place", "in memory", "float64 in float32", "large"])
def test_what_is_no_loop_of_all_runs_runs_as_it_is(kind: str, compiled: list[None]):
    def run(rate: Any, seed: Any, compile: bool = True) -> Any:
        size = 10_000 if kind == "large" else 4

        def step(state: Any, batch: Any) -> Any:
            new = state.params - rate * (state.params - batch[0])
            if kind == "in place":
                new.mul_(2)
            if kind == "in memory":
                new = new.as_strided((4,), (1,))
            if kind == "float64 in float32":
                new = new.double()
            return state._replace(params=new), {"loss": new.sum()}

        start = ps.random.normal(ps.random.key(seed), (size,))
        return ps.scan(step, ps.init_train_state(start, ps.sgd(0.1)), (torch.arange(3.0),), compile=compile)

    found = ps.sweep(run, rate=[0.1, 0.2], seed=[0, 1]).results
    assert not compiled
    alone = run(torch.tensor(0.2, dtype=torch.float64), 0, compile=False)
    assert_same(ps.tree.map(lambda leaf: leaf[1, 0], found), alone, 1e-5)


def test_gradients_go_through_the_scans_of_a_sweep(compiled: list[None]):
    momentum = torch.tensor(0.5, requires_grad=True)
    found = ps.sweep(
        lambda rate, seed: scanned(rate, seed, momentum=momentum)[1][1]["loss"], rate=[0.1], seed=[0]
    )
    found.results.sum().backward()
    assert momentum.grad is not None
    assert not compiled


@pytest.mark.parametrize("nested", [False, True])
def test_a_replayed_step_is_recorded_for_all_runs_together(nested: bool):
    calls = []

    def loss(params: Any, batch: Any) -> torch.Tensor:
        calls.append(None)
        # Not mse_loss, which torch 2.13 cannot map three times.
        return ps.empirical_risk(lambda params, x, y: (MODEL.apply(params, x)[0] - y) ** 2)(params, batch)

    def run(rate: torch.Tensor, momentum: torch.Tensor, replay: bool) -> Any:
        # All begin at one place: only what the step reads besides its arguments differs.
        tx = ps.sgd(rate, momentum=momentum)
        step, state = ps.make_step(loss, tx), ps.init_train_state(MODEL.init(ps.random.key(0)), tx)
        step = ps.replay_step(step) if replay else step
        seen = []
        for rows in ps.epoch_indices(40, 4, 0, 0):
            state, metrics = step(state, ps.data.take((X, Y), rows))
            seen.append(metrics)
        return state, seen

    def both(replay: bool) -> Any:
        rates, momenta = [0.01, 0.1, 0.2], [0.0, 0.5, 0.9]  # as many of each: none may pass for the other
        if not nested:
            return ps.sweep(functools.partial(run, replay=replay), rate=rates, momentum=momenta).results
        return ps.sweep(
            lambda rate: ps.sweep(lambda momentum: run(rate, momentum, replay), momentum=momenta).results,
            rate=rates,
        ).results

    expected = both(replay=False)
    assert len(calls) == 10
    assert_same(both(replay=True), expected, 0.0)
    assert len(calls) < 10 + 5  # once as it is, where nothing was mapped yet, and twice to record and check


def test_a_recording_of_one_run_is_not_taken_for_one_of_many():
    tx = ps.sgd(0.1)
    step = ps.replay_step(ps.make_step(lambda params, x: ((params - x) ** 2).sum(), tx))
    starts, x = torch.tensor([1.0, 2.0, 3.0]), torch.tensor(0.0)

    def norm(start: torch.Tensor) -> torch.Tensor:
        return step(ps.init_train_state(start, tx), x)[1]["grad_norm"]

    for _ in range(3):
        torch.testing.assert_close(norm(starts), 2 * starts.norm())
    assert_same(ps.sweep(norm, start=starts).results, 2 * starts)


@pytest.mark.parametrize("replacement", [False, True])
def test_the_order_of_a_seed_is_the_same_in_a_sweep(replacement: bool):
    order = functools.partial(ps.epoch_indices, 7, 3, epoch=2, replacement=replacement)
    found = ps.sweep(lambda seed: order(seed=seed), seed=[0, -1, 2**40]).results
    assert_same(list(found), [order(seed=seed) for seed in (0, -1, 2**40)])


def test_a_sweep_differentiates():
    """The gradient of the mean over seeds, as for a hyperparameter that is to serve them all."""

    def mean_risk(rate: torch.Tensor) -> torch.Tensor:
        return ps.sweep(lambda seed: train(rate, seed)["risk"], seed=range(3)).results.mean()

    rate = torch.tensor(0.05, dtype=torch.float64)
    singles = [torch.func.grad(lambda rate, s=seed: train(rate, s)["risk"])(rate) for seed in range(3)]
    assert_same(torch.func.grad(mean_risk)(rate), torch.stack(singles).mean())


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: ps.sweep(train, lr=[0.1]), "run takes no 'lr'; it takes ['rate', 'seed', 'decay', 'dtype']"),
        (lambda: ps.sweep(train, rate=[0.1]), "run needs 'seed', for which there is no grid"),
        (lambda: ps.sweep(train), "got no grid"),
        (lambda: ps.sweep(train, rate=[], seed=[1]), "the grid rate is empty"),
        (lambda: ps.sweep(train, rate=torch.ones(0), seed=[1]), "the grid rate is empty"),
        (lambda: ps.sweep(train, rate=0.1, seed=[1]), "the grid rate is 0.1, which cannot be gone through"),
        (lambda: ps.sweep(train, rate=torch.tensor(1.0), seed=[1]), "the grid rate is tensor(1.)"),
        (lambda: ps.sweep(train, rate=["a"], seed=[1]), "the grid rate cannot be one tensor"),
        (lambda: ps.sweep(train, rate=[torch.ones(2), torch.ones(3)], seed=[1]), "cannot be one tensor"),
        (lambda: ps.sweep(train, rate=[0.1], seed=[2**64]), "the grid seed cannot be one tensor"),
        (
            lambda: ps.sweep(train, rate=[0.1, 0.2], seed=[1], zipped=True),
            "grids of different lengths cannot be zipped: rate 2, seed 1",
        ),
        (lambda: ps.sweep(train, rate=[0.1], seed=[1], chunk_size=0), "chunk_size=0 is not at least 1"),
        (lambda: ps.sweep(lambda progress: progress, progress=[1]), "It is also an option of sweep"),
        (lambda: ps.sweep(lambda x: {"a": 1.0}, x=[1]), "result['a'] of run is a float"),
    ],
)
def test_what_cannot_be_swept_is_named(call: Any, sentence: str):
    assert sentence in sentence_of(call)


@pytest.mark.parametrize(
    "run, problem",
    [
        (lambda x: x if x > 1 else -x, "reads the value"),
        (lambda x: torch.tensor(x.item()), "reads the value"),
        (lambda x: x * torch.rand(()), "draws from torch's global generator"),
        (lambda x: (x * torch.ones(2)).nonzero(), "whose shape depends on values"),
        (lambda x: torch.ones(2).add_(x), "writes what differs between runs"),
        (lambda x: ps.fit(LOSS, ps.sgd(x), MODEL.init(ps.random.key(0)), (X, Y), steps=2), "reads the value"),
    ],
    ids=["branch", "item", "generator", "shape", "in place", "fit"],
)
def test_what_vmap_refuses_is_told_with_its_line(run: Any, problem: str):
    told = sentence_of(lambda: ps.sweep(run, x=[0.5, 2.0]))
    assert problem in told
    assert "test_sweep.py, line" in told


def test_an_error_of_the_run_itself_comes_through():
    with pytest.raises(ps.PureSGDError, match="nobody reads the extra argument 'x'"):
        ps.sweep(lambda x: ps.make_step(LOSS, ps.sgd(x))(None, None, x=x)[1], x=[0.5])


@pytest.mark.parametrize("chunk_size, shown", [(2, True), (None, False)])
def test_a_bar_shows_how_many_runs_are_done(monkeypatch: Any, chunk_size: int | None, shown: bool):
    seen: list[Any] = []

    class Bar:
        def __init__(self, total: int, unit: str, shown: bool) -> None:
            seen.append((total, shown))

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *error: Any) -> None: ...

        def update(self, count: int) -> None:
            seen.append(count)

    monkeypatch.setattr("pure_sgd.training.swept.progress_bar", Bar)
    ps.sweep(lambda x: x, x=range(5), chunk_size=chunk_size)
    assert seen == ([(5, True), 2, 2, 1] if shown else [(5, False), 5])
