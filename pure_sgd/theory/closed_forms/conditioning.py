"""Conditioning: gradients divided by a power of the curvature, and weight decay, which adds to it."""

from __future__ import annotations

import torch

from ...arguments import typed
from .descent import sgd_variance
from .numbers import Numbers, not_negative, positive, within

__all__ = [
    "preconditioned_convergence_rate",
    "preconditioned_variance_factor",
    "weight_decay_condition_number",
    "weight_decay_optimum",
]


@typed
def preconditioned_convergence_rate(
    learning_rate: Numbers, power: Numbers, curvature: Numbers
) -> torch.Tensor:
    """What a step of SGD on gradients divided by ``h**power`` multiplies the expected error by.

        rate = |1 - learning_rate * h**(1 - power)|

    It is SGD with a learning rate ``learning_rate * h**(-power)`` of its own in each direction. With power 1
    all directions have one rate.
    Source: Zhang et al. 2019, arXiv:1907.04164.

    Raises:
        PureSGDError: a learning rate or curvature that is not positive, or a power outside [0, 1].

    Example:
        >>> import pure_sgd as ps
        >>> ps.theory.preconditioned_convergence_rate(0.1, 0.5, 0.25)
        tensor(0.9500, dtype=torch.float64)
    """
    where = "preconditioned_convergence_rate"
    rate, h = positive(where, learning_rate=learning_rate, curvature=curvature)
    (p,) = within(where, {"low": 0, "high": 1}, power=power)
    return (1 - rate * h ** (1 - p)).abs()


@typed
def preconditioned_variance_factor(
    learning_rate: Numbers, power: Numbers, curvature: Numbers
) -> torch.Tensor:
    """How many times the long-run variance of SGD preconditioning has, at the same learning rate: exactly.

        factor = h**(-power) * (2 - learning_rate * h) / (2 - learning_rate * h**(1 - power))

    It is :func:`sgd_variance` at the learning rate ``learning_rate * h**(-power)`` over that at
    ``learning_rate``; for a small learning rate h**(-power). Infinite where preconditioning alone is not
    stable, NaN where SGD is not.
    Source: Zhang et al. 2019, arXiv:1907.04164.

    Raises:
        PureSGDError: a learning rate or curvature that is not positive, or a power outside [0, 1].

    Example:
        >>> import pure_sgd as ps
        >>> ps.theory.preconditioned_variance_factor(0.1, 1.0, 0.01)
        tensor(105.2105, dtype=torch.float64)
    """
    where = "preconditioned_variance_factor"
    rate, h = positive(where, learning_rate=learning_rate, curvature=curvature)
    (p,) = within(where, {"low": 0, "high": 1}, power=power)
    own = sgd_variance(rate * h ** (-p), h, 1.0)
    return own / torch.where(rate * h < 2, sgd_variance(rate, h, 1.0), torch.nan)


@typed
def weight_decay_condition_number(curvature: Numbers, weight_decay: Numbers) -> torch.Tensor:
    """The condition number that weight decay leaves.

        condition_number = (h_max + weight_decay) / (h_min + weight_decay)

    The penalty weight_decay / 2 * |w|**2 adds ``weight_decay`` to the curvature of every direction.
    ``curvature`` is a tensor (n,) of all of them.

    Raises:
        PureSGDError: a curvature that is not positive, or negative weight decay.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.theory.weight_decay_condition_number(torch.tensor([1.0, 0.01]), 0.1)
        tensor(10., dtype=torch.float64)
    """
    where = "weight_decay_condition_number"
    (h,) = positive(where, curvature=curvature)
    (decay,) = not_negative(where, weight_decay=weight_decay)
    return (h.max() + decay) / (h.min() + decay)


@typed
def weight_decay_optimum(curvature: Numbers, weight_decay: Numbers, optimum: Numbers) -> torch.Tensor:
    """Where weight decay moves the optimum: towards 0, the more the flatter the direction.

        h / 2 * (w - optimum)**2 + weight_decay / 2 * w**2    is least at    h / (h + weight_decay) * optimum

    The shift costs the risk h / 2 * (weight_decay / (h + weight_decay) * optimum)**2.

    Raises:
        PureSGDError: a curvature that is not positive, or negative weight decay.

    Example:
        >>> import pure_sgd as ps
        >>> ps.theory.weight_decay_optimum(1.0, 0.25, optimum=5.0)
        tensor(4., dtype=torch.float64)
    """
    where = "weight_decay_optimum"
    (h,) = positive(where, curvature=curvature)
    (decay,) = not_negative(where, weight_decay=weight_decay)
    return h / (h + decay) * torch.as_tensor(optimum, dtype=torch.float64)
