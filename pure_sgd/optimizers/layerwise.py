"""Optimizers whose every leaf moves in proportion to its own size: LARS, LAMB and Fromage."""

from __future__ import annotations

from typing import Any

from ..arguments import factory
from ..transforms import (
    GradientTransformation,
    Hyperparameter,
    add_decayed_weights,
    chain,
    masked,
    scale_by_adam,
    scale_by_learning_rate,
    scale_by_trust_ratio,
    shrink_by_learning_rate,
    trace,
)

__all__ = ["fromage", "lamb", "lars"]


@factory
def lars(
    learning_rate: Hyperparameter,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Any = True,
    trust_coefficient: Hyperparameter = 0.001,
    eps: Hyperparameter = 0.0,
    trust_ratio_mask: Any = True,
    momentum: Hyperparameter = 0.9,
    nesterov: bool = False,
) -> GradientTransformation:
    """LARS: momentum of gradients that have the size of their parameters, for very large batches.

    The two masks pick the leaves that decay and those that are scaled by :func:`scale_by_trust_ratio`. The
    momentum comes behind the learning rate: what it remembers was scaled by the rates of its time.
    Source: You et al. 2017, arXiv:1708.03888.

    Raises:
        PureSGDError: a negative number, or ``momentum`` outside [0, 1).

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx, params = ps.lars(1.0, trust_coefficient=0.1), torch.tensor([3.0, 4.0])
        >>> tx.update(torch.tensor([0.0, 2.0]), tx.init(params), params)[0]
        tensor([ 0.0000, -0.5000])
    """
    return chain(
        add_decayed_weights(weight_decay, weight_decay_mask),
        masked(scale_by_trust_ratio(trust_coefficient=trust_coefficient, eps=eps), trust_ratio_mask),
        scale_by_learning_rate(learning_rate),
        trace(momentum, nesterov),
    )


@factory
def lamb(
    learning_rate: Hyperparameter,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-6,
    eps_root: Hyperparameter = 0.0,
    weight_decay: Hyperparameter = 0.0,
    mask: Any = None,
) -> GradientTransformation:
    """LAMB: Adam with decoupled decay, every leaf then scaled to the size of its parameters.

    Source: You et al. 2020, arXiv:1904.00962.

    Raises:
        PureSGDError: as :func:`adamw`.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx, params = ps.lamb(0.1), torch.tensor([3.0, 4.0])
        >>> tx.update(torch.tensor([2.0, -0.5]), tx.init(params), params)[0]
        tensor([-0.3536,  0.3536])
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_trust_ratio(),
        scale_by_learning_rate(learning_rate),
    )


@factory
def fromage(learning_rate: Hyperparameter, min_norm: Hyperparameter = 1e-6) -> GradientTransformation:
    """Fromage: every leaf moves by ``learning_rate`` times its own norm, and its norm does not grow.

        params = (params - learning_rate * |params| / |grads| * grads) / sqrt(1 + learning_rate**2)

    Norms are those of one leaf, no smaller than ``min_norm``.
    Source: Bernstein et al. 2020, arXiv:2002.03432.

    Raises:
        PureSGDError: a negative learning rate or ``min_norm``.

    Example:
        >>> import pure_sgd as ps
        >>> ps.fromage(0.01)
        chain(scale_by_trust_ratio(1e-06), scale_by_learning_rate(0.01), shrink_by_learning_rate(0.01))
    """
    return chain(
        scale_by_trust_ratio(min_norm),
        scale_by_learning_rate(learning_rate),
        shrink_by_learning_rate(learning_rate),
    )
