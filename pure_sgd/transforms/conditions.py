"""Transforms that run only at some steps: while all is finite, or when a condition says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from .. import tree
from ..errors import PureSGDError, check_count
from .contract import (
    GradientTransformation,
    Params,
    State,
    Updates,
    extra_args_of,
    step_zero,
    transformation,
)
from .wrapping import check_inner, either, extras_for

__all__ = [
    "ApplyIfFiniteState",
    "ConditionallyMaskState",
    "ConditionallyTransformState",
    "apply_if_finite",
    "conditionally_mask",
    "conditionally_transform",
]


class ApplyIfFiniteState(NamedTuple):
    """How often the updates were not finite, and the state of the wrapped transform."""

    notfinite_count: torch.Tensor  # int64, shape (): in a row, up to now
    last_finite: torch.Tensor  # bool, shape (): whether the last ones were
    total_notfinite: torch.Tensor  # int64, shape (): in all
    inner_state: State


class ConditionallyTransformState(NamedTuple):
    """The number of steps so far, and the state of the wrapped transform."""

    inner_state: State
    step: torch.Tensor  # int64, shape ()


class ConditionallyMaskState(NamedTuple):
    """The number of steps so far, and the state of the wrapped transform."""

    inner_state: State
    step: torch.Tensor  # int64, shape ()


@transformation
def apply_if_finite(inner: GradientTransformation, max_consecutive_errors: int) -> GradientTransformation:
    """Apply ``inner`` while the updates are finite; at others give zero and leave its state alone.

        u = inner(u) if all of u is finite, or for max_consecutive_errors times in a row was not; else 0

    The next non-finite updates are accepted, since then something else is wrong, and ``notfinite_count``
    begins anew; in Optax it grows on. ``inner`` does not run at a step that it skips (as in
    :func:`multi_steps`, with the same exceptions).

    Raises:
        PureSGDError: ``inner`` is no transform, or ``max_consecutive_errors`` no count.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.apply_if_finite(ps.sgd(0.1), max_consecutive_errors=5)
        >>> updates, state = tx.update(torch.tensor([torch.nan, 1.0]), tx.init(torch.zeros(2)))
        >>> updates, state.total_notfinite
        (tensor([0., 0.]), tensor(1))
    """
    check_inner("apply_if_finite", inner)
    check_count("apply_if_finite", "max_consecutive_errors", max_consecutive_errors, low=0)

    def init(params: Params) -> ApplyIfFiniteState:
        zero = step_zero(params)
        return ApplyIfFiniteState(
            zero, torch.ones_like(zero, dtype=torch.bool), zero.clone(), inner.init(params)
        )

    def update(
        updates: Updates, state: ApplyIfFiniteState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ApplyIfFiniteState]:
        finite = torch.ones_like(state.last_finite)
        for u in tree.leaves(updates):
            finite = finite & torch.isfinite(u).all()
        errors = torch.where(finite, 0, state.notfinite_count + 1)
        given_up = errors > max_consecutive_errors
        new, inner_state = either(
            finite | given_up,
            lambda: inner.update(updates, state.inner_state, params, **extras_for(inner, extra)),
            lambda: (tree.map(torch.zeros_like, updates), state.inner_state),
        )
        count = torch.where(given_up, 0, errors)
        return new, ApplyIfFiniteState(count, finite, state.total_notfinite + ~finite, inner_state)

    return GradientTransformation(init, update, extra_args_of(inner))


@transformation
def conditionally_transform(
    inner: GradientTransformation, should_transform_fn: Callable[..., Any], forward_extra_args: bool = False
) -> GradientTransformation:
    """Apply ``inner`` at the steps at which the condition holds; at others the updates pass unchanged.

        u = inner(u) if should_transform_fn(step) else u         step counts all steps, from 0

    With ``forward_extra_args`` the condition also receives the extra arguments that are among its
    parameters. ``inner`` does not run at a step that it skips (as in :func:`multi_steps`, with the
    same exceptions), and its state does not move.

    Raises:
        PureSGDError: ``inner`` is no transform, or the condition no function or its result no single bool.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.conditionally_transform(ps.clip_by_global_norm(1.0), lambda step: step < 100)
        >>> tx.update(torch.tensor([3.0, 4.0]), tx.init(torch.zeros(2)))[0]
        tensor([0.6000, 0.8000])
    """
    where = "conditionally_transform"
    return _conditional(
        where, ConditionallyTransformState, inner, should_transform_fn, forward_extra_args, lambda u: u
    )


@transformation
def conditionally_mask(
    inner: GradientTransformation, should_transform_fn: Callable[..., Any], forward_extra_args: bool = False
) -> GradientTransformation:
    """Apply ``inner`` at the steps at which the condition holds; at others the updates are zero.

        u = inner(u) if should_transform_fn(step) else 0         step counts all steps, from 0

    Else as :func:`conditionally_transform`.

    Raises:
        PureSGDError: ``inner`` is no transform, or the condition no function or its result no single bool.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.conditionally_mask(ps.sgd(0.1), lambda step, loss: loss < 5.0, forward_extra_args=True)
        >>> tx.update(torch.ones(2), tx.init(torch.zeros(2)), loss=torch.tensor(7.0))[0]
        tensor([0., 0.])
    """
    where = "conditionally_mask"
    return _conditional(
        where, ConditionallyMaskState, inner, should_transform_fn, forward_extra_args, torch.zeros_like
    )


def _conditional(
    where: str,
    state_type: Callable[..., Any],
    inner: GradientTransformation,
    condition: Callable[..., Any],
    forward: bool,
    otherwise: Callable[[torch.Tensor], torch.Tensor],
) -> GradientTransformation:
    check_inner(where, inner)
    read = _extras_of(where, condition) if forward else ()

    def init(params: Params) -> Any:
        return state_type(inner.init(params), step_zero(params))

    def update(updates: Updates, state: Any, params: Params = None, **extra: Any) -> tuple[Updates, Any]:
        wanted = {name: extra[name] for name in read if name in extra}
        holds = torch.as_tensor(condition(state.step, **wanted), device=state.step.device)
        if holds.ndim:
            raise PureSGDError(
                where,
                f"should_transform_fn returned shape {tuple(holds.shape)}, expected a single bool",
                "Reduce it with all() or any()",
            )
        updates, inner_state = either(
            holds.to(torch.bool),
            lambda: inner.update(updates, state.inner_state, params, **extras_for(inner, extra)),
            lambda: (tree.map(otherwise, updates), state.inner_state),
        )
        return updates, state_type(inner_state, state.step + 1)

    return GradientTransformation(init, update, tuple(dict.fromkeys((*extra_args_of(inner), *read))))


def _extras_of(where: str, condition: Callable[..., Any]) -> tuple[str, ...]:
    code = getattr(condition, "__code__", None)
    if code is None:
        raise PureSGDError(
            where,
            f"should_transform_fn is a {type(condition).__name__}, whose extra arguments cannot be seen",
            "Pass a function, such as lambda step, loss: loss < 5",
        )
    return code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
