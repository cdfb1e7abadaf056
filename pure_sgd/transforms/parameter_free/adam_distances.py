"""Adam with a rate that estimates the distance to the solution: D-Adaptation and Prodigy."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from ... import tree
from ...errors import check_hyperparameter
from ...schedules import as_real
from ..averaging import wide_copy
from ..contract import (
    EmptyState,
    GradientTransformation,
    Hyperparameter,
    Params,
    Updates,
    missing_params,
    step_zero,
    transformation,
)
from ..decay import add_decayed_weights
from ..running import bias_correction, check_decays, check_offsets, mean, mean_of_squares, real_zeros, root
from ..scaling import multiply
from .measuring import difference, inner, quotient, sum_of_magnitudes

__all__ = ["ScaleByDadaptAdamState", "ScaleByProdigyState", "scale_by_dadapt_adam", "scale_by_prodigy"]


class ScaleByProdigyState(NamedTuple):
    """Adam's moments of the gradients times the estimate, and what the estimate is made of."""

    step: torch.Tensor  # int64, shape ()
    estim_lr: torch.Tensor  # float64, shape (): the distance, as far as it is known
    numerator: torch.Tensor  # float64, shape ()
    learning_rate: torch.Tensor  # float64, shape (): that of the last update, 0 before the first
    mu: Updates  # like params, in at least float32
    nu: Updates  # like params, real, in at least float32
    grad_sum: Updates  # like params, in at least float32
    init_params: Params  # like params, in at least float32


@transformation
def scale_by_prodigy(
    learning_rate: Hyperparameter = 1.0,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    b3: Hyperparameter = None,
    eps: Hyperparameter = 1e-8,
    estim_lr0: Hyperparameter = 1e-6,
    estim_lr_coef: Hyperparameter = 1.0,
    weight_decay: Hyperparameter = 0.0,
    mask: Any = None,
    *,
    safeguard_warmup: bool = False,
) -> GradientTransformation:
    """Adam whose rate is an estimate of the distance to the solution that only grows: Prodigy.

        d, rate   = estim_lr, learning_rate * estim_lr * sqrt(1 - b2**t) / (1 - b1**t)
        mu        = b1 * mu + (1 - b1) * d * u             nu = b2 * nu + (1 - b2) * (d * u)**2
        numerator = b3 * numerator + d / estim_lr0 * rate * <u, init_params - params>
        grad_sum  = b3 * grad_sum + d / estim_lr0 * rate * u             d for rate with safeguard_warmup
        estim_lr  = max(d, estim_lr_coef * numerator / |grad_sum|_1)             estim_lr0 at first
        u = rate * (mu / (sqrt(nu) + estim_lr * eps) + weight_decay * params)

    ``t`` counts from 1, and ``b3=None`` is ``sqrt(b2)``. Only the sign is left to turn. ``learning_rate``
    scales the rate that is found: 1, or a schedule that falls from there. Gradients of zero at the start
    leave the estimate as it is; in Optax it becomes NaN.
    Source: Mishchenko and Defazio 2023, arXiv:2306.06101.

    Raises:
        PureSGDError: a negative hyperparameter, ``b1``, ``b2`` or ``b3`` outside [0, 1), ``estim_lr0=0``,
            or no ``params`` in ``update``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx, params = ps.scale_by_prodigy(estim_lr0=0.1), torch.zeros(2)
        >>> tx.update(torch.tensor([3.0, -4.0]), tx.init(params), params)[0]
        tensor([ 0.1000, -0.1000])
    """
    where = "scale_by_prodigy"
    check_decays(where, b1=b1, b2=b2, **({} if b3 is None else {"b3": b3}))
    check_offsets(where, learning_rate=learning_rate, eps=eps, estim_lr_coef=estim_lr_coef)
    check_hyperparameter(where, "estim_lr0", estim_lr0, low=0, open_low=True)
    memory = b2**0.5 if b3 is None else b3
    decay = add_decayed_weights(weight_decay, mask)

    def init(params: Params) -> ScaleByProdigyState:
        step = step_zero(params)
        zero = as_real(step)
        return ScaleByProdigyState(
            step,
            zero + estim_lr0,
            zero.clone(),
            zero,
            tree.zeros_like(params),
            real_zeros(params),
            tree.zeros_like(params),
            wide_copy(params),
        )

    def update(
        updates: Updates, state: ScaleByProdigyState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleByProdigyState]:
        if params is None:
            raise missing_params(where)
        t, d = state.step + 1, state.estim_lr
        learned = d * learning_rate
        rate = learned * root(bias_correction(b2, t)) / bias_correction(b1, t)
        scaled = tree.map(lambda u: d * tree.widened(u), updates)
        mu, nu = mean(b1, state.mu, scaled), mean_of_squares(b2, state.nu, scaled)

        weight = d / estim_lr0 * rate
        gone = inner(updates, difference(params, state.init_params))
        numerator = memory * state.numerator - weight * gone
        weight = d / estim_lr0 * d if safeguard_warmup else weight
        grad_sum = _sum(memory, state.grad_sum, weight, updates)
        estimate = estim_lr_coef * quotient(numerator, sum_of_magnitudes(grad_sum))
        estim_lr = torch.maximum(d, estimate)

        direction = tree.map(lambda m, v: quotient(m, root(v) + estim_lr * eps), mu, nu)
        direction = decay.update(direction, EmptyState(), params)[0]
        out = tree.cast_like(multiply(direction, rate), updates)
        return out, ScaleByProdigyState(t, estim_lr, numerator, learned, mu, nu, grad_sum, state.init_params)

    return GradientTransformation(init, update)


class ScaleByDadaptAdamState(NamedTuple):
    """Adam's moments, the first of them times the rate, and what the estimate of the rate is made of."""

    step: torch.Tensor  # int64, shape ()
    estim_lr: torch.Tensor  # float64, shape (): the distance, as far as it is known
    numerator: torch.Tensor  # float64, shape ()
    learning_rate: torch.Tensor  # float64, shape (): that of the last update, 0 before the first
    mu: Updates  # like params, in at least float32
    nu: Updates  # like params, real, in at least float32
    grad_sum: Updates  # like params, in at least float32


@transformation
def scale_by_dadapt_adam(
    learning_rate: Hyperparameter = 1.0,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-8,
    estim_lr0: Hyperparameter = 1e-6,
    weight_decay: Hyperparameter = 0.0,
) -> GradientTransformation:
    """Adam whose rate is a lower bound of the distance to the solution: D-Adaptation.

        rate      = learning_rate * estim_lr * sqrt(1 - b2**t) / (1 - b1**t)             b3 = sqrt(b2)
        numerator = b3 * numerator + (1 - b3) * rate * <u, grad_sum / (sqrt(nu) + eps)>
        mu        = b1 * mu + (1 - b1) * rate * u             nu = b2 * nu + (1 - b2) * u**2
        grad_sum  = b3 * grad_sum + (1 - b3) * rate * u
        estim_lr  = max(estim_lr, numerator / ((1 - b3) * |grad_sum|_1))             estim_lr0 at first
        u = mu / (sqrt(nu) + eps) + weight_decay * rate * params

    ``t`` counts from 1. Only the sign is left to turn. ``learning_rate`` scales the rate that is found: 1, or
    a schedule that falls from there. Gradients of zero at the start leave the estimate as it is; in
    Optax it becomes NaN. Source: Defazio and Mishchenko 2023, arXiv:2301.07733.

    Raises:
        PureSGDError: a negative hyperparameter, ``b1`` or ``b2`` outside [0, 1), ``estim_lr0=0``, or no
            ``params`` in ``update``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx, params = ps.scale_by_dadapt_adam(estim_lr0=0.1), torch.zeros(2)
        >>> tx.update(torch.tensor([3.0, -4.0]), tx.init(params), params)[0]
        tensor([ 0.1000, -0.1000])
    """
    where = "scale_by_dadapt_adam"
    check_decays(where, b1=b1, b2=b2)
    check_offsets(where, learning_rate=learning_rate, eps=eps, weight_decay=weight_decay)
    check_hyperparameter(where, "estim_lr0", estim_lr0, low=0, open_low=True)
    b3 = b2**0.5

    def init(params: Params) -> ScaleByDadaptAdamState:
        step = step_zero(params)
        zero = as_real(step)
        zeros = tree.zeros_like(params)
        return ScaleByDadaptAdamState(
            step, zero + estim_lr0, zero.clone(), zero, zeros, real_zeros(params), tree.zeros_like(params)
        )

    def update(
        updates: Updates, state: ScaleByDadaptAdamState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleByDadaptAdamState]:
        if params is None:
            raise missing_params(where)
        t = state.step + 1
        learned = state.estim_lr * learning_rate
        rate = learned * root(bias_correction(b2, t)) / bias_correction(b1, t)
        # With the second moment from before this gradient, as the authors' program has it.
        weighted = tree.map(lambda s, v: quotient(s, root(v) + eps), state.grad_sum, state.nu)
        numerator = b3 * state.numerator + (1 - b3) * rate * inner(updates, weighted)
        mu = _sum(b1, state.mu, (1 - b1) * rate, updates)
        nu = mean_of_squares(b2, state.nu, updates)
        grad_sum = _sum(b3, state.grad_sum, (1 - b3) * rate, updates)
        estimate = quotient(numerator, (1 - b3) * sum_of_magnitudes(grad_sum))
        estim_lr = torch.maximum(state.estim_lr, estimate)

        def step(u: torch.Tensor, p: torch.Tensor, m: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return (quotient(m, root(v) + eps) + weight_decay * rate * tree.widened(p)).to(u.dtype)

        out = tree.map(step, updates, params, mu, nu)
        return out, ScaleByDadaptAdamState(t, estim_lr, numerator, learned, mu, nu, grad_sum)

    return GradientTransformation(init, update)


def _sum(decay: Any, total: Updates, weight: Any, updates: Updates) -> Updates:
    """The decaying sum ``decay * total + weight * updates``, in the dtypes of ``total``."""
    return tree.map(lambda s, u: (decay * s + weight * tree.widened(u)).to(s.dtype), total, updates)
