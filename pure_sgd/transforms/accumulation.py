"""Gradient accumulation: one update of the wrapped transform for several mini-steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from .. import tree
from ..arguments import typed
from ..errors import check_count, check_hyperparameter
from ..schedules import value_at
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

__all__ = ["MultiSteps", "MultiStepsState", "multi_steps", "skip_large_updates", "skip_not_finite"]

#: ``f(updates, gradient_step, params) -> (should_skip, skip_state)``: a bool tensor of shape () and a dict.
ShouldSkip = Callable[[Updates, torch.Tensor, Params], tuple[torch.Tensor, dict[str, torch.Tensor]]]


class MultiStepsState(NamedTuple):
    """What has been gathered since the last update of the wrapped transform, and its state."""

    mini_step: torch.Tensor  # int64, shape (): gradients gathered since
    gradient_step: torch.Tensor  # int64, shape (): updates of the wrapped transform so far
    inner_opt_state: State
    acc_grads: Updates  # like params, in at least float32: their mean or sum
    skip_state: dict[str, torch.Tensor]  # what should_skip_update_fn found at the last mini-step


@transformation
def multi_steps(
    inner: GradientTransformation,
    every_k: int | torch.Tensor | Callable[[torch.Tensor], Any],
    use_grad_mean: bool = True,
    should_skip_update_fn: ShouldSkip | None = None,
    accumulator_dtype: torch.dtype | None = None,
) -> GradientTransformation:
    """Apply ``inner`` to the mean of ``every_k`` gradients; the updates in between are zero.

        acc = acc + (u - acc) / n            (acc + u without use_grad_mean)      n = 1 ... every_k
        u   = inner(acc) at n = every_k, and then acc = 0, n = 0; else 0

    Between its updates ``inner`` does not run and its state does not move, eagerly (by an ``if``, which on a
    GPU waits for the count) and compiled (by ``torch.cond``). Where the count itself is mapped by ``vmap``,
    and compiled under any transform of ``torch.func``, ``inner`` runs at each mini-step and ``torch.where``
    keeps the result or not. Nothing is selected by multiplication: a gradient with NaN spoils one update,
    and the mini-steps after it begin from zero.

    ``every_k`` is a count or a function of ``gradient_step``. A mini-step for which ``should_skip_update_fn``
    says so (:func:`skip_not_finite`, :func:`skip_large_updates`) counts as if it had not been. A state is
    between two accumulations where ``mini_step == 0``. Updates keep their dtype, and are gathered in
    at least float32, or in ``accumulator_dtype``. In Optax ``MultiSteps`` is a class, runs ``inner`` at every
    mini-step, and one NaN stays in it for ever.

    Raises:
        PureSGDError: ``inner`` is no transform, ``every_k`` below 1, or a schedule that returned no number.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.multi_steps(ps.sgd(1.0), every_k=2)
        >>> state = tx.init(torch.zeros(1))
        >>> for gradient in (1.0, 3.0):
        ...     updates, state = tx.update(torch.tensor([gradient]), state)
        ...     print(updates)
        tensor([0.])
        tensor([-2.])
    """
    check_inner("multi_steps", inner)
    if isinstance(every_k, torch.Tensor) or callable(every_k):
        check_hyperparameter("multi_steps", "every_k", every_k)
    else:
        check_count("multi_steps", "every_k", every_k)

    def init(params: Params) -> MultiStepsState:
        step, skip_state = step_zero(params), {}
        zeros = tree.zeros_like(params, accumulator_dtype)
        if should_skip_update_fn is not None:
            skip_state = _copied(should_skip_update_fn(zeros, step, params)[1])
        return MultiStepsState(step, step.clone(), inner.init(params), zeros, skip_state)

    def update(
        updates: Updates, state: MultiStepsState, params: Params = None, **extra: Any
    ) -> tuple[Updates, MultiStepsState]:
        k = value_at(every_k, state.gradient_step, "multi_steps", "every_k")
        skip, skip_state = torch.zeros_like(state.mini_step, dtype=torch.bool), {}
        if should_skip_update_fn is not None:
            skip, skip_state = should_skip_update_fn(updates, state.gradient_step, params)
        n = state.mini_step + 1

        def gathered(acc: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
            new = acc + (u.to(acc.dtype) - acc) / n if use_grad_mean else acc + u.to(acc.dtype)
            return torch.where(skip, acc, new.to(acc.dtype))

        acc = tree.map(gathered, state.acc_grads, updates)
        due = (n >= k) & ~skip

        def step() -> tuple[Updates, State]:
            grads = tree.cast_like(acc, updates)
            return inner.update(grads, state.inner_opt_state, params, **extras_for(inner, extra))

        def wait() -> tuple[Updates, State]:
            return tree.map(torch.zeros_like, updates), state.inner_opt_state

        updates, inner_opt_state = either(due, step, wait)
        return updates, MultiStepsState(
            torch.where(due, 0, torch.where(skip, state.mini_step, n)),
            state.gradient_step + due,
            inner_opt_state,
            tree.map(lambda a: torch.where(due, 0, a).to(a.dtype), acc),
            _copied(skip_state),
        )

    return GradientTransformation(init, update, extra_args_of(inner))


class MultiSteps:
    """:func:`multi_steps` as Optax spells it, so that code written for Optax runs.

    ``init`` and ``update`` are those of ``multi_steps(opt, every_k_schedule, ...)``, which
    ``gradient_transformation()`` returns, and which is all that new code needs.

    Raises:
        PureSGDError: as :func:`multi_steps`.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> opt = ps.MultiSteps(ps.sgd(1.0), every_k_schedule=2)
        >>> updates, state = opt.update(torch.ones(1), opt.init(torch.zeros(1)))
        >>> opt.has_updated(state)
        tensor(False)
    """

    def __init__(
        self,
        opt: GradientTransformation,
        every_k_schedule: int | torch.Tensor | Callable[[torch.Tensor], Any],
        use_grad_mean: bool = True,
        should_skip_update_fn: ShouldSkip | None = None,
        accumulator_dtype: torch.dtype | None = None,
    ) -> None:
        self._tx = multi_steps(opt, every_k_schedule, use_grad_mean, should_skip_update_fn, accumulator_dtype)

    def init(self, params: Params) -> MultiStepsState:
        """The state before the first mini-step."""
        return self._tx.init(params)

    def update(
        self, updates: Updates, state: MultiStepsState, params: Params = None, **extra: Any
    ) -> tuple[Updates, MultiStepsState]:
        """One mini-step."""
        return self._tx.update(updates, state, params, **extra)

    def has_updated(self, state: MultiStepsState) -> torch.Tensor:
        """Whether the last mini-step was an update of the wrapped transform: a bool of shape ``()``."""
        return (state.mini_step == 0) & (state.gradient_step > 0)

    def gradient_transformation(self) -> GradientTransformation:
        """The transform itself, for chains and wrappers."""
        return self._tx


def skip_not_finite(
    updates: Updates, gradient_step: torch.Tensor, params: Params
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Skip a mini-step some of whose entries are NaN or infinite: for :func:`multi_steps`.

    Returns the decision, a bool of shape ``()``, and a dict with it and the number of such entries.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.skip_not_finite(torch.tensor([1.0, torch.nan]), torch.tensor(0), None)[1]
        {'should_skip': tensor(True), 'num_not_finite': tensor(1)}
    """
    counts = [(~torch.isfinite(u)).sum() for u in tree.leaves(updates)]
    count = sum(counts[1:], counts[0]) if counts else torch.zeros_like(gradient_step)
    return count > 0, {"should_skip": count > 0, "num_not_finite": count}


@typed
def skip_large_updates(
    updates: Updates, gradient_step: torch.Tensor, params: Params, max_squared_norm: Any
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Skip a mini-step whose squared norm over all leaves is not below ``max_squared_norm``, or is NaN.

    For :func:`multi_steps`, with ``functools.partial(skip_large_updates, max_squared_norm=100.0)``. Returns
    the decision, a bool of shape ``()``, and a dict with it and the squared norm.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.skip_large_updates(torch.tensor([3.0, 4.0]), torch.tensor(0), None, 100.0)[1]
        {'should_skip': tensor(False), 'norm_squared': tensor(25.)}
    """
    squared = tree.norm(updates) ** 2
    skip = ~(squared < max_squared_norm)
    return skip, {"should_skip": skip, "norm_squared": squared}


def _copied(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # The decision may stand in the dict more than once, and states share no memory.
    return tree.map(torch.clone, values)
