"""AdaBelief that divides by the deviation known before the update came: ACProp."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from .. import tree
from .contract import GradientTransformation, Hyperparameter, Params, Updates, step_zero, transformation
from .running import bias_correction, check_decays, check_offsets, mean, mean_of_squares, real_zeros

__all__ = ["ScaleByAcpropState", "scale_by_acprop"]


class ScaleByAcpropState(NamedTuple):
    """The mean of the updates, and the mean square of their deviation from it."""

    step: torch.Tensor  # int64, shape ()
    mu: Updates  # like params, in at least float32
    nu: Updates  # like params, real, in at least float32


@transformation
def scale_by_acprop(
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-16,
    eps_root: Hyperparameter = 1e-16,
) -> GradientTransformation:
    """Divide the updates by the deviation from their mean that earlier updates showed.

        u_out = u / (sqrt(nu / (1 - b2**(t - 1))) + eps)        u / (1 + eps) at the first step
        nu    = b2 * nu + (1 - b2) * (u - mu)**2 + eps_root
        mu    = b1 * mu + (1 - b1) * u

    in this order, ``t`` counted from 1. The rule of Optax; in the paper the deviation is that from the new
    mean, which is ``b1`` times this one and so asks for a learning rate ``b1`` times as large. Moments have
    at least float32. Source: Zhuang et al. 2021, arXiv:2110.05454.

    Raises:
        PureSGDError: ``b1`` or ``b2`` outside [0, 1), or a negative ``eps`` or ``eps_root``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.scale_by_acprop(b1=0.5)
        >>> first, state = tx.update(torch.tensor([3.0, -0.2]), tx.init(torch.zeros(2)))
        >>> first, tx.update(torch.tensor([3.0, -0.2]), state)[0]
        (tensor([ 3.0000, -0.2000]), tensor([ 1., -1.]))
    """
    check_decays("scale_by_acprop", b1=b1, b2=b2)
    check_offsets("scale_by_acprop", eps=eps, eps_root=eps_root)

    def init(params: Params) -> ScaleByAcpropState:
        return ScaleByAcpropState(step_zero(params), tree.zeros_like(params), real_zeros(params))

    def update(
        updates: Updates, state: ScaleByAcpropState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleByAcpropState]:
        first = state.step == 0
        weight = bias_correction(b2, state.step.clamp(min=1))

        def direction(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            # Chosen before the root, which has no slope at 0.
            return (tree.widened(u) / (torch.where(first, 1.0, v / weight).sqrt() + eps)).to(u.dtype)

        mu = mean(b1, state.mu, updates)
        deviation = tree.map(lambda u, m: tree.widened(u) - m, updates, state.mu)
        squares = mean_of_squares(b2, state.nu, deviation)
        nu = tree.map(lambda v: (v + eps_root).to(v.dtype), squares)
        return tree.map(direction, updates, state.nu), ScaleByAcpropState(state.step + 1, mu, nu)

    return GradientTransformation(init, update)
