"""Averages of the parameters of SGD: what they leave of the variance, and estimating a mean with them."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ...arguments import typed
from .descent import sgd_variance
from .numbers import Numbers, decays, geometric_sum, not_negative, positive

__all__ = [
    "MeanEstimationRisk",
    "ema_variance_factor",
    "mean_estimation_risk",
    "polyak_variance",
]


@typed
def ema_variance_factor(learning_rate: Numbers, decay: Numbers, curvature: Numbers) -> torch.Tensor:
    """What averaging multiplies the long-run variance of SGD by: exactly.

        average = gamma * average + (1 - gamma) * w                                     of the parameters
        factor  = (1 - gamma) * (1 + a * gamma) / ((1 + gamma) * (1 - a * gamma)),   a = 1 - learning_rate * h

    In the long run Cov(w_k, w_{k-j}) = a**j * Var w, and the average has weights (1 - gamma) * gamma**j. The
    rate is the larger of gamma and |a|: what averaging costs is nothing as long as gamma is the smaller. The
    factor is below 1 as soon as a > 0. NaN where SGD is not stable.
    Source: Zhang et al. 2019, arXiv:1907.04164.

    Raises:
        PureSGDError: a learning rate or curvature that is not positive, or a decay outside [0, 1).

    Example:
        >>> import pure_sgd as ps
        >>> ps.theory.ema_variance_factor(1.0, 0.5, 1.0)  # of independent parameters
        tensor(0.3333, dtype=torch.float64)
    """
    where = "ema_variance_factor"
    rate, h = positive(where, learning_rate=learning_rate, curvature=curvature)
    (gamma,) = decays(where, decay=decay)
    a = 1 - rate * h
    factor = (1 - gamma) * (1 + a * gamma) / ((1 + gamma) * (1 - a * gamma))
    return torch.where(a > -1, factor, torch.nan)


@typed
def polyak_variance(
    learning_rate: Numbers, curvature: Numbers, noise: Numbers, steps: Numbers
) -> torch.Tensor:
    """The variance of the mean of the first ``steps`` parameters of SGD, w_1 to w_steps.

        variance = c / (h * steps)**2 * sum_m (1 - a**m)**2     m = 1 ... steps,    a = 1 - learning_rate * h

    The noise of a step is in the m parameters that follow it, with the weights learning_rate * (1 + a + ... +
    a**(m - 1)) = (1 - a**m) / h. For many steps c / (h**2 * steps), whatever the learning rate: no
    unbiased estimate does better. Digits are lost where ``learning_rate * h * steps`` is far below 1.
    Source: Polyak and Juditsky 1992, doi:10.1137/0330046.

    Raises:
        PureSGDError: a learning rate, curvature or number of steps that is not positive, or negative noise.

    Example:
        >>> import pure_sgd as ps
        >>> ps.theory.polyak_variance(1.0, 1.0, noise=3.0, steps=3)
        tensor(1., dtype=torch.float64)
    """
    where = "polyak_variance"
    rate, h, k = positive(where, learning_rate=learning_rate, curvature=curvature, steps=steps)
    (c,) = not_negative(where, noise=noise)
    a = 1 - rate * h
    total = k - 2 * a * geometric_sum(a, k) + a**2 * geometric_sum(a**2, k)
    return c / (h * k) ** 2 * total


class MeanEstimationRisk(NamedTuple):
    """Half the expected squared distance of an estimate from the mean, for three ways to estimate it."""

    constant: torch.Tensor  # the last parameter of SGD at a constant learning rate
    averaged: torch.Tensor  # the mean of its parameters so far
    decaying: torch.Tensor  # the last parameter at the learning rate 1 / k: the mean of all samples


@typed
def mean_estimation_risk(
    learning_rate: Numbers, variance: Numbers, steps: Numbers, start: Numbers = 0.0
) -> MeanEstimationRisk:
    """The risk of estimating a mean by SGD on (w - x)**2 / 2, one new sample x a step.

        constant = ((a**steps * start)**2 + sgd_variance) / 2                        a = 1 - learning_rate
        averaged = ((a * (1 - a**steps) / (learning_rate * steps) * start)**2 + polyak_variance) / 2
        decaying = variance / (2 * steps)

    ``start`` is the distance of w_0 from the mean, ``variance`` that of a sample: a quadratic of curvature 1
    with this noise. The rate 1 / k, k counted from 1, makes w the mean of the samples and forgets the start
    at the first step; it is ``inverse_time_decay_schedule(1.0, 1.0)``. At a constant rate the risk stays at
    learning_rate * variance / (2 * (2 - learning_rate)); averaging takes it on to variance / (2 * steps).

    Raises:
        PureSGDError: a learning rate or number of steps that is not positive, or a negative variance.

    Example:
        >>> import pure_sgd as ps
        >>> risk = ps.theory.mean_estimation_risk(0.5, variance=2.0, steps=100)
        >>> risk.constant, risk.averaged, risk.decaying.item()
        (tensor(0.3333, dtype=torch.float64), tensor(0.0098, dtype=torch.float64), 0.01)
    """
    where = "mean_estimation_risk"
    rate, k = positive(where, learning_rate=learning_rate, steps=steps)
    (noise,) = not_negative(where, variance=variance)
    a, start = 1 - rate, torch.as_tensor(start, dtype=torch.float64)
    last = (a**k * start) ** 2 + sgd_variance(rate, 1.0, noise, k)
    mean = (a * geometric_sum(a, k) / k * start) ** 2 + polyak_variance(rate, 1.0, noise, k)
    return MeanEstimationRisk(last / 2, mean / 2, noise / (2 * k))
