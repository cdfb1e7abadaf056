"""The line search of quasi-Newton methods: a step that falls enough, at a place that is flat enough."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from ... import tree
from ...errors import PureSGDError, check_count, check_hyperparameter
from ..contract import GradientTransformation, Hyperparameter, Params, Updates, step_zero, transformation
from ..running import check_offsets
from ..scaling import multiply
from .bracket import Bracket, middle, narrowed, opened
from .line import Point, line_along, picked, repeat, restarted, violation, zero_scalar

__all__ = ["ScaleByZoomLinesearchState", "ZoomLinesearchInfo", "scale_by_zoom_linesearch"]


class ZoomLinesearchInfo(NamedTuple):
    """How the last search went: by how much the step that was taken misses each criterion."""

    num_linesearch_steps: torch.Tensor  # int64, shape (): evaluations of the objective and its gradient
    decrease_error: torch.Tensor  # 0 if it fell enough, inf if no step gave a finite objective; shape ()
    curvature_error: torch.Tensor  # 0 if it is flat enough there; shape ()


class ScaleByZoomLinesearchState(NamedTuple):
    """The step that was taken, and the objective behind it."""

    learning_rate: torch.Tensor  # real, in at least float32, shape (); so are the other numbers
    value: torch.Tensor
    grad: Updates  # like params, in at least float32
    info: ZoomLinesearchInfo


class _Criteria(NamedTuple):
    """What is asked of a point, given the one that the line starts from."""

    slope_rtol: Any
    curv_rtol: Any
    approx_dec_rtol: Any

    def decrease_error(self, start: Point, point: Point) -> torch.Tensor:
        excess = point.value - start.value - self.slope_rtol * point.step * start.slope
        if self.approx_dec_rtol is not None:
            # Near a minimum values agree to the last digit while slopes still tell uphill from downhill.
            by_slope = point.slope - (2 * self.slope_rtol - 1) * start.slope
            rise = point.value - start.value - self.approx_dec_rtol * start.value.abs()
            excess = torch.minimum(excess, torch.maximum(by_slope, rise))
        return violation(excess)

    def curvature_error(self, start: Point, point: Point) -> torch.Tensor:
        return violation(point.slope.abs() - self.curv_rtol * start.slope.abs())


class _Search(NamedTuple):
    """A search under way."""

    count: torch.Tensor  # int64, shape ()
    point: Point  # the last one tried
    grad: Updates
    safe: Point  # one that falls enough, or the start
    safe_grad: Updates
    bracket: Bracket
    bracketed: torch.Tensor  # bool, shape (): a good step lies between the ends of the bracket
    done: torch.Tensor  # bool, shape ()
    failed: torch.Tensor  # bool, shape ()


@transformation
def scale_by_zoom_linesearch(
    max_linesearch_steps: int,
    max_learning_rate: Hyperparameter = None,
    tol: Hyperparameter = 0.0,
    increase_factor: Hyperparameter = 2.0,
    slope_rtol: Hyperparameter = 1e-4,
    curv_rtol: Hyperparameter = 0.9,
    approx_dec_rtol: Hyperparameter = 1e-6,
    stepsize_precision: Hyperparameter = 1e-5,
    initial_guess_strategy: str = "keep",
) -> GradientTransformation:
    """Scale the updates by a step after which the objective has fallen enough and is flat enough.

        value_fn(params + rate * updates) <= value + slope_rtol * rate * slope + tol           (Armijo)
        |slope at params + rate * updates| <= curv_rtol * |slope| + tol                        (strong Wolfe)

    with ``slope = <grad, updates>``. Steps grow by ``increase_factor``, up to ``max_learning_rate``, until an
    interval holds a good one; then it narrows around the minimum of a cubic or a parabola through what
    is known, until the step is good or the interval shorter than ``stepsize_precision``. Near a minimum,
    where values agree to ``approx_dec_rtol``, slopes decide in place of values (None: they never do). The
    first guess is 1 with ``initial_guess_strategy="one"``, as quasi-Newton methods want it, and the last step
    with ``"keep"``.

    Updates point downhill here: put it behind :func:`scale_by_learning_rate`. ``update`` needs the extra
    argument ``value_fn``, a function of the parameters alone; :func:`make_step` gives it. ``value`` and
    ``grad`` are the objective and its gradient at ``params``, computed where they are missing. The state
    keeps both at the new parameters.

    The rule of Optax, but for searches that fail. If no step is good, the best one that falls enough is
    taken, else the last one tried, and ``info`` tells by how much *that* step misses the criteria (Optax
    tells of the last one tried). If no step gives a finite objective none is taken, and ``"keep"`` begins
    anew at 1: in Optax every later step is 0 too.
    Sources: Nocedal and Wright 2006, algorithms 3.5 and 3.6; Hager and Zhang 2006,
    doi:10.1145/1132973.1132979.

    Raises:
        PureSGDError: an argument out of its bounds, no ``value_fn``, or a ``grad`` unlike ``params``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.chain(ps.sgd(1.0), ps.scale_by_zoom_linesearch(15))
        >>> params, loss = torch.tensor([3.0, 4.0]), lambda params: (params**2).sum()
        >>> updates, state = tx.update(2 * params, tx.init(params), params, value_fn=loss)
        >>> state[1].learning_rate, state[1].value
        (tensor(0.5000), tensor(0.))
    """
    where = "scale_by_zoom_linesearch"
    check_count(where, "max_linesearch_steps", max_linesearch_steps)
    check_hyperparameter(where, "increase_factor", increase_factor, low=1, open_low=True)
    offsets = {
        "tol": tol,
        "slope_rtol": slope_rtol,
        "curv_rtol": curv_rtol,
        "stepsize_precision": stepsize_precision,
    }
    optional = {"max_learning_rate": max_learning_rate, "approx_dec_rtol": approx_dec_rtol}
    check_offsets(where, **offsets, **{name: value for name, value in optional.items() if value is not None})
    if initial_guess_strategy not in ("keep", "one"):
        raise PureSGDError(
            where, f"initial_guess_strategy={initial_guess_strategy!r} is unknown", "Pass 'keep' or 'one'"
        )
    criteria = _Criteria(slope_rtol, curv_rtol, approx_dec_rtol)

    def init(params: Params) -> ScaleByZoomLinesearchState:
        zero = zero_scalar(params)
        info = ZoomLinesearchInfo(step_zero(params), zero + torch.inf, zero + torch.inf)
        return ScaleByZoomLinesearchState(zero + 1, zero + torch.inf, tree.zeros_like(params), info)

    def update(
        updates: Updates,
        state: ScaleByZoomLinesearchState,
        params: Params = None,
        *,
        value: Any = None,
        grad: Updates = None,
        value_fn: Any = None,
        **extra: Any,
    ) -> tuple[Updates, ScaleByZoomLinesearchState]:
        line = line_along(where, params, updates, state.value, value_fn)
        start, grad = line.start(value, grad)
        one = torch.ones_like(state.learning_rate)
        guess = one if initial_guess_strategy == "one" else restarted(state.learning_rate)

        def turn(search: _Search) -> _Search:
            step, longest = longer(search)
            step = torch.where(search.bracketed, middle(search.bracket), step).to(one.dtype)
            point, grad = line.point(step)
            falls = criteria.decrease_error(start, point)
            good = torch.maximum(falls, criteria.curvature_error(start, point)) <= tol
            # The first one that falls counts even if, near a minimum, only its slope tells.
            first_safe = ~search.bracketed & ~(search.safe.step > 0)
            safer = (falls <= tol) & (first_safe | (point.value < search.safe.value))
            safe, safe_grad = picked(safer, (point, grad), (search.safe, search.safe_grad))
            first, found = opened(search.point, point, search.count == 0, falls > 0)
            bracket = picked(search.bracketed, narrowed(search.bracket, point, falls > 0), first)
            done = good | (~search.bracketed & ~found & longest)
            length = (search.bracket.high.step - search.bracket.low.step).abs()
            tight = search.bracketed & (length <= stepsize_precision) & (safe.step > 0)
            failed = ~done & (tight | (search.count + 1 >= max_linesearch_steps))
            return _Search(
                search.count + 1,
                point,
                grad,
                safe,
                safe_grad,
                bracket,
                search.bracketed | found,
                done,
                failed,
            )

        def longer(search: _Search) -> tuple[torch.Tensor, torch.Tensor]:
            """The next step of a search for an interval, and whether it is the longest."""
            step = torch.where(search.count == 0, guess, increase_factor * search.point.step)
            if max_learning_rate is None:
                return step, torch.zeros_like(search.done)
            return step.clamp(max=max_learning_rate), step >= max_learning_rate

        no = one < 0
        search = _Search(
            step_zero(params), start, grad, start, grad, Bracket(start, start, start), no, no, no
        )
        search = repeat(lambda search: ~(search.done | search.failed), turn, search, max_linesearch_steps)
        return _taken(updates, start, search, criteria)

    return GradientTransformation(init, update)


def _taken(
    updates: Updates, start: Point, search: _Search, criteria: _Criteria
) -> tuple[Updates, ScaleByZoomLinesearchState]:
    """The updates of the step found, or of the safe one where the search failed, and what to remember."""
    outside = search.failed & torch.isinf(criteria.decrease_error(start, search.point))
    stuck = outside & ~(search.safe.step > 0)
    safe = outside | (search.failed & (search.safe.step > 0))
    point, grad = picked(safe, (search.safe, search.safe_grad), (search.point, search.grad))
    falls, flat = criteria.decrease_error(start, point), criteria.curvature_error(start, point)
    info = ZoomLinesearchInfo(search.count, torch.where(stuck, torch.inf, falls), flat)
    state = ScaleByZoomLinesearchState(point.step, point.value, grad, info)
    return multiply(updates, point.step), state
