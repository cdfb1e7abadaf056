"""Schedules that pass through given points, on straight lines or half cosines: the one-cycle family."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import torch

from ..errors import PureSGDError, check_count, check_hyperparameter
from ..recipe import recorded
from .schedule import Number, Schedule, check_constants, progress

__all__ = [
    "cosine_onecycle_schedule",
    "linear_onecycle_schedule",
    "one_cycle_schedule",
    "piecewise_interpolate_schedule",
]


@recorded
def piecewise_interpolate_schedule(
    interpolate_type: str,
    init_value: Number,
    boundaries_and_scales: Mapping[int, float] | None = None,
) -> Schedule:
    """From value to value between boundaries, where each boundary scales the value before it.

    ``interpolate_type`` is ``"linear"`` or ``"cosine"``. At a boundary the value is ``init_value`` times
    all scales up to there; after the last one it stays.

    Raises:
        PureSGDError: an unknown ``interpolate_type``, a boundary that is no int of at least 0, a negative
            scale, or a constant that is no number and no 0-d tensor.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.piecewise_interpolate_schedule("linear", 1.0, {2: 0.5, 4: 0.2})(torch.arange(6))
        tensor([1.0000, 0.7500, 0.5000, 0.3000, 0.1000, 0.1000], dtype=torch.float64)
    """
    where = "piecewise_interpolate_schedule"
    check_constants(where, init_value=init_value)
    _check_kind(where, "interpolate_type", interpolate_type, ("linear", "cosine"))
    points: list[tuple[float, Any]] = [(0, init_value)]
    for boundary, scale in sorted((boundaries_and_scales or {}).items()):
        check_count(where, "boundary", boundary, low=0)
        check_constants(where, scale=scale)
        check_hyperparameter(where, "scale", scale, low=0)
        points.append((boundary, points[-1][1] * scale))
    return _through(points, interpolate_type == "cosine")


@recorded
def linear_onecycle_schedule(
    transition_steps: int,
    peak_value: Number,
    pct_start: float = 0.3,
    pct_final: float = 0.85,
    div_factor: Number = 25.0,
    final_div_factor: Number = 1e4,
) -> Schedule:
    """Three straight lines: up to the peak, back to where it began, and down to the end.

        step  0                         value  peak_value / div_factor
              pct_start * transition_steps     peak_value
              pct_final * transition_steps     peak_value / div_factor
              transition_steps                 peak_value / (div_factor * final_div_factor)

    with steps rounded down. The values are Optax's, whose docstring has ``peak_value / final_div_factor``
    at the end. Source: Smith and Topin 2017, arXiv:1708.07120.

    Raises:
        PureSGDError: ``transition_steps`` under 1, not 0 <= ``pct_start`` <= ``pct_final`` <= 1, or a factor
            that is not positive.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.linear_onecycle_schedule(6, 1.0, 0.34, 0.67, 4, 10)(torch.arange(7))
        tensor([0.2500, 0.6250, 1.0000, 0.6250, 0.2500, 0.1375, 0.0250],
               dtype=torch.float64)
    """
    where = "linear_onecycle_schedule"
    _check_cycle(where, "transition_steps", transition_steps, div_factor, final_div_factor)
    check_constants(where, peak_value=peak_value)
    _check_share(where, "pct_final", pct_final)
    _check_share(where, "pct_start", pct_start, high=pct_final)
    start = peak_value / div_factor
    return _through(
        [
            (0, start),
            (int(pct_start * transition_steps), peak_value),
            (int(pct_final * transition_steps), start),
            (transition_steps, start / final_div_factor),
        ],
        cosine=False,
    )


@recorded
def cosine_onecycle_schedule(
    transition_steps: int,
    peak_value: Number,
    pct_start: float = 0.3,
    div_factor: Number = 25.0,
    final_div_factor: Number = 1e4,
) -> Schedule:
    """Two half cosines: up to the peak, and down to the end.

        step  0                         value  peak_value / div_factor
              pct_start * transition_steps     peak_value
              transition_steps                 peak_value / (div_factor * final_div_factor)

    with steps rounded down. :func:`one_cycle_schedule` is ``torch``'s, whose phases end one step earlier.
    Source: Smith and Topin 2017, arXiv:1708.07120.

    Raises:
        PureSGDError: ``transition_steps`` under 1, ``pct_start`` outside [0, 1], or a factor that is not
            positive.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.cosine_onecycle_schedule(4, 1.0, 0.5, 5, 10)(torch.arange(5))
        tensor([0.2000, 0.6000, 1.0000, 0.5100, 0.0200], dtype=torch.float64)
    """
    where = "cosine_onecycle_schedule"
    _check_cycle(where, "transition_steps", transition_steps, div_factor, final_div_factor)
    check_constants(where, peak_value=peak_value)
    _check_share(where, "pct_start", pct_start)
    start = peak_value / div_factor
    return _through(
        [
            (0, start),
            (int(pct_start * transition_steps), peak_value),
            (transition_steps, start / final_div_factor),
        ],
        cosine=True,
    )


@recorded
def one_cycle_schedule(
    max_value: Number,
    total_steps: int,
    pct_start: float = 0.3,
    anneal_strategy: str = "cos",
    div_factor: Number = 25.0,
    final_div_factor: Number = 1e4,
    three_phase: bool = False,
) -> Schedule:
    """Up to ``max_value``, back, and down to the end: ``torch``'s OneCycleLR.

        step  0                         value  max_value / div_factor
              pct_start * total_steps - 1      max_value
              2 * pct_start * total_steps - 2  max_value / div_factor        (with three_phase)
              total_steps - 1                  max_value / (div_factor * final_div_factor)

    ``anneal_strategy`` is ``"cos"`` or ``"linear"``. After the last step, where OneCycleLR refuses, the
    value stays. OneCycleLR moves the momentum the other way: give the optimizer a second schedule for it.
    Source: Smith and Topin 2017, arXiv:1708.07120.

    Raises:
        PureSGDError: ``total_steps`` under 1, ``pct_start`` outside [0, 1] ([0, 0.5] with ``three_phase``),
            an unknown ``anneal_strategy``, or a factor that is not positive.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.one_cycle_schedule(1.0, 5, 0.6, "linear", 4, 10)(torch.arange(6))
        tensor([0.2500, 0.6250, 1.0000, 0.5125, 0.0250, 0.0250], dtype=torch.float64)
    """
    where = "one_cycle_schedule"
    _check_cycle(where, "total_steps", total_steps, div_factor, final_div_factor)
    check_constants(where, max_value=max_value)
    _check_share(where, "pct_start", pct_start, high=0.5 if three_phase else 1)
    _check_kind(where, "anneal_strategy", anneal_strategy, ("cos", "linear"))
    start = max_value / div_factor
    back: list[tuple[float, Any]] = [(2 * pct_start * total_steps - 2, start)] if three_phase else []
    points = [(0, start), (pct_start * total_steps - 1, max_value), *back]
    return _through([*points, (total_steps - 1, start / final_div_factor)], anneal_strategy == "cos")


def _through(points: list[tuple[float, Any]], cosine: bool) -> Schedule:
    """From point to point; of points at the same step the last one counts, and the last value stays."""

    def schedule(step: torch.Tensor) -> torch.Tensor:
        value = torch.zeros_like(step) + points[0][1]
        for (start, before), (end, after) in itertools.pairwise(points):
            t = progress(step - start, end - start)
            part = (1 - torch.cos(math.pi * t)) / 2 if cosine else t
            value = torch.where(step >= start, (1 - part) * before + part * after, value)
        return value

    return Schedule(schedule)


def _check_cycle(where: str, name: str, steps: int, div_factor: Number, final_div_factor: Number) -> None:
    check_count(where, name, steps)
    check_constants(where, div_factor=div_factor, final_div_factor=final_div_factor)
    check_hyperparameter(where, "div_factor", div_factor, low=0, open_low=True)
    check_hyperparameter(where, "final_div_factor", final_div_factor, low=0, open_low=True)


def _check_share(where: str, name: str, value: float, high: float = 1) -> None:
    if isinstance(value, torch.Tensor) or callable(value):
        raise PureSGDError(
            where,
            f"{name} is a {type(value).__name__}, expected a number",
            "It fixes the steps at which the phases end: pass a Python float",
        )
    check_hyperparameter(where, name, value, low=0, high=high)


def _check_kind(where: str, name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise PureSGDError(where, f"{name}={value!r} is unknown", f"Pass {' or '.join(map(repr, known))}")
