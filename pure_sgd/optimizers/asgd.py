"""Averaged stochastic gradient descent."""

from __future__ import annotations

from typing import Any

from ..arguments import factory
from ..transforms import (
    GradientTransformation,
    Hyperparameter,
    add_decayed_weights,
    chain,
    scale_by_asgd,
)

__all__ = ["asgd"]


@factory
def asgd(
    learning_rate: Hyperparameter,
    lambd: Hyperparameter = 1e-4,
    alpha: Hyperparameter = 0.75,
    t0: int = 1_000_000,
    *,
    weight_decay: Hyperparameter | None = None,
    mask: Any = None,
) -> GradientTransformation:
    """Averaged SGD: :func:`scale_by_asgd`, with the gradient of a penalty where asked for.

    ``torch.optim.ASGD``; :func:`eval_params` returns its ``ax``. ``mask`` picks the leaves that decay by
    ``weight_decay``; ``lambd`` shrinks all of them. Source: Polyak and Juditsky 1992, doi:10.1137/0330046.

    Raises:
        PureSGDError: as :func:`scale_by_asgd`, and for a negative weight decay.

    Example:
        >>> import pure_sgd as ps
        >>> ps.asgd(0.1, t0=1000, weight_decay=1e-4)
        chain(add_decayed_weights(0.0001), scale_by_asgd(0.1, t0=1000))
    """
    decay = () if weight_decay is None else (add_decayed_weights(weight_decay, mask),)
    return chain(*decay, scale_by_asgd(learning_rate, lambd, alpha, t0))
