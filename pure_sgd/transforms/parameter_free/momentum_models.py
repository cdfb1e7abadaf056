"""Polyak's step size for momentum and for Adam, from a linear model of the objective: MoMo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from ... import tree
from ...errors import check_hyperparameter
from ...schedules import as_real
from ..contract import (
    GradientTransformation,
    Hyperparameter,
    Params,
    Updates,
    missing_params,
    step_zero,
    transformation,
)
from ..plateau import one_value
from ..running import bias_correction, check_decays, check_offsets, mean, mean_of_squares, real_zeros, root
from .measuring import inner, quotient

__all__ = ["ScaleByMomoAdamState", "ScaleByMomoState", "scale_by_momo", "scale_by_momo_adam"]


class ScaleByMomoState(NamedTuple):
    """The linear model ``intercept + <mu, params>`` of the objective, and what it is to reach."""

    step: torch.Tensor  # int64, shape ()
    intercept: torch.Tensor  # float64, shape ()
    lower_bound: torch.Tensor  # float64, shape ()
    learning_rate: torch.Tensor  # float64, shape (): that of the last update, 0 before the first
    mu: Updates  # like params, in at least float32


@transformation
def scale_by_momo(
    learning_rate: Hyperparameter = 1.0,
    beta: Hyperparameter = 0.9,
    lower_bound: Hyperparameter = 0.0,
    weight_decay: Hyperparameter = 0.0,
    adapt_lower_bound: bool = False,
) -> GradientTransformation:
    """Momentum that steps to where its linear model of the objective reaches a lower bound: MoMo.

        mu, intercept = means of u and of value - <u, params>, decayed by beta
        height = (1 + a) * intercept + <mu, params>                     a = learning_rate * weight_decay
        rate   = min(learning_rate, max(height - (1 + a) * lower_bound, 0) / |mu|**2)
        u      = (rate * mu + a * params) / (1 + a)

    Norm and products are over all leaves; the means begin at the first gradient and value. ``update`` needs
    the extra argument ``value``, the objective at ``params``. Only the sign is left to turn.
    ``learning_rate`` is the largest rate, and best chosen large. With ``adapt_lower_bound`` the bound is
    estimated as in the last two lines; it begins at the given one and never falls below it.

        lower_bound = height / (2 + 2 * a)            before, where height < (1 + a) * lower_bound
        lower_bound = intercept + <mu, params> - rate * |mu|**2 / 2            afterwards

    Optax's weight decay differs from the paper's: there ``rate * mu`` is not divided by ``1 + a``. And where
    ``|mu|**2`` is below 2e-16 Optax stands still, this rule only at 0.
    Source: Schaipp et al. 2023, arXiv:2305.07583.

    Raises:
        PureSGDError: a negative ``learning_rate`` or ``weight_decay``, ``beta`` outside [0, 1), no ``params``
            in ``update``, or a ``value`` that is missing or no single number.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx, params = ps.scale_by_momo(), torch.tensor([1.0, 2.0])
        >>> tx.update(2 * params, tx.init(params), params, value=(params**2).sum())[0]
        tensor([0.5000, 1.0000])
    """
    where = "scale_by_momo"
    check_decays(where, beta=beta)
    reach = _reaching(where, learning_rate, lower_bound, weight_decay, adapt_lower_bound)

    def init(params: Params) -> ScaleByMomoState:
        step = step_zero(params)
        zero = as_real(step)
        return ScaleByMomoState(step, zero.clone(), zero + lower_bound, zero, tree.zeros_like(params))

    def update(
        updates: Updates, state: ScaleByMomoState, params: Params = None, *, value: Any = None, **extra: Any
    ) -> tuple[Updates, ScaleByMomoState]:
        if params is None:
            raise missing_params(where)
        now = one_value(where, value, state.intercept) - inner(updates, params)
        decay = beta * as_real(state.step > 0)
        mu = mean(decay, state.mu, updates)
        intercept = decay * state.intercept + (1 - decay) * now
        moves, rate, bound = reach(mu, mu, intercept, state.lower_bound, params)
        new = ScaleByMomoState(state.step + 1, intercept, bound, rate, mu)
        return tree.cast_like(moves, updates), new

    return GradientTransformation(init, update)


class ScaleByMomoAdamState(NamedTuple):
    """As :class:`ScaleByMomoState`, with Adam's second moment; the means begin at 0."""

    step: torch.Tensor  # int64, shape ()
    intercept: torch.Tensor  # float64, shape ()
    lower_bound: torch.Tensor  # float64, shape ()
    learning_rate: torch.Tensor  # float64, shape (): that of the last update, 0 before the first
    mu: Updates  # like params, in at least float32
    nu: Updates  # like params, real, in at least float32


@transformation
def scale_by_momo_adam(
    learning_rate: Hyperparameter = 1e-2,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-8,
    lower_bound: Hyperparameter = 0.0,
    weight_decay: Hyperparameter = 0.0,
    adapt_lower_bound: bool = False,
) -> GradientTransformation:
    """Adam that steps to where its linear model of the objective reaches a lower bound: MoMo-Adam.

        mu, intercept = bias-corrected means of u and of value - <u, params>, decayed by b1
        direction = mu / (sqrt(nu) + eps)                  nu the same of u**2, decayed by b2
        height = (1 + a) * intercept + <mu, params>                     a = learning_rate * weight_decay
        rate   = min(learning_rate, max(height - (1 + a) * lower_bound, 0) / <mu, direction>)
        u      = (rate * direction + a * params) / (1 + a)

    All else is as in :func:`scale_by_momo`, with ``<mu, direction>`` for ``|mu|**2``.
    Source: Schaipp et al. 2023, arXiv:2305.07583.

    Raises:
        PureSGDError: a negative ``learning_rate``, ``eps`` or ``weight_decay``, ``b1`` or ``b2`` outside
            [0, 1), no ``params`` in ``update``, or a ``value`` that is missing or no single number.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx, params = ps.scale_by_momo_adam(), torch.tensor([1.0, 2.0])
        >>> tx.update(2 * params, tx.init(params), params, value=(params**2).sum())[0]
        tensor([0.0100, 0.0100])
    """
    where = "scale_by_momo_adam"
    check_decays(where, b1=b1, b2=b2)
    check_offsets(where, eps=eps)
    reach = _reaching(where, learning_rate, lower_bound, weight_decay, adapt_lower_bound)

    def init(params: Params) -> ScaleByMomoAdamState:
        step = step_zero(params)
        zero = as_real(step)
        moments = tree.zeros_like(params), real_zeros(params)
        return ScaleByMomoAdamState(step, zero.clone(), zero + lower_bound, zero, *moments)

    def update(
        updates: Updates,
        state: ScaleByMomoAdamState,
        params: Params = None,
        *,
        value: Any = None,
        **extra: Any,
    ) -> tuple[Updates, ScaleByMomoAdamState]:
        if params is None:
            raise missing_params(where)
        t = state.step + 1
        now = one_value(where, value, state.intercept) - inner(updates, params)
        mu, nu = mean(b1, state.mu, updates), mean_of_squares(b2, state.nu, updates)
        intercept = b1 * state.intercept + (1 - b1) * now

        weight, square_weight = bias_correction(b1, t), bias_correction(b2, t)
        mu_hat = tree.map(lambda m: m / weight, mu)
        direction = tree.map(lambda m, v: quotient(m, root(v / square_weight) + eps), mu_hat, nu)
        moves, rate, bound = reach(mu_hat, direction, intercept / weight, state.lower_bound, params)
        return tree.cast_like(moves, updates), ScaleByMomoAdamState(t, intercept, bound, rate, mu, nu)

    return GradientTransformation(init, update)


def _reaching(
    where: str, learning_rate: Any, lower_bound: Any, weight_decay: Any, adapt_lower_bound: bool
) -> Callable[..., tuple[Updates, torch.Tensor, torch.Tensor]]:
    """The function ``(mu, direction, intercept, bound, params) -> (moves, rate, bound)`` of both rules."""
    check_offsets(where, learning_rate=learning_rate, weight_decay=weight_decay)
    check_hyperparameter(where, "lower_bound", lower_bound)
    pull = learning_rate * weight_decay

    def reach(
        mu: Updates, direction: Updates, intercept: torch.Tensor, bound: torch.Tensor, params: Params
    ) -> tuple[Updates, torch.Tensor, torch.Tensor]:
        slope, square = inner(mu, params), inner(mu, direction)
        height = (1 + pull) * intercept + slope
        if adapt_lower_bound:
            lower = (height / (2 * (1 + pull))).clamp(min=lower_bound)
            bound = torch.where(height < (1 + pull) * bound, lower, bound)
        else:
            bound = torch.zeros_like(bound) + lower_bound
        gap = (height - (1 + pull) * bound).clamp(min=0)
        rate = quotient(gap, square).clamp(max=learning_rate)
        if adapt_lower_bound:
            bound = (intercept + slope - rate * square / 2).clamp(min=lower_bound)
        moves = tree.map(lambda d, p: (rate * d + pull * tree.widened(p)) / (1 + pull), direction, params)
        return moves, rate, bound

    return reach
