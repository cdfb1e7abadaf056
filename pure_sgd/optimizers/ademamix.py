"""Adam with a slow second memory: AdEMAMix."""

from __future__ import annotations

from typing import Any

from ..arguments import factory
from ..transforms import (
    GradientTransformation,
    Hyperparameter,
    add_decayed_weights,
    chain,
    scale_by_ademamix,
    scale_by_learning_rate,
    scale_by_simplified_ademamix,
)

__all__ = ["ademamix", "simplified_ademamix"]


@factory
def ademamix(
    learning_rate: Hyperparameter,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    b3: Hyperparameter = 0.9999,
    alpha: Hyperparameter = 5.0,
    eps: Hyperparameter = 1e-8,
    eps_root: Hyperparameter = 0.0,
    mu_dtype: Any = None,
    weight_decay: Hyperparameter = 0.0,
    mask: Any = None,
) -> GradientTransformation:
    """AdEMAMix: :func:`scale_by_ademamix`, decoupled weight decay, the learning rate.

    As in Optax, ``alpha`` is 5 here and 6 in the transform. In the paper ``alpha`` and ``b3`` grow over the
    run: both may be schedules. Source: Pagliardini, Ablin and Grangier 2024, arXiv:2409.03137.

    Raises:
        PureSGDError: a negative learning rate, alpha, eps or weight decay, or ``b1``, ``b2`` or ``b3``
            outside [0, 1).

    Example:
        >>> import pure_sgd as ps
        >>> ps.ademamix(1e-3, alpha=ps.linear_schedule(0.0, 5.0, 300))
        chain(scale_by_ademamix(alpha=linear_schedule(0.0, 5.0, 300)), add_decayed_weights(), \
scale_by_learning_rate(0.001))
    """
    return chain(
        scale_by_ademamix(b1, b2, b3, alpha, eps, eps_root, mu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@factory
def simplified_ademamix(
    learning_rate: Hyperparameter,
    b1: Hyperparameter = 0.99,
    b2: Hyperparameter = 0.95,
    alpha: Hyperparameter = 0.0,
    eps: Hyperparameter = 1e-8,
    eps_root: Hyperparameter = 0.0,
    weight_decay: Hyperparameter = 0.0,
    mask: Any = None,
) -> GradientTransformation:
    """AdEMAMix with one memory: :func:`scale_by_simplified_ademamix`, weight decay, the learning rate.

    Source: Morwani et al. 2025, arXiv:2502.02431.

    Raises:
        PureSGDError: a negative learning rate, eps or weight decay, or ``b1``, ``b2`` outside [0, 1).

    Example:
        >>> import pure_sgd as ps
        >>> ps.simplified_ademamix(1e-5, alpha=100.0)
        chain(scale_by_simplified_ademamix(alpha=100.0), add_decayed_weights(), scale_by_learning_rate(1e-05))
    """
    return chain(
        scale_by_simplified_ademamix(b1, b2, alpha, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
