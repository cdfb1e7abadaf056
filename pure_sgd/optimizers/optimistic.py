"""Optimizers for games: descent that looks ahead along the change of its gradient."""

from __future__ import annotations

from typing import Any

from ..arguments import factory
from ..errors import check_hyperparameter
from ..transforms import (
    GradientTransformation,
    Hyperparameter,
    chain,
    scale,
    scale_by_adam,
    scale_by_learning_rate,
    scale_by_optimistic_gradient,
)

__all__ = ["optimistic_adam", "optimistic_adam_v2", "optimistic_gradient_descent"]


@factory
def optimistic_gradient_descent(
    learning_rate: Hyperparameter, alpha: Hyperparameter = 1.0, beta: Hyperparameter = 1.0
) -> GradientTransformation:
    """Optimistic gradient descent, which converges where descent and ascent circle around each other.

        params = params - learning_rate * ((alpha + beta) * grads - beta * previous grads)

    Source: Mokhtari et al. 2020, arXiv:1901.08511.

    Raises:
        PureSGDError: a negative learning rate.

    Example:
        >>> import pure_sgd as ps
        >>> ps.optimistic_gradient_descent(0.1)
        chain(scale_by_optimistic_gradient(), scale_by_learning_rate(0.1))
    """
    return chain(scale_by_optimistic_gradient(alpha, beta), scale_by_learning_rate(learning_rate))


@factory
def optimistic_adam(
    learning_rate: Hyperparameter,
    optimism: Hyperparameter | None = None,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-8,
    eps_root: Hyperparameter = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
) -> GradientTransformation:
    """Optimistic Adam with a rate of its own for the optimism, in place of a share of the learning rate.

        params = params - learning_rate * adam - optimism * (adam - previous adam)

    ``optimism`` is ``learning_rate`` where it is not given, as in the paper. Optax has deprecated its own,
    which takes no schedule, for :func:`optimistic_adam_v2`; both rates of this one may be schedules.
    Source: Daskalakis et al. 2018, arXiv:1711.00141.

    Raises:
        PureSGDError: as :func:`adam`, and for a negative ``optimism``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.optimistic_adam(0.1, 1.0, nesterov=False)
        >>> tx.update(torch.tensor([2.0, -0.5]), tx.init(torch.zeros(2)))[0]
        tensor([-0.1000,  0.1000])
    """
    optimism = learning_rate if optimism is None else optimism
    check_hyperparameter("optimistic_adam", "learning_rate", learning_rate, low=0)
    check_hyperparameter("optimistic_adam", "optimism", optimism, low=0)
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        scale_by_optimistic_gradient(learning_rate, optimism),
        scale(-1.0),
    )


@factory
def optimistic_adam_v2(
    learning_rate: Hyperparameter,
    *,
    alpha: Hyperparameter = 1.0,
    beta: Hyperparameter = 1.0,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-8,
    eps_root: Hyperparameter = 0.0,
    mu_dtype: Any = None,
    nesterov: bool = True,
) -> GradientTransformation:
    """Optimistic Adam: Adam with Nesterov's momentum, then :func:`scale_by_optimistic_gradient`.

    Source: Daskalakis et al. 2018, arXiv:1711.00141.

    Raises:
        PureSGDError: as :func:`adam`.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.optimistic_adam_v2(0.1, nesterov=False)
        >>> tx.update(torch.tensor([2.0, -0.5]), tx.init(torch.zeros(2)))[0]
        tensor([-0.1000,  0.1000])
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        scale_by_optimistic_gradient(alpha, beta),
        scale_by_learning_rate(learning_rate),
    )
