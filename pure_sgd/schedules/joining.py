"""Schedules made of pieces: piecewise constants, one schedule after the other, warm-ups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ..errors import PureSGDError, check_count, check_hyperparameter
from ..recipe import recorded
from .decay import cosine_decay_schedule, exponential_decay, linear_schedule
from .schedule import Number, Schedule, check_constants

__all__ = [
    "inverse_sqrt_schedule",
    "join_schedules",
    "piecewise_constant_schedule",
    "warmup_constant_schedule",
    "warmup_cosine_decay_schedule",
    "warmup_exponential_decay_schedule",
    "wsd_schedule",
]


@recorded
def piecewise_constant_schedule(
    init_value: Number, boundaries_and_scales: Mapping[int, float] | None = None
) -> Schedule:
    """``init_value`` times the scales of all boundaries that ``step`` has reached.

    ``torch.optim.lr_scheduler.MultiStepLR`` with milestones as keys and gamma as every scale.

    Raises:
        PureSGDError: a boundary that is no int of at least 0, a negative scale, or a constant that is no
            number and no 0-d tensor.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.piecewise_constant_schedule(1.0, {2: 0.5, 3: 0.1})(torch.arange(4))
        tensor([1.0000, 1.0000, 0.5000, 0.0500], dtype=torch.float64)
    """
    scales = dict(boundaries_and_scales or {})
    check_constants("piecewise_constant_schedule", init_value=init_value)
    for boundary, scale in scales.items():
        check_count("piecewise_constant_schedule", "boundary", boundary, low=0)
        check_constants("piecewise_constant_schedule", scale=scale)
        check_hyperparameter("piecewise_constant_schedule", "scale", scale, low=0)

    def schedule(step: torch.Tensor) -> torch.Tensor:
        value = torch.zeros_like(step) + init_value
        for boundary, scale in scales.items():
            value = torch.where(step >= boundary, value * scale, value)
        return value

    return Schedule(schedule)


@recorded
def join_schedules(schedules: Sequence[Callable[[Any], Any]], boundaries: Sequence[int]) -> Schedule:
    """One schedule after the other, each counting its own steps from its boundary.

    Raises:
        PureSGDError: not one boundary fewer than schedules, or boundaries that do not grow.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> join = ps.join_schedules([ps.constant_schedule(1.0), ps.linear_schedule(1.0, 0.0, 2)], [2])
        >>> join(torch.arange(5))
        tensor([1.0000, 1.0000, 1.0000, 0.5000, 0.0000], dtype=torch.float64)
    """
    if len(boundaries) != len(schedules) - 1:
        raise PureSGDError(
            "join_schedules",
            f"got {len(boundaries)} boundaries for {len(schedules)} schedules, expected one fewer",
            "Pass the steps at which the second and each later schedule begins",
        )
    for boundary in boundaries:
        check_count("join_schedules", "boundary", boundary, low=0)
    if sorted(set(boundaries)) != list(boundaries):
        raise PureSGDError(
            "join_schedules", f"boundaries={list(boundaries)} do not grow", "Sort them, each one once"
        )

    def schedule(step: torch.Tensor) -> torch.Tensor:
        value = torch.zeros_like(step) + schedules[0](step)
        for boundary, later in zip(boundaries, schedules[1:], strict=True):
            # Before its boundary a branch is not used, but it is evaluated: keep its step in range.
            value = torch.where(step < boundary, value, later((step - boundary).clamp(min=0)))
        return value

    return Schedule(schedule)


@recorded
def warmup_constant_schedule(init_value: Number, peak_value: Number, warmup_steps: int) -> Schedule:
    """A straight line from ``init_value`` to ``peak_value`` over ``warmup_steps``, then ``peak_value``.

    With ``warmup_steps=0`` it is ``peak_value`` from the first step.

    Raises:
        PureSGDError: a negative number of steps.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.warmup_constant_schedule(0.0, 1.0, 2)(torch.arange(4))
        tensor([0.0000, 0.5000, 1.0000, 1.0000], dtype=torch.float64)
    """
    return linear_schedule(init_value, peak_value, warmup_steps)


@recorded
def warmup_cosine_decay_schedule(
    init_value: Number,
    peak_value: Number,
    warmup_steps: int,
    decay_steps: int,
    end_value: Number = 0.0,
    exponent: Number = 1.0,
) -> Schedule:
    """A linear warm-up to ``peak_value``, then half a cosine down to ``end_value``.

    ``decay_steps`` is the length of both together, warm-up included.

    Raises:
        PureSGDError: ``decay_steps`` not larger than ``warmup_steps``, or a constant that is no number and
            no 0-d tensor.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.warmup_cosine_decay_schedule(0.0, 1.0, 2, 6)(torch.arange(7))
        tensor([0.0000, 0.5000, 1.0000, 0.8536, 0.5000, 0.1464, 0.0000],
               dtype=torch.float64)
    """
    check_count("warmup_cosine_decay_schedule", "warmup_steps", warmup_steps, low=0)
    check_count("warmup_cosine_decay_schedule", "decay_steps", decay_steps, low=warmup_steps + 1)
    check_constants("warmup_cosine_decay_schedule", peak_value=peak_value, end_value=end_value)
    # Not alpha = end_value / peak_value: a peak of 0 is allowed.
    fall = cosine_decay_schedule(1.0, decay_steps - warmup_steps, exponent=exponent)
    decay = Schedule(lambda step: end_value + (peak_value - end_value) * fall(step))
    return join_schedules([linear_schedule(init_value, peak_value, warmup_steps), decay], [warmup_steps])


@recorded
def warmup_exponential_decay_schedule(
    init_value: Number,
    peak_value: Number,
    warmup_steps: int,
    transition_steps: int,
    decay_rate: Number,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: Number | None = None,
) -> Schedule:
    """A linear warm-up to ``peak_value``, then :func:`exponential_decay` from there.

    Raises:
        PureSGDError: as the two parts.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.warmup_exponential_decay_schedule(0.0, 1.0, 2, 1, 0.5)(torch.arange(5))
        tensor([0.0000, 0.5000, 1.0000, 0.5000, 0.2500], dtype=torch.float64)
    """
    decay = exponential_decay(
        peak_value, transition_steps, decay_rate, transition_begin, staircase, end_value
    )
    return join_schedules([linear_schedule(init_value, peak_value, warmup_steps), decay], [warmup_steps])


@recorded
def inverse_sqrt_schedule(init_value: Number, peak_value: Number, warmup_steps: int) -> Schedule:
    """A linear warm-up to ``peak_value``, then a fall with the square root of the step.

        value = peak_value * sqrt(warmup_steps / step)        from step = warmup_steps on

    Source: Vaswani et al. 2017, arXiv:1706.03762.

    Raises:
        PureSGDError: ``warmup_steps`` under 1, or a constant that is no number and no 0-d tensor.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.inverse_sqrt_schedule(0.0, 1.0, 2)(torch.tensor([0, 1, 2, 8, 32]))
        tensor([0.0000, 0.5000, 1.0000, 0.5000, 0.2500], dtype=torch.float64)
    """
    check_constants("inverse_sqrt_schedule", peak_value=peak_value)
    check_count("inverse_sqrt_schedule", "warmup_steps", warmup_steps)
    decay = Schedule(lambda step: peak_value * (warmup_steps / (step + warmup_steps)).sqrt())
    return join_schedules([linear_schedule(init_value, peak_value, warmup_steps), decay], [warmup_steps])


@recorded
def wsd_schedule(
    init_value: Number,
    peak_value: Number,
    warmup_steps: int,
    stable_steps: int,
    decay_steps: int,
    end_value: Number = 0.0,
) -> Schedule:
    """Warm-up, stable, decay: up to ``peak_value``, level, and down to ``end_value``, on straight lines.

    Each count is the length of its own part. For another way down, give :func:`join_schedules` the parts.
    Source: Hu et al. 2024, arXiv:2404.06395.

    Raises:
        PureSGDError: a negative number of steps, or a constant that is no number and no 0-d tensor.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.wsd_schedule(0.0, 1.0, warmup_steps=2, stable_steps=1, decay_steps=2)(torch.arange(7))
        tensor([0.0000, 0.5000, 1.0000, 1.0000, 0.5000, 0.0000, 0.0000],
               dtype=torch.float64)
    """
    counts = {"warmup_steps": warmup_steps, "stable_steps": stable_steps, "decay_steps": decay_steps}
    for name, count in counts.items():
        check_count("wsd_schedule", name, count, low=0)
    fall = linear_schedule(peak_value, end_value, decay_steps, stable_steps)
    return join_schedules([linear_schedule(init_value, peak_value, warmup_steps), fall], [warmup_steps])
