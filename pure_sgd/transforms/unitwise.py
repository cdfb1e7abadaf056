"""Bounds on the update of a unit: on what feeds one output, whatever the leaf around it does."""

from __future__ import annotations

import torch

from .. import tree
from ..arguments import typed
from ..errors import PureSGDError, check_count, check_hyperparameter
from .clipping import shrinking
from .combining import stateless
from .contract import (
    GradientTransformation,
    Hyperparameter,
    Params,
    Updates,
    missing_params,
    transformation,
)

__all__ = ["adaptive_grad_clip", "unitwise_clip", "unitwise_norm"]


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
    axes = _checked_axes("adaptive_grad_clip", axis)

    def shrink(u: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        allowed = clipping * _norm_of_units(p, axes).clamp(min=eps)
        return (shrinking(_norm_of_units(u, axes), allowed) * tree.widened(u)).to(u.dtype)

    def clipped(updates: Updates, params: Params) -> Updates:
        if params is None:
            raise missing_params("adaptive_grad_clip")
        return tree.map(shrink, updates, params)

    return stateless(clipped)


@typed
def unitwise_norm(x: torch.Tensor, axis: int | tuple[int, ...] | None = None) -> torch.Tensor:
    """The L2 norm of the unit that each entry of ``x`` belongs to: a tensor of the shape of ``x``.

    What a unit is, and what ``axis`` does, is told at :func:`adaptive_grad_clip`. Norms are in at least
    float32.

    Raises:
        PureSGDError: an ``axis`` that is no int of at least 0.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.unitwise_norm(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), axis=1)
        tensor([[5., 5.],
                [1., 1.]])
    """
    return _norm_of_units(x, _checked_axes("unitwise_norm", axis)).expand(x.shape)


@typed
def unitwise_clip(g_norm: torch.Tensor, max_norm: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """Shrink ``grad`` where the norm of its unit, ``g_norm``, is above ``max_norm``.

        grad * min(1, max_norm / g_norm)        all of one shape

    A unit of norm 0 stays as it is; what Optax calls ``div_eps`` is not needed.

    Raises:
        PureSGDError: shapes that differ.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> grad = torch.tensor([3.0, 4.0])
        >>> ps.unitwise_clip(ps.unitwise_norm(grad), torch.ones(2), grad)
        tensor([0.6000, 0.8000])
    """
    tree.check_like(g_norm, grad, "g_norm", "grad")
    tree.check_like(max_norm, grad, "max_norm", "grad")
    return (shrinking(g_norm, max_norm) * tree.widened(grad)).to(grad.dtype)


def _checked_axes(where: str, axis: int | tuple[int, ...] | None) -> tuple[int, ...]:
    axes = axis if isinstance(axis, tuple) else () if axis is None else (axis,)
    for each in axes:
        check_count(where, "axis", each, low=0)
    if axis == ():
        raise PureSGDError(where, "axis=() names no axis", "Pass None or at least one axis")
    return axes


def _norm_of_units(leaf: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    """The norms along ``axes``, which are kept with length 1; shape ``()`` for a single unit."""
    wide = tree.widened(leaf)
    if sum(size != 1 for size in leaf.shape) <= 1:
        return torch.linalg.vector_norm(wide)
    over = [each for each in axes if each < leaf.ndim] if axes else _axes_of_a_unit(leaf.ndim)
    return torch.linalg.vector_norm(wide, dim=over, keepdim=True) if over else wide.abs()


def _axes_of_a_unit(ndim: int) -> list[int]:
    return [0] if ndim == 2 else list(range(1, ndim))
