"""Dual averaging with momentum: MADGRAD."""

from __future__ import annotations

from ..arguments import factory
from ..transforms import (
    GradientTransformation,
    Hyperparameter,
    add_decayed_weights,
    chain,
    scale_by_madgrad,
)

__all__ = ["madgrad"]


@factory
def madgrad(
    learning_rate: Hyperparameter,
    momentum: Hyperparameter = 0.9,
    weight_decay: Hyperparameter = 0.0,
    eps: Hyperparameter = 1e-6,
) -> GradientTransformation:
    """MADGRAD: weight decay as the gradient of a penalty, then :func:`scale_by_madgrad`.

    The learning rate is inside of the rule, since old updates keep the rate they came with.
    Source: Defazio and Jelassi 2021, arXiv:2101.11075.

    Raises:
        PureSGDError: a negative learning rate, eps or weight decay, or ``momentum`` outside [0, 1).

    Example:
        >>> import pure_sgd as ps
        >>> ps.madgrad(1e-2, weight_decay=1e-4)
        chain(add_decayed_weights(0.0001), scale_by_madgrad(0.01))
    """
    return chain(add_decayed_weights(weight_decay), scale_by_madgrad(learning_rate, momentum, eps))
