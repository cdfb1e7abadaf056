"""Sharpness-aware minimisation: the paper's loop, Optax's numbers, and the parameters that descend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import pure_sgd as ps

CENTER = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
START = torch.tensor([0.2, 0.4, -0.6], dtype=torch.float64)


def slope(params: torch.Tensor, i: int = 0) -> torch.Tensor:
    """The gradient of ``sum(cosh(params - CENTER))``."""
    return torch.sinh(params - CENTER)


def paper(steps: int, rate: float, rho: float) -> torch.Tensor:
    """Algorithm 1 of Foret et al. 2021, with p = 2 and one example."""
    w = START.clone()
    for _ in range(steps):
        g = slope(w)
        w = w - rate * slope(w + rho * g / g.norm())
    return w


def descend(tx: ps.GradientTransformation, steps: int, **extra: Any) -> tuple[torch.Tensor, Any]:
    params, state = START, tx.init(START)
    for _ in range(steps):
        updates, state = tx.update(slope(params), state, params, **extra)
        params = ps.apply_updates(params, updates)
    return params, state


def sentence_of(call: Callable[[], Any]) -> str:
    with pytest.raises(ps.PureSGDError) as caught:
        call()
    return str(caught.value)


def uphill(rho: float) -> ps.GradientTransformation:
    return ps.chain(ps.normalize(), ps.sgd(rho))


def test_two_steps_and_one_opaque_step_are_each_one_of_the_paper():
    seen, _ = descend(ps.sam(ps.sgd(0.1), uphill(0.3)), 10)
    torch.testing.assert_close(seen, paper(5, 0.1, 0.3), rtol=1e-14, atol=1e-14)
    hidden, _ = descend(ps.sam(ps.sgd(0.1), uphill(0.3), opaque_mode=True), 5, grad_fn=slope)
    torch.testing.assert_close(hidden, paper(5, 0.1, 0.3), rtol=1e-14, atol=1e-14)


def test_a_climb_of_two_steps_with_a_memory_is_that_of_optax():
    # Recorded: optax.contrib.sam 0.2.8 in float64, with these optimizers and gradients.
    climb = ps.chain(ps.normalize(), ps.sgd(0.3, momentum=0.5))
    tx = ps.sam(ps.adam(0.1), climb, sync_period=3, reset_state=False, opaque_mode=True)
    params, _ = descend(tx, 4, grad_fn=lambda params, i: (1 + i) * slope(params))
    want = [0.595242369983544, -0.00018673578203710905, -0.20290543188361043]
    assert params.tolist() == pytest.approx(want, rel=1e-12)


def test_the_parameters_to_evaluate_are_those_that_descend():
    tx = ps.chain(ps.sam(ps.sgd(0.1), uphill(0.3)))
    for steps in (1, 2, 3, 6, 7):
        params, state = descend(tx, steps)
        torch.testing.assert_close(ps.eval_params(state, params), paper(steps // 2, 0.1, 0.3))
    hidden, state = descend(ps.sam(ps.sgd(0.1), uphill(0.3), opaque_mode=True), 3, grad_fn=slope)
    assert torch.equal(ps.eval_params(state, hidden), hidden)


def test_the_climb_forgets_its_momentum_where_it_is_reset():
    u, zero = torch.ones(1), torch.zeros(1)
    for reset, want in [(True, 1.0), (False, 1.9)]:
        tx = ps.sam(ps.sgd(0.0), ps.sgd(1.0, momentum=0.9), reset_state=reset)
        state, seen = tx.init(zero), []
        for _ in range(4):
            updates, state = tx.update(u, state, zero)
            seen.append(updates.item())
        assert seen[2] == pytest.approx(want)


def test_a_round_of_one_step_is_the_optimizer_itself():
    # Optax gives 0.9, 0.9, 0.8: it descends from the parameters of the step before.
    params = torch.ones(1)
    tx = ps.sam(ps.sgd(0.1), uphill(0.5), sync_period=1)
    state, seen = tx.init(params), []
    for _ in range(3):
        updates, state = tx.update(torch.ones(1), state, params)
        params = ps.apply_updates(params, updates)
        seen.append(params.item())
    assert seen == pytest.approx([0.9, 0.8, 0.7])


def test_a_nan_uphill_does_not_reach_the_optimizer_that_waits():
    tx = ps.sam(ps.sgd(0.1, momentum=0.9), uphill(0.3))
    state = tx.init(START)
    updates, state = tx.update(torch.full_like(START, torch.nan), state, START)
    assert torch.isnan(updates).all()
    # The step after it descends from parameters that are still known.
    there = START + 0.5
    updates, state = tx.update(slope(there), state, there)
    torch.testing.assert_close(there + updates, START - 0.1 * slope(there))


def test_extras_go_to_the_optimizer_that_reads_them():
    tx = ps.chain(ps.sam(ps.polyak_sgd(), ps.sgd(0.1)))
    assert ps.transforms.extra_args_of(tx) == ("value",)
    tx = ps.sam(ps.polyak_sgd(), ps.sgd(0.1), opaque_mode=True)
    assert ps.transforms.extra_args_of(tx) == ("value", "grad_fn")
    one = torch.ones(1)
    updates, _ = tx.update(one, tx.init(one), one, value=torch.tensor(0.5), grad_fn=lambda p, i: p)
    assert updates.item() == pytest.approx(-0.5 / 1.1)  # the gap over the slope at 1.1, squared, times it


def test_a_training_step_takes_the_gradient_uphill_by_itself():
    tx = ps.sam(ps.sgd(0.1), uphill(0.3), opaque_mode=True)
    step = ps.make_step(lambda params, center: (params - center).cosh().sum(), tx)
    state = ps.init_train_state(START, tx)
    for _ in range(3):
        state, _ = step(state, CENTER)
    torch.testing.assert_close(state.params, paper(3, 0.1, 0.3))


def test_what_is_missing_is_named():
    tx = ps.sam(ps.sgd(0.1), ps.sgd(0.1), opaque_mode=True)
    state = tx.init(START)
    assert "grad_fn is None" in sentence_of(lambda: tx.update(START, state, START))
    assert "params is None" in sentence_of(lambda: tx.update(START, state, grad_fn=slope))
    assert "grad_fn(params, i)" in sentence_of(
        lambda: tx.update(START, state, START, grad_fn=lambda p, i: p.sum())
    )
    assert "sync_period=0" in sentence_of(lambda: ps.sam(ps.sgd(0.1), ps.sgd(0.1), 0))
    not_called: Any = ps.sgd
    assert "Call the factory" in sentence_of(lambda: ps.sam(ps.sgd(0.1), not_called))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_normalized_update_has_norm_one_and_zero_stays_zero(dtype: torch.dtype):
    tx, u = ps.normalize(), {"a": torch.tensor([3.0, 0.0], dtype=dtype), "b": torch.tensor(4.0, dtype=dtype)}
    got, _ = tx.update(u, tx.init(u))
    assert ps.tree.norm(got).item() == pytest.approx(1, abs=4e-3)
    zeros = ps.tree.map(torch.zeros_like, u)
    assert all((leaf == 0).all() for leaf in ps.tree.leaves(tx.update(zeros, tx.init(u))[0]))
    # NaN in a gradient must be seen, not hidden.
    assert torch.isnan(tx.update({"a": u["a"] * torch.nan, "b": u["b"]}, tx.init(u))[0]["b"])
