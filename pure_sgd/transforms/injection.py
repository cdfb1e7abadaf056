"""Hyperparameters that live in the state: to be read, and changed from one step to the next."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch

from .. import tree
from ..arguments import typed
from ..errors import PureSGDError, check_hyperparameter
from ..hints import Hyperparameter, alternatives, hints
from ..recipe import Recipe
from ..schedules import as_real, value_at
from .contract import (
    GradientTransformation,
    Params,
    ScheduledState,
    State,
    Updates,
    extra_args_of,
    step_zero,
)
from .finding import by_name
from .scaling import ScaleByLearningRateState
from .wrapping import check_inner, extras_for

__all__ = ["InjectHyperparamsState", "get_hyperparams", "inject_hyperparams", "set_hyperparams"]


class InjectHyperparamsState(NamedTuple):
    """The hyperparameters of the last update (of the first, before it), and the state of what they make."""

    hyperparams: dict[str, torch.Tensor]  # in at least float32, each of shape ()
    schedule_steps: dict[str, torch.Tensor]  # int64, shape (): updates so far, for each that is scheduled
    inner_state: State


class _Found(NamedTuple):
    """A hyperparameter in a state, and why it cannot be set there, if so."""

    path: str
    name: str
    value: torch.Tensor
    fixed: str = ""


@typed
def inject_hyperparams(
    inner_factory: Callable[..., GradientTransformation], static_args: str | Iterable[str] = ()
) -> Callable[..., GradientTransformation]:
    """Make ``inner_factory`` keep the hyperparameters that it is called with in the state.

        inject_hyperparams(adam)(learning_rate=0.1, b1=0.9)

    is ``adam(0.1, 0.9)``, made anew at each update from ``state.hyperparams``. :func:`get_hyperparams`
    reads them and :func:`set_hyperparams` changes them, without a recompile. Injected are: floats, 0-d
    float tensors, and ints and schedules for arguments annotated as hyperparameters (or not at all),
    unless ``static_args`` names them. Schedules are evaluated at the number of updates so far, from 0 on.
    Arguments that are not passed keep their default and are not injected, which they are in Optax.

    Values have the dtype of the tensor that was passed, or float64, whatever the dtype of the parameters:
    Optax rounds them to that, and 0.999 is 1 in bfloat16. A range is checked when the transform is made,
    and not again.

    Raises:
        PureSGDError: ``inner_factory`` makes no transform, lacks an argument of ``static_args``, or refuses
            a value.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.inject_hyperparams(ps.sgd)(learning_rate=0.1)
        >>> state = ps.set_hyperparams(tx.init(torch.ones(1)), learning_rate=0.5)
        >>> updates, state = tx.update(torch.ones(1), state)
        >>> updates, state.hyperparams["learning_rate"]
        (tensor([-0.5000]), tensor(0.5000, dtype=torch.float64))
    """
    signature, meant = inspect.signature(inner_factory), hints(inner_factory)
    static = {static_args} if isinstance(static_args, str) else set(static_args)
    for name in sorted(static - signature.parameters.keys()):
        raise PureSGDError(
            "inject_hyperparams",
            f"static_args names {name!r}, which is no argument of {_name_of(inner_factory)}",
            f"Name some of {', '.join(signature.parameters)}",
        )

    @functools.wraps(inner_factory)
    def make(*args: Any, **kwargs: Any) -> GradientTransformation:
        bound = signature.bind(*args, **kwargs)
        given = {
            name: value
            for name, value in bound.arguments.items()
            if name not in static and _is_injected(meant[name], value)
        }
        tx = _injected(inner_factory, bound, given)
        return tx._replace(recipe=Recipe(make, args, kwargs))

    make.__name__ = f"inject_hyperparams({_name_of(inner_factory)})"
    return make


@typed
def get_hyperparams(opt_state: State) -> dict[str, torch.Tensor]:
    """The hyperparameters that lie anywhere in an optimizer state, by name.

    Those of :func:`inject_hyperparams`, those that follow schedules, and the learning rate, each as the last
    update used it (the first, before it). A name that comes several times, as in the parts of a
    :func:`partition`, is replaced by the path to each: ``"[0].hyperparams['learning_rate']"``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.sgd(0.1, momentum=ps.linear_schedule(0.5, 0.9, 10))
        >>> ps.get_hyperparams(tx.init(torch.zeros(2)))
        {'decay': tensor(0.5000, dtype=torch.float64), 'learning_rate': tensor(0.1000, dtype=torch.float64)}
    """
    return by_name([(entry.path, entry.name, entry.value) for entry in _found(opt_state)])


@typed
def set_hyperparams(opt_state: State, **values: Any) -> State:
    """A state like ``opt_state`` in which the hyperparameters ``values`` have new values.

    Names are those of :func:`get_hyperparams`; where that gives paths, pass a path:
    ``set_hyperparams(state, **{"[0].hyperparams['learning_rate']": 0.1})``. A value is a number or a tensor,
    and is cast to the dtype that it has in the state: nothing recompiles. It fills a state that holds
    many runs side by side (made under ``vmap``), unless it has their shape. Its range is not checked.

    Raises:
        PureSGDError: a name that is not in the state, or that the state cannot change: a hyperparameter that
            follows a schedule, or one that :func:`inject_hyperparams` did not put there; a value that is
            no number or of another shape.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> state = ps.inject_hyperparams(ps.adam)(learning_rate=0.1, b1=0.9).init(torch.zeros(2))
        >>> ps.get_hyperparams(ps.set_hyperparams(state, b1=0.8))["b1"]
        tensor(0.8000, dtype=torch.float64)
    """
    entries = _found(opt_state)
    known = by_name([(entry.path, entry.name, entry) for entry in entries])
    replaced = {}
    for name, value in values.items():
        if name not in known:
            raise PureSGDError(
                "set_hyperparams",
                f"{name!r} is not in the state, which holds {', '.join(map(repr, known)) or 'none'}",
                f"Use one of these, or put it there: {_line_that_injects(name)}",
            )
        entry = known[name]
        if entry.fixed:
            raise PureSGDError(
                "set_hyperparams",
                f"{name!r} {entry.fixed}",
                f"Let the state hold it: {_line_that_injects(entry.name)}",
            )
        replaced[entry.path] = _filled(name, value, entry.value)
    _, rebuild = tree.flatten(opt_state)
    return rebuild([replaced.get(path, leaf) for path, leaf in tree.named_leaves(opt_state)])


def _injected(
    factory: Callable[..., GradientTransformation],
    bound: inspect.BoundArguments,
    given: dict[str, Any],
) -> GradientTransformation:
    schedules = {name: value for name, value in given.items() if callable(value)}
    args, kwargs = bound.args, bound.kwargs
    by_position = dict(zip(bound.signature.parameters, args, strict=False))

    def build(values: dict[str, Any]) -> GradientTransformation:
        # Copies: a transform may keep what it is given in its own state, and states share no memory.
        values = {name: v.clone() if isinstance(v, torch.Tensor) else v for name, v in values.items()}
        positional = [values.get(name, by_position[name]) for name in by_position]
        named = {name: values.get(name, value) for name, value in kwargs.items()}
        return factory(*positional, *args[len(by_position) :], **named)

    def at(name: str, step: torch.Tensor) -> torch.Tensor:
        value = value_at(schedules[name], step, "inject_hyperparams", name)
        return _kept(value, step)

    def init(params: Params) -> InjectHyperparamsState:
        zero = step_zero(params)
        steps = {name: zero.clone() for name in schedules}
        values = {name: at(name, zero) if name in steps else _kept(given[name], zero) for name in given}
        return InjectHyperparamsState(values, steps, build(values).init(params))

    def update(
        updates: Updates, state: InjectHyperparamsState, params: Params = None, **extra: Any
    ) -> tuple[Updates, InjectHyperparamsState]:
        steps, like = state.schedule_steps, step_zero(updates)
        values = {
            # A number is there where someone wrote one into the dict of a state.
            name: at(name, steps[name]) if name in steps else _kept(value, like)
            for name, value in state.hyperparams.items()
        }
        inner = build(values)
        updates, inner_state = inner.update(updates, state.inner_state, params, **extras_for(inner, extra))
        next_steps = {name: step + 1 for name, step in steps.items()}
        return updates, InjectHyperparamsState(values, next_steps, inner_state)

    zero = torch.zeros((), dtype=torch.int64)
    # Here plain numbers are checked: while a step runs they are tensors, whose values are not.
    first = build({name: at(name, zero) if callable(value) else value for name, value in given.items()})
    check_inner("inject_hyperparams", first)
    return GradientTransformation(init, update, extra_args_of(first), per_example=first.per_example)


def _is_injected(hint: Any, value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.is_floating_point() and not value.ndim
    if isinstance(value, float):
        return True
    # An int may be a count and a function a predicate: only the annotation tells.
    is_hyperparameter = any(
        kind in (Hyperparameter, float, inspect.Parameter.empty) for kind in alternatives(hint)
    )
    return is_hyperparameter and not isinstance(value, bool) and (isinstance(value, int) or callable(value))


def _kept(value: Any, step: torch.Tensor) -> torch.Tensor:
    """``value`` as it is kept in the state: a copy of its own, on the device of ``step``."""
    if not isinstance(value, torch.Tensor):
        return torch.as_tensor(value, dtype=as_real(step).dtype, device=step.device)
    return value.to(step.device, tree.wide(value.dtype), copy=True)


def _found(opt_state: State) -> list[_Found]:
    """All hyperparameters of a state; what an outer injection names, inner states only repeat."""
    found: list[_Found] = []
    outer: dict[str, set[str]] = {}
    for path, node in tree.walk(opt_state):
        if isinstance(node, (InjectHyperparamsState, ScheduledState)):
            for name, value in node.hyperparams.items():
                scheduled = isinstance(node, ScheduledState) or name in node.schedule_steps
                where = f"{path}.hyperparams[{name!r}]"
                found.append(_Found(where, name, value, "follows a schedule" if scheduled else ""))
            inner = "inner_state" if isinstance(node, InjectHyperparamsState) else "inner"
            outer[f"{path}.{inner}"] = set(node.hyperparams)
        elif isinstance(node, ScaleByLearningRateState):
            if any(path.startswith(prefix) and "learning_rate" in names for prefix, names in outer.items()):
                continue
            why = "is fixed where the transform is made, by a number or a schedule"
            found.append(_Found(f"{path}.learning_rate", "learning_rate", node.learning_rate, why))
    return found


def _filled(name: str, value: Any, old: torch.Tensor) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        check_hyperparameter("set_hyperparams", name, value)
        if callable(value):
            raise PureSGDError(
                "set_hyperparams",
                f"{name} is a function, expected a number or a tensor",
                "Pass a schedule to inject_hyperparams, where the transform is made",
            )
    new = torch.as_tensor(value, dtype=old.dtype, device=old.device)
    if new.shape not in ((), old.shape):
        raise PureSGDError(
            "set_hyperparams",
            f"{name} has shape {tuple(new.shape)}, where the state holds shape {tuple(old.shape)}",
            "Pass one number, or one for each run of the state",
        )
    return new.expand(old.shape).clone()


def _line_that_injects(name: str) -> str:
    factory = "sgd" if name == "learning_rate" else "factory"
    return f"make the transform as inject_hyperparams({factory})({name}=0.1), with your factory and number"


def _name_of(factory: Callable[..., Any]) -> str:
    return getattr(factory, "__name__", type(factory).__name__)
