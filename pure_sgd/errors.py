"""The one exception of the package, and the checks of plain numbers that every factory shares."""

from __future__ import annotations

import math
from reprlib import Repr
from typing import Any

import torch

__all__ = ["PureSGDError", "check_count", "check_hyperparameter", "shown"]

#: Above it torch takes no int.
LARGEST = 2**63 - 1

_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 120


class PureSGDError(ValueError):
    """A failure told in one sentence: where, what was got against what was expected, the remedy.

    Example:
        >>> import pure_sgd as ps
        >>> print(ps.PureSGDError("trace", "decay=1.5 lies outside [0, 1)", "Pass 0.9, say"))
        trace: decay=1.5 lies outside [0, 1). Pass 0.9, say.
    """

    def __init__(self, where: str, problem: str, remedy: str) -> None:
        super().__init__(f"{where}: {problem}. {remedy}.")


def shown(value: Any) -> str:
    """The ``repr`` of a value, cut short where it is long or deep.

    Example:
        >>> from pure_sgd.errors import shown
        >>> shown(0.5), shown([1] * 100)
        ('0.5', '[1, 1, 1, 1, 1, 1, ...]')
    """
    try:
        return _SHORT.repr(value)
    except (RecursionError, ValueError):  # Python writes no int of more than 4300 digits
        return f"<{type(value).__name__}>"


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
        if value.dtype == torch.bool or value.is_complex():
            raise PureSGDError(where, f"{name} is of {value.dtype}, expected a real number", "Convert it")
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
            f"{name}={shown(value)} is of type {type(value).__name__}, expected a number, a 0-d tensor "
            "or a schedule",
            f"Pass {name} as one of these",
        )
    above = low < value if open_low else low <= value
    below = value < high if open_high else value <= high
    if not above or not below or (isinstance(value, int) and abs(value) > LARGEST):
        left = "(" if open_low or low == -math.inf else "["
        right = ")" if open_high or high == math.inf else "]"
        raise PureSGDError(
            where,
            f"{name}={shown(value)} lies outside {left}{low:g}, {high:g}{right}",
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
            f"{name}={shown(value)} is of type {type(value).__name__}, expected an int",
            f"Pass {name} as a whole number",
        )
    if value < low or value > (LARGEST if high is None else high):
        upper = LARGEST if high is None else high
        bounds = f"at least {low}" if high is None and value < low else f"from {low} to {upper}"
        raise PureSGDError(where, f"{name}={shown(value)} is not {bounds}", f"Pass a {name} {bounds}")
