"""Bounds on the size of the updates."""

from __future__ import annotations

from typing import Any

import torch

from .. import tree
from ..errors import check_hyperparameter
from .combining import stateless
from .contract import (
    GradientTransformation,
    Hyperparameter,
    Params,
    Updates,
    transformation,
)
from .scaling import multiply

__all__ = [
    "clip",
    "clip_by_block_rms",
    "clip_by_global_norm",
    "normalize",
    "normalize_by_update_norm",
]


@transformation
def clip(max_delta: Hyperparameter) -> GradientTransformation:
    """Cut every entry off at ``-max_delta`` and ``max_delta``, as ``torch.nn.utils.clip_grad_value_`` does.

    Raises:
        PureSGDError: a negative ``max_delta``; later, complex updates.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.clip(1.0).update(torch.tensor([3.0, -0.5, -2.0]), ps.EmptyState())[0]
        tensor([ 1.0000, -0.5000, -1.0000])
    """
    check_hyperparameter("clip", "max_delta", max_delta, low=0)

    def cut(u: torch.Tensor) -> torch.Tensor:
        return tree.widened(u).clamp(-max_delta, max_delta).to(u.dtype)

    def clipped(updates: Updates, params: Params) -> Updates:
        tree.check_real(updates, "updates", "clip")
        return tree.map(cut, updates)

    return stateless(clipped)


@transformation
def clip_by_block_rms(threshold: Hyperparameter) -> GradientTransformation:
    """Shrink every leaf so that its root mean square is at most ``threshold``.

        u = u / max(1, rms(u) / threshold)        rms of one leaf, in at least float32

    Source: Shazeer and Stern 2018, arXiv:1804.04235.

    Raises:
        PureSGDError: a ``threshold`` that is not positive.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.clip_by_block_rms(1.0).update(torch.tensor([2.0, -2.0]), ps.EmptyState())[0]
        tensor([ 1., -1.])
    """
    check_hyperparameter("clip_by_block_rms", "threshold", threshold, low=0, open_low=True)

    def shrink(u: torch.Tensor) -> torch.Tensor:
        return (tree.widened(u) / (block_rms(u) / threshold).clamp(min=1.0)).to(u.dtype)

    return stateless(lambda updates, params: tree.map(shrink, updates))


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
    return stateless(lambda updates, params: multiply(updates, shrinking(tree.norm(updates), max_norm)))


@transformation
def normalize() -> GradientTransformation:
    """Give the updates the norm 1 over all leaves.

        u = u / |u|        |u| over all leaves, in at least float32

    Zero updates stay zero, where in Optax they become NaN.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.normalize().update(torch.tensor([3.0, 4.0]), ps.EmptyState())[0]
        tensor([0.6000, 0.8000])
    """

    def unit(updates: Updates, params: Params) -> Updates:
        norm = tree.norm(updates)
        length = torch.where(norm == 0, 1.0, norm)
        return tree.map(lambda u: (tree.widened(u) / length).to(u.dtype), updates)

    return stateless(unit)


@transformation
def normalize_by_update_norm(
    scale_factor: Hyperparameter = 1.0, eps: Hyperparameter = 1e-6
) -> GradientTransformation:
    """Give the updates the norm ``scale_factor`` over all leaves.

        u = u * scale_factor / (|u| + eps)        |u| over all leaves, in at least float32

    Zero updates stay zero.

    Raises:
        PureSGDError: an ``eps`` that is not positive, or a ``scale_factor`` that is no number, 0-d tensor
            or schedule.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.normalize_by_update_norm(10.0).update(torch.tensor([3.0, 4.0]), ps.EmptyState())[0]
        tensor([6.0000, 8.0000])
    """
    check_hyperparameter("normalize_by_update_norm", "scale_factor", scale_factor)
    check_hyperparameter("normalize_by_update_norm", "eps", eps, low=0, open_low=True)
    return stateless(lambda updates, params: multiply(updates, scale_factor / (tree.norm(updates) + eps)))


def block_rms(leaf: torch.Tensor) -> torch.Tensor:
    """The root mean square of one leaf, shape ``()``, in at least float32; 0 where it is empty."""
    return tree.norm(leaf) / max(leaf.numel(), 1) ** 0.5


def shrinking(norm: torch.Tensor, allowed: Any) -> torch.Tensor:
    """The factor of at most 1 that takes ``norm`` down to ``allowed``."""
    # At norm = 0 the quotient can be 0/0: the inner where keeps NaN out of gradients too.
    over = norm > allowed
    return torch.where(over, allowed / torch.where(over, norm, 1.0), 1.0)
