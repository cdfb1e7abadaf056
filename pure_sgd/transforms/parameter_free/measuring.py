"""What rules without a learning rate measure: inner products, distances, quotients that may be 0 / 0."""

from __future__ import annotations

from typing import Any

import torch

from ... import tree
from ...schedules import as_real
from ..contract import Params, Updates


def inner(one: Updates, other: Updates) -> torch.Tensor:
    """The inner product over all leaves, real, float64 of shape ``()``; of complex leaves the real part."""
    return as_real(tree.vdot(one, other))


def sum_of_magnitudes(updates: Updates) -> torch.Tensor:
    """The sum of ``|u|`` over all entries of all leaves, float64 of shape ``()``."""
    return _total([tree.widened(u).abs().sum() for u in tree.leaves(updates)])


def difference(params: Params, start: Params) -> Updates:
    """``params - start``, in the dtypes of ``start``, which has at least float32."""
    return tree.map(lambda p, p0: (p - p0).to(p0.dtype), params, start)


def quotient(part: Any, whole: torch.Tensor) -> torch.Tensor:
    """``part / whole``, and 0 with slope 0 where ``whole`` is 0."""
    nothing = whole == 0
    # The inner where keeps the NaN of 0/0 out of gradients too.
    return torch.where(nothing, 0.0, part / torch.where(nothing, 1.0, whole))


def _total(parts: list[torch.Tensor]) -> torch.Tensor:
    # In float64, because what these sums are added to grows for as long as training goes on.
    total = as_real(parts[0] if parts else 0)
    return sum((as_real(part) for part in parts[1:]), total)
