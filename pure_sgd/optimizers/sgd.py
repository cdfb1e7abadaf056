"""Stochastic gradient descent and its classical variants."""

from __future__ import annotations

from typing import Any

import torch

from ..arguments import factory
from ..errors import PureSGDError
from ..transforms import (
    GradientTransformation,
    Hyperparameter,
    add_decayed_weights,
    chain,
    scale_by_learning_rate,
    trace,
)

__all__ = ["sgd"]


@factory
def sgd(
    learning_rate: Hyperparameter,
    momentum: Hyperparameter | None = None,
    nesterov: bool = False,
    accumulator_dtype: Any = None,
    *,
    dampening: Hyperparameter = 0.0,
    weight_decay: Hyperparameter | None = None,
    mask: Any = None,
) -> GradientTransformation:
    """Stochastic gradient descent, with momentum and weight decay where asked for.

        g      = grads + weight_decay * params
        m      = momentum * m + (1 - dampening) * g
        params = params - learning_rate * m          (g + momentum * m with nesterov)

    The rule of ``torch.optim.SGD``; without ``momentum`` there is no m. ``mask`` picks the leaves that
    decay. Sources: Robbins and Monro 1951, doi:10.1214/aoms/1177729586; Polyak 1964,
    doi:10.1016/0041-5553(64)90137-5.

    Raises:
        PureSGDError: a negative learning rate or weight decay, momentum outside [0, 1), or an option of
            momentum without it.

    Example:
        >>> import pure_sgd as ps
        >>> ps.sgd(0.1, momentum=0.9, weight_decay=1e-4)
        chain(add_decayed_weights(0.0001), trace(0.9), scale_by_learning_rate(0.1))
    """
    if momentum is None and (nesterov or isinstance(dampening, torch.Tensor) or dampening):
        raise PureSGDError(
            "sgd", f"nesterov={nesterov} and dampening={dampening} without momentum", "Pass momentum=0.9, say"
        )
    decay = () if weight_decay is None else (add_decayed_weights(weight_decay, mask),)
    memory = () if momentum is None else (trace(momentum, nesterov, accumulator_dtype, dampening=dampening),)
    return chain(*decay, *memory, scale_by_learning_rate(learning_rate))
