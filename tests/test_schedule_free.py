"""Schedule-free learning: the paper's three sequences in a loop, and what to evaluate with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import pure_sgd as ps

START = torch.tensor([0.3, -1.2, 0.7], dtype=torch.float64)


def gradient(w: torch.Tensor) -> torch.Tensor:
    """That of a loss that is neither convex nor a quadratic."""
    return torch.func.grad(lambda w: w.sin().sum() + w.prod() ** 2)(w)


def path_of(tx: ps.GradientTransformation, steps: int) -> list[tuple[torch.Tensor, Any]]:
    params, seen = START, []
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(gradient(params), state, params)
        params = ps.apply_updates(params, updates)
        seen.append((params, state))
    return seen


def by_hand(
    steps: int, rates: list[float], b1: float, power: float
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The y and x of Defazio et al. 2024, with the weights of their warm-up, step by step."""
    x = z = y = START
    total, seen = 0.0, []
    for t in range(steps):
        z = z - rates[t] * gradient(y)
        weight = max(rates[: t + 1]) ** power
        total += weight
        c = weight / total if total else 0.0
        x = (1 - c) * x + c * z
        y = (1 - b1) * z + b1 * x
        seen.append((y, x))
    return seen


def sentence_of(call: Callable[[], Any]) -> str:
    with pytest.raises(ps.PureSGDError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize("b1, power", [(0.9, 2.0), (0.5, 1.0), (0.0, 0.0), (1.0, 2.0)])
@pytest.mark.parametrize("warmup_steps", [None, 4])
def test_the_parameters_are_y_and_those_to_evaluate_with_are_x(b1: float, power: float, warmup_steps: int):
    rates = [0.2 * min(t / 4, 1) if warmup_steps else 0.2 for t in range(10)]
    tx = ps.schedule_free_sgd(0.2, warmup_steps, b1, weight_lr_power=power)
    for (params, state), (y, x) in zip(path_of(tx, 10), by_hand(10, rates, b1, power), strict=True):
        torch.testing.assert_close(params, y, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(ps.eval_params(state, params), x, rtol=1e-12, atol=1e-14)


def test_the_first_rate_of_a_schedule_is_used():
    # Optax begins with the weight of the second one.
    rates = [0.4, 0.1, 0.1]
    schedule = ps.piecewise_constant_schedule(0.4, {1: 0.25})
    got = path_of(ps.schedule_free(ps.sgd(schedule), schedule), 3)[-1]
    y, x = by_hand(3, rates, 0.9, 2.0)[-1]
    torch.testing.assert_close((got[0], ps.eval_params(got[1], got[0])), (y, x), rtol=1e-12, atol=1e-14)


def test_with_equal_rates_x_is_the_mean_of_the_base_optimizers_points():
    tx = ps.schedule_free(ps.sgd(0.1), 0.1, b1=0.0)
    path = path_of(tx, 6)
    # With b1=0 the parameters are z: gradient descent, averaged.
    torch.testing.assert_close(path[-1][0], path_of(ps.sgd(0.1), 6)[-1][0])
    mean = torch.stack([params for params, _ in path]).mean(0)
    torch.testing.assert_close(ps.eval_params(path[-1][1], path[-1][0]), mean)


def test_a_rate_of_zero_moves_nothing():
    params, state = path_of(ps.schedule_free_sgd(0.0), 3)[-1]
    torch.testing.assert_close(params, START, rtol=1e-15, atol=0.0)
    assert torch.equal(ps.eval_params(state, params), START)


def test_adamw_is_the_wrapper_around_its_parts():
    base = ps.chain(
        ps.scale_by_adam(0.0, 0.99, 1e-6), ps.add_decayed_weights(0.1), ps.scale_by_learning_rate(0.05)
    )
    want = path_of(ps.schedule_free(base, 0.05), 6)[-1][0]
    got = path_of(ps.schedule_free_adamw(0.05, b2=0.99, eps=1e-6, weight_decay=0.1), 6)[-1][0]
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)


def test_half_precision_parameters_are_followed_with_more_digits_than_they_have():
    params, tx = torch.ones(1, dtype=torch.bfloat16), ps.schedule_free_sgd(2**-13)
    state = tx.init(params)
    for _ in range(100):
        updates, state = tx.update(torch.ones_like(params), state, params)
        assert updates.dtype == torch.bfloat16
        params = ps.apply_updates(params, updates)
    # A single step of 2**-13 is lost on a bfloat16 near 1.
    torch.testing.assert_close(state.z, torch.tensor([1 - 100 / 2**13]), rtol=1e-6, atol=0.0)
    torch.testing.assert_close(state.average, torch.tensor([1 - 50.5 / 2**13]), rtol=1e-6, atol=0.0)
    assert params.item() == pytest.approx(1 - (0.9 * 50.5 + 0.1 * 100) / 2**13, abs=2**-8)


def test_the_states_dtype_may_be_chosen():
    tx = ps.schedule_free(ps.sgd(0.1), 0.1, state_dtype=torch.float64)
    state = tx.init({"w": torch.ones(2)})
    assert state.z["w"].dtype == state.average["w"].dtype == torch.float64


WRONG: Any = ps.sgd


@pytest.mark.parametrize(
    "call, sentence",
    [
        (
            lambda: ps.schedule_free(WRONG, 0.1),
            "schedule_free: base_optimizer is a function, expected a GradientTransformation. "
            "Pass a transform, such as sgd(0.1).",
        ),
        (
            lambda: ps.schedule_free(ps.sgd(0.1), -0.1),
            "schedule_free: learning_rate=-0.1 lies outside [0, inf). "
            "Pass a learning_rate within these bounds.",
        ),
        (
            lambda: ps.schedule_free_sgd(0.1, b1=1.5),
            "schedule_free: b1=1.5 lies outside [0, 1]. Pass a b1 within these bounds.",
        ),
        (
            lambda: ps.schedule_free_sgd(0.1, weight_lr_power=-1.0),
            "schedule_free: weight_lr_power=-1.0 lies outside [0, inf). "
            "Pass a weight_lr_power within these bounds.",
        ),
        (
            lambda: ps.schedule_free_sgd(0.1).update(START, ps.schedule_free_sgd(0.1).init(START)),
            "schedule_free: params is None, and this rule reads them. Call update(updates, state, params).",
        ),
    ],
)
def test_bad_arguments_are_refused(call: Callable[[], Any], sentence: str):
    assert sentence_of(call) == sentence
