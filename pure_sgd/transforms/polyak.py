"""Polyak's step size: as long as the gap to the smallest value of the objective asks for."""

from __future__ import annotations

from typing import Any

import torch

from .. import tree
from ..errors import PureSGDError, check_hyperparameter
from .contract import EmptyState, GradientTransformation, Hyperparameter, Params, Updates, transformation
from .plateau import one_value
from .scaling import multiply

__all__ = ["scale_by_polyak"]


@transformation
def scale_by_polyak(
    f_min: Hyperparameter = 0.0,
    max_learning_rate: Hyperparameter = 1.0,
    eps: Hyperparameter = 0.0,
    variant: str = "sps",
) -> GradientTransformation:
    """Scale the updates by Polyak's step size.

        u = min((value - f_min) / (|u|**2 + eps), max_learning_rate) * u        |u| over all leaves

    ``update`` needs the extra argument ``value``, the objective at the parameters; ``f_min`` is the least it
    can be. For a ``value`` below ``f_min`` the variant ``"sps"`` steps uphill, and ``"sps+"`` not at all.
    Zero updates stay zero.
    Sources: Polyak 1987, Introduction to Optimization; Loizou et al. 2021, arXiv:2002.10542; for sps+,
    Garrigos et al. 2023, arXiv:2307.14528.

    Raises:
        PureSGDError: a negative ``max_learning_rate`` or ``eps``, an unknown ``variant``, or a ``value`` that
            is missing or no single number.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx, u = ps.scale_by_polyak(), torch.tensor([3.0, 4.0])
        >>> tx.update(u, tx.init(u), value=5.0)[0]
        tensor([0.6000, 0.8000])
    """
    where = "scale_by_polyak"
    check_hyperparameter(where, "f_min", f_min)
    check_hyperparameter(where, "max_learning_rate", max_learning_rate, low=0)
    check_hyperparameter(where, "eps", eps, low=0)
    if variant not in ("sps", "sps+"):
        raise PureSGDError(where, f"variant={variant!r} is unknown", "Pass 'sps' or 'sps+'")

    def init(params: Params) -> EmptyState:
        return EmptyState()

    def update(
        updates: Updates, state: EmptyState, params: Params = None, *, value: Any = None, **extra: Any
    ) -> tuple[Updates, EmptyState]:
        norm = tree.norm(updates)
        gap = one_value(where, value, norm) - f_min
        if variant == "sps+":
            gap = gap.clamp(min=0)
        square = norm**2 + eps
        # The inner where keeps the NaN of 0/0 out of gradients too.
        positive = square > 0
        step = torch.clamp(gap / torch.where(positive, square, 1.0), max=max_learning_rate)
        return multiply(updates, torch.where(positive, step, 0.0)), state

    return GradientTransformation(init, update)
