"""Adam and its relatives."""

from __future__ import annotations

from typing import Any

from ..arguments import factory
from ..transforms import (
    GradientTransformation,
    Hyperparameter,
    add_decayed_weights,
    chain,
    scale_by_adam,
    scale_by_learning_rate,
)

__all__ = ["adam", "adamw"]


@factory
def adam(
    learning_rate: Hyperparameter,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-8,
    eps_root: Hyperparameter = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    """Adam: :func:`scale_by_adam`, then the learning rate.

    The rule of ``torch.optim.Adam``. Source: Kingma and Ba 2015, arXiv:1412.6980.

    Raises:
        PureSGDError: a negative learning rate or eps, or ``b1``, ``b2`` outside [0, 1).

    Example:
        >>> import pure_sgd as ps
        >>> ps.adam(1e-3)
        chain(scale_by_adam(), scale_by_learning_rate(0.001))
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        scale_by_learning_rate(learning_rate),
    )


@factory
def adamw(
    learning_rate: Hyperparameter,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-8,
    eps_root: Hyperparameter = 0.0,
    mu_dtype: Any = None,
    weight_decay: Hyperparameter = 1e-4,
    mask: Any = None,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    """Adam with decoupled weight decay on the leaves that ``mask`` picks.

        params = params - learning_rate * (adam + weight_decay * params)

    The rule of ``torch.optim.AdamW``, whose default decay is 1e-2.
    Source: Loshchilov and Hutter 2019, arXiv:1711.05101.

    Raises:
        PureSGDError: as :func:`adam`, and for a negative weight decay.

    Example:
        >>> import pure_sgd as ps
        >>> ps.adamw(1e-3, weight_decay=0.01)
        chain(scale_by_adam(), add_decayed_weights(0.01), scale_by_learning_rate(0.001))
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
