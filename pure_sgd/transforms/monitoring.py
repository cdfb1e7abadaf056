"""Measurements of the updates on their way through a chain, kept in the state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from .. import tree
from ..arguments import typed
from ..errors import PureSGDError, check_hyperparameter
from ..recipe import Recipe, recorded
from .contract import (
    EmptyState,
    GradientTransformation,
    Params,
    State,
    Updates,
    step_zero,
    transformation,
)
from .finding import by_name
from .running import bias_correction

__all__ = [
    "Measure",
    "MeasureWithEmaState",
    "MonitorState",
    "SnapshotState",
    "get_measurements",
    "measure_with_ema",
    "monitor",
    "snapshot",
]


class Measure(NamedTuple):
    """A measure that remembers: ``init(params) -> state``, ``update(updates, state) -> (value, state)``."""

    init: Callable[[Params], State]
    update: Callable[[Updates, State], tuple[Any, State]]
    recipe: Recipe | None = None

    def __repr__(self) -> str:
        return repr(self.recipe) if self.recipe else f"Measure({self.init!r}, {self.update!r})"


class MeasureWithEmaState(NamedTuple):
    """The exponential average of a measure, not debiased."""

    step: torch.Tensor  # int64, shape ()
    ema: Any  # like the value, in at least float32


class SnapshotState(NamedTuple):
    """The last measurement, by its name; zeros before the first."""

    measurement: dict[str, Any]  # a tensor or a tree of them, floats in at least float32


class MonitorState(NamedTuple):
    """The last measurements, by name, and what the measures remember; zeros before the first."""

    measurements: dict[str, Any]  # a tensor or a tree of them each, floats in at least float32
    measure_states: dict[str, State]


@transformation
def snapshot(measure_name: str, measure: Callable[[Updates], Any]) -> GradientTransformation:
    """Keep ``measure(updates)`` in the state; the updates pass through.

    The value, a tensor or a tree of tensors, belongs to the place in the chain: the updates are what the
    transforms before have made of the gradients. Read it with :func:`get_measurements`.

    Raises:
        PureSGDError: ``measure`` is no function.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.chain(ps.snapshot("grad_norm", ps.tree.norm), ps.sgd(0.1))
        >>> updates, state = tx.update(torch.tensor([3.0, 4.0]), tx.init(torch.zeros(2)))
        >>> ps.get_measurements(state)
        {'grad_norm': tensor(5.)}
    """
    watch = _watching("snapshot", {measure_name: measure})

    def init(params: Params) -> SnapshotState:
        return SnapshotState(watch.init(params).measurements)

    def update(
        updates: Updates, state: SnapshotState, params: Params = None, **extra: Any
    ) -> tuple[Updates, SnapshotState]:
        _, seen = watch.update(updates, MonitorState(state.measurement, {measure_name: EmptyState()}))
        return updates, SnapshotState(seen.measurements)

    return GradientTransformation(init, update)


@transformation
def monitor(measures: Mapping[str, Callable[[Updates], Any] | Measure]) -> GradientTransformation:
    """Keep several measurements of the updates in the state; the updates pass through.

    ``measures`` maps a name to a function of the updates, whose value is a tensor or a tree of tensors, or
    to a measure that remembers, such as :func:`measure_with_ema`. The state has its structure from
    ``init`` on (in Optax it appears with the first update). Read it with :func:`get_measurements`.

    Raises:
        PureSGDError: a measure that is neither a function nor a ``Measure``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> watch = {"norm": ps.tree.norm, "smooth": ps.measure_with_ema(ps.tree.norm, 0.9)}
        >>> tx = ps.monitor(watch)
        >>> updates, state = tx.update(torch.tensor([3.0, 4.0]), tx.init(torch.zeros(2)))
        >>> ps.get_measurements(state)
        {'norm': tensor(5.), 'smooth': tensor(5.0000)}
    """
    watch = _watching("monitor", measures)

    def update(
        updates: Updates, state: MonitorState, params: Params = None, **extra: Any
    ) -> tuple[Updates, MonitorState]:
        return updates, watch.update(updates, state)[1]

    return GradientTransformation(watch.init, update)


@recorded
def measure_with_ema(
    measure: Callable[[Updates], Any],
    decay: float | torch.Tensor,
    debias: bool = True,
    accumulator_dtype: torch.dtype | None = None,
) -> Measure:
    """The exponential moving average of a measure, for :func:`monitor`.

        ema   = decay * ema + (1 - decay) * measure(updates)
        value = ema / (1 - decay**t)      (ema itself without debias)         t counts from 1

    The average has at least float32, or ``accumulator_dtype``. In Optax this is a transform, whose
    "updates" are the measurement.

    Raises:
        PureSGDError: ``measure`` is no function, or ``decay`` outside [0, 1) or a schedule.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.monitor({"size": ps.measure_with_ema(lambda u: u.abs().mean(), 0.5)})
        >>> state = tx.init(torch.zeros(1))
        >>> for number in (1.0, 4.0):
        ...     _, state = tx.update(torch.tensor([number]), state)
        >>> ps.get_measurements(state)
        {'size': tensor(3.)}
    """
    if not callable(measure):
        raise _no_measure("measure_with_ema", "measure", measure)
    if callable(decay):
        raise PureSGDError("measure_with_ema", "decay is a function, expected a number", "Pass 0.9, say")
    check_hyperparameter("measure_with_ema", "decay", decay, low=0, high=1, open_high=True)

    def init(params: Params) -> MeasureWithEmaState:
        value = measure(tree.map(torch.zeros_like, params))
        return MeasureWithEmaState(step_zero(params), tree.zeros_like(value, accumulator_dtype))

    def update(updates: Updates, state: MeasureWithEmaState) -> tuple[Any, MeasureWithEmaState]:
        t = state.step + 1
        ema = tree.map(
            lambda e, value: (decay * e + (1 - decay) * value.to(e.dtype)).to(e.dtype),
            state.ema,
            measure(updates),
        )
        weight = bias_correction(decay, t) if debias else 1
        return tree.map(lambda e: (e / weight).to(e.dtype), ema), MeasureWithEmaState(t, ema)

    return Measure(init, update)


@typed
def get_measurements(opt_state: State) -> dict[str, Any]:
    """The measurements that lie anywhere in an optimizer state, by name.

    A name that comes several times is replaced by the path to each:
    ``"[0].measurements['norm']"``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.chain(
        ...     ps.snapshot("before", ps.tree.norm), ps.scale(2.0), ps.snapshot("after", ps.tree.norm)
        ... )
        >>> _, state = tx.update(torch.ones(1), tx.init(torch.zeros(1)))
        >>> ps.get_measurements(state)
        {'before': tensor(1.), 'after': tensor(2.)}
    """
    found = []
    for path, node in tree.walk(opt_state):
        if isinstance(node, (SnapshotState, MonitorState)):
            field = "measurement" if isinstance(node, SnapshotState) else "measurements"
            for name, value in getattr(node, field).items():
                found.append((f"{path}.{field}[{name!r}]", name, value))
    return by_name(found)


def _watching(where: str, measures: Mapping[str, Any]) -> Measure:
    """All ``measures`` as one, whose state is a MonitorState; its value is left out."""
    for name, measure in measures.items():
        if not callable(measure) and not isinstance(measure, Measure):
            raise _no_measure(where, name, measure)
    remembering = {name: _remembering(measure) for name, measure in measures.items()}

    def init(params: Params) -> MonitorState:
        states = {name: measure.init(params) for name, measure in remembering.items()}
        zeros = tree.map(torch.zeros_like, params)
        values = {name: m.update(zeros, states[name])[0] for name, m in remembering.items()}
        return MonitorState(tree.map(_unmeasured, values), states)

    def update(updates: Updates, state: MonitorState) -> tuple[None, MonitorState]:
        values, states = {}, {}
        for name, measure in remembering.items():
            value, states[name] = measure.update(updates, state.measure_states[name])
            # A copy: a measure may return the updates themselves.
            values[name] = tree.map(
                lambda old, new: torch.as_tensor(new).to(old.dtype, copy=True),
                state.measurements[name],
                value,
            )
        return None, MonitorState(values, states)

    return Measure(init, update)


def _remembering(measure: Any) -> Measure:
    if isinstance(measure, Measure):
        return measure
    return Measure(lambda params: EmptyState(), lambda updates, state: (measure(updates), state))


def _unmeasured(value: Any) -> torch.Tensor:
    value = torch.as_tensor(value)
    fractional = value.is_floating_point() or value.is_complex()
    return torch.zeros_like(value, dtype=tree.wide(value.dtype) if fractional else None)


def _no_measure(where: str, name: str, measure: Any) -> PureSGDError:
    return PureSGDError(
        where,
        f"{name} is a {type(measure).__name__}, expected a function of the updates",
        "Pass a function such as tree.norm",
    )
