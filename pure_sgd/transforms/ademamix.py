"""Adam with a second, much slower mean of the updates: AdEMAMix, and its form with one mean."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from .. import tree
from ..errors import check_hyperparameter
from .contract import GradientTransformation, Hyperparameter, Params, Updates, step_zero, transformation
from .running import bias_correction, check_decays, check_offsets, mean, mean_of_squares, real_zeros

__all__ = [
    "ScaleByAdemamixState",
    "ScaleBySimplifiedAdemamixState",
    "scale_by_ademamix",
    "scale_by_simplified_ademamix",
]


class ScaleByAdemamixState(NamedTuple):
    """A fast and a slow mean of the updates, and the mean of their squares."""

    step: torch.Tensor  # int64, shape ()
    m1: Updates  # like params, in at least float32
    m2: Updates  # like m1
    nu: Updates  # like params, real, in at least float32


@transformation
def scale_by_ademamix(
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    b3: Hyperparameter = 0.9999,
    alpha: Hyperparameter = 6.0,
    eps: Hyperparameter = 1e-8,
    eps_root: Hyperparameter = 0.0,
    mu_dtype: torch.dtype | None = None,
) -> GradientTransformation:
    """Adam whose first moment is joined by a slow one, which remembers thousands of updates.

        m1 = b1 * m1 + (1 - b1) * u                 m2 = b3 * m2 + (1 - b3) * u
        nu = b2 * nu + (1 - b2) * u**2
        u  = (m1 / (1 - b1**t) + alpha * m2) / (sqrt(nu / (1 - b2**t) + eps_root) + eps)

    ``t`` counts from 1; the slow mean has no bias correction. The rule of Optax. In the paper ``alpha`` and
    ``b3`` grow over the run: pass schedules, such as ``alpha=linear_schedule(0.0, 6.0, steps)``. Moments have
    at least float32 (``mu_dtype`` for the two means; Optax keeps ``nu`` in it as well).
    Source: Pagliardini, Ablin and Grangier 2024, arXiv:2409.03137.

    Raises:
        PureSGDError: ``b1``, ``b2`` or ``b3`` outside [0, 1), or a negative ``alpha``, ``eps`` or
            ``eps_root``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.scale_by_ademamix(b3=0.5, alpha=2.0)
        >>> tx.update(torch.tensor([3.0, -0.2]), tx.init(torch.zeros(2)))[0]
        tensor([ 2., -2.])
    """
    check_decays("scale_by_ademamix", b1=b1, b2=b2, b3=b3)
    check_offsets("scale_by_ademamix", alpha=alpha, eps=eps, eps_root=eps_root)

    def init(params: Params) -> ScaleByAdemamixState:
        m1, m2 = tree.zeros_like(params, mu_dtype), tree.zeros_like(params, mu_dtype)
        return ScaleByAdemamixState(step_zero(params), m1, m2, real_zeros(params))

    def update(
        updates: Updates, state: ScaleByAdemamixState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleByAdemamixState]:
        t = state.step + 1
        m1, m2 = mean(b1, state.m1, updates), mean(b3, state.m2, updates)
        nu = mean_of_squares(b2, state.nu, updates)

        def direction(
            u: torch.Tensor, fast: torch.Tensor, slow: torch.Tensor, v: torch.Tensor
        ) -> torch.Tensor:
            m = fast / bias_correction(b1, t) + alpha * slow
            return (m / ((v / bias_correction(b2, t) + eps_root).sqrt() + eps)).to(u.dtype)

        return tree.map(direction, updates, m1, m2, nu), ScaleByAdemamixState(t, m1, m2, nu)

    return GradientTransformation(init, update)


class ScaleBySimplifiedAdemamixState(NamedTuple):
    """The decaying sum of the updates, and the mean of their squares."""

    step: torch.Tensor  # int64, shape ()
    trace: Updates  # like params, in at least float32
    nu: Updates  # like params, real, in at least float32


@transformation
def scale_by_simplified_ademamix(
    b1: Hyperparameter = 0.99,
    b2: Hyperparameter = 0.95,
    alpha: Hyperparameter = 0.0,
    eps: Hyperparameter = 1e-8,
    eps_root: Hyperparameter = 0.0,
) -> GradientTransformation:
    """AdEMAMix with one memory: a decaying sum of the updates, joined by the update itself.

        trace = b1 * trace + u                      nu = b2 * nu + (1 - b2) * u**2
        u     = (trace + alpha * u) / (sqrt(nu / (1 - b2**t) + eps_root) + eps)

    ``t`` counts from 1. The rule of Optax. The trace is a sum, up to ``1 / (1 - b1)`` times as long as
    Adam's mean: the learning rate is to be as much smaller. State has at least float32.
    Source: Morwani et al. 2025, arXiv:2502.02431.

    Raises:
        PureSGDError: ``b1`` or ``b2`` outside [0, 1), a negative ``eps`` or ``eps_root``, or an ``alpha``
            that is no number, 0-d tensor or schedule.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.scale_by_simplified_ademamix(alpha=2.0)
        >>> tx.update(torch.tensor([3.0, -0.2]), tx.init(torch.zeros(2)))[0]
        tensor([ 3., -3.])
    """
    check_decays("scale_by_simplified_ademamix", b1=b1, b2=b2)
    check_hyperparameter("scale_by_simplified_ademamix", "alpha", alpha)
    check_offsets("scale_by_simplified_ademamix", eps=eps, eps_root=eps_root)

    def init(params: Params) -> ScaleBySimplifiedAdemamixState:
        return ScaleBySimplifiedAdemamixState(step_zero(params), tree.zeros_like(params), real_zeros(params))

    def update(
        updates: Updates, state: ScaleBySimplifiedAdemamixState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleBySimplifiedAdemamixState]:
        t = state.step + 1
        trace = tree.map(lambda m, u: (b1 * m + tree.widened(u)).to(m.dtype), state.trace, updates)
        nu = mean_of_squares(b2, state.nu, updates)

        def direction(u: torch.Tensor, m: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            root = (v / bias_correction(b2, t) + eps_root).sqrt()
            return ((m + alpha * tree.widened(u)) / (root + eps)).to(u.dtype)

        return tree.map(direction, updates, trace, nu), ScaleBySimplifiedAdemamixState(t, trace, nu)

    return GradientTransformation(init, update)
