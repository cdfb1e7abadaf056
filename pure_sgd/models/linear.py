"""The linear models: one weighted sum, read as a number or as a logit."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from .. import random, tree
from ..arguments import typed
from ..errors import PureSGDError, check_count, check_hyperparameter
from ..functorch import readable
from ..recipe import recorded
from .contract import Model, Params, check_example, sentenced

__all__ = ["least_squares", "linear", "logistic"]


@recorded
@sentenced
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
@sentenced
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


@typed
def least_squares(x: torch.Tensor, y: torch.Tensor, weight_decay: float = 0.0) -> Params:
    """The parameters of :func:`linear` with the least mean squared error, in closed form.

        minimise  mean_i (x_i @ w + b - y_i)**2 / 2 + weight_decay / 2 * (|w|**2 + b**2)

    The point to which full gradient descent on :func:`pure_sgd.losses.l2_loss` with that weight decay
    converges. Shapes: x (B, features), y (B,); ``w`` (features,), ``b`` ().

    Raises:
        PureSGDError: a negative ``weight_decay``, no example, lengths that disagree, or what is not finite.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> x = torch.tensor([[0.0], [1.0], [2.0]])
        >>> ps.models.least_squares(x, torch.tensor([1.0, 3.0, 5.0]))
        {'w': tensor([2.0000]), 'b': tensor(1.0000)}
    """
    check_hyperparameter("least_squares", "weight_decay", weight_decay, low=0)
    count = tree.batch_length((x, y), "(x, y)")
    # In float64, and by rows for the penalty rather than normal equations: their condition is squared.
    design = torch.cat([x, torch.ones_like(x[:, :1])], 1).double()
    penalty = (count * weight_decay) ** 0.5 * torch.eye(design.shape[1]).to(design)
    target = torch.cat([y.double(), penalty.new_zeros(design.shape[1])])
    rows = torch.cat([torch.cat([design, penalty]), target[:, None]], 1)
    if readable() and not bool(rows.isfinite().all()):
        raise PureSGDError("least_squares", "x, y or weight_decay is not finite", "Pass finite numbers")
    solution = torch.linalg.lstsq(rows[:, :-1], rows[:, -1:]).solution[:, 0].to(x.dtype)
    return {"w": solution[:-1], "b": solution[-1]}


def _weighted_sum(where: str, features: int) -> Callable[[Params, torch.Tensor], torch.Tensor]:
    def apply(params: Params, x: torch.Tensor) -> torch.Tensor:
        check_example(where, x, (features,), params["w"])
        return x @ params["w"] + params["b"]

    return apply
