"""Optimizers whose learning rate does not decay, because the parameters are averaged."""

from __future__ import annotations

import torch

from ..arguments import factory
from ..schedules import warmup_constant_schedule
from ..transforms import (
    GradientTransformation,
    Hyperparameter,
    add_decayed_weights,
    chain,
    scale_by_learning_rate,
    scale_by_rms,
    schedule_free,
)

__all__ = ["schedule_free_adamw", "schedule_free_sgd"]


@factory
def schedule_free_sgd(
    learning_rate: Hyperparameter = 1.0,
    warmup_steps: int | None = None,
    b1: Hyperparameter = 0.9,
    weight_decay: Hyperparameter | None = None,
    weight_lr_power: Hyperparameter = 2.0,
    state_dtype: torch.dtype | None = None,
) -> GradientTransformation:
    """Schedule-free SGD: :func:`schedule_free` around a plain step.

    With ``warmup_steps`` the rate rises from 0 to ``learning_rate``, which then is no schedule. Evaluate
    with :func:`eval_params`. Source: Defazio et al. 2024, arXiv:2405.15682.

    Raises:
        PureSGDError: as :func:`schedule_free`, for a negative weight decay, or a negative ``warmup_steps``.

    Example:
        >>> import pure_sgd as ps
        >>> ps.schedule_free_sgd(0.5)
        schedule_free(chain(scale_by_learning_rate(0.5)), 0.5)
    """
    rate = _warmed_up(learning_rate, warmup_steps)
    decay = () if weight_decay is None else (add_decayed_weights(weight_decay),)
    base = chain(*decay, scale_by_learning_rate(rate))
    return schedule_free(base, rate, b1, weight_lr_power, state_dtype)


@factory
def schedule_free_adamw(
    learning_rate: Hyperparameter = 0.0025,
    warmup_steps: int | None = None,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0.0,
    weight_lr_power: Hyperparameter = 2.0,
    state_dtype: torch.dtype | None = None,
) -> GradientTransformation:
    """Schedule-free AdamW: :func:`schedule_free` around Adam without momentum.

    With ``warmup_steps`` the rate rises from 0 to ``learning_rate``, which then is no schedule. Evaluate
    with :func:`eval_params`. Source: Defazio et al. 2024, arXiv:2405.15682.

    Raises:
        PureSGDError: as :func:`schedule_free`, for a negative ``eps`` or weight decay, ``b2`` outside its
            range, or a negative ``warmup_steps``.

    Example:
        >>> import pure_sgd as ps
        >>> ps.schedule_free_adamw(0.01, weight_decay=0.1).init({}).weight_sum
        tensor(0., dtype=torch.float64)
    """
    rate = _warmed_up(learning_rate, warmup_steps)
    base = chain(
        scale_by_rms(b2, eps, eps_in_sqrt=False, bias_correction=True),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(rate),
    )
    return schedule_free(base, rate, b1, weight_lr_power, state_dtype)


def _warmed_up(learning_rate: Hyperparameter, warmup_steps: int | None) -> Hyperparameter:
    return (
        learning_rate if warmup_steps is None else warmup_constant_schedule(0.0, learning_rate, warmup_steps)
    )
