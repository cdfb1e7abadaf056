"""Adam with gradients of lower variance: MARS."""

from __future__ import annotations

from typing import Any

from ..arguments import factory
from ..transforms import (
    GradientTransformation,
    Hyperparameter,
    add_decayed_weights,
    chain,
    scale_by_learning_rate,
    scale_by_mars,
)

__all__ = ["mars"]


@factory
def mars(
    learning_rate: Hyperparameter,
    b1: Hyperparameter = 0.95,
    b2: Hyperparameter = 0.99,
    gamma: Hyperparameter = 0.025,
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0.0,
    mask: Any = None,
) -> GradientTransformation:
    """MARS-AdamW: :func:`scale_by_mars`, decoupled weight decay, the learning rate.

    The approximate rule, which needs no second gradient. Source: Yuan et al. 2024, arXiv:2411.10438.

    Raises:
        PureSGDError: as :func:`scale_by_mars`, and for a negative learning rate or weight decay.

    Example:
        >>> import pure_sgd as ps
        >>> ps.mars(3e-3, weight_decay=0.01)
        chain(scale_by_mars(), add_decayed_weights(0.01), scale_by_learning_rate(0.003))
    """
    return chain(
        scale_by_mars(b1, b2, gamma, eps),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
