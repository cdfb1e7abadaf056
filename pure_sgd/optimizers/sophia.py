"""Sophia."""

from __future__ import annotations

from typing import Any

import torch

from ..arguments import factory
from ..transforms import (
    GradientTransformation,
    Hyperparameter,
    add_decayed_weights,
    chain,
    scale_by_learning_rate,
    scale_by_sophia,
)

__all__ = ["sophia"]


@factory
def sophia(
    learning_rate: Hyperparameter,
    b1: Hyperparameter = 0.965,
    b2: Hyperparameter = 0.99,
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 1e-4,
    weight_decay_mask: Any = None,
    gamma: Hyperparameter = 0.01,
    clip_threshold: Hyperparameter | None = 1.0,
    update_interval: int = 10,
    hessian_diagonal_fn: GradientTransformation | None = None,
    mu_dtype: torch.dtype | None = None,
) -> GradientTransformation:
    """Sophia: momentum over the Hessian's diagonal, cut off entry by entry, with decoupled weight decay.

    ``update`` needs what ``hessian_diagonal_fn`` reads: with Hutchinson's estimator, which is the default,
    ``value_fn(params)``, the loss on this batch (``obj_fn`` in Optax). The curvature is estimated every
    ``update_interval`` steps. ``gamma`` is to be such that a tenth to a half of the entries are not cut off.
    Source: Liu et al. 2023, arXiv:2305.14342.

    Raises:
        PureSGDError: a negative learning rate or weight decay, and as :func:`scale_by_sophia`.

    Example:
        >>> import pure_sgd as ps
        >>> ps.sophia(1e-3, update_interval=5)
        chain(scale_by_sophia(update_interval=5), add_decayed_weights(0.0001), scale_by_learning_rate(0.001))
    """
    return chain(
        scale_by_sophia(b1, b2, eps, gamma, clip_threshold, update_interval, hessian_diagonal_fn, mu_dtype),
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_learning_rate(learning_rate),
    )
