"""The linear models: one weighted sum, read as a number or as a logit."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from .. import random, tree
from ..errors import check_count
from ..recipe import recorded
from .contract import Model, Params, check_example

__all__ = ["linear", "logistic"]


@recorded
def linear(features: int, outputs: int | None = None) -> Model:
    """A linear model: ``x @ w + b``.

    Both are drawn uniformly between ``-1 / sqrt(features)`` and ``1 / sqrt(features)``, the rule of
    ``torch.nn.Linear``.

    Shapes: x (features,). Without ``outputs``, ``w`` (features,), ``b`` () and the output ();
    with it, ``w`` (features, outputs), ``b`` and the output (outputs,).

    Raises:
        PureSGDError: a width that is not a positive int; in ``apply``, an ``x`` of another shape or
            dtype.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> model = ps.models.linear(5)
        >>> params = model.init(ps.random.key(0))
        >>> params["w"].shape, model.apply(params, torch.ones(5)).shape
        (torch.Size([5]), torch.Size([]))
    """
    check_count("linear", "features", features)
    if outputs is not None:
        check_count("linear", "outputs", outputs)
    tail = () if outputs is None else (outputs,)
    bound = 1 / math.sqrt(features)

    def init(key: torch.Tensor, dtype: torch.dtype = torch.float32) -> Params:
        key_w, key_b = random.split(key, 2)
        wide = tree.wide(dtype)
        return {
            "w": random.uniform(key_w, (features, *tail), wide, -bound, bound).to(dtype),
            "b": random.uniform(key_b, tail, wide, -bound, bound).to(dtype),
        }

    return Model(init, _weighted_sum("linear", features))


@recorded
def logistic(features: int) -> Model:
    """Logistic regression: the linear model, its output read as the logit of P(y = 1 | x).

    The probability itself is ``torch.sigmoid(model.apply(params, x))``; training needs the logit,
    through :func:`pure_sgd.losses.sigmoid_binary_cross_entropy`. All parameters begin at 0, where
    every probability is one half: the risk is convex, so no symmetry has to be broken, and ``init``
    takes its key only to be called as that of any other model.

    Shapes: x (features,), ``w`` (features,), ``b`` () and the output ().

    Raises:
        PureSGDError: ``features`` is not a positive int; in ``apply``, an ``x`` of another shape or
            dtype.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> model = ps.models.logistic(2)
        >>> params = model.init(ps.random.key(0))
        >>> torch.sigmoid(model.apply(params, torch.ones(2)))
        tensor(0.5000)
    """
    check_count("logistic", "features", features)

    def init(key: torch.Tensor, dtype: torch.dtype = torch.float32) -> Params:
        return {
            "w": torch.zeros(features, dtype=dtype, device=key.device),
            "b": torch.zeros((), dtype=dtype, device=key.device),
        }

    return Model(init, _weighted_sum("logistic", features))


def _weighted_sum(where: str, features: int) -> Callable[[Params, torch.Tensor], torch.Tensor]:
    def apply(params: Params, x: torch.Tensor) -> torch.Tensor:
        check_example(where, x, (features,), params["w"])
        return x @ params["w"] + params["b"]

    return apply
