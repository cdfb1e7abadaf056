"""Rules that divide by a running second moment: the Adam family."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from .. import tree
from ..errors import check_hyperparameter
from .contract import (
    GradientTransformation,
    Hyperparameter,
    Params,
    Updates,
    step_zero,
    transformation,
)
from .one_kernel import adam_by_one_kernel
from .running import bias_correction, mean, mean_of_squares, real_zeros

__all__ = ["ScaleByAdamState", "scale_by_adam"]


class ScaleByAdamState(NamedTuple):
    """The first two moments of the updates."""

    step: torch.Tensor  # int64, shape ()
    mu: Updates  # like params, in at least float32
    nu: Updates  # like params, real, in at least float32


@transformation
def scale_by_adam(
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-8,
    eps_root: Hyperparameter = 0.0,
    mu_dtype: torch.dtype | None = None,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    """Divide the bias-corrected mean of the updates by their bias-corrected root mean square.

        mu = b1 * mu + (1 - b1) * u                 nu = b2 * nu + (1 - b2) * u**2
        mu_hat = mu / (1 - b1**t)                   nu_hat = nu / (1 - b2**t)
        u  = mu_hat / (sqrt(nu_hat + eps_root) + eps)

    ``t`` counts from 1. With ``nesterov`` ``mu_hat`` looks one step ahead (Dozat 2016):
    ``b1 * mu / (1 - b1**(t + 1)) + (1 - b1) * u / (1 - b1**t)``. Moments have at least float32
    (``mu_dtype`` for the first). Source: Kingma and Ba 2015, arXiv:1412.6980.

    Raises:
        PureSGDError: ``b1`` or ``b2`` outside [0, 1), or a negative ``eps`` or ``eps_root``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.scale_by_adam()
        >>> tx.update(torch.tensor([3.0, -0.2]), tx.init(torch.zeros(2)))[0]
        tensor([ 1.0000, -1.0000])
    """
    check_hyperparameter("scale_by_adam", "b1", b1, low=0, high=1, open_high=True)
    check_hyperparameter("scale_by_adam", "b2", b2, low=0, high=1, open_high=True)
    check_hyperparameter("scale_by_adam", "eps", eps, low=0)
    check_hyperparameter("scale_by_adam", "eps_root", eps_root, low=0)
    constant = not any(isinstance(value, torch.Tensor) for value in (b1, b2, eps, eps_root))
    plain = constant and eps_root == 0 and not nesterov

    def init(params: Params) -> ScaleByAdamState:
        return ScaleByAdamState(step_zero(params), tree.zeros_like(params, mu_dtype), real_zeros(params))

    def update(
        updates: Updates, state: ScaleByAdamState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleByAdamState]:
        t = state.step + 1
        found = adam_by_one_kernel(updates, state.mu, state.nu, t, b1, b2, eps) if plain else None
        if found is not None:
            return found[0], ScaleByAdamState(t, *found[1:])
        mu = mean(b1, state.mu, updates)
        nu = mean_of_squares(b2, state.nu, updates)

        gathered, gathered_squares = bias_correction(b1, t), bias_correction(b2, t)

        def direction(u: torch.Tensor, m: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            m_hat = m / gathered
            if nesterov:
                m_hat = b1 * m / bias_correction(b1, t + 1) + (1 - b1) * tree.widened(u) / gathered
            return (m_hat / ((v / gathered_squares + eps_root).sqrt() + eps)).to(u.dtype)

        return tree.elementwise(direction, updates, mu, nu), ScaleByAdamState(t, mu, nu)

    return GradientTransformation(init, update)
