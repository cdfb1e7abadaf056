"""Multiply the updates by a number: constant, scheduled, or the learning rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from .. import tree
from ..errors import PureSGDError, check_hyperparameter
from ..schedules import value_at
from .combining import stateless
from .contract import (
    GradientTransformation,
    Hyperparameter,
    Params,
    Updates,
    step_zero,
    transformation,
)

__all__ = [
    "ScaleByLearningRateState",
    "ScaleByScheduleState",
    "scale",
    "scale_by_learning_rate",
    "scale_by_schedule",
]


class ScaleByScheduleState(NamedTuple):
    """The number of updates so far."""

    step: torch.Tensor  # int64, shape ()


class ScaleByLearningRateState(NamedTuple):
    """The number of updates so far, and the learning rate of the last one (of the first, before it)."""

    step: torch.Tensor  # int64, shape ()
    learning_rate: torch.Tensor  # float, shape ()


@transformation
def scale(step_size: Hyperparameter) -> GradientTransformation:
    """Multiply every update by ``step_size``; the sign stays.

    Raises:
        PureSGDError: ``step_size`` is no number, 0-d tensor or schedule.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.scale(-0.5).update(torch.ones(2), ps.EmptyState())[0]
        tensor([-0.5000, -0.5000])
    """
    check_hyperparameter("scale", "step_size", step_size)
    return stateless(lambda updates, params: multiply(updates, step_size))


@transformation
def scale_by_schedule(step_size_fn: Callable[[torch.Tensor], Any]) -> GradientTransformation:
    """Multiply every update by ``step_size_fn(step)``, ``step`` counted from 0; the sign stays.

    Raises:
        PureSGDError: the schedule is no function, or returned more than one number.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.scale_by_schedule(lambda step: 1 / (1 + step))
        >>> tx.update(torch.ones(2), tx.init(torch.ones(2)))
        (tensor([1., 1.]), ScaleByScheduleState(step=tensor(1)))
    """
    if not callable(step_size_fn):
        raise PureSGDError(
            "scale_by_schedule",
            f"step_size_fn={step_size_fn!r} is not a function of the step",
            "Pass a schedule, or use scale for a constant",
        )

    def init(params: Params) -> ScaleByScheduleState:
        return ScaleByScheduleState(step_zero(params))

    def update(
        updates: Updates, state: ScaleByScheduleState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleByScheduleState]:
        factor = value_at(step_size_fn, state.step, "scale_by_schedule", "step_size_fn")
        return multiply(updates, factor), ScaleByScheduleState(state.step + 1)

    return GradientTransformation(init, update)


@transformation
def scale_by_learning_rate(
    learning_rate: float | torch.Tensor | Callable[[torch.Tensor], Any], *, flip_sign: bool = True
) -> GradientTransformation:
    """Multiply every update by ``-learning_rate``, the last step of most chains.

        u = -learning_rate * u        (+ with flip_sign=False)

    A schedule is evaluated at the number of updates so far, from 0 on. The state keeps the rate that was
    used, so that it can be recorded (:func:`learning_rate`).

    Raises:
        PureSGDError: a negative learning rate, or a schedule that returned more than one number.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.scale_by_learning_rate(ps.linear_schedule(0.5, 0.0, 10))
        >>> updates, state = tx.update(torch.ones(2), tx.init(torch.ones(2)))
        >>> updates, state.learning_rate
        (tensor([-0.5000, -0.5000]), tensor(0.5000, dtype=torch.float64))
    """
    check_hyperparameter("scale_by_learning_rate", "learning_rate", learning_rate, low=0)
    sign = -1 if flip_sign else 1

    def rate_at(step: torch.Tensor) -> torch.Tensor:
        value = value_at(learning_rate, step, "scale_by_learning_rate", "learning_rate")
        return torch.as_tensor(value, dtype=_real_dtype(value), device=step.device)

    def init(params: Params) -> ScaleByLearningRateState:
        step = step_zero(params)
        return ScaleByLearningRateState(step, rate_at(step))

    def update(
        updates: Updates, state: ScaleByLearningRateState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleByLearningRateState]:
        rate = rate_at(state.step)
        return multiply(updates, sign * rate), ScaleByLearningRateState(state.step + 1, rate)

    return GradientTransformation(init, update)


def multiply(updates: Updates, factor: Any) -> Updates:
    """``factor * u`` in the dtype of ``u``, for a number or a 0-d tensor ``factor``."""
    # Widened, because torch would round a tensor factor to the dtype of u before it multiplies.
    return tree.elementwise(lambda u: (factor * tree.widened(u)).to(u.dtype), updates)


def _real_dtype(value: Any) -> torch.dtype:
    return value.dtype if isinstance(value, torch.Tensor) and value.is_floating_point() else torch.float64
