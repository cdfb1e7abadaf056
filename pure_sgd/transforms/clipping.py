"""Bounds on the size of the updates."""

from __future__ import annotations

import torch

from .. import tree
from ..errors import check_hyperparameter
from .combining import stateless
from .contract import GradientTransformation, Hyperparameter, Params, Updates, transformation
from .scaling import multiply

__all__ = ["clip_by_global_norm"]


@transformation
def clip_by_global_norm(max_norm: Hyperparameter) -> GradientTransformation:
    """Shrink the updates so that their norm over all leaves is at most ``max_norm``.

        u = u * min(1, max_norm / |u|)        |u| over all leaves, in at least float32

    Zero updates stay zero. Source: Pascanu et al. 2013, arXiv:1211.5063.

    Raises:
        PureSGDError: a negative ``max_norm``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.clip_by_global_norm(1.0)
        >>> tx.update(torch.tensor([3.0, 4.0]), tx.init(torch.zeros(2)))[0]
        tensor([0.6000, 0.8000])
    """
    check_hyperparameter("clip_by_global_norm", "max_norm", max_norm, low=0)

    def clip(updates: Updates, params: Params) -> Updates:
        norm = tree.norm(updates)
        # At norm = 0 the quotient is 0/0 for max_norm = 0: the inner where keeps NaN out of gradients too.
        over = norm > max_norm
        return multiply(updates, torch.where(over, max_norm / torch.where(over, norm, 1.0), 1.0))

    return stateless(clip)
