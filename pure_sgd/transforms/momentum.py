"""What updates keep of earlier ones: momentum, the moving average, the last update, a sum."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from .. import tree
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
from .running import bias_correction, mean

__all__ = [
    "ApplyEveryState",
    "EmaState",
    "ScaleByOptimisticGradientState",
    "TraceState",
    "apply_every",
    "ema",
    "scale_by_optimistic_gradient",
    "trace",
]


class TraceState(NamedTuple):
    """What momentum remembers."""

    step: torch.Tensor  # int64, shape ()
    trace: Updates  # like params, in at least float32


class EmaState(NamedTuple):
    """The exponential moving average of the updates, not debiased."""

    step: torch.Tensor  # int64, shape ()
    ema: Updates  # like params, in at least float32


class ScaleByOptimisticGradientState(NamedTuple):
    """The update before this one."""

    step: torch.Tensor  # int64, shape ()
    previous: Updates  # like params, in at least float32


class ApplyEveryState(NamedTuple):
    """The sum of the updates since the last that went through."""

    step: torch.Tensor  # int64, shape ()
    total: Updates  # like params, in at least float32


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

        new = tree.elementwise(remember, state.trace, updates)
        if nesterov:
            out = tree.elementwise(lambda m, u: (u + decay * m).to(u.dtype), new, updates)
        else:
            out = tree.cast_like(new, updates)
        return out, TraceState(state.step + 1, new)

    return GradientTransformation(init, update)


@transformation
def ema(
    decay: Hyperparameter, debias: bool = True, accumulator_dtype: torch.dtype | None = None
) -> GradientTransformation:
    """The exponential moving average of the updates.

        ema = decay * ema + (1 - decay) * u
        u   = ema / (1 - decay**t)              u = ema without debias

    ``t`` counts from 1; the state keeps the average without that correction. The average has the shapes of
    the updates and at least float32, or ``accumulator_dtype``.

    Raises:
        PureSGDError: ``decay`` outside [0, 1).

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.ema(0.5)
        >>> updates, state = tx.update(torch.ones(1), tx.init(torch.zeros(1)))
        >>> updates, state.ema
        (tensor([1.]), tensor([0.5000]))
    """
    check_hyperparameter("ema", "decay", decay, low=0, high=1, open_high=True)

    def init(params: Params) -> EmaState:
        return EmaState(step_zero(params), tree.zeros_like(params, accumulator_dtype))

    def update(
        updates: Updates, state: EmaState, params: Params = None, **extra: Any
    ) -> tuple[Updates, EmaState]:
        step = state.step + 1
        new = mean(decay, state.ema, updates)
        gathered = bias_correction(decay, step) if debias else 1.0
        out = tree.elementwise(lambda m, u: (m / gathered).to(u.dtype), new, updates)
        return out, EmaState(step, new)

    return GradientTransformation(init, update)


@transformation
def scale_by_optimistic_gradient(
    alpha: Hyperparameter = 1.0, beta: Hyperparameter = 1.0
) -> GradientTransformation:
    """Look ahead along the change of the updates: optimistic gradients, for games.

        u = (alpha + beta) * u - beta * previous

    ``previous`` is the update before this one as it came in, and at the first step this one itself.
    Source: Mokhtari et al. 2020, arXiv:1901.08511.

    Raises:
        PureSGDError: ``alpha`` or ``beta`` is no number, 0-d tensor or schedule.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.scale_by_optimistic_gradient()
        >>> _, state = tx.update(torch.tensor([1.0]), tx.init(torch.zeros(1)))
        >>> tx.update(torch.tensor([3.0]), state)[0]
        tensor([5.])
    """
    check_hyperparameter("scale_by_optimistic_gradient", "alpha", alpha)
    check_hyperparameter("scale_by_optimistic_gradient", "beta", beta)

    def init(params: Params) -> ScaleByOptimisticGradientState:
        return ScaleByOptimisticGradientState(step_zero(params), tree.zeros_like(params))

    def update(
        updates: Updates, state: ScaleByOptimisticGradientState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleByOptimisticGradientState]:
        # A copy: the state must not share memory with the caller's gradients.
        now = tree.map(lambda u: u.to(tree.wide(u.dtype), copy=True), updates)
        before = tree.map(lambda b, u: torch.where(state.step > 0, b, u), state.previous, now)
        out = tree.map(lambda u, n, b: ((alpha + beta) * n - beta * b).to(u.dtype), updates, now, before)
        return out, ScaleByOptimisticGradientState(state.step + 1, now)

    return GradientTransformation(init, update)


@transformation
def apply_every(k: int = 1) -> GradientTransformation:
    """Let the sum of the updates through at every ``k``-th step, and zeros in between.

        total = u + (total, but 0 at the first step of every k)
        u     = total at the last step of every k, else 0

    What stands before it in a chain runs at every step all the same; a NaN is forgotten with its sum. Sums
    have the shapes of the updates and at least float32.

    Raises:
        PureSGDError: ``k`` is no int of at least 1.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.apply_every(2)
        >>> state = tx.init(torch.zeros(1))
        >>> for _ in range(2):
        ...     updates, state = tx.update(torch.ones(1), state)
        ...     print(updates)
        tensor([0.])
        tensor([2.])
    """
    check_count("apply_every", "k", k)

    def init(params: Params) -> ApplyEveryState:
        return ApplyEveryState(step_zero(params), tree.zeros_like(params))

    def update(
        updates: Updates, state: ApplyEveryState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ApplyEveryState]:
        place = state.step % k
        # Chosen, not multiplied by 0, which would keep a NaN.
        total = tree.map(lambda t, u: torch.where(place == 0, 0.0, t) + u, state.total, updates)
        out = tree.map(lambda t, u: torch.where(place == k - 1, t, 0.0).to(u.dtype), total, updates)
        return out, ApplyEveryState(state.step + 1, total)

    return GradientTransformation(init, update)
