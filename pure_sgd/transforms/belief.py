"""Relatives of Adam whose second moment is another average: AdaBelief and Yogi."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from .. import tree
from .contract import GradientTransformation, Hyperparameter, Params, Updates, step_zero, transformation
from .running import (
    bias_correction,
    check_decays,
    check_offsets,
    corrected_mean,
    filled,
    mean,
    real_zeros,
    squared,
)

__all__ = ["ScaleByBeliefState", "ScaleByYogiState", "scale_by_belief", "scale_by_yogi"]


class ScaleByBeliefState(NamedTuple):
    """The mean of the updates, and the mean square of their distance from it."""

    step: torch.Tensor  # int64, shape ()
    mu: Updates  # like params, in at least float32
    nu: Updates  # like params, real, in at least float32


@transformation
def scale_by_belief(
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-16,
    eps_root: Hyperparameter = 1e-16,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    """Adam that divides by the spread of the updates about their mean: the belief in them.

        mu = b1 * mu + (1 - b1) * u                 nu = b2 * nu + (1 - b2) * (u - mu)**2 + eps_root
        u  = mu / (1 - b1**t) / (sqrt(nu / (1 - b2**t)) + eps)

    ``t`` counts from 1; ``eps_root`` gathers in ``nu``, as in the paper. ``nesterov`` looks one step ahead,
    as in :func:`scale_by_adam`. Defaults are Optax's.
    Source: Zhuang et al. 2020, arXiv:2010.07468.

    Raises:
        PureSGDError: ``b1`` or ``b2`` outside [0, 1), or a negative ``eps`` or ``eps_root``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.scale_by_belief()
        >>> tx.update(torch.tensor([3.0, -0.2]), tx.init(torch.zeros(2)))[0]
        tensor([ 1.1111, -1.1111])
    """
    check_decays("scale_by_belief", b1=b1, b2=b2)
    check_offsets("scale_by_belief", eps=eps, eps_root=eps_root)

    def init(params: Params) -> ScaleByBeliefState:
        return ScaleByBeliefState(step_zero(params), tree.zeros_like(params), real_zeros(params))

    def update(
        updates: Updates, state: ScaleByBeliefState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleByBeliefState]:
        t = state.step + 1
        mu = mean(b1, state.mu, updates)
        nu = tree.map(
            lambda v, m, u: (b2 * v + (1 - b2) * squared(tree.widened(u) - m) + eps_root).to(v.dtype),
            state.nu,
            mu,
            updates,
        )

        def direction(u: torch.Tensor, m: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return (m / ((v / bias_correction(b2, t)).sqrt() + eps)).to(u.dtype)

        mu_hat = corrected_mean(b1, t, mu, updates, nesterov)
        return tree.map(direction, updates, mu_hat, nu), ScaleByBeliefState(t, mu, nu)

    return GradientTransformation(init, update)


class ScaleByYogiState(NamedTuple):
    """The mean of the updates, and a second moment that moves by steps of bounded size."""

    step: torch.Tensor  # int64, shape ()
    mu: Updates  # like params, in at least float32
    nu: Updates  # like params, real, in at least float32


@transformation
def scale_by_yogi(
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-3,
    eps_root: Hyperparameter = 0.0,
    initial_accumulator_value: Hyperparameter = 1e-6,
) -> GradientTransformation:
    """Adam whose second moment rises and falls additively.

        mu = b1 * mu + (1 - b1) * u                 nu = nu - (1 - b2) * sign(nu - u**2) * u**2
        u  = mu / (1 - b1**t) / (sqrt(nu / (1 - b2**t) + eps_root) + eps)

    ``t`` counts from 1; ``nu`` starts at ``initial_accumulator_value``. Optax starts ``mu`` there as well, so
    that it moves along a gradient of zero; here ``mu`` starts at 0, as in the paper.
    Source: Zaheer et al. 2018, https://papers.nips.cc/paper/8186.

    Raises:
        PureSGDError: ``b1`` or ``b2`` outside [0, 1), or a negative ``eps``, ``eps_root`` or
            ``initial_accumulator_value``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.scale_by_yogi()
        >>> tx.update(torch.tensor([3.0, 0.0]), tx.init(torch.zeros(2)))[0]
        tensor([0.9996, 0.0000])
    """
    check_decays("scale_by_yogi", b1=b1, b2=b2)
    check_offsets(
        "scale_by_yogi", eps=eps, eps_root=eps_root, initial_accumulator_value=initial_accumulator_value
    )

    def init(params: Params) -> ScaleByYogiState:
        nu = filled(params, initial_accumulator_value)
        return ScaleByYogiState(step_zero(params), tree.zeros_like(params), nu)

    def update(
        updates: Updates, state: ScaleByYogiState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleByYogiState]:
        t = state.step + 1
        mu = mean(b1, state.mu, updates)

        def toward(v: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
            square = squared(u)
            return (v - (1 - b2) * torch.sign(v - square) * square).to(v.dtype)

        nu = tree.map(toward, state.nu, updates)

        def direction(u: torch.Tensor, m: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return (m / ((v / bias_correction(b2, t) + eps_root).sqrt() + eps)).to(u.dtype)

        mu_hat = corrected_mean(b1, t, mu, updates)
        return tree.map(direction, updates, mu_hat, nu), ScaleByYogiState(t, mu, nu)

    return GradientTransformation(init, update)
