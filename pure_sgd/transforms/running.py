"""Running averages of updates and of their squares: what the adaptive rules are made of."""

from __future__ import annotations

import math
from typing import Any

import torch

from .. import tree
from ..errors import check_hyperparameter
from ..schedules import as_real
from .contract import Params, Updates


def bias_correction(decay: float | torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The weight ``1 - decay**t`` that ``t`` steps of an exponential average have gathered, shape ``()``."""
    # In float64: 1 - 0.999**1 keeps four digits in float32.
    if isinstance(decay, torch.Tensor) or decay == 0:
        return 1 - decay ** as_real(t)
    # Inductor computes an exp that several leaves read once, but a power again for every vector of a leaf.
    return 1 - torch.exp(math.log(decay) * as_real(t))


def mean(decay: Any, moment: Updates, updates: Updates) -> Updates:
    """The exponential average ``decay * moment + (1 - decay) * updates``, in the dtypes of ``moment``."""
    return tree.elementwise(
        lambda m, u: (decay * m + (1 - decay) * tree.widened(u)).to(m.dtype), moment, updates
    )


def mean_of_squares(decay: Any, moment: Updates, updates: Updates) -> Updates:
    """The exponential average of ``|updates|**2``, in the dtypes of ``moment``."""
    return tree.elementwise(lambda v, u: (decay * v + (1 - decay) * squared(u)).to(v.dtype), moment, updates)


def corrected_mean(
    b1: Any, t: torch.Tensor, moment: Updates, updates: Updates, nesterov: bool = False
) -> Updates:
    """``moment / (1 - b1**t)``, or with ``nesterov`` Dozat's look one step ahead."""
    if not nesterov:
        return tree.map(lambda m: m / bias_correction(b1, t), moment)
    return tree.map(
        lambda m, u: (
            b1 * m / bias_correction(b1, t + 1) + (1 - b1) * tree.widened(u) / bias_correction(b1, t)
        ),
        moment,
        updates,
    )


def squared(u: torch.Tensor) -> torch.Tensor:
    """``|u|**2``, real, in at least float32."""
    u = tree.widened(u)
    return (u * u.conj()).real if u.is_complex() else u * u


def root(x: torch.Tensor) -> torch.Tensor:
    """``sqrt(x)``, and 0 with slope 0 for what round-off made negative."""
    positive = ~(x <= 0)  # so that NaN stays NaN
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)


def real_zeros(params: Params) -> Updates:
    """Zeros for second moments: real, in at least float32."""
    return tree.map(lambda p: torch.zeros_like(p.real, dtype=tree.wide(p.real.dtype)), params)


def filled(params: Params, value: Any) -> Updates:
    """Second moments of ``value`` everywhere: real, in at least float32."""
    # By addition, because a mapped tensor cannot fill.
    return tree.map(lambda zero: (zero + value).to(zero.dtype), real_zeros(params))


def check_decays(where: str, **decays: Any) -> None:
    """Check that each decay of an average is a number in [0, 1), or a tensor or schedule."""
    for name, value in decays.items():
        check_hyperparameter(where, name, value, low=0, high=1, open_high=True)


def check_offsets(where: str, **offsets: Any) -> None:
    """Check that each hyperparameter is a number of at least 0, or a tensor or schedule."""
    for name, value in offsets.items():
        check_hyperparameter(where, name, value, low=0)
