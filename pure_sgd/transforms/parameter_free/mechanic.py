"""A scale for another optimizer's steps, learned while it runs: Mechanic."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from ... import tree
from ...errors import check_count, check_hyperparameter
from ...schedules import as_real
from ..averaging import wide_copy
from ..contract import (
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
from ..running import check_offsets, root
from ..wrapping import check_inner
from .measuring import inner, quotient

__all__ = ["MechanizeState", "mechanize"]


class MechanizeState(NamedTuple):
    """What several tuners have gained, each with its own memory, and what they scale."""

    step: torch.Tensor  # int64, shape ()
    largest: torch.Tensor  # float64, shape (num_betas,): m, the largest |gain|
    squares: torch.Tensor  # float64, shape (num_betas,): v, the sum of gain**2
    reward: torch.Tensor  # float64, shape (num_betas,): r
    scales: torch.Tensor  # float64, shape (num_betas,): s; their sum scales the steps
    init_params: Params  # like params, in at least float32
    delta: Updates  # the sum of the base optimizer's updates: like params, in at least float32
    inner: State


@transformation
def mechanize(
    base_optimizer: GradientTransformation,
    weight_decay: Hyperparameter = 1e-2,
    eps: Hyperparameter = 1e-8,
    s_init: Hyperparameter = 1e-6,
    num_betas: int = 6,
) -> GradientTransformation:
    """Learn by how much to multiply the steps of ``base_optimizer``: Mechanic.

        pull    = weight_decay * sum(scales) * |u| / (|params| + eps)              norms over all leaves
        gain    = -<u + pull * params, delta>
        reward  = beta * reward + clip(gain, -largest, largest) * scales
        largest = max(beta * largest, |gain| + eps)             squares = beta**2 * squares + gain**2
        scales  = (s_init / num_betas * largest + max(reward, 0)) / (sqrt(squares) + eps)      s_init at first
        delta   = delta + base_updates
        params  = init_params + sum(scales) * delta

    There is one scale for each ``beta = 1 - 0.1**i``, i from 1 to ``num_betas``; ``init_params`` are the
    parameters of the first update. Let ``base_optimizer`` follow a schedule whose largest value is 1, say; it
    may be any but those of normalised gradients (``lars``, ``lamb``).

    ``delta`` is kept, as in the paper. Optax finds it from ``(params - init_params) / (sum(scales) + eps)``,
    which forgets a little at each step, and learns nothing in bfloat16, where the first steps round to 0.
    Source: Cutkosky, Defazio and Mehta 2023, arXiv:2306.00144.

    Raises:
        PureSGDError: a ``base_optimizer`` that is no transform, a negative hyperparameter, ``num_betas``
            under 1, or no ``params`` in ``update``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx, params = ps.mechanize(ps.sgd(1.0)), torch.tensor([3.0, -4.0])
        >>> state = tx.init(params)
        >>> for _ in range(100):
        ...     updates, state = tx.update(params, state, params)
        ...     params = ps.apply_updates(params, updates)
        >>> bool(params.norm() < 0.1)
        True
    """
    where = "mechanize"
    check_inner(where, base_optimizer)
    check_offsets(where, weight_decay=weight_decay, eps=eps)
    check_hyperparameter(where, "s_init", s_init, low=0, open_low=True)
    check_count(where, "num_betas", num_betas)

    def init(params: Params) -> MechanizeState:
        step = step_zero(params)
        zeros = as_real(step).repeat(num_betas)
        return MechanizeState(
            step,
            zeros,
            zeros.clone(),
            zeros.clone(),
            zeros + s_init,
            wide_copy(params),
            tree.zeros_like(params),
            base_optimizer.init(params),
        )

    def update(
        updates: Updates, state: MechanizeState, params: Params = None, **extra: Any
    ) -> tuple[Updates, MechanizeState]:
        if params is None:
            raise missing_params(where)
        base, inner_state = base_optimizer.update(updates, state.inner, params, **extra)
        # What was there when init was called may since have been loaded from elsewhere.
        start = tree.map(lambda p, p0: torch.where(state.step == 0, p, p0), params, state.init_params)

        length = as_real(tree.norm(updates))
        pull = weight_decay * state.scales.sum() * quotient(length, as_real(tree.norm(params)) + eps)
        gain = -inner(updates, state.delta) - pull * inner(params, state.delta)
        clipped = torch.maximum(torch.minimum(gain, state.largest), -state.largest)

        betas = 1 - 0.1 ** torch.arange(1, num_betas + 1, dtype=clipped.dtype, device=clipped.device)
        largest = torch.maximum(betas * state.largest, gain.abs() + eps)
        squares = betas**2 * state.squares + gain**2
        reward = betas * state.reward + clipped * state.scales
        wealth = s_init / num_betas * largest + reward.clamp(min=0)
        scales = quotient(wealth, root(squares) + eps)

        delta = tree.map(lambda d, u: (d + u).to(d.dtype), state.delta, base)
        scale = scales.sum()
        moves = tree.map(lambda u, p, p0, d: (p0 + scale * d - p).to(u.dtype), updates, params, start, delta)
        new = MechanizeState(state.step + 1, largest, squares, reward, scales, start, delta, inner_state)
        return moves, new

    return GradientTransformation(init, update, extra_args_of(base_optimizer))
