"""Relatives of Adam that keep its two moments and divide by another root: AMSGrad, Adamax, NAdam."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from .. import tree
from ..schedules import as_real
from .contract import GradientTransformation, Hyperparameter, Params, Updates, step_zero, transformation
from .running import bias_correction, check_decays, check_offsets, mean, mean_of_squares, real_zeros

__all__ = [
    "ScaleByAdamaxState",
    "ScaleByAmsgradState",
    "ScaleByNadamState",
    "scale_by_adamax",
    "scale_by_amsgrad",
    "scale_by_nadam",
]


class ScaleByAmsgradState(NamedTuple):
    """The first two moments of the updates, and the largest second moment so far."""

    step: torch.Tensor  # int64, shape ()
    mu: Updates  # like params, in at least float32
    nu: Updates  # like params, real, in at least float32
    nu_max: Updates  # like nu


@transformation
def scale_by_amsgrad(
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-8,
    eps_root: Hyperparameter = 0.0,
    mu_dtype: torch.dtype | None = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
    *,
    max_before_correction: bool = False,
) -> GradientTransformation:
    """Adam whose second moment never falls: the root is taken of the largest one so far.

        mu = b1 * mu + (1 - b1) * u                 nu = b2 * nu + (1 - b2) * u**2
        mu_hat = mu / (1 - b1**t)                   nu_hat = nu / (1 - b2**t)
        nu_max = max(nu_max, nu_hat)
        u  = mu_hat / (sqrt(nu_max + eps_root) + eps)

    ``t`` counts from 1. That is Optax's rule; without ``bias_correction_mu`` ``mu_hat`` is ``mu``, without
    ``bias_correction_nu`` ``nu_hat`` is ``nu`` (without both: the paper). With ``max_before_correction``
    it is that of ``torch.optim.Adam(amsgrad=True)``: ``nu_max = max(nu_max, nu)``, and the root is taken
    of ``nu_max / (1 - b2**t)``. Source: Reddi, Kale and Kumar 2018, arXiv:1904.09237.

    Raises:
        PureSGDError: ``b1`` or ``b2`` outside [0, 1), or a negative ``eps`` or ``eps_root``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.scale_by_amsgrad()
        >>> tx.update(torch.tensor([3.0, -0.2]), tx.init(torch.zeros(2)))[0]
        tensor([ 1.0000, -1.0000])
    """
    check_decays("scale_by_amsgrad", b1=b1, b2=b2)
    check_offsets("scale_by_amsgrad", eps=eps, eps_root=eps_root)

    def init(params: Params) -> ScaleByAmsgradState:
        mu = tree.zeros_like(params, mu_dtype)
        return ScaleByAmsgradState(step_zero(params), mu, real_zeros(params), real_zeros(params))

    def update(
        updates: Updates, state: ScaleByAmsgradState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleByAmsgradState]:
        t = state.step + 1
        mu, nu = mean(b1, state.mu, updates), mean_of_squares(b2, state.nu, updates)
        mu_weight = bias_correction(b1, t) if bias_correction_mu else 1.0
        nu_weight = bias_correction(b2, t) if bias_correction_nu else 1.0
        before, after = (1.0, nu_weight) if max_before_correction else (nu_weight, 1.0)
        nu_max = tree.map(lambda top, v: torch.maximum(top, (v / before).to(v.dtype)), state.nu_max, nu)

        def direction(u: torch.Tensor, m: torch.Tensor, top: torch.Tensor) -> torch.Tensor:
            return (m / mu_weight / ((top / after + eps_root).sqrt() + eps)).to(u.dtype)

        return tree.map(direction, updates, mu, nu_max), ScaleByAmsgradState(t, mu, nu, nu_max)

    return GradientTransformation(init, update)


class ScaleByAdamaxState(NamedTuple):
    """The mean of the updates, and the largest of their decayed magnitudes."""

    step: torch.Tensor  # int64, shape ()
    mu: Updates  # like params, in at least float32
    nu: Updates  # like params, real, in at least float32


@transformation
def scale_by_adamax(
    b1: Hyperparameter = 0.9, b2: Hyperparameter = 0.999, eps: Hyperparameter = 1e-8
) -> GradientTransformation:
    """Adam in the infinity norm: divide by the largest decayed magnitude of the updates.

        mu = b1 * mu + (1 - b1) * u                 nu = max(b2 * nu, |u| + eps)
        u  = mu / (1 - b1**t) / nu

    ``t`` counts from 1. The rule of Optax and of ``torch.optim.Adamax``.
    Source: Kingma and Ba 2015, arXiv:1412.6980, section 7.1.

    Raises:
        PureSGDError: ``b1`` or ``b2`` outside [0, 1), or a negative ``eps``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.scale_by_adamax()
        >>> tx.update(torch.tensor([3.0, -0.2]), tx.init(torch.zeros(2)))[0]
        tensor([ 1.0000, -1.0000])
    """
    check_decays("scale_by_adamax", b1=b1, b2=b2)
    check_offsets("scale_by_adamax", eps=eps)

    def init(params: Params) -> ScaleByAdamaxState:
        return ScaleByAdamaxState(step_zero(params), tree.zeros_like(params), real_zeros(params))

    def update(
        updates: Updates, state: ScaleByAdamaxState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleByAdamaxState]:
        t = state.step + 1
        mu = mean(b1, state.mu, updates)
        nu = tree.map(
            lambda v, u: torch.maximum(b2 * v, tree.widened(u).abs() + eps).to(v.dtype), state.nu, updates
        )
        weight = bias_correction(b1, t)
        out = tree.map(lambda u, m, v: (m / (weight * v)).to(u.dtype), updates, mu, nu)
        return out, ScaleByAdamaxState(t, mu, nu)

    return GradientTransformation(init, update)


class ScaleByNadamState(NamedTuple):
    """The first two moments of the updates, and the product of the decays of the first."""

    step: torch.Tensor  # int64, shape ()
    decay_product: torch.Tensor  # float64 (float32 on devices without it), shape ()
    mu: Updates  # like params, in at least float32
    nu: Updates  # like params, real, in at least float32


@transformation
def scale_by_nadam(
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-8,
    eps_root: Hyperparameter = 0.0,
    mu_dtype: torch.dtype | None = None,
    *,
    momentum_decay: Hyperparameter = 4e-3,
) -> GradientTransformation:
    """Nesterov's Adam whose momentum warms up, as in ``torch.optim.NAdam``.

        mu = b1 * mu + (1 - b1) * u                 nu = b2 * nu + (1 - b2) * u**2
        d_t = b1 * (1 - 0.5 * 0.96**(t * momentum_decay))
        mu_hat = d_(t+1) * mu / (1 - d_1 * ... * d_(t+1)) + (1 - d_t) * u / (1 - d_1 * ... * d_t)
        u  = mu_hat / (sqrt(nu / (1 - b2**t) + eps_root) + eps)

    ``t`` counts from 1. Optax's NAdam has no such warm-up: ``scale_by_adam(nesterov=True)``.
    Source: Dozat 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ.

    Raises:
        PureSGDError: ``b1`` or ``b2`` outside [0, 1), or a negative ``eps``, ``eps_root`` or
            ``momentum_decay``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.scale_by_nadam()
        >>> tx.update(torch.tensor([3.0, -0.2]), tx.init(torch.zeros(2)))[0]
        tensor([ 1.0565, -1.0565])
    """
    check_decays("scale_by_nadam", b1=b1, b2=b2)
    check_offsets("scale_by_nadam", eps=eps, eps_root=eps_root, momentum_decay=momentum_decay)

    def init(params: Params) -> ScaleByNadamState:
        step = step_zero(params)
        return ScaleByNadamState(
            step, as_real(step) + 1, tree.zeros_like(params, mu_dtype), real_zeros(params)
        )

    def update(
        updates: Updates, state: ScaleByNadamState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleByNadamState]:
        t = state.step + 1
        mu, nu = mean(b1, state.mu, updates), mean_of_squares(b2, state.nu, updates)

        def decay_at(step: torch.Tensor) -> torch.Tensor:
            return b1 * (1 - 0.5 * 0.96 ** (as_real(step) * momentum_decay))

        product = state.decay_product * decay_at(t)
        now = (1 - decay_at(t)) / (1 - product)
        ahead = decay_at(t + 1) / (1 - product * decay_at(t + 1))

        def direction(u: torch.Tensor, m: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            root = (v / bias_correction(b2, t) + eps_root).sqrt()
            return ((ahead * m + now * tree.widened(u)) / (root + eps)).to(u.dtype)

        return tree.map(direction, updates, mu, nu), ScaleByNadamState(t, product, mu, nu)

    return GradientTransformation(init, update)
