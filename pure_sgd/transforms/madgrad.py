"""Dual averaging with momentum and Adagrad's memory: MADGRAD."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from .. import tree
from ..errors import check_hyperparameter
from ..schedules import as_real
from .averaging import wide_copy
from .contract import (
    GradientTransformation,
    Hyperparameter,
    Params,
    Updates,
    missing_params,
    step_zero,
    transformation,
)
from .running import check_decays, check_offsets, real_zeros, squared

__all__ = ["ScaleByMadgradState", "scale_by_madgrad"]


class ScaleByMadgradState(NamedTuple):
    """Where training began, and the weighted sums of the updates and of their squares."""

    step: torch.Tensor  # int64, shape ()
    x0: Params  # like params, in at least float32
    total: Updates  # like params, in at least float32
    sum_of_squares: Updates  # like params, real, in at least float32


@transformation
def scale_by_madgrad(
    learning_rate: Hyperparameter, momentum: Hyperparameter = 0.9, eps: Hyperparameter = 1e-6
) -> GradientTransformation:
    """Go from where training began against the sum of the updates over the cube root of their squares' sum.

        weight = (learning_rate + eps) * sqrt(t)
        total  = total + weight * u                 sum_of_squares = sum_of_squares + weight * u**2
        z      = x0 - total / (cbrt(sum_of_squares) + eps)
        u      = (1 - momentum) * (z - params)

    ``t`` counts from 1, ``x0`` are the parameters that ``init`` saw. The rule of Optax, which computes the
    weight in float32. The result points downhill: no learning rate follows it in a chain. State has at least
    float32, and ``x0`` is a copy (in Optax it is the parameters themselves).
    Source: Defazio and Jelassi 2021, arXiv:2101.11075.

    Raises:
        PureSGDError: a negative learning rate or ``eps``, ``momentum`` outside [0, 1), or no ``params`` in
            ``update``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx, params = ps.scale_by_madgrad(0.001, momentum=0.0, eps=0.0), torch.zeros(2)
        >>> tx.update(torch.tensor([1.0, -8.0]), tx.init(params), params)[0]
        tensor([-0.0100,  0.0200])
    """
    check_hyperparameter("scale_by_madgrad", "learning_rate", learning_rate, low=0)
    check_decays("scale_by_madgrad", momentum=momentum)
    check_offsets("scale_by_madgrad", eps=eps)

    def init(params: Params) -> ScaleByMadgradState:
        return ScaleByMadgradState(
            step_zero(params), wide_copy(params), tree.zeros_like(params), real_zeros(params)
        )

    def update(
        updates: Updates, state: ScaleByMadgradState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleByMadgradState]:
        if params is None:
            raise missing_params("scale_by_madgrad")
        t = state.step + 1
        weight = (learning_rate + eps) * as_real(t).sqrt()

        def moved(
            u: torch.Tensor, p: torch.Tensor, x0: torch.Tensor, s: torch.Tensor, v: torch.Tensor
        ) -> torch.Tensor:
            # The cube root has no slope at 0, where nothing has been summed up yet.
            seen = v > 0
            way = torch.where(seen, s / (torch.where(seen, v, 1.0) ** (1 / 3) + eps), 0.0)
            return ((1 - momentum) * (x0 - way - tree.widened(p))).to(u.dtype)

        total = tree.map(lambda s, u: (s + weight * tree.widened(u)).to(s.dtype), state.total, updates)
        squares = tree.map(lambda v, u: (v + weight * squared(u)).to(v.dtype), state.sum_of_squares, updates)
        out = tree.map(moved, updates, params, state.x0, total, squares)
        x0 = tree.map(torch.clone, state.x0)
        return out, ScaleByMadgradState(t, x0, total, squares)

    return GradientTransformation(init, update)
