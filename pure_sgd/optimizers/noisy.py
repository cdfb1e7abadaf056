"""Descent with noise of its own."""

from __future__ import annotations

import torch

from ..arguments import factory
from ..transforms import (
    GradientTransformation,
    Hyperparameter,
    add_noise,
    chain,
    scale_by_learning_rate,
)

__all__ = ["noisy_sgd"]


@factory
def noisy_sgd(
    learning_rate: Hyperparameter,
    eta: Hyperparameter = 0.01,
    gamma: Hyperparameter = 0.55,
    key: int | torch.Tensor = 0,
    *,
    seed: int | None = None,
) -> GradientTransformation:
    """SGD with Gaussian noise on the gradients, whose variance ``eta / t**gamma`` falls with the step.

    ``key`` is a seed or a key of :mod:`pure_sgd.random`, ``seed`` a seed in its place.
    Source: Neelakantan et al. 2015, arXiv:1511.06807.

    Raises:
        PureSGDError: a negative learning rate, ``eta`` or ``gamma``, or a ``key`` that is neither.

    Example:
        >>> import pure_sgd as ps
        >>> ps.noisy_sgd(0.1, key=42)
        chain(add_noise(0.01, 0.55, 42), scale_by_learning_rate(0.1))
    """
    return chain(add_noise(eta, gamma, key if seed is None else seed), scale_by_learning_rate(learning_rate))
