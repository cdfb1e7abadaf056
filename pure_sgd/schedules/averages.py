"""Schedules of the decay of an average: it forgets its beginning first, and then less and less."""

from __future__ import annotations

import torch

from ..errors import check_hyperparameter
from ..recipe import recorded
from .schedule import Number, Schedule, check_constants

__all__ = ["ema_warmup_schedule", "power_ema_schedule"]


@recorded
def ema_warmup_schedule(decay: Number) -> Schedule:
    """The decay of an average that is warmed up: from 0.1 to ``decay``.

        value = min(decay, (1 + step) / (10 + step))

    For :func:`params_ema`: it remembers about the last ninth of the updates so far, until that are
    ``1 / (1 - decay)`` of them. The rule of ``tf.train.ExponentialMovingAverage(decay, num_updates=step)``;
    for :func:`power_ema_schedule` that part of the run has no end.

    Raises:
        PureSGDError: ``decay`` outside [0, 1), or no number and no 0-d tensor.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.ema_warmup_schedule(0.9)(torch.tensor([0, 8, 1000]))
        tensor([0.1000, 0.5000, 0.9000], dtype=torch.float64)
        >>> ps.params_ema(ps.ema_warmup_schedule(0.999))
        params_ema(ema_warmup_schedule(0.999))
    """
    check_constants("ema_warmup_schedule", decay=decay)
    check_hyperparameter("ema_warmup_schedule", "decay", decay, low=0, high=1, open_high=True)

    def schedule(step: torch.Tensor) -> torch.Tensor:
        warmed = (1 + step) / (10 + step)
        return torch.minimum(warmed, torch.zeros_like(step) + decay)

    return Schedule(schedule)


@recorded
def power_ema_schedule(gamma: Number) -> Schedule:
    """The decay of a power-function average, which remembers a fixed part of the run, however long.

        value = (1 - 1 / t)**(gamma + 1)        t = step + 1

    With it :func:`params_ema` weighs the parameters after update k as ``k**gamma``, nearly: ``gamma=0`` is
    the uniform average of all of them, and the larger, the shorter its memory. The relative width of these
    weights, the paper's ``sigma_rel``, is ``sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2)``: 0.1 for a
    ``gamma`` of 6.94 and 0.05 for 16.97. Source: Karras et al. 2024, arXiv:2312.02696.

    Raises:
        PureSGDError: a negative ``gamma``, or one that is no number and no 0-d tensor.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.power_ema_schedule(1.0)(torch.arange(4))
        tensor([0.0000, 0.2500, 0.4444, 0.5625], dtype=torch.float64)
    """
    check_constants("power_ema_schedule", gamma=gamma)
    check_hyperparameter("power_ema_schedule", "gamma", gamma, low=0)
    return Schedule(lambda step: (step / (step + 1)) ** (gamma + 1))
