"""Measurements on the way through a chain: what they hold, from when on, and how they are read."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import pure_sgd as ps

PARAMS = {"w": torch.zeros(2), "b": torch.zeros(())}
GRADS = {"w": torch.tensor([2.0, -1.0]), "b": torch.tensor(2.0)}


def first(u: Any) -> torch.Tensor:
    return u["b"]


def run(tx: ps.GradientTransformation, factors: list[float]) -> list[Any]:
    """The states after each step, whose gradients are multiples of GRADS."""
    state, states = tx.init(PARAMS), []
    for factor in factors:
        grads = ps.tree.map(lambda g, factor=factor: factor * g, GRADS)
        _, state = tx.update(grads, state, PARAMS)
        states.append(state)
    return states


def test_a_snapshot_is_of_the_updates_at_its_place_in_the_chain():
    tx = ps.chain(
        ps.snapshot("before", ps.tree.norm), ps.clip_by_global_norm(1.0), ps.snapshot("after", ps.tree.norm)
    )
    assert ps.get_measurements(tx.init(PARAMS)) == {"before": torch.zeros(()), "after": torch.zeros(())}
    *_, state = run(tx, [1.0, 5.0])
    got = ps.get_measurements(state)
    assert got["before"].item() == 15.0
    assert got["after"].item() == pytest.approx(1.0)
    assert state[0].measurement["before"].item() == 15.0


@pytest.mark.parametrize("make", [lambda m: ps.snapshot("m", m), lambda m: ps.monitor({"m": m})])
def test_a_measurement_may_be_a_tree_and_shares_no_memory_with_the_updates(make: Any):
    tx = ps.chain(make(lambda u: u), ps.scale(2.0))
    (state,) = run(tx, [1.0])
    got = ps.get_measurements(state)["m"]
    torch.testing.assert_close(got, GRADS, rtol=0.0, atol=0.0)
    updates = ps.tree.map(torch.clone, GRADS)
    _, state = make(lambda u: u).update(updates, make(lambda u: u).init(PARAMS))
    assert ps.get_measurements(state)["m"]["w"].data_ptr() != updates["w"].data_ptr()


def test_the_structure_of_the_state_is_constant_from_init_on():
    tx = ps.monitor(
        {
            "norm": ps.tree.norm,
            "signs": lambda u: ps.tree.map(lambda x: (x > 0).sum(), u),
            "mean": ps.measure_with_ema(first, 0.9),
        }
    )
    states = [tx.init(PARAMS), *run(tx, [1.0, 2.0])]
    kinds = [
        [(path, leaf.shape, leaf.dtype) for path, leaf in ps.tree.named_leaves(state)] for state in states
    ]
    assert kinds[0] == kinds[1] == kinds[2]
    assert states[2].measurements["signs"]["w"].item() == 1
    update = torch.compile(tx.update, backend="aot_eager", fullgraph=True)
    state = tx.init(PARAMS)
    for step in range(3):
        with torch._dynamo.config.patch(error_on_recompile=step > 0):
            _, state = update(GRADS, state, PARAMS)
    assert ps.get_measurements(state)["norm"].item() == 3.0


@pytest.mark.parametrize("debias", [True, False])
def test_the_average_of_a_measure_is_its_weighted_sum(debias: bool):
    tx = ps.monitor({"m": ps.measure_with_ema(first, 0.8, debias=debias)})
    factors = [1.0, -2.0, 0.5, 4.0]
    for n, state in enumerate(run(tx, factors)):
        want = sum(0.2 * 0.8 ** (n - k) * 2 * factors[k] for k in range(n + 1))
        want /= 1 - 0.8 ** (n + 1) if debias else 1
        assert ps.get_measurements(state)["m"].item() == pytest.approx(want, rel=1e-6)


def test_measurements_are_kept_in_at_least_float32():
    half = ps.tree.map(lambda p: p.bfloat16(), PARAMS)
    tx = ps.monitor({"a": first, "b": ps.measure_with_ema(first, 0.9)})
    _, state = tx.update(half, tx.init(half))
    assert {value.dtype for value in ps.get_measurements(state).values()} == {torch.float32}
    wide = ps.monitor({"a": ps.measure_with_ema(first, 0.9, accumulator_dtype=torch.float64)})
    assert wide.init(half).measurements["a"].dtype == torch.float64


def test_several_of_one_name_go_by_their_paths():
    tx = ps.chain(ps.monitor({"n": ps.tree.norm}), ps.scale(2.0), ps.snapshot("n", ps.tree.norm))
    (state,) = run(tx, [1.0])
    got = ps.get_measurements(state)
    assert {path: value.item() for path, value in got.items()} == {
        "[0].measurements['n']": 3.0,
        "[2].measurement['n']": 6.0,
    }


def test_measurements_inside_wrappers_are_found():
    tx = ps.masked(ps.multi_steps(ps.snapshot("n", ps.tree.norm), 2), {"w": False, "b": True})
    *_, state = run(tx, [1.0, 3.0])
    assert ps.get_measurements(state)["n"].item() == 4.0


ANY: Any = 3.0


@pytest.mark.parametrize(
    "make, sentence",
    [
        (
            lambda: ps.monitor({"n": ANY}),
            "monitor: n is a float, expected a function of the updates. Pass a function such as tree.norm.",
        ),
        (
            lambda: ps.snapshot("n", ANY),
            "snapshot: n is a float, expected a function of the updates. Pass a function such as tree.norm.",
        ),
        (
            lambda: ps.measure_with_ema(ANY, 0.9),
            "measure_with_ema: measure is a float, expected a function of the updates. "
            "Pass a function such as tree.norm.",
        ),
        (
            lambda: ps.measure_with_ema(first, 1.0),
            "measure_with_ema: decay=1.0 lies outside [0, 1). Pass a decay within these bounds.",
        ),
        (
            lambda: ps.measure_with_ema(first, ps.linear_schedule(0, 1, 2)),
            "measure_with_ema: decay is a function, expected a number. Pass 0.9, say.",
        ),
    ],
)
def test_bad_measures_are_refused(make: Any, sentence: str):
    with pytest.raises(ps.PureSGDError) as caught:
        make()
    assert str(caught.value) == sentence
