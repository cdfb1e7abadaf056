"""The arguments of a closed form, as float64 tensors within their bounds."""

from __future__ import annotations

from typing import Any

import torch

from ...errors import PureSGDError, check_hyperparameter

#: A number or a tensor of any shape.
Numbers = Any


def positive(where: str, **values: Numbers) -> list[torch.Tensor]:
    """Rates, curvatures and counts."""
    return within(where, {"low": 0, "open_low": True}, **values)


def not_negative(where: str, **values: Numbers) -> list[torch.Tensor]:
    """Variances and penalties."""
    return within(where, {"low": 0}, **values)


def decays(where: str, **values: Numbers) -> list[torch.Tensor]:
    """What an average or a trace keeps of itself: in [0, 1)."""
    return within(where, {"low": 0, "high": 1, "open_high": True}, **values)


def within(where: str, bounds: dict[str, Any], **values: Numbers) -> list[torch.Tensor]:
    """float64 tensors; plain numbers are held to the bounds, the values of tensors are not read.

    Raises:
        PureSGDError: a number outside the bounds.
    """
    for name, value in values.items():
        if not isinstance(value, torch.Tensor):
            check_hyperparameter(where, name, value, **bounds)
        if callable(value):
            raise PureSGDError(where, f"{name} is a function", "Pass a number or a tensor")
    found = [torch.as_tensor(value, dtype=torch.float64) for value in values.values()]
    check_together(where, dict(zip(values, found, strict=True)))
    return found


def check_together(where: str, values: dict[str, torch.Tensor]) -> None:
    """Check that tensors broadcast with each other, here where curves are drawn over grids.

    Raises:
        PureSGDError: names their shapes.
    """
    try:
        torch.broadcast_shapes(*[value.shape for value in values.values()])
    except RuntimeError:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in values.items())
        raise PureSGDError(
            where, f"{shapes} do not go together", "Pass numbers, or tensors of shapes that broadcast"
        ) from None


def geometric_sum(ratio: torch.Tensor, terms: Numbers | None) -> torch.Tensor:
    """1 + ratio + ... + ratio**(terms - 1); of infinitely many terms where ``terms`` is None."""
    if terms is None:
        return torch.where(ratio.abs() < 1, 1 / (1 - ratio), torch.inf)
    k = torch.as_tensor(terms, dtype=torch.float64)
    is_one = ratio == 1
    # The quotient of what is chosen, so that the other branch has no infinite slope.
    return torch.where(is_one, k, (1 - ratio**k) / torch.where(is_one, 0.5, 1 - ratio))
