"""The interval that holds a good step: how it is found, where to look in it, and how it narrows."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..running import root
from .line import Point, picked


class Bracket(NamedTuple):
    """Two ends, and a third point for the cubic; ``low`` has the lower value, on whichever side it lies."""

    low: Point
    high: Point
    other: Point


def opened(
    previous: Point, point: Point, first: torch.Tensor, rises: torch.Tensor
) -> tuple[Bracket, torch.Tensor]:
    """The interval from the step before to a longer one, and whether it holds a good step.

    It does where the objective ``rises`` too much at the new point, is higher there than at the point
    before (unless that is where the line starts, ``first``), or is on its way up.
    """
    too_high = rises | ((point.value >= previous.value) & ~first)
    uphill = (point.slope >= 0) & ~too_high
    low, high = picked(uphill, (point, previous), (previous, point))
    return Bracket(low, high, low), too_high | uphill


def narrowed(bracket: Bracket, point: Point, rises: torch.Tensor) -> Bracket:
    """The part of the interval, on one side of a point in it, that holds a good step."""
    low, high, _ = bracket
    too_high = rises | (point.value >= low.value)
    beyond = (point.slope * (high.step - low.step) >= 0) & ~too_high
    return Bracket(
        picked(too_high, low, point),
        picked(beyond, low, picked(too_high, point, high)),
        picked(too_high | beyond, high, low),
    )


def middle(bracket: Bracket) -> torch.Tensor:
    """The step to try next: the minimum of a cubic, else of a parabola, else the middle of the interval.

    A minimum nearer to an end than a fifth of the interval (of a parabola: a tenth) does not count.
    """
    low, high, _ = bracket
    length = (high.step - low.step).abs()
    left, right = torch.minimum(low.step, high.step), torch.maximum(low.step, high.step)
    cubic, parabola = _cubic_minimum(bracket), _parabola_minimum(bracket)
    by_cubic = (cubic > left + 0.2 * length) & (cubic < right - 0.2 * length)
    by_parabola = (parabola > left + 0.1 * length) & (parabola < right - 0.1 * length)
    return torch.where(by_cubic, cubic, torch.where(by_parabola, parabola, (low.step + high.step) / 2))


def _cubic_minimum(bracket: Bracket) -> torch.Tensor:
    """Of the cubic through all three points, with the slope at ``low``; ``low.step`` where it has none."""
    low, high, other = bracket
    b, c = high.step - low.step, other.step - low.step
    over_b = high.value - low.value - low.slope * b
    over_c = other.value - low.value - low.slope * c
    determinant = (b * c) ** 2 * (b - c)
    determinant, exists = _nonzero(determinant)
    third = (c**2 * over_b - b**2 * over_c) / determinant
    second = (b**3 * over_c - c**3 * over_b) / determinant
    discriminant = second**2 - 3 * third * low.slope
    third, curved = _nonzero(third)
    minimum = low.step + (root(discriminant) - second) / (3 * third)
    return torch.where(exists & curved & (discriminant >= 0), minimum, low.step)


def _parabola_minimum(bracket: Bracket) -> torch.Tensor:
    """Of the parabola through both ends, with the slope at ``low``; ``low.step`` where it has none."""
    low, high, _ = bracket
    b, exists = _nonzero(high.step - low.step)
    second, curved = _nonzero((high.value - low.value - low.slope * b) / b**2)
    return torch.where(exists & curved, low.step - low.slope / (2 * second), low.step)


def _nonzero(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A denominator with 1 for 0, which keeps NaN out of gradients, and where it needed no help."""
    fine = x != 0
    return torch.where(fine, x, 1.0), fine
