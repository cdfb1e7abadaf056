"""Descent that hides every single example."""

from __future__ import annotations

import torch

from ..arguments import factory
from ..transforms import (
    GradientTransformation,
    Hyperparameter,
    chain,
    differentially_private_aggregate,
    scale_by_learning_rate,
    trace,
)

__all__ = ["dpsgd"]


@factory
def dpsgd(
    learning_rate: Hyperparameter,
    l2_norm_clip: Hyperparameter,
    noise_multiplier: Hyperparameter,
    key: int | torch.Tensor | None = None,
    momentum: Hyperparameter | None = None,
    nesterov: bool = False,
    *,
    seed: int | None = None,
) -> GradientTransformation:
    """DP-SGD: SGD on the noisy mean of clipped per-example gradients, with momentum where asked for.

    Updates come in with a leading axis of examples, as :func:`per_example_grads` gives them. ``key`` is a key
    of :mod:`pure_sgd.random` or a seed, which may also be given as ``seed``.
    Source: Abadi et al. 2016, arXiv:1607.00133.

    Raises:
        PureSGDError: a negative learning rate, ``momentum`` outside [0, 1), and as
            :func:`differentially_private_aggregate`.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx, params = ps.dpsgd(1.0, 1.0, 0.0, key=42), torch.zeros(2)
        >>> grads = ps.per_example_grads(lambda params, x: x @ params)
        >>> per_example = grads(params, (torch.tensor([[3.0, 4.0], [0.0, 1.0]]),))
        >>> tx.update(per_example, tx.init(params), params)[0]
        tensor([-0.3000, -0.9000])
    """
    memory = () if momentum is None else (trace(momentum, nesterov),)
    return chain(
        differentially_private_aggregate(l2_norm_clip, noise_multiplier, key, seed=seed),
        *memory,
        scale_by_learning_rate(learning_rate),
    )
