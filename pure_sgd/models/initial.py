"""The first values of weights: normal draws of a given size, and He's rule for that size."""

from __future__ import annotations

import math

import torch

from .. import random, tree

__all__ = ["he_dense", "he_normal", "scaled_normal"]


def scaled_normal(key: torch.Tensor, shape: tuple[int, ...], std: float, dtype: torch.dtype) -> torch.Tensor:
    """Draw normal weights of standard deviation ``std``, in at least float32, cast to ``dtype``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> from pure_sgd.models.initial import scaled_normal
        >>> scaled_normal(ps.random.key(0), (200, 50), 0.02, torch.float32).std() < 0.021
        tensor(True)
    """
    return (random.normal(key, shape, tree.wide(dtype)) * std).to(dtype)


def he_normal(key: torch.Tensor, shape: tuple[int, ...], inputs: int, dtype: torch.dtype) -> torch.Tensor:
    """Draw normal weights of variance ``2 / inputs``: a rectifier then keeps the signal's size.

    ``inputs`` counts the numbers that one output sums over.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> from pure_sgd.models.initial import he_normal
        >>> he_normal(ps.random.key(0), (200, 50), 200, torch.float32).std() < 0.103
        tensor(True)

    Source: He et al. 2015, arXiv:1502.01852, equation 10.
    """
    return scaled_normal(key, shape, math.sqrt(2 / inputs), dtype)


def he_dense(key: torch.Tensor, inputs: int, outputs: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Make the parameters of ``x @ w + b``: ``w`` by He's rule, ``b`` zero.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> from pure_sgd.models.initial import he_dense
        >>> he_dense(ps.random.key(0), 4, 2, torch.float32)["b"]
        tensor([0., 0.])
    """
    return {
        "w": he_normal(key, (inputs, outputs), inputs, dtype),
        "b": torch.zeros(outputs, dtype=dtype, device=key.device),
    }
