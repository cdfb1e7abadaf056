"""Adam that converges for any decay of its second moment: ADOPT."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arguments import factory
from ..transforms import (
    GradientTransformation,
    Hyperparameter,
    chain,
    scale_by_adopt,
    scale_by_learning_rate,
)

__all__ = ["adopt"]


@factory
def adopt(
    learning_rate: Hyperparameter,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.9999,
    eps: Hyperparameter = 1e-6,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: Callable[[Any], Any] | None = None,
) -> GradientTransformation:
    """ADOPT: :func:`scale_by_adopt`, then the learning rate; the first step moves nothing.

    Source: Taniguchi et al. 2024, arXiv:2411.02853.

    Raises:
        PureSGDError: as :func:`scale_by_adopt`, and for a negative learning rate.

    Example:
        >>> import pure_sgd as ps
        >>> ps.adopt(1e-3)
        chain(scale_by_adopt(), scale_by_learning_rate(0.001))
    """
    rule = scale_by_adopt(
        b1, b2, eps, mu_dtype, nesterov=nesterov, use_clipping=use_clipping, clip_value_fn=clip_value_fn
    )
    return chain(rule, scale_by_learning_rate(learning_rate))
