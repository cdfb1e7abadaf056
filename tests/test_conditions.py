"""Transforms that run only at some steps, and all leaves as one vector."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

import pure_sgd as ps

NAN, INF = torch.nan, torch.inf


def run(tx: ps.GradientTransformation, stream: list[float], **extra: Any) -> tuple[list[float], list[Any]]:
    """The updates and the states, one after the other, of a transform of one number."""
    state, out, states = tx.init(torch.zeros(1)), [], []
    for number in stream:
        updates, state = tx.update(torch.tensor([number]), state, torch.zeros(1), **extra)
        out.append(updates.item())
        states.append(state)
    return out, states


@pytest.fixture(params=["eager", "compiled", "mapped"])
def how(request: pytest.FixtureRequest) -> Any:
    """The transform as it is, compiled, or under a vmap of its whole update."""

    def made(tx: ps.GradientTransformation) -> ps.GradientTransformation:
        if request.param == "compiled":
            return tx._replace(update=torch.compile(tx.update, backend="aot_eager", fullgraph=True))
        if request.param == "mapped":

            def update(updates: Any, state: Any, params: Any = None) -> Any:
                many = ps.tree.map(lambda leaf: leaf.expand(2, *leaf.shape), (updates, state, params))
                out = torch.func.vmap(lambda u, s, p: tx.update(u, s, p))(*many)
                return ps.tree.map(lambda leaf: leaf[1], out)

            return tx._replace(update=update)
        return tx

    return made


def test_steps_that_are_not_finite_are_skipped_and_counted(how: Any):
    tx = how(ps.apply_if_finite(ps.trace(0.5), 5))
    got, states = run(tx, [1.0, NAN, INF, 1.0, NAN, NAN, -INF])
    assert got == [1.0, 0.0, 0.0, 1.5, 0.0, 0.0, 0.0]
    assert [s.notfinite_count.item() for s in states] == [0, 1, 2, 0, 1, 2, 3]
    assert [s.last_finite.item() for s in states] == [True, False, False, True, False, False, False]
    assert states[-1].total_notfinite.item() == 5
    assert states[-1].inner_state.trace.item() == 1.5


def test_after_so_many_in_a_row_it_gives_up_once_and_counts_anew(how: Any):
    got, states = run(how(ps.apply_if_finite(ps.scale(1.0), 2)), [INF, INF, INF, INF, 1.0])
    assert got == [0.0, 0.0, INF, 0.0, 1.0]
    assert [s.notfinite_count.item() for s in states] == [1, 2, 0, 1, 0]
    assert states[-1].total_notfinite.item() == 4


def test_one_leaf_that_is_not_finite_is_enough():
    tx = ps.apply_if_finite(ps.scale(2.0), 2)
    updates = {"w": torch.ones(3), "b": torch.tensor(NAN)}
    got, _ = tx.update(updates, tx.init(updates))
    assert got["w"].tolist() == [0.0, 0.0, 0.0]


def test_a_condition_decides_between_the_transform_and_the_bare_update(how: Any):
    tx = how(ps.conditionally_transform(ps.trace(0.5), lambda step: step % 2 == 0))
    got, states = run(tx, [1.0, 2.0, 3.0, 5.0, 4.0])
    assert got == [1.0, 2.0, 3.5, 5.0, 5.75]
    assert [s.step.item() for s in states] == [1, 2, 3, 4, 5]


def test_a_condition_decides_between_the_transform_and_zero(how: Any):
    tx = how(ps.conditionally_mask(ps.trace(0.5), lambda step: step % 2 == 0))
    got, states = run(tx, [1.0, NAN, 3.0, INF, 4.0])
    assert got == [1.0, 0.0, 3.5, 0.0, 5.75]
    assert states[3].inner_state.trace.item() == 3.5


def test_a_step_that_is_not_taken_does_not_run():
    calls: list[int] = []

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        calls.append(1)
        return updates, state

    inner = ps.GradientTransformation(lambda params: ps.EmptyState(), update)
    run(ps.conditionally_mask(inner, lambda step: step < 2), [1.0] * 5)
    run(ps.apply_if_finite(inner, 5), [1.0, NAN, NAN])
    assert len(calls) == 3


@pytest.mark.parametrize("make, otherwise", [(ps.conditionally_mask, 0.0), (ps.conditionally_transform, 1.0)])
def test_a_condition_may_read_extra_arguments(make: Any, otherwise: float):
    plateau = ps.reduce_on_plateau(0.5, patience=1)
    tx = make(plateau, lambda step, loss, **unused: loss < 5.0, forward_extra_args=True)
    assert set(ps.transforms.extra_args_of(tx)) == {"value", "loss"}
    tx = ps.chain(tx)
    assert run(tx, [1.0, 1.0], loss=torch.tensor(4.0), value=1.0)[0] == [1.0, 0.5]
    assert run(tx, [1.0, 1.0], loss=7.0, value=1.0)[0] == [otherwise, otherwise]


def test_bad_conditions_are_refused():
    def sentence_of(call: Any) -> str:
        with pytest.raises(ps.PureSGDError) as caught:
            call()
        return str(caught.value)

    several = ps.conditionally_mask(ps.scale(1.0), lambda step: torch.ones(2) > 0)
    assert sentence_of(lambda: run(several, [1.0])) == (
        "conditionally_mask: should_transform_fn returned shape (2,), expected a single bool. "
        "Reduce it with all() or any()."
    )
    hidden = functools.partial(lambda step, loss: loss < 5.0)
    assert sentence_of(lambda: ps.conditionally_transform(ps.scale(1.0), hidden, True)) == (
        "conditionally_transform: should_transform_fn is a partial, whose extra arguments cannot be seen. "
        "Pass a function, such as lambda step, loss: loss < 5."
    )
    number: Any = 1.0
    assert sentence_of(lambda: ps.apply_if_finite(number, 2)).startswith("apply_if_finite: got a float")
    assert sentence_of(lambda: ps.apply_if_finite(ps.scale(1.0), -1)) == (
        "apply_if_finite: max_consecutive_errors=-1 is not at least 0. "
        "Pass a max_consecutive_errors at least 0."
    )


# All leaves as one vector

PARAMS = {
    "w": torch.linspace(-1, 1, 6).reshape(2, 3),
    "b": torch.tensor(0.5),
    "none": None,
    "e": torch.ones(0),
}


@pytest.mark.parametrize(
    "inner",
    [ps.adamw(0.1, weight_decay=0.1), ps.clip_by_global_norm(0.1), ps.sgd(0.1, momentum=0.9)],
    ids=str,
)
def test_flattened_rules_of_single_entries_and_of_all_are_the_same(inner: ps.GradientTransformation):
    params = {"one": PARAMS, "flat": PARAMS}
    txs = {"one": inner, "flat": ps.flatten(inner)}
    states = {name: tx.init(PARAMS) for name, tx in txs.items()}
    for step in range(3):
        for name, tx in txs.items():
            grads = ps.tree.map(lambda p, step=step: torch.cos(p + step), params[name])
            updates, states[name] = tx.update(grads, states[name], params[name])
            params[name] = ps.apply_updates(params[name], updates)
    torch.testing.assert_close(ps.tree.leaves(params["flat"]), ps.tree.leaves(params["one"]))


def test_a_rule_for_whole_leaves_sees_one():
    def rule(u: torch.Tensor, p: Any) -> torch.Tensor:
        return u / u.norm()

    updates = {"a": torch.tensor([3.0]), "b": torch.tensor([[4.0]])}
    tx = ps.flatten(ps.stateless_with_tree_map(rule))
    got, _ = tx.update(updates, tx.init(updates))
    torch.testing.assert_close(got, {"a": torch.tensor([0.6]), "b": torch.tensor([[0.8]])})


def test_leaves_of_several_dtypes_come_back_in_their_own():
    updates = [torch.ones(2, dtype=torch.bfloat16), torch.ones(1, dtype=torch.complex64), torch.ones(())]
    tx = ps.flatten(ps.sgd(0.5))
    got, _ = tx.update(updates, tx.init(updates), updates)
    assert [u.dtype for u in got] == [u.dtype for u in updates]
    assert [u.shape for u in got] == [u.shape for u in updates]


def test_a_tree_without_leaves_stays_one():
    tx = ps.flatten(ps.sgd(0.5))
    assert tx.update({"a": None}, tx.init({"a": None}))[0] == {"a": None}
