"""Gradient accumulation: what is applied and when, what runs in between, and what NaN does."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_golden import TRAJECTORIES, assert_same, grads_at, initial_params

import pure_sgd as ps

PARAMS = {"w": torch.tensor([1.0, -2.0]), "b": torch.tensor(0.5)}


def grads(*numbers: float) -> list[dict[str, torch.Tensor]]:
    return [{"w": torch.tensor([x, -x]), "b": torch.tensor(2 * x)} for x in numbers]


def emitted(
    tx: ps.GradientTransformation, stream: list[Any], params: Any = PARAMS
) -> tuple[list[float], Any]:
    """The entry ``b`` of each update, and the last state."""
    state, out = tx.init(params), []
    for g in stream:
        updates, state = tx.update(g, state, params)
        out.append(updates["b"].item())
    return out, state


def counting(calls: list[int]) -> ps.GradientTransformation:
    """The identity, which says when it runs."""

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        calls.append(len(calls))
        return updates, state

    return ps.GradientTransformation(lambda params: ps.EmptyState(), update)


@pytest.mark.parametrize("mean", [True, False], ids=["mean", "sum"])
def test_it_is_the_recorded_trajectory(mean: bool):
    # Optax gathers in float32 whatever the parameters' dtype.
    key = f"MultiSteps(adam(0.05),3{'' if mean else ',use_grad_mean=False'}).gradient_transformation()"
    tx, params = ps.multi_steps(ps.adam(0.05), 3, use_grad_mean=mean), initial_params()
    state = tx.init(params)
    for step, want in enumerate(TRAJECTORIES[key]["updates"]):
        updates, state = tx.update(grads_at(step), state, params)
        params = ps.apply_updates(params, updates)
        assert_same(updates, want, f"at step {step}", 1e-7)
    assert_same(params, TRAJECTORIES[key]["final_params"], "at the end", 1e-7)


@pytest.mark.parametrize("mean", [True, False], ids=["mean", "sum"])
def test_every_k_gradients_make_one_step(mean: bool):
    tx = ps.multi_steps(ps.scale(-1.0), 3, use_grad_mean=mean)
    got, state = emitted(tx, grads(1.0, 2.0, 6.0, 4.0, 4.0, 4.0, 9.0))
    factor = 2 if mean else 6
    assert got == pytest.approx([0, 0, -3.0 * factor, 0, 0, -4.0 * factor, 0])
    assert (state.mini_step.item(), state.gradient_step.item()) == (1, 2)
    assert state.acc_grads["b"].item() == 18.0


def test_with_every_k_1_it_is_the_transform_itself():
    stream = grads(1.0, 2.0, -6.0)
    assert emitted(ps.multi_steps(ps.adam(0.1), 1), stream)[0] == emitted(ps.adam(0.1), stream)[0]


def test_k_may_follow_the_number_of_steps_taken():
    tx = ps.multi_steps(ps.scale(1.0), lambda step: torch.where(step < 1, 3, 2))
    got, state = emitted(tx, grads(*[1.0] * 8))
    assert got == [0, 0, 2.0, 0, 2.0, 0, 2.0, 0]
    assert state.gradient_step.item() == 3


def test_between_its_updates_the_wrapped_transform_does_not_run():
    calls: list[int] = []
    emitted(ps.multi_steps(counting(calls), 4), grads(*range(9)))
    assert len(calls) == 2


def test_compiled_the_update_is_one_branch_of_a_conditional_and_nothing_recompiles():
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    tx = ps.multi_steps(ps.adam(0.1), 2)
    compiled = tx._replace(update=torch.compile(tx.update, backend=backend, fullgraph=True))
    stream = grads(1.0, 2.0, 3.0, 4.0, 5.0)
    got, state = emitted(compiled, stream)
    want, want_state = emitted(tx, stream)
    assert got == pytest.approx(want, abs=1e-6)
    torch.testing.assert_close(ps.tree.leaves(state), ps.tree.leaves(want_state))
    (graph,) = graphs
    branches = [
        node for node in graph.graph.nodes if "cond" in str(node.target) and node.op == "call_function"
    ]
    assert len(branches) == 1
    # Divisions by the bias correction, and so all of Adam, stand in a branch.
    assert not any("sqrt" in str(node.target) for node in graph.graph.nodes)


def test_inductor_keeps_the_update_apart_from_an_equal_buffer_in_the_state():
    tx = ps.multi_steps(ps.trace(0.5), 2)

    def step(params: Any, state: Any, g: Any) -> tuple[Any, Any]:
        updates, state = tx.update(g, state, params)
        return ps.apply_updates(params, updates), state

    compiled = torch.compile(step, fullgraph=True)
    got = want = (PARAMS, tx.init(PARAMS))
    for g in grads(1.0, 2.0, 3.0, 4.0):
        got, want = compiled(*got, g), step(*want, g)
    torch.testing.assert_close(ps.tree.leaves(got), ps.tree.leaves(want))


@pytest.mark.parametrize("compiled", [False, True])
def test_counts_may_be_mapped(compiled: bool):
    def run(k: torch.Tensor, rate: torch.Tensor) -> torch.Tensor:
        tx = ps.multi_steps(ps.sgd(rate, momentum=0.9), k)
        params, state = PARAMS, tx.init(PARAMS)
        for g in grads(1.0, -2.0, 3.0, 4.0):
            updates, state = tx.update(g, state, params)
            params = ps.apply_updates(params, updates)
        return params["w"]

    ks, rates = torch.tensor([1, 2, 4, 5]), torch.tensor([0.1, 0.2, 0.3, 0.4])
    mapped = torch.func.vmap(run)
    if compiled:
        mapped = torch.compile(mapped, backend="aot_eager", fullgraph=True)
    want = torch.stack([run(k, rate) for k, rate in zip(ks, rates, strict=True)])
    torch.testing.assert_close(mapped(ks, rates), want)


def test_a_compiled_run_differentiates():
    def end(rate: torch.Tensor) -> torch.Tensor:
        tx = ps.multi_steps(ps.sgd(rate), 2)
        params, state = PARAMS, tx.init(PARAMS)
        for g in grads(1.0, -2.0, 3.0, 4.0):
            updates, state = tx.update(g, state, params)
            params = ps.apply_updates(params, updates)
        return params["b"]

    slope = torch.compile(torch.func.grad(end), backend="aot_eager", fullgraph=True)
    # Two steps, by the means -1 and 7.
    assert slope(torch.tensor(0.1)).item() == pytest.approx(-(-1.0 + 7.0))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_a_broken_gradient_spoils_one_update_and_no_more(broken: float, compiled: bool):
    tx = ps.multi_steps(ps.scale(1.0), 2)
    if compiled:
        tx = tx._replace(update=torch.compile(tx.update, backend="aot_eager", fullgraph=True))
    got, _ = emitted(tx, grads(1.0, broken, 1.0, 3.0, broken, 1.0, 5.0, 7.0))
    assert got[0] == got[2] == got[4] == got[6] == 0.0
    assert got[3] == 4.0
    assert got[7] == 12.0
    assert not torch.tensor([got[1], got[5]]).isfinite().any()


def test_a_broken_gradient_does_no_harm_under_vmap_either():
    def run(k: torch.Tensor) -> torch.Tensor:
        tx = ps.multi_steps(ps.scale(1.0), k)
        state, out = tx.init(PARAMS), []
        for g in grads(torch.nan, 1.0, 3.0, 5.0):
            updates, state = tx.update(g, state, PARAMS)
            out.append(updates["b"])
        return torch.stack(out)

    got = torch.func.vmap(run)(torch.tensor([2, 4]))
    torch.testing.assert_close(
        got, torch.tensor([[0, torch.nan, 0, 8.0], [0, 0, 0, torch.nan]]), equal_nan=True
    )


def test_a_step_that_is_not_finite_may_be_skipped():
    tx = ps.multi_steps(ps.scale(1.0), 2, should_skip_update_fn=ps.skip_not_finite)
    got, state = emitted(tx, grads(1.0, torch.nan, torch.inf, 3.0, torch.nan))
    assert got == [0.0, 0.0, 0.0, 4.0, 0.0]
    assert (state.mini_step.item(), state.gradient_step.item()) == (0, 1)
    assert state.skip_state["should_skip"].item()
    assert state.skip_state["num_not_finite"].item() == 3


def test_a_step_that_is_too_large_may_be_skipped():
    # The squared norm of grads(x) is 6 x**2.
    skip = functools.partial(ps.skip_large_updates, max_squared_norm=24.0)
    tx = ps.multi_steps(ps.scale(1.0), 2, should_skip_update_fn=skip)
    got, state = emitted(tx, grads(1.0, 2.0, 1.9, torch.nan, 100.0))
    assert got == pytest.approx([0.0, 0.0, 2.9, 0.0, 0.0])
    assert state.skip_state["norm_squared"].item() == pytest.approx(6e4)


def test_half_precision_gathers_in_float32_unless_told_otherwise():
    params = torch.zeros(1, dtype=torch.bfloat16)
    tx = ps.multi_steps(ps.scale(1.0), 512, use_grad_mean=False)
    state, updates = tx.init(params), params
    for _ in range(512):
        updates, state = tx.update(torch.ones(1, dtype=torch.bfloat16), state)
    # In bfloat16 256 + 1 is 256.
    assert (updates.item(), updates.dtype) == (512.0, torch.bfloat16)
    own = ps.multi_steps(ps.scale(1.0), 2, accumulator_dtype=torch.float64).init(params)
    assert own.acc_grads.dtype == torch.float64


def test_extra_arguments_reach_the_wrapped_transform():
    tx = ps.chain(ps.multi_steps(ps.reduce_on_plateau(0.5, patience=1), 2))
    state, one = tx.init(torch.ones(1)), torch.ones(1)
    updates = one
    for _ in range(4):
        updates, state = tx.update(one, state, value=1.0)
    assert updates.item() == 0.5


BAD: Any = 1.5


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: ps.multi_steps(ps.scale(1.0), 0), "multi_steps: every_k=0 is not at least 1"),
        (lambda: ps.multi_steps(ps.scale(1.0), BAD), "multi_steps: every_k=1.5 is of type float"),
        (lambda: ps.multi_steps(ps.scale(1.0), torch.ones(2)), "multi_steps: every_k is a tensor of shape"),
        (lambda: ps.multi_steps(BAD, 2), "multi_steps: got a float, expected a GradientTransformation"),
    ],
)
def test_bad_arguments_are_refused(make: Callable[[], Any], sentence: str):
    with pytest.raises(ps.PureSGDError) as caught:
        make()
    assert str(caught.value).startswith(sentence)
