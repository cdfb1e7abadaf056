"""Reduce the learning rate when a measured value stops falling."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from ..errors import PureSGDError, check_count, check_hyperparameter
from ..schedules import as_real
from .contract import (
    GradientTransformation,
    Hyperparameter,
    Params,
    Updates,
    step_zero,
    transformation,
)
from .scaling import multiply

__all__ = ["ReduceOnPlateauState", "reduce_on_plateau"]


class ReduceOnPlateauState(NamedTuple):
    """The state machine; every field has shape ``()``."""

    learning_rate_scale: torch.Tensor  # float: what the updates are multiplied by
    best_value: torch.Tensor  # float: the lowest mean value so far
    plateau_count: torch.Tensor  # int64: decisions since then, without improvement
    cooldown_count: torch.Tensor  # int64: decisions for which nothing is counted yet
    count: torch.Tensor  # int64: values gathered since the last decision
    avg_value: torch.Tensor  # float: their mean


@transformation
def reduce_on_plateau(
    factor: Hyperparameter = 0.1,
    patience: int = 10,
    rtol: Hyperparameter = 1e-4,
    atol: Hyperparameter = 0.0,
    cooldown: int = 0,
    accumulation_size: int = 1,
    min_scale: Hyperparameter = 0.0,
) -> GradientTransformation:
    """Multiply the updates by a scale that falls by ``factor`` whenever ``value`` stops falling.

    ``update`` needs the extra argument ``value``, a number to be minimised (the training loss, or a
    held-out one). The mean of ``accumulation_size`` values is one decision:

        improved      = mean < best - rtol * |best| - atol
        plateau_count = 0 if improved else plateau_count + 1
        scale         = max(scale * factor, min_scale)    when plateau_count reaches patience

    and then nothing is counted for ``cooldown`` decisions. A ``value`` that is NaN means that nothing was
    measured at this step, and changes nothing. Optax compares with ``(1 - rtol) * best``, which
    never reduces for negative values; for positive ones the two agree.
    ``torch.optim.lr_scheduler.ReduceLROnPlateau`` waits for one decision more than ``patience``.

    Raises:
        PureSGDError: ``factor`` outside (0, 1), a count out of its range, or a ``value`` that is
            missing or no single number.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.reduce_on_plateau(factor=0.5, patience=2)
        >>> state = tx.init(torch.ones(1))
        >>> for value in (3.0, 3.0, 3.0):
        ...     updates, state = tx.update(torch.ones(1), state, value=value)
        >>> updates
        tensor([0.5000])
    """
    where = "reduce_on_plateau"
    check_hyperparameter(where, "factor", factor, low=0, high=1, open_low=True, open_high=True)
    check_count(where, "patience", patience)
    check_hyperparameter(where, "rtol", rtol, low=0)
    check_hyperparameter(where, "atol", atol, low=0)
    check_count(where, "cooldown", cooldown, low=0)
    check_count(where, "accumulation_size", accumulation_size)
    check_hyperparameter(where, "min_scale", min_scale, low=0, high=1)

    def init(params: Params) -> ReduceOnPlateauState:
        zero = step_zero(params)
        real = as_real(zero)
        # Each field its own tensor: a donated state is written in place.
        return ReduceOnPlateauState(
            real + 1, real + torch.inf, zero.clone(), zero.clone(), zero, torch.zeros_like(real)
        )

    def update(
        updates: Updates,
        state: ReduceOnPlateauState,
        params: Params = None,
        *,
        value: Any = None,
        **extra: Any,
    ) -> tuple[Updates, ReduceOnPlateauState]:
        new = decide(gather(state, one_value(where, value, state.avg_value)))
        return multiply(updates, new.learning_rate_scale), new

    def gather(state: ReduceOnPlateauState, value: torch.Tensor) -> ReduceOnPlateauState:
        measured = ~torch.isnan(value)
        mean = state.avg_value + (value - state.avg_value) / (state.count + 1)
        return state._replace(
            count=state.count + measured,
            avg_value=torch.where(measured, mean, state.avg_value).to(state.avg_value.dtype),
        )

    def decide(state: ReduceOnPlateauState) -> ReduceOnPlateauState:
        due = state.count >= accumulation_size
        best, mean = state.best_value, state.avg_value
        improved = (mean < best - rtol * best.abs() - atol) | torch.isinf(best)
        cooling = state.cooldown_count > 0
        waited = torch.where(improved | cooling, 0, state.plateau_count + 1)
        reduce = waited >= patience
        lower = (state.learning_rate_scale * factor).clamp(min=min_scale)
        decided = ReduceOnPlateauState(
            torch.where(reduce, lower, state.learning_rate_scale).to(best.dtype),
            torch.where(improved, mean, best),
            torch.where(reduce, 0, waited),
            torch.where(reduce, cooldown, (state.cooldown_count - 1).clamp(min=0)),
            torch.zeros_like(state.count),
            torch.zeros_like(mean),
        )
        return ReduceOnPlateauState(
            *(torch.where(due, new, old) for new, old in zip(decided, state, strict=True))
        )

    return GradientTransformation(init, update)


def one_value(where: str, value: Any, like: torch.Tensor) -> torch.Tensor:
    """The extra argument ``value`` as a 0-d tensor with the dtype and device of ``like``."""
    if value is None:
        raise PureSGDError(where, "the extra argument value is missing", "Call update(..., value=loss)")
    value = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    if value.ndim:
        raise PureSGDError(
            where, f"value has shape {tuple(value.shape)}, expected one number", "Pass its mean"
        )
    return value
