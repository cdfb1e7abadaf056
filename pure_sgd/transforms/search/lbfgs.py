"""The curvature of the objective, as the last few steps and differences of gradients tell it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from ... import tree
from ...errors import PureSGDError, check_count, check_hyperparameter
from ..contract import (
    GradientTransformation,
    Hyperparameter,
    Params,
    missing_params,
    step_zero,
    transformation,
)
from ..flattening import flatten

__all__ = ["ScaleByLbfgsState", "scale_by_lbfgs"]


class ScaleByLbfgsState(NamedTuple):
    """The last parameters and gradient, and the differences before them; N numbers in all leaves together."""

    step: torch.Tensor  # int64, shape ()
    params: torch.Tensor  # shape (N,), in at least float32; so are the others
    updates: torch.Tensor  # shape (N,)
    diff_params_memory: torch.Tensor  # shape (memory_size, N), the newest last
    diff_updates_memory: torch.Tensor  # shape (memory_size, N)
    weights_memory: (
        torch.Tensor
    )  # 1 / <diff_params, diff_updates>, 0 where there is none; shape (memory_size,)


@transformation
def scale_by_lbfgs(
    memory_size: int = 10,
    scale_init_precond: bool = True,
    *,
    min_curvature: Hyperparameter = None,
    initial_norm: int = 2,
) -> GradientTransformation:
    """Multiply the updates by the L-BFGS approximation of the inverse Hessian.

        P_0 = gamma * I           V_j = I - r_j * y_j s_j'           r_j = 1 / <s_j, y_j>
        P_j = V_j' P_{j-1} V_j + r_j * s_j s_j'
        u   = P u                 over the last memory_size pairs, the oldest first

    with ``s = params - last params`` and ``y = updates - last updates``, over all leaves as one vector.
    ``gamma`` is ``<s, y> / |y|**2`` of the newest pair, and ``min(1, 1 / |u|)`` at the first step; without
    ``scale_init_precond`` it is 1. Nothing but products of vectors is needed (the two-loop recursion).

    The rule of Optax keeps every pair; one of negative curvature ``<s, y>`` turns the direction uphill. With
    ``min_curvature`` a pair is left out unless ``<s, y> > min_curvature``. ``torch.optim.LBFGS`` has 1e-10
    there, and the sum of magnitudes for ``|u|``: ``initial_norm=1``.
    The state takes ``2 * memory_size + 2`` times the memory of the parameters.
    Source: Liu and Nocedal 1989, doi:10.1007/BF01589116; Nocedal and Wright 2006, algorithm 7.4.

    Raises:
        PureSGDError: a ``memory_size`` under 1, an ``initial_norm`` that is not 1 or 2, or no ``params`` in
            ``update``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx, params = ps.scale_by_lbfgs(), torch.tensor([3.0, 4.0])
        >>> updates, state = tx.update(2 * params, tx.init(params), params)
        >>> updates  # the gradient of |params|**2, brought to length 1
        tensor([0.6000, 0.8000])
        >>> params = params - updates
        >>> params - tx.update(2 * params, state, params)[0]  # the curvature is known
        tensor([0., 0.])
    """
    where = "scale_by_lbfgs"
    check_count(where, "memory_size", memory_size)
    if min_curvature is not None:
        check_hyperparameter(where, "min_curvature", min_curvature, low=0)
    if initial_norm not in (1, 2):
        raise PureSGDError(where, f"initial_norm={initial_norm!r} is unknown", "Pass 1 or 2")

    def init(params: torch.Tensor) -> ScaleByLbfgsState:
        start = tree.zeros_like(params)
        memory = start.new_zeros(memory_size, len(start))
        weights = start.new_zeros(memory_size).abs()
        return ScaleByLbfgsState(step_zero(params), start, start.clone(), memory, memory.clone(), weights)

    def update(
        updates: torch.Tensor, state: ScaleByLbfgsState, params: Params = None, **extra: Any
    ) -> tuple[torch.Tensor, ScaleByLbfgsState]:
        if params is None:
            raise missing_params(where)
        first = state.step == 0
        u, params = tree.widened(updates), tree.widened(params)
        s, y = params - state.params, u - state.updates
        curvature = tree.vdot(s, y)
        kept = ~first if min_curvature is None else ~first & (curvature > min_curvature)
        flat = curvature == 0
        weight = torch.where(flat, 0.0, 1 / torch.where(flat, 1.0, curvature))
        steps = torch.where(kept, _pushed(state.diff_params_memory, s), state.diff_params_memory)
        differences = torch.where(kept, _pushed(state.diff_updates_memory, y), state.diff_updates_memory)
        weights = torch.where(kept, _pushed(state.weights_memory, weight), state.weights_memory)
        gamma = torch.ones_like(weight)
        if scale_init_precond:
            length = tree.norm(u) if initial_norm == 2 else u.abs().sum()
            gamma = torch.where(first, 1 / length.clamp(min=1), _scale(steps[-1], differences[-1]))
        scaled = _two_loops(u, steps, differences, weights, gamma).to(updates.dtype)
        # Inductor of torch 2.13 loses a plain copy of one donated buffer into another, and takes the new
        # parameters for the old ones; a choice that only we know the end of is no plain copy.
        params = torch.where(state.step >= 0, params, state.params)
        return scaled, ScaleByLbfgsState(state.step + 1, params, u, steps, differences, weights)

    return flatten(GradientTransformation(init, update))


def _pushed(memory: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    return torch.cat([memory[1:], new[None].to(memory.dtype)])


def _scale(s: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    square = tree.vdot(y, y)
    known = square > 0
    return torch.where(known, tree.vdot(s, y) / torch.where(known, square, 1.0), 1.0)


def _two_loops(
    u: torch.Tensor,
    steps: torch.Tensor,
    differences: torch.Tensor,
    weights: torch.Tensor,
    gamma: torch.Tensor,
) -> torch.Tensor:
    """``P u``; rows without a pair have weight 0 and change nothing."""
    pairs = list(zip(steps.unbind(), differences.unbind(), weights.unbind(), strict=True))
    alphas: list[torch.Tensor] = []
    for s, y, weight in reversed(pairs):
        alphas.append(weight * tree.vdot(s, u))
        u = u - alphas[-1] * y
    u = gamma * u
    for (s, y, weight), alpha in zip(pairs, reversed(alphas), strict=True):
        u = u + (alpha - weight * tree.vdot(y, u)) * s
    return u
