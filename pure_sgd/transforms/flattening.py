"""All leaves as one vector."""

from __future__ import annotations

from typing import Any

import torch

from .. import tree
from .contract import GradientTransformation, Params, State, Updates, extra_args_of, transformation
from .wrapping import check_inner, extras_for

__all__ = ["flatten"]


@transformation
def flatten(inner: GradientTransformation) -> GradientTransformation:
    """Apply ``inner`` to all leaves laid end to end as one vector, and cut its result up again.

    Few large operations in place of many small ones, at the cost of a copy. A rule for whole leaves
    (their norm, their axes) sees a single leaf: what it computes changes. Leaves of different dtypes meet
    in the wider one; each update comes back in its own.

    Raises:
        PureSGDError: ``inner`` is no transform.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.flatten(ps.trace(0.9))
        >>> tx.init({"w": torch.ones(2, 3), "b": torch.ones(3)}).trace.shape
        torch.Size([9])
    """
    check_inner("flatten", inner)

    def init(params: Params) -> State:
        return inner.init(_vector(params))

    def update(updates: Updates, state: State, params: Params = None, **extra: Any) -> tuple[Updates, State]:
        own = None if params is None else _vector(params)
        new, state = inner.update(_vector(updates), state, own, **extras_for(inner, extra))
        found, rebuild = tree.flatten(updates)
        parts = torch.split(new, [u.numel() for u in found])
        return rebuild([_like(part, u) for part, u in zip(parts, found, strict=True)]), state

    return GradientTransformation(init, update, extra_args_of(inner))


def _vector(like: Params) -> torch.Tensor:
    found = tree.leaves(like)
    if not found:
        return torch.zeros(0)
    dtype = found[0].dtype
    for leaf in found[1:]:
        dtype = torch.promote_types(dtype, leaf.dtype)
    # A copy also of a single leaf: what is kept of it shares no memory with the parameters.
    return torch.cat([leaf.reshape(-1).to(dtype, copy=True) for leaf in found])


def _like(part: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    real = part.real if part.is_complex() and not u.is_complex() else part
    return real.reshape(u.shape).to(u.dtype)
