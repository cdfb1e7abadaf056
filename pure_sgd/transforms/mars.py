"""Updates corrected by their own change, which lowers their variance: MARS."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from .. import tree
from .adaptive import ScaleByAdamState, scale_by_adam
from .contract import GradientTransformation, Hyperparameter, Params, Updates, transformation
from .running import check_decays, check_offsets

__all__ = ["ScaleByMarsState", "scale_by_mars"]


class ScaleByMarsState(NamedTuple):
    """The update before this one, and the moments of the corrected ones."""

    previous: Updates  # like params, in at least float32
    moments: ScaleByAdamState


@transformation
def scale_by_mars(
    b1: Hyperparameter = 0.95,
    b2: Hyperparameter = 0.99,
    gamma: Hyperparameter = 0.025,
    eps: Hyperparameter = 1e-8,
) -> GradientTransformation:
    """Adam of updates that are corrected by their change since the last step: MARS-AdamW.

        c = u + gamma * b1 / (1 - b1) * (u - previous)          previous = u at the first step
        c = c / max(1, |c|)                                     the norm of one leaf
        u = scale_by_adam(b1, b2, eps) of c

    This is the approximate rule: ``previous`` is the last update as it came in, not the gradient of this
    batch at the last parameters. It is the authors' code, for every leaf (theirs leaves vectors to Adam), but
    that there the update before the first is 0. State has at least float32.
    Source: Yuan et al. 2024, arXiv:2411.10438.

    Raises:
        PureSGDError: ``b1`` or ``b2`` outside [0, 1), or a negative ``gamma`` or ``eps``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.scale_by_mars()
        >>> tx.update(torch.tensor([3.0, -0.2]), tx.init(torch.zeros(2)))[0]
        tensor([ 1.0000, -1.0000])
    """
    check_decays("scale_by_mars", b1=b1, b2=b2)
    check_offsets("scale_by_mars", gamma=gamma, eps=eps)
    weight, adam = gamma * b1 / (1 - b1), scale_by_adam(b1, b2, eps)

    def init(params: Params) -> ScaleByMarsState:
        return ScaleByMarsState(tree.zeros_like(params), adam.init(params))

    def update(
        updates: Updates, state: ScaleByMarsState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleByMarsState]:
        def corrected(u: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
            c = u + weight * torch.where(state.moments.step > 0, u - before, 0.0)
            return (c / tree.norm(c).clamp(min=1.0)).to(u.dtype)

        # A copy: the state must not share memory with the caller's gradients.
        now = tree.map(lambda u: u.to(tree.wide(u.dtype), copy=True), updates)
        out, moments = adam.update(tree.map(corrected, now, state.previous), state.moments)
        return tree.cast_like(out, updates), ScaleByMarsState(now, moments)

    return GradientTransformation(init, update)
