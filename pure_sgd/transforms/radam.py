"""Adam that waits for its second moment to be worth something: RAdam."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from .. import tree
from ..errors import check_hyperparameter
from ..schedules import as_real
from .contract import GradientTransformation, Hyperparameter, Params, Updates, step_zero, transformation
from .running import (
    bias_correction,
    check_decays,
    check_offsets,
    corrected_mean,
    mean,
    mean_of_squares,
    real_zeros,
)

__all__ = ["ScaleByRadamState", "scale_by_radam"]


class ScaleByRadamState(NamedTuple):
    """The first two moments of the updates."""

    step: torch.Tensor  # int64, shape ()
    mu: Updates  # like params, in at least float32
    nu: Updates  # like params, real, in at least float32


@transformation
def scale_by_radam(
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-8,
    eps_root: Hyperparameter = 0.0,
    threshold: Hyperparameter = 5.0,
    *,
    nesterov: bool = False,
    eps_before_correction: bool = False,
) -> GradientTransformation:
    """Adam with its step shortened by the variance of its second moment, and no division while that is large.

        mu = b1 * mu + (1 - b1) * u                 nu = b2 * nu + (1 - b2) * u**2
        mu_hat = mu / (1 - b1**t)                   nu_hat = nu / (1 - b2**t)
        rho_inf = 2 / (1 - b2) - 1                  rho = rho_inf - 2 * t * b2**t / (1 - b2**t)
        r = sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
        u = r * mu_hat / (sqrt(nu_hat + eps_root) + eps)  where rho >= threshold,  else mu_hat

    ``t`` counts from 1; ``nesterov`` looks one step ahead, as in :func:`scale_by_adam`. The default is
    Optax's rule. With ``eps_before_correction`` it is that of ``torch.optim.RAdam``, whose ``eps`` joins
    the root before the bias correction: ``(sqrt(nu + eps_root) + eps) / sqrt(1 - b2**t)``. The threshold
    itself already divides, as in Optax; torch divides beyond it.
    Source: Liu et al. 2020, arXiv:1908.03265.

    Raises:
        PureSGDError: ``b1`` or ``b2`` outside [0, 1), a negative ``eps`` or ``eps_root``, or a ``threshold``
            below 4, where r has no meaning.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.scale_by_radam()
        >>> tx.update(torch.tensor([3.0, -0.2]), tx.init(torch.zeros(2)))[0]
        tensor([ 3.0000, -0.2000])
    """
    check_decays("scale_by_radam", b1=b1, b2=b2)
    check_offsets("scale_by_radam", eps=eps, eps_root=eps_root)
    check_hyperparameter("scale_by_radam", "threshold", threshold, low=4)

    def init(params: Params) -> ScaleByRadamState:
        return ScaleByRadamState(step_zero(params), tree.zeros_like(params), real_zeros(params))

    def update(
        updates: Updates, state: ScaleByRadamState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleByRadamState]:
        t = state.step + 1
        mu, nu = mean(b1, state.mu, updates), mean_of_squares(b2, state.nu, updates)
        weight = bias_correction(b2, t)
        certain, rectifier = _rectifier(b2, t, threshold)

        def direction(u: torch.Tensor, m: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            # Where it is not used the root has no slope: none at 0 keeps NaN out of gradients.
            square = torch.where(certain, v if eps_before_correction else v / weight, 1.0)
            denominator = (square + eps_root).sqrt() + eps
            scale = rectifier * weight.sqrt() if eps_before_correction else rectifier
            return torch.where(certain, scale * m / denominator, m).to(u.dtype)

        mu_hat = corrected_mean(b1, t, mu, updates, nesterov)
        return tree.map(direction, updates, mu_hat, nu), ScaleByRadamState(t, mu, nu)

    return GradientTransformation(init, update)


def _rectifier(b2: Any, t: torch.Tensor, threshold: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether step ``t`` divides, and by how much its step is shortened, both of shape ()."""
    rho_inf = 2 / (1 - b2 + 0 * as_real(t)) - 1
    faded = b2 ** as_real(t)
    rho = rho_inf - 2 * t * faded / (1 - faded)
    certain = rho >= threshold
    # Where it is not used, any value that has a root will do.
    rho, rho_inf = torch.where(certain, rho, 5.0), torch.where(certain, rho_inf, 5.0)
    shorter = (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)
    return certain, shorter.sqrt()
