"""Gradient descent whose step size follows from the value of the objective."""

from __future__ import annotations

from ..arguments import factory
from ..transforms import (
    GradientTransformation,
    Hyperparameter,
    chain,
    scale_by_learning_rate,
    scale_by_polyak,
)

__all__ = ["polyak_sgd"]


@factory
def polyak_sgd(
    max_learning_rate: Hyperparameter = 1.0,
    scaling: Hyperparameter = 1.0,
    f_min: Hyperparameter = 0.0,
    eps: Hyperparameter = 0.0,
    variant: str = "sps",
) -> GradientTransformation:
    """Stochastic gradient descent with Polyak's step size, times ``scaling``.

        params = params - scaling * min((value - f_min) / (|grads|**2 + eps), max_learning_rate) * grads

    ``update`` needs the extra argument ``value``, the objective at ``params``. The norm is that of the
    gradient: in Optax it is that of the scaled one, and ``scaling=2`` halves the step.
    Source: Loizou et al. 2021, arXiv:2002.10542.

    Raises:
        PureSGDError: as :func:`scale_by_polyak`, and for a negative ``scaling``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx, params = ps.polyak_sgd(), torch.tensor([1.0, 2.0, 3.0])
        >>> updates, state = tx.update(2 * params, tx.init(params), params, value=(params**2).sum())
        >>> ps.apply_updates(params, updates)
        tensor([0.5000, 1.0000, 1.5000])
    """
    return chain(
        scale_by_polyak(f_min, max_learning_rate, eps, variant),
        scale_by_learning_rate(scaling),
    )
