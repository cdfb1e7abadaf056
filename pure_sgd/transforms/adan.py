"""Adam on the gradients and on their differences: Adan."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from .. import tree
from .contract import GradientTransformation, Hyperparameter, Params, Updates, step_zero, transformation
from .running import bias_correction, check_decays, check_offsets, mean, mean_of_squares, real_zeros

__all__ = ["ScaleByAdanState", "scale_by_adan"]


class ScaleByAdanState(NamedTuple):
    """Means of the updates, of their differences and of the squares, and the updates before."""

    step: torch.Tensor  # int64, shape ()
    m: Updates  # like params, in at least float32
    v: Updates  # like params, in at least float32
    n: Updates  # like params, real, in at least float32
    previous: Updates  # like params, in at least float32


@transformation
def scale_by_adan(
    b1: Hyperparameter = 0.98,
    b2: Hyperparameter = 0.92,
    b3: Hyperparameter = 0.99,
    eps: Hyperparameter = 1e-8,
    eps_root: Hyperparameter = 0.0,
) -> GradientTransformation:
    """Adam with Nesterov's momentum written as a mean of gradients and one of their differences.

        d = u - previous                            0 at the first step
        m = b1 * m + (1 - b1) * u                   v = b2 * v + (1 - b2) * d
        n = b3 * n + (1 - b3) * (u + b2 * d)**2
        u = (m / (1 - b1**t) + b2 * v / (1 - b2**t)) / (sqrt(n / (1 - b3**t) + eps_root) + eps)

    ``t`` counts from 1. The ``b`` are what the averages keep, as in the authors' code: 1 minus the paper's.
    Optax has ``1 - b2`` where ``d`` and ``v`` are multiplied by ``b2``, which is not the paper's rule.
    Source: Xie et al. 2022, arXiv:2208.06677.

    Raises:
        PureSGDError: ``b1``, ``b2`` or ``b3`` outside [0, 1), or a negative ``eps`` or ``eps_root``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.scale_by_adan()
        >>> tx.update(torch.tensor([3.0, -0.2]), tx.init(torch.zeros(2)))[0]
        tensor([ 1.0000, -1.0000])
    """
    check_decays("scale_by_adan", b1=b1, b2=b2, b3=b3)
    check_offsets("scale_by_adan", eps=eps, eps_root=eps_root)

    def init(params: Params) -> ScaleByAdanState:
        m, v, previous = (tree.zeros_like(params) for _ in range(3))
        return ScaleByAdanState(step_zero(params), m, v, real_zeros(params), previous)

    def update(
        updates: Updates, state: ScaleByAdanState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleByAdanState]:
        t = state.step + 1
        change = tree.map(
            lambda u, old: torch.where(t > 1, tree.widened(u) - old, 0.0), updates, state.previous
        )
        ahead = tree.map(lambda u, d: tree.widened(u) + b2 * d, updates, change)
        m, v = mean(b1, state.m, updates), mean(b2, state.v, change)
        n = mean_of_squares(b3, state.n, ahead)

        def direction(u: torch.Tensor, m: torch.Tensor, v: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
            look = m / bias_correction(b1, t) + b2 * v / bias_correction(b2, t)
            return (look / ((n / bias_correction(b3, t) + eps_root).sqrt() + eps)).to(u.dtype)

        out = tree.map(direction, updates, m, v, n)
        # A copy, so that the state shares no memory with the updates.
        previous = tree.map(lambda u, old: u.to(old.dtype, copy=True), updates, state.previous)
        return out, ScaleByAdanState(t, m, v, n, previous)

    return GradientTransformation(init, update)
