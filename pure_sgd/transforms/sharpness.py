"""Sharpness-aware minimisation: descend by the gradient found uphill of the parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from .. import tree
from ..errors import PureSGDError, check_count
from .averaging import wide_copy
from .contract import (
    GradientTransformation,
    Params,
    State,
    Updates,
    apply_updates,
    extra_args_of,
    missing_params,
    step_zero,
    transformation,
)
from .wrapping import check_inner, either, extras_for

__all__ = ["OpaqueSamState", "SamState", "sam"]


class SamState(NamedTuple):
    """The parameters that descend, and the states of the two optimizers."""

    steps_since_sync: torch.Tensor  # int64, shape ()
    average: Params  # the parameters that descend: like params, in at least float32
    opt_state: State
    adv_state: State


class OpaqueSamState(NamedTuple):
    """The states of the two optimizers."""

    opt_state: State
    adv_state: State


@transformation
def sam(
    optimizer: GradientTransformation,
    adv_optimizer: GradientTransformation,
    sync_period: int = 2,
    reset_state: bool = True,
    opaque_mode: bool = False,
) -> GradientTransformation:
    """Climb by ``adv_optimizer``, and descend from where the climb began by the gradient found up there.

        params = params - adv_optimizer(grads)               sync_period - 1 times
        params = start + optimizer(grads, start)             then, from the start of the climb

    With ``sync_period=2`` and ``chain(normalize(), sgd(rho))`` to climb with it is the paper's rule. With
    ``reset_state`` the climb begins afresh after each descent.

    Each call of ``update`` is one of these steps, with a gradient of its own: of ``sync_period`` updates only
    the last descends, and in between the parameters stand uphill; :func:`eval_params` returns those that
    descend. With ``opaque_mode`` one call is the whole round: it climbs out of sight, and takes the gradients
    there from the extra argument ``grad_fn(params, i)``, i = 0 ... sync_period - 2.

    In Optax a step multiplies what it does not choose by 0, which keeps a NaN, and ``sync_period=1``
    descends from parameters one step old; here it is ``optimizer`` itself.
    Source: Foret et al. 2021, arXiv:2010.01412.

    Raises:
        PureSGDError: an optimizer that is no transform, a ``sync_period`` below 1; in ``update``, no
            ``params``, or no ``grad_fn`` in opaque mode.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.sam(ps.sgd(0.1), ps.chain(ps.normalize(), ps.sgd(0.5)), opaque_mode=True)
        >>> params, square = torch.tensor(2.0), torch.func.grad(lambda p, i: p**2)
        >>> state = tx.init(params)
        >>> tx.update(square(params, 0), state, params, grad_fn=square)[0]  # -0.1 times the slope at 2.5
        tensor(-0.5000)
    """
    check_inner("sam", optimizer)
    check_inner("sam", adv_optimizer)
    check_count("sam", "sync_period", sync_period)
    mode = _opaque if opaque_mode else _transparent
    return mode(optimizer, adv_optimizer, sync_period, reset_state)


def _transparent(
    optimizer: GradientTransformation,
    adv_optimizer: GradientTransformation,
    sync_period: int,
    reset_state: bool,
) -> GradientTransformation:
    def init(params: Params) -> SamState:
        return SamState(
            step_zero(params), wide_copy(params), optimizer.init(params), adv_optimizer.init(params)
        )

    def update(
        updates: Updates, state: SamState, params: Params = None, **extra: Any
    ) -> tuple[Updates, SamState]:
        if params is None:
            raise missing_params("sam")
        first = state.steps_since_sync == 0
        last = state.steps_since_sync == sync_period - 1
        # At the first step from params, which what follows in a chain may have moved.
        start = tree.map(lambda p, a: torch.where(first, p.to(a.dtype), a), params, state.average)

        def descend() -> tuple[Updates, State, State]:
            outer = tree.cast_like(start, params)
            down, opt_state = optimizer.update(
                updates, state.opt_state, outer, **extras_for(optimizer, extra)
            )
            back = tree.map(lambda s, p, u: ((s - p) + u).to(u.dtype), start, params, down)
            return back, opt_state, adv_optimizer.init(outer) if reset_state else state.adv_state

        def climb() -> tuple[Updates, State, State]:
            down, adv_state = adv_optimizer.update(
                updates, state.adv_state, params, **extras_for(adv_optimizer, extra)
            )
            return tree.map(torch.neg, down), state.opt_state, adv_state

        new, opt_state, adv_state = either(last, descend, climb)
        average = tree.map(
            lambda s, p: torch.where(last, p.to(s.dtype), s), start, apply_updates(params, new)
        )
        step = (state.steps_since_sync + 1) % sync_period
        return new, SamState(step, average, opt_state, adv_state)

    return GradientTransformation(init, update, _extras_of(optimizer, adv_optimizer))


def _opaque(
    optimizer: GradientTransformation,
    adv_optimizer: GradientTransformation,
    sync_period: int,
    reset_state: bool,
) -> GradientTransformation:
    def init(params: Params) -> OpaqueSamState:
        return OpaqueSamState(optimizer.init(params), adv_optimizer.init(params))

    def update(
        updates: Updates,
        state: OpaqueSamState,
        params: Params = None,
        *,
        grad_fn: Callable[[Params, int], Updates] | None = None,
        **extra: Any,
    ) -> tuple[Updates, OpaqueSamState]:
        if params is None:
            raise missing_params("sam")
        if grad_fn is None:
            raise PureSGDError(
                "sam",
                "opaque_mode=True takes gradients at other parameters, and grad_fn is None",
                "Call update(updates, state, params, grad_fn=grad_fn), with grad_fn(params, i) the gradient",
            )
        uphill, adv_state = params, state.adv_state
        for i in range(sync_period - 1):
            down, adv_state = adv_optimizer.update(
                updates, adv_state, uphill, **extras_for(adv_optimizer, extra)
            )
            uphill = apply_updates(uphill, tree.map(torch.neg, down))
            updates = grad_fn(uphill, i)
            tree.check_like(updates, params, "grad_fn(params, i)", "params")
        if reset_state:
            adv_state = adv_optimizer.init(params)
        new, opt_state = optimizer.update(updates, state.opt_state, params, **extras_for(optimizer, extra))
        return new, OpaqueSamState(opt_state, adv_state)

    return GradientTransformation(init, update, (*_extras_of(optimizer, adv_optimizer), "grad_fn"))


def _extras_of(*transforms: GradientTransformation) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for tx in transforms for name in extra_args_of(tx)))
