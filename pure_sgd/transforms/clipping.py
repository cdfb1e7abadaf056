"""Bounds on the size of the updates."""

from __future__ import annotations

from typing import Any

import torch

from .. import tree
from ..errors import PureSGDError, check_count, check_hyperparameter
from .combining import stateless
from .contract import (
    GradientTransformation,
    Hyperparameter,
    Params,
    Updates,
    missing_params,
    transformation,
)
from .scaling import multiply

__all__ = [
    "adaptive_grad_clip",
    "clip",
    "clip_by_block_rms",
    "clip_by_global_norm",
    "normalize_by_update_norm",
]


@transformation
def clip(max_delta: Hyperparameter) -> GradientTransformation:
    """Cut every entry off at ``-max_delta`` and ``max_delta``, as ``torch.nn.utils.clip_grad_value_`` does.

    Raises:
        PureSGDError: a negative ``max_delta``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.clip(1.0).update(torch.tensor([3.0, -0.5, -2.0]), ps.EmptyState())[0]
        tensor([ 1.0000, -0.5000, -1.0000])
    """
    check_hyperparameter("clip", "max_delta", max_delta, low=0)

    def cut(u: torch.Tensor) -> torch.Tensor:
        return tree.widened(u).clamp(-max_delta, max_delta).to(u.dtype)

    return stateless(lambda updates, params: tree.map(cut, updates))


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
    return stateless(lambda updates, params: multiply(updates, _shrinking(tree.norm(updates), max_norm)))


@transformation
def adaptive_grad_clip(
    clipping: Hyperparameter, eps: Hyperparameter = 1e-3, axis: int | tuple[int, ...] | None = None
) -> GradientTransformation:
    """Shrink the update of every unit to at most ``clipping`` times the norm of the unit's parameters.

        u = u * min(1, clipping * max(|p|, eps) / |u|)        norms over the axes of one unit

    A unit is what feeds one output; a leaf with at most one axis longer than 1 is one unit. Without
    ``axis`` the norm of a matrix runs over axis 0, for weights (inputs, outputs) as in ``x @ w``, and that
    of a kernel (outputs, inputs, ...) over all axes but the first; Optax takes kernels to be
    (..., inputs, outputs). ``axis`` names the axes instead, for all leaves: what a leaf lacks of them is
    left out, so that ``axis=(1, 2, 3, 4)`` fits every weight of ``torch.nn``.
    Source: Brock et al. 2021, arXiv:2102.06171.

    Raises:
        PureSGDError: a negative ``clipping`` or ``eps``, an ``axis`` that is no int of at least 0, or no
            ``params``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.adaptive_grad_clip(0.5, axis=1)
        >>> weight = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
        >>> tx.update(torch.tensor([[0.0, 5.0], [0.1, 0.0]]), tx.init(weight), weight)[0]
        tensor([[0.0000, 2.5000],
                [0.1000, 0.0000]])
    """
    check_hyperparameter("adaptive_grad_clip", "clipping", clipping, low=0)
    check_hyperparameter("adaptive_grad_clip", "eps", eps, low=0)
    axes = axis if isinstance(axis, tuple) else () if axis is None else (axis,)
    for each in axes:
        check_count("adaptive_grad_clip", "axis", each, low=0)
    if axis == ():
        raise PureSGDError("adaptive_grad_clip", "axis=() names no axis", "Pass None or at least one axis")

    def norm_of_units(leaf: torch.Tensor) -> torch.Tensor:
        wide = tree.widened(leaf)
        if sum(size != 1 for size in leaf.shape) <= 1:
            return torch.linalg.vector_norm(wide)
        over = [each for each in axes if each < leaf.ndim] if axes else _axes_of_a_unit(leaf.ndim)
        return torch.linalg.vector_norm(wide, dim=over, keepdim=True) if over else wide.abs()

    def shrink(u: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        allowed = clipping * norm_of_units(p).clamp(min=eps)
        return (_shrinking(norm_of_units(u), allowed) * tree.widened(u)).to(u.dtype)

    def clipped(updates: Updates, params: Params) -> Updates:
        if params is None:
            raise missing_params("adaptive_grad_clip")
        return tree.map(shrink, updates, params)

    return stateless(clipped)


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


def _shrinking(norm: torch.Tensor, allowed: Any) -> torch.Tensor:
    """The factor of at most 1 that takes ``norm`` down to ``allowed``."""
    # At norm = 0 the quotient can be 0/0: the inner where keeps NaN out of gradients too.
    over = norm > allowed
    return torch.where(over, allowed / torch.where(over, norm, 1.0), 1.0)


def _axes_of_a_unit(ndim: int) -> list[int]:
    return [0] if ndim == 2 else list(range(1, ndim))
