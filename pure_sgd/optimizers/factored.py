"""Adaptive optimizers in little memory: Adafactor and SM3."""

from __future__ import annotations

from typing import Any

from ..arguments import factory
from ..transforms import (
    GradientTransformation,
    Hyperparameter,
    add_decayed_weights,
    chain,
    clip_by_block_rms,
    ema,
    scale,
    scale_by_factored_rms,
    scale_by_learning_rate,
    scale_by_param_block_rms,
    scale_by_sm3,
)

__all__ = ["adafactor", "sm3"]


@factory
def adafactor(
    learning_rate: Hyperparameter | None = None,
    min_dim_size_to_factor: int = 128,
    decay_rate: Hyperparameter = 0.8,
    decay_offset: int = 0,
    multiply_by_parameter_scale: bool = True,
    clipping_threshold: Hyperparameter | None = 1.0,
    momentum: Hyperparameter | None = None,
    dtype_momentum: Any = None,
    weight_decay_rate: Hyperparameter | None = None,
    eps: Hyperparameter = 1e-30,
    factored: bool = True,
    weight_decay_mask: Any = None,
) -> GradientTransformation:
    """Adafactor: divide by a factored root mean square, clip, and scale by the size of each leaf.

        u      = clip_by_block_rms(grads / sqrt(v)) * learning_rate * max(rms(params), 1e-3)
        params = params - ema(u) - weight_decay_rate * params

    ``v`` is that of :func:`scale_by_factored_rms`. The decay is not multiplied by the learning rate, and
    momentum has at least float32 (Optax: float32), or ``dtype_momentum``.

    ``torch.optim.Adafactor(lr)`` has, for leaves of at most two axes, the rule of a learning rate that is
    the schedule ``min(lr, (step + 1)**-0.5)``, with ``min_dim_size_to_factor=1`` and
    ``weight_decay_rate=lr * weight_decay``. It bounds ``v`` from below where here ``eps`` is added to the
    squares, and of leaves with more axes factors the last two instead of the longest two.
    Source: Shazeer and Stern 2018, arXiv:1804.04235.

    Raises:
        PureSGDError: a negative learning rate or decay, a ``clipping_threshold`` or ``eps`` that is not
            positive, or ``momentum`` outside [0, 1).

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx, params = ps.adafactor(0.1), torch.tensor([2.0, -2.0])
        >>> tx.update(torch.tensor([5.0, 0.3]), tx.init(params), params)[0]
        tensor([-0.2000, -0.2000])
    """
    threshold, decay = clipping_threshold, weight_decay_rate
    return chain(
        scale_by_factored_rms(factored, decay_rate, decay_offset, min_dim_size_to_factor, eps),
        *(() if threshold is None else (clip_by_block_rms(threshold),)),
        *(() if learning_rate is None else (scale_by_learning_rate(learning_rate, flip_sign=False),)),
        *((scale_by_param_block_rms(),) if multiply_by_parameter_scale else ()),
        *(() if momentum is None else (ema(momentum, debias=False, accumulator_dtype=dtype_momentum),)),
        *(() if decay is None else (add_decayed_weights(decay, weight_decay_mask),)),
        scale(-1.0),
    )


@factory
def sm3(learning_rate: Hyperparameter, momentum: Hyperparameter = 0.9) -> GradientTransformation:
    """SM3: Adagrad with one number for each row and column, and momentum.

    Source: Anil et al. 2019, arXiv:1901.11150.

    Raises:
        PureSGDError: a negative learning rate, or ``momentum`` outside [0, 1).

    Example:
        >>> import pure_sgd as ps
        >>> ps.sm3(0.1)
        chain(scale_by_sm3(), scale_by_learning_rate(0.1))
    """
    return chain(scale_by_sm3(momentum), scale_by_learning_rate(learning_rate))
