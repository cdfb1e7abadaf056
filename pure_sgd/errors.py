"""The one exception of the package, and the checks of plain numbers that every factory shares."""

from __future__ import annotations

import math
from typing import Any

import torch

__all__ = ["PureSGDError", "check_count", "check_hyperparameter"]


class PureSGDError(ValueError):
    """A failure told in one sentence: where, what was got against what was expected, the remedy.

    Example:
        >>> import pure_sgd as ps
        >>> print(ps.PureSGDError("trace", "decay=1.5 lies outside [0, 1)", "Pass 0.9, say"))
        trace: decay=1.5 lies outside [0, 1). Pass 0.9, say.
    """

    def __init__(self, where: str, problem: str, remedy: str) -> None:
        super().__init__(f"{where}: {problem}. {remedy}.")


def check_hyperparameter(
    where: str,
    name: str,
    value: Any,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """Check once, in the factory, a hyperparameter that is a number, a 0-d tensor or a schedule.

    Only a plain number is held to the interval from ``low`` to ``high``; the value of a tensor is
    never read, so that it can be mapped over, differentiated and compiled.

    Raises:
        PureSGDError: a number outside the interval, a tensor with axes, or another type.

    Example:
        >>> from pure_sgd.errors import check_hyperparameter
        >>> check_hyperparameter("trace", "decay", 0.9, low=0, high=1, open_high=True)
    """
    if callable(value):
        return
    if isinstance(value, torch.Tensor):
        if value.ndim:
            raise PureSGDError(
                where,
                f"{name} is a tensor of shape {tuple(value.shape)}, expected a 0-d tensor",
                "Map over its axis with torch.func.vmap, or pass one of its elements",
            )
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PureSGDError(
            where,
            f"{name}={value!r} is of type {type(value).__name__}, expected a number, a 0-d tensor "
            "or a schedule",
            f"Pass {name} as one of these",
        )
    if not (low < value if open_low else low <= value) or not (value < high if open_high else value <= high):
        left = "(" if open_low or low == -math.inf else "["
        right = ")" if open_high or high == math.inf else "]"
        raise PureSGDError(
            where,
            f"{name}={value!r} lies outside {left}{low:g}, {high:g}{right}",
            f"Pass a {name} within these bounds",
        )


def check_count(where: str, name: str, value: Any, low: int = 1, high: int | None = None) -> None:
    """Check that ``value`` is a Python int from ``low`` to ``high``.

    Raises:
        PureSGDError: not an int, or outside the bounds.

    Example:
        >>> from pure_sgd.errors import check_count
        >>> check_count("fit", "epochs", 10)
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise PureSGDError(
            where,
            f"{name}={value!r} is of type {type(value).__name__}, expected an int",
            f"Pass {name} as a whole number",
        )
    if value < low or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        raise PureSGDError(where, f"{name}={value} is not {bounds}", f"Pass a {name} {bounds}")
