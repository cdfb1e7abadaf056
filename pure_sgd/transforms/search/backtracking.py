"""The simplest line search: shorten the step until the objective falls enough."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from ... import tree
from ...errors import check_count, check_hyperparameter
from ..contract import GradientTransformation, Hyperparameter, Params, Updates, step_zero, transformation
from ..scaling import multiply
from .line import line_along, repeat, restarted, violation, zero_scalar

__all__ = [
    "BacktrackingLinesearchInfo",
    "ScaleByBacktrackingLinesearchState",
    "scale_by_backtracking_linesearch",
]


class BacktrackingLinesearchInfo(NamedTuple):
    """How the last search went."""

    num_linesearch_steps: torch.Tensor  # int64, shape (): evaluations of the objective
    decrease_error: torch.Tensor  # 0 if it succeeded, inf if no step gave a finite objective; shape ()


class ScaleByBacktrackingLinesearchState(NamedTuple):
    """The step that was taken, and the objective behind it."""

    learning_rate: torch.Tensor  # real, in at least float32, shape (); so are the other numbers
    value: torch.Tensor
    grad: Updates | None  # like params, in at least float32
    info: BacktrackingLinesearchInfo


class _Trial(NamedTuple):
    rate: torch.Tensor
    value: torch.Tensor
    error: torch.Tensor
    count: torch.Tensor  # int64, shape ()


@transformation
def scale_by_backtracking_linesearch(
    max_backtracking_steps: int,
    slope_rtol: Hyperparameter = 1e-4,
    decrease_factor: Hyperparameter = 0.8,
    increase_factor: Hyperparameter = 1.5,
    max_learning_rate: Hyperparameter = 1.0,
    atol: Hyperparameter = 0.0,
    rtol: Hyperparameter = 0.0,
    store_grad: bool = False,
) -> GradientTransformation:
    """Scale the updates by the first step along them after which the objective has fallen enough.

        value_fn(params + rate * updates)
            <= (1 + rtol) * value + slope_rtol * rate * <grad, updates> + atol             (Armijo)
        rate = min(increase_factor * last rate, max_learning_rate), then times decrease_factor until it holds

    Updates point downhill here: put it behind :func:`scale_by_learning_rate`, as in
    ``chain(sgd(1.0), scale_by_backtracking_linesearch(15))``. ``update`` needs the extra argument
    ``value_fn``, a function of the parameters alone; :func:`make_step` gives it. ``value`` and ``grad`` are
    the objective and its gradient at ``params``, computed where they are missing. The state keeps the
    objective at the new parameters, and with ``store_grad`` its gradient.

    If ``max_backtracking_steps`` do not suffice, the last step is taken all the same, and ``info`` tells. If
    the objective is not finite even there, no step is taken, and the next search begins anew at 1: in Optax
    every later step is 0 too.
    Source: Armijo 1966, doi:10.2140/pjm.1966.16.1; Nocedal and Wright 2006, algorithm 3.1.

    Raises:
        PureSGDError: an argument out of its bounds, no ``value_fn``, or a ``grad`` unlike ``params``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.chain(ps.sgd(1.0), ps.scale_by_backtracking_linesearch(15))
        >>> params, loss = torch.tensor([3.0, 4.0]), lambda params: (params**2).sum()
        >>> updates, state = tx.update(2 * params, tx.init(params), params, value_fn=loss)
        >>> state[1].learning_rate, state[1].value
        (tensor(0.8000), tensor(9.0000))
    """
    where = "scale_by_backtracking_linesearch"
    check_count(where, "max_backtracking_steps", max_backtracking_steps)
    check_hyperparameter(where, "slope_rtol", slope_rtol, low=0, high=1)
    check_hyperparameter(
        where, "decrease_factor", decrease_factor, low=0, high=1, open_low=True, open_high=True
    )
    check_hyperparameter(where, "increase_factor", increase_factor, low=1)
    check_hyperparameter(where, "max_learning_rate", max_learning_rate, low=0, open_low=True)
    check_hyperparameter(where, "atol", atol, low=0)
    check_hyperparameter(where, "rtol", rtol, low=0)

    def init(params: Params) -> ScaleByBacktrackingLinesearchState:
        zero = zero_scalar(params)
        info = BacktrackingLinesearchInfo(step_zero(params), zero + torch.inf)
        grad = tree.zeros_like(params) if store_grad else None
        return ScaleByBacktrackingLinesearchState(zero + 1, zero + torch.inf, grad, info)

    def update(
        updates: Updates,
        state: ScaleByBacktrackingLinesearchState,
        params: Params = None,
        *,
        value: Any = None,
        grad: Updates = None,
        value_fn: Any = None,
        **extra: Any,
    ) -> tuple[Updates, ScaleByBacktrackingLinesearchState]:
        line = line_along(where, params, updates, state.value, value_fn)
        start, _ = line.start(value, grad)

        def going(trial: _Trial) -> torch.Tensor:
            return ~(trial.error <= atol) & (trial.count <= max_backtracking_steps)

        def shorter(trial: _Trial) -> _Trial:
            rate = torch.where(trial.count > 0, decrease_factor * trial.rate, trial.rate)
            value = line.value(rate)
            error = violation(value - (1 + rtol) * start.value - rate * slope_rtol * start.slope)
            return _Trial(rate, value, error, trial.count + 1)

        guess = (increase_factor * restarted(state.learning_rate)).clamp(max=max_learning_rate)
        trial = _Trial(guess.to(start.step.dtype), start.value, start.step + torch.inf, step_zero(params))
        trial = repeat(going, shorter, trial, max_backtracking_steps + 1)
        outside = torch.isinf(trial.error)
        rate = torch.where(outside, 0.0, trial.rate)
        new = ScaleByBacktrackingLinesearchState(
            rate,
            torch.where(outside, start.value, trial.value),
            line.point(rate)[1] if store_grad else None,
            BacktrackingLinesearchInfo(trial.count, trial.error),
        )
        return multiply(updates, rate), new

    return GradientTransformation(init, update)
