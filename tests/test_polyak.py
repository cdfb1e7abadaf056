"""Polyak's step size: closed forms, and what it does at the edges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import pure_sgd as ps


def step_of(tx: ps.GradientTransformation, u: torch.Tensor, value: Any) -> torch.Tensor:
    return tx.update(u, tx.init(u), u, value=value)[0]


def sentence_of(call: Callable[[], Any]) -> str:
    with pytest.raises(ps.PureSGDError) as caught:
        call()
    return str(caught.value)


U = torch.tensor([3.0, 4.0], dtype=torch.float64)


def test_the_step_is_the_gap_over_the_squared_norm_up_to_a_bound():
    for value, f_min, eps, bound in [(5.0, 0.0, 0.0, 1.0), (5.0, 2.0, 0.5, 1.0), (100.0, 0.0, 0.0, 0.7)]:
        want = min((value - f_min) / (25 + eps), bound) * U
        torch.testing.assert_close(step_of(ps.scale_by_polyak(f_min, bound, eps), U, value), want)


def test_the_norm_is_over_all_leaves():
    tx, u = ps.scale_by_polyak(), {"a": torch.tensor(3.0), "b": torch.tensor([4.0])}
    got, _ = tx.update(u, tx.init(u), value=5.0)
    torch.testing.assert_close(got, {"a": torch.tensor(0.6), "b": torch.tensor([0.8])})


def test_below_f_min_one_variant_climbs_and_the_other_waits():
    assert step_of(ps.scale_by_polyak(2.0), U, 1.0).tolist() == pytest.approx([-0.12, -0.16])
    assert step_of(ps.scale_by_polyak(2.0, variant="sps+"), U, 1.0).tolist() == [0.0, 0.0]


def test_each_step_on_a_quadratic_halves_the_parameters():
    params, tx = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), ps.polyak_sgd()
    state, seen = tx.init(params), []
    for _ in range(4):
        value, grads = (params**2).sum(), 2 * params
        updates, state = tx.update(grads, state, params, value=value)
        params = ps.apply_updates(params, updates)
        seen.append((params**2).sum().item())
    assert seen == pytest.approx([3.5, 0.875, 0.21875, 0.0546875])


def test_twice_the_scaling_is_twice_the_step():
    # Optax measures the gap against the norm of the scaled gradient, and halves the step.
    one = step_of(ps.polyak_sgd(), U, 5.0)
    assert torch.equal(step_of(ps.polyak_sgd(scaling=2.0), U, 5.0), 2 * one)


def test_where_the_gradient_is_zero_nothing_moves_and_slopes_are_finite():
    zero = torch.zeros(2, dtype=torch.float64)
    for variant in ("sps", "sps+"):
        tx = ps.scale_by_polyak(variant=variant)
        assert torch.equal(step_of(tx, zero, 3.0), zero)
        slope = torch.func.grad(lambda u, tx=tx: step_of(tx, u, 3.0).sum())(zero)
        assert torch.isfinite(slope).all()


WRONG: Any = torch.ones(2)


@pytest.mark.parametrize(
    "call, sentence",
    [
        (
            lambda: ps.scale_by_polyak(variant="sps++"),
            "scale_by_polyak: variant='sps++' is unknown. Pass 'sps' or 'sps+'.",
        ),
        (
            lambda: ps.scale_by_polyak(max_learning_rate=-1.0),
            "scale_by_polyak: max_learning_rate=-1.0 lies outside [0, inf). "
            "Pass a max_learning_rate within these bounds.",
        ),
        (
            lambda: ps.scale_by_polyak(eps=-1.0),
            "scale_by_polyak: eps=-1.0 lies outside [0, inf). Pass a eps within these bounds.",
        ),
        (
            lambda: step_of(ps.scale_by_polyak(), U, None),
            "scale_by_polyak: the extra argument value is missing. Call update(..., value=loss).",
        ),
        (
            lambda: step_of(ps.scale_by_polyak(), U, WRONG),
            "scale_by_polyak: value has shape (2,), expected one number. Pass its mean.",
        ),
    ],
)
def test_bad_arguments_are_refused(call: Callable[[], Any], sentence: str):
    assert sentence_of(call) == sentence
