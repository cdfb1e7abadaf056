"""Averages of past updates: momentum and the exponential moving average."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from .. import tree
from ..errors import PureSGDError, check_hyperparameter
from ..schedules import as_real
from .contract import (
    GradientTransformation,
    Hyperparameter,
    Params,
    Updates,
    step_zero,
    transformation,
)

__all__ = ["TraceState", "trace"]


class TraceState(NamedTuple):
    """What momentum remembers."""

    step: torch.Tensor  # int64, shape ()
    trace: Updates  # like params, in at least float32


@transformation
def trace(
    decay: Hyperparameter,
    nesterov: bool = False,
    accumulator_dtype: torch.dtype | None = None,
    *,
    dampening: Hyperparameter = 0.0,
) -> GradientTransformation:
    """Momentum: a decaying sum of the updates, the heavy ball.

        trace = updates                                  at the first step
        trace = decay * trace + (1 - dampening) * updates      afterwards
        u     = trace,  or  updates + decay * trace  with nesterov

    The rule of ``torch.optim.SGD(momentum=decay, dampening=..., nesterov=...)``. The trace has the shapes
    of the updates and at least float32, or ``accumulator_dtype``.
    Sources: Polyak 1964, doi:10.1016/0041-5553(64)90137-5; Sutskever et al. 2013.

    Raises:
        PureSGDError: ``decay`` outside [0, 1), ``dampening`` outside [0, 1], or Nesterov with dampening.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.trace(0.9)
        >>> state = tx.init(torch.zeros(1))
        >>> for _ in range(3):
        ...     updates, state = tx.update(torch.ones(1), state)
        >>> updates
        tensor([2.7100])
    """
    check_hyperparameter("trace", "decay", decay, low=0, high=1, open_high=True)
    check_hyperparameter("trace", "dampening", dampening, low=0, high=1)
    damped = isinstance(dampening, torch.Tensor) or dampening != 0
    if nesterov and damped:
        raise PureSGDError(
            "trace", f"nesterov=True with dampening={dampening}", "Nesterov's rule has none: leave it at 0"
        )

    def init(params: Params) -> TraceState:
        return TraceState(step_zero(params), tree.zeros_like(params, accumulator_dtype))

    def update(
        updates: Updates, state: TraceState, params: Params = None, **extra: Any
    ) -> tuple[Updates, TraceState]:
        weight = 1 - dampening * as_real(state.step > 0) if damped else None

        def remember(m: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
            return (decay * m + (u if weight is None else weight * tree.widened(u))).to(m.dtype)

        new = tree.map(remember, state.trace, updates)
        if nesterov:
            out = tree.map(lambda m, u: (u + decay * m).to(u.dtype), new, updates)
        else:
            out = tree.cast_like(new, updates)
        return out, TraceState(state.step + 1, new)

    return GradientTransformation(init, update)
