"""Momentum, the heavy ball: its rate and its variance, exactly and by the rules of thumb."""

from __future__ import annotations

import torch

from ...arguments import typed
from .numbers import Numbers, decays, positive

__all__ = [
    "momentum_convergence_rate",
    "momentum_variance_bound",
    "momentum_variance_factor",
    "overdamped_convergence_rate",
]


@typed
def momentum_convergence_rate(learning_rate: Numbers, momentum: Numbers, curvature: Numbers) -> torch.Tensor:
    """What one step of heavy-ball momentum multiplies the expected error by, in the long run: exactly.

        rate = (|s| + sqrt(s**2 - 4 * beta)) / 2       s = 1 + beta - learning_rate * h,    overdamped
        rate = sqrt(beta)                              where s**2 < 4 * beta,               underdamped

    The error obeys e_{k+1} = s * e_k - beta * e_{k-1}, whose roots solve r**2 - s * r + beta = 0. Overdamped
    is ``beta < (1 - sqrt(learning_rate * h))**2`` for a learning rate of at most 1 / h; stable is
    ``learning_rate * h < 2 * (1 + beta)``.
    Source: Polyak 1964, doi:10.1016/0041-5553(64)90137-5.

    Raises:
        PureSGDError: a learning rate or curvature that is not positive, or a momentum outside [0, 1).

    Example:
        >>> import pure_sgd as ps
        >>> ps.theory.momentum_convergence_rate(0.1, 0.81, 1.0)
        tensor(0.9000, dtype=torch.float64)
    """
    where = "momentum_convergence_rate"
    rate, h = positive(where, learning_rate=learning_rate, curvature=curvature)
    (beta,) = decays(where, momentum=momentum)
    s = 1 + beta - rate * h
    squared = s**2 - 4 * beta
    real = squared > 0
    # The root of what is chosen, so that the other branch has no infinite slope.
    overdamped = (s.abs() + torch.where(real, squared, 1.0).sqrt()) / 2
    return torch.where(real, overdamped, beta.sqrt())


@typed
def overdamped_convergence_rate(
    learning_rate: Numbers, momentum: Numbers, curvature: Numbers
) -> torch.Tensor:
    """The rule of thumb for the rate of momentum: that of SGD at ``1 / (1 - beta)`` times the learning rate.

        rate = 1 - learning_rate * h / (1 - beta)

    :func:`momentum_convergence_rate` to first order in ``learning_rate * h``; the next term is
    ``-beta * (learning_rate * h)**2 / (1 - beta)**3``. It serves deep in the overdamped regime
    ``beta < (1 - sqrt(learning_rate * h))**2``; at its edge the true rate is sqrt(beta), and it gives
    ``1 - (1 - sqrt(beta))**2 / (1 - beta) = 2 * sqrt(beta) / (1 + sqrt(beta))``, which is larger.

    Raises:
        PureSGDError: a learning rate or curvature that is not positive, or a momentum outside [0, 1).

    Example:
        >>> import pure_sgd as ps
        >>> exact = ps.theory.momentum_convergence_rate(0.001, 0.9, 1.0)
        >>> exact, ps.theory.overdamped_convergence_rate(0.001, 0.9, 1.0)
        (tensor(0.9889, dtype=torch.float64), tensor(0.9900, dtype=torch.float64))
    """
    where = "overdamped_convergence_rate"
    rate, h = positive(where, learning_rate=learning_rate, curvature=curvature)
    (beta,) = decays(where, momentum=momentum)
    return 1 - rate * h / (1 - beta)


@typed
def momentum_variance_factor(learning_rate: Numbers, momentum: Numbers, curvature: Numbers) -> torch.Tensor:
    """How many times the long-run variance of SGD momentum has, at the same learning rate: exactly.

        factor = (1 + beta) * (2 - learning_rate * h) / ((1 - beta) * (2 * (1 + beta) - learning_rate * h))

    With s = 1 + beta - learning_rate * h the stationary v = Var w_k and u = Cov(w_k, w_{k-1}) obey
    (1 + beta) * u = s * v and v = s**2 * v - 2 * s * beta * u + beta**2 * v + learning_rate**2 * c; the
    quotient of v by :func:`sgd_variance` is the factor. For a small ``learning_rate * h`` it is
    1 / (1 - beta), what SGD has at 1 / (1 - beta) times the learning rate, and it falls from there:
    :func:`momentum_variance_bound` is at least 1 + beta times as large. NaN where SGD is not stable, and
    there is nothing to compare with.
    Source: Zhang et al. 2019, arXiv:1907.04164.

    Raises:
        PureSGDError: a learning rate or curvature that is not positive, or a momentum outside [0, 1).

    Example:
        >>> import pure_sgd as ps
        >>> ps.theory.momentum_variance_factor(0.1, 0.9, 0.01)  # the bound says 19
        tensor(9.9976, dtype=torch.float64)
    """
    where = "momentum_variance_factor"
    rate, h = positive(where, learning_rate=learning_rate, curvature=curvature)
    (beta,) = decays(where, momentum=momentum)
    x = rate * h
    factor = (1 + beta) * (2 - x) / ((1 - beta) * (2 * (1 + beta) - x))
    return torch.where(x < 2, factor, torch.nan)


@typed
def momentum_variance_bound(momentum: Numbers) -> torch.Tensor:
    """The factor that is often quoted for the variance of momentum: an upper bound.

        bound = (1 + beta) / (1 - beta) >= momentum_variance_factor

    The stationary variance is bound * learning_rate * c / (h * (2 * (1 + beta) - learning_rate * h)). That of
    SGD has 2 - learning_rate * h in the denominator: this changes, too, and makes the quotient of the two
    smaller than the bound by (2 - learning_rate * h) / (2 * (1 + beta) - learning_rate * h). The bound is
    reached without momentum only; it is too large by at least 1 + beta: for beta = 0.9 it says 19 in place of
    10.
    Source: Zhang et al. 2019, arXiv:1907.04164.

    Raises:
        PureSGDError: a momentum outside [0, 1).

    Example:
        >>> import pure_sgd as ps
        >>> ps.theory.momentum_variance_bound(0.9)
        tensor(19., dtype=torch.float64)
    """
    (beta,) = decays("momentum_variance_bound", momentum=momentum)
    return (1 + beta) / (1 - beta)
