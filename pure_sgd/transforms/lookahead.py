"""Lookahead: slow parameters, which follow an optimizer's fast ones from time to time."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from .. import tree
from ..errors import PureSGDError, check_count, check_hyperparameter
from .averaging import wide_copy
from .contract import (
    GradientTransformation,
    Hyperparameter,
    Params,
    State,
    Updates,
    apply_updates,
    extra_args_of,
    missing_params,
    step_zero,
    transformation,
)

__all__ = ["LookaheadState", "lookahead"]


class LookaheadState(NamedTuple):
    """The slow parameters, and the state of the optimizer of the fast ones."""

    step: torch.Tensor  # int64, shape ()
    average: Params  # the slow parameters: like params, in at least float32
    inner: State


@transformation
def lookahead(
    fast_optimizer: GradientTransformation,
    sync_period: int,
    slow_step_size: Hyperparameter,
    reset_state: bool = False,
) -> GradientTransformation:
    """Let ``fast_optimizer`` run ahead, and every ``sync_period`` updates go only part of its way.

        slow = slow + slow_step_size * (fast - slow),   fast = slow        every sync_period updates

    The fast parameters are ``params``, of whatever type they are (Optax replaces them by a pair); the slow
    ones are kept in the state, in at least float32, and :func:`eval_params` returns them. With
    ``reset_state`` the fast optimizer begins afresh after each of these updates.
    Source: Zhang et al. 2019, arXiv:1907.08610.

    Raises:
        PureSGDError: a ``fast_optimizer`` that is no transform, a ``sync_period`` under 1, a
            ``slow_step_size`` outside [0, 1], or no ``params`` in ``update``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.lookahead(ps.sgd(1.0), sync_period=2, slow_step_size=0.5)
        >>> params = torch.zeros(1)
        >>> state = tx.init(params)
        >>> for _ in range(3):
        ...     updates, state = tx.update(-torch.ones(1), state, params)
        ...     params = ps.apply_updates(params, updates)
        >>> params, ps.eval_params(state, params)
        (tensor([2.]), tensor([1.]))
    """
    if not isinstance(fast_optimizer, GradientTransformation):
        raise PureSGDError(
            "lookahead",
            f"fast_optimizer is a {type(fast_optimizer).__name__}, expected a GradientTransformation",
            "Pass a transform, such as sgd(0.1)",
        )
    check_count("lookahead", "sync_period", sync_period)
    check_hyperparameter("lookahead", "slow_step_size", slow_step_size, low=0, high=1)

    def init(params: Params) -> LookaheadState:
        return LookaheadState(step_zero(params), wide_copy(params), fast_optimizer.init(params))

    def update(
        updates: Updates, state: LookaheadState, params: Params = None, **extra: Any
    ) -> tuple[Updates, LookaheadState]:
        if params is None:
            raise missing_params("lookahead")
        step = state.step + 1
        sync = step % sync_period == 0
        fast, inner = fast_optimizer.update(updates, state.inner, params, **extra)
        ahead = apply_updates(params, fast)
        # Chosen rather than weighed: what the fast parameters hold in between, NaN too, leaves no trace.
        slow = tree.map(
            lambda s, p: torch.where(sync, s + slow_step_size * (p - s), s).to(s.dtype), state.average, ahead
        )
        updates = tree.map(lambda u, p, s: torch.where(sync, (s - p).to(u.dtype), u), fast, params, slow)
        if reset_state:
            afresh = fast_optimizer.init(apply_updates(params, updates))
            inner = tree.map(lambda new, old: torch.where(sync, new, old), afresh, inner)
        return updates, LookaheadState(step, slow, inner)

    return GradientTransformation(init, update, extra_args_of(fast_optimizer))
