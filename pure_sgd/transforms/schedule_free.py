"""Schedule-free learning: an average of the parameters in the place of a decaying learning rate."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from .. import tree
from ..errors import PureSGDError, check_hyperparameter
from ..schedules import as_real
from .contract import (
    GradientTransformation,
    Hyperparameter,
    Params,
    State,
    Updates,
    extra_args_of,
    missing_params,
    step_zero,
    transformation,
)

__all__ = ["ScheduleFreeState", "schedule_free"]


class ScheduleFreeState(NamedTuple):
    """What the base optimizer moves, and the average of it."""

    weight_sum: torch.Tensor  # float64, shape (): the weights of all points in the average
    max_learning_rate: torch.Tensor  # float64, shape (): the largest so far
    z: Params  # the points that the base optimizer moves: like params, in at least float32
    average: Params  # x, their average: likewise
    inner: State


@transformation
def schedule_free(
    base_optimizer: GradientTransformation,
    learning_rate: Hyperparameter,
    b1: Hyperparameter = 0.9,
    weight_lr_power: Hyperparameter = 2.0,
    state_dtype: torch.dtype | None = None,
) -> GradientTransformation:
    """Move z by the base optimizer, average it in x, and take gradients in between.

        z      = z + base_updates                         (the base optimizer at params)
        weight = (largest learning_rate so far)**weight_lr_power
        x      = x + weight / (sum of weights) * (z - x)
        params = b1 * x + (1 - b1) * z

    ``base_optimizer`` has no momentum of its own, and steps with ``learning_rate``, which is constant but for
    a warm-up: pass it to both. Evaluate at x, which :func:`eval_params` returns. z and x are kept in
    ``state_dtype``, or in at least float32; put nothing after this transform that changes the updates.
    Where Optax looks at a schedule from its second step on, this does from the first.
    Source: Defazio et al. 2024, arXiv:2405.15682.

    Raises:
        PureSGDError: a ``base_optimizer`` that is no transform, a negative ``learning_rate`` or power, ``b1``
            outside [0, 1], or no ``params`` in ``update``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx, params = ps.schedule_free(ps.sgd(1.0), 1.0, b1=0.5), torch.zeros(1)
        >>> state = tx.init(params)
        >>> for _ in range(2):
        ...     updates, state = tx.update(-torch.ones(1), state, params)
        ...     params = ps.apply_updates(params, updates)
        >>> params, ps.eval_params(state, params)  # z = 2, and x is the mean of 1 and 2
        (tensor([1.7500]), tensor([1.5000]))
    """
    where = "schedule_free"
    if not isinstance(base_optimizer, GradientTransformation):
        raise PureSGDError(
            where,
            f"base_optimizer is a {type(base_optimizer).__name__}, expected a GradientTransformation",
            "Pass a transform, such as sgd(0.1)",
        )
    check_hyperparameter(where, "learning_rate", learning_rate, low=0)
    check_hyperparameter(where, "b1", b1, low=0, high=1)
    check_hyperparameter(where, "weight_lr_power", weight_lr_power, low=0)

    def init(params: Params) -> ScheduleFreeState:
        zero = as_real(step_zero(params))
        z, x = (
            tree.map(lambda p: p.to(state_dtype or tree.wide(p.dtype), copy=True), params) for _ in range(2)
        )
        return ScheduleFreeState(zero, zero.clone(), z, x, base_optimizer.init(params))

    def update(
        updates: Updates, state: ScheduleFreeState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScheduleFreeState]:
        if params is None:
            raise missing_params(where)
        rate = as_real(torch.as_tensor(learning_rate, device=state.weight_sum.device))
        largest = torch.maximum(state.max_learning_rate, rate)
        weight = largest**weight_lr_power
        weight_sum = state.weight_sum + weight
        # A warm-up may begin at 0: such a point has no weight.
        some = weight_sum > 0
        share = torch.where(some, weight / torch.where(some, weight_sum, 1.0), 0.0)

        base, inner = base_optimizer.update(updates, state.inner, params, **extra)
        z = tree.map(lambda z, u: (z + tree.widened(u)).to(z.dtype), state.z, base)
        x = tree.map(lambda x, z: (x + share * (z - x)).to(x.dtype), state.average, z)
        moved = tree.map(
            lambda u, p, x, z: (b1 * x + (1 - b1) * z - tree.widened(p)).to(u.dtype), updates, params, x, z
        )
        return moved, ScheduleFreeState(weight_sum, largest, z, x, inner)

    return GradientTransformation(init, update, extra_args_of(base_optimizer))
