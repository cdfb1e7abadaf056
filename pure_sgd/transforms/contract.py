"""The contract: what a gradient transformation is, and how a factory of them is written."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec

import torch

from .. import tree
from ..arguments import FOREIGN, called, raise_told, typed
from ..errors import PureSGDError
from ..hints import Hyperparameter, T, alternatives, hints
from ..recipe import Recipe
from ..schedules import value_at

__all__ = [
    "EmptyState",
    "GradientTransformation",
    "Hyperparameter",
    "ScheduledState",
    "apply_updates",
    "extra_args_of",
    "step_zero",
    "transformation",
]

P = ParamSpec("P")
Params = Any
Updates = Any
State = Any


class GradientTransformation(NamedTuple):
    """A pure pair: ``init(params) -> state`` and ``update(updates, state, params=None, **extra)``.

    ``update`` returns ``(updates, state)`` with the structure, shapes and dtypes it was given. Updates
    point uphill, as gradients do, until :func:`scale_by_learning_rate` turns them; they are *added* by
    :func:`apply_updates`. The extras that ``update`` reads are its keyword-only parameters, unless
    ``extra_args`` names them; it receives no others inside a chain. ``repr`` is the recipe. Where
    ``per_example`` is True, the updates that come in have a leading axis of examples, and go out without it.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.chain(ps.trace(0.9), ps.scale_by_learning_rate(0.1))
        >>> tx
        chain(trace(0.9), scale_by_learning_rate(0.1))
        >>> params = {"w": torch.ones(2)}
        >>> state = tx.init(params)
        >>> updates, state = tx.update({"w": torch.ones(2)}, state, params)
        >>> ps.apply_updates(params, updates)
        {'w': tensor([0.9000, 0.9000])}
    """

    init: Callable[[Params], State]
    update: Callable[..., tuple[Updates, State]]
    extra_args: tuple[str, ...] | None = None
    recipe: Recipe | None = None
    per_example: bool = False

    def __repr__(self) -> str:
        if self.recipe is None:
            return f"GradientTransformation(init={self.init!r}, update={self.update!r})"
        return repr(self.recipe)


class EmptyState(NamedTuple):
    """The state of a transform that remembers nothing."""


class ScheduledState(NamedTuple):
    """The state of a transform some of whose hyperparameters follow schedules."""

    step: torch.Tensor  # int64, shape ()
    hyperparams: dict[str, torch.Tensor]  # the values of the last update, each of shape ()
    inner: State


def extra_args_of(tx: GradientTransformation) -> tuple[str, ...]:
    """The names of the extra arguments that ``tx.update`` reads.

    Raises:
        PureSGDError: they are not named, and ``update`` is no Python function.

    Example:
        >>> import pure_sgd as ps
        >>> from pure_sgd.transforms.contract import extra_args_of
        >>> extra_args_of(ps.reduce_on_plateau())
        ('value',)
    """
    if tx.extra_args is not None:
        return tx.extra_args
    # inspect.signature does not trace, and a transform may be built inside a compiled function.
    code = getattr(tx.update, "__code__", None)
    if code is None:
        raise PureSGDError(
            "extra_args",
            f"update is a {type(tx.update).__name__}, whose extra arguments cannot be seen",
            "Name them, as in GradientTransformation(init, update, extra_args=('value',))",
        )
    return code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]


@typed
def transformation(
    factory: Callable[P, GradientTransformation],
) -> Callable[P, GradientTransformation]:
    """Decorate a factory: its result reads as the call, and its hyperparameters may be schedules.

    Each argument annotated ``Hyperparameter``, or ``Hyperparameter | None``, may be given as a schedule:
    then ``factory`` is called again at every step with the values there, and the state is a
    :class:`ScheduledState`.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.trace(ps.linear_schedule(0.5, 0.9, 10))
        >>> tx
        trace(linear_schedule(0.5, 0.9, 10))
        >>> tx.init(torch.zeros(2)).hyperparams
        {'decay': tensor(0.5000, dtype=torch.float64)}
    """
    meant = hints(factory)
    names = list(meant)
    again: Callable[..., GradientTransformation] = factory
    schedulable = [name for name, hint in meant.items() if Hyperparameter in alternatives(hint)]

    @functools.wraps(factory)
    def make(*args: P.args, **kwargs: P.kwargs) -> GradientTransformation:
        given: dict[str, Any] = {**dict(zip(names, args, strict=False)), **kwargs}
        schedules = {name: given[name] for name in schedulable if callable(given.get(name))}
        if schedules:

            def build(values: dict[str, torch.Tensor]) -> GradientTransformation:
                # By position what came by position: Python then checks the call as it was written.
                by_position = [values.get(name, arg) for name, arg in zip(names, args, strict=False)]
                by_name = {name: values.get(name, arg) for name, arg in kwargs.items()}
                return again(*by_position, *args[len(names) :], **by_name)

            tx = _scheduled(factory.__name__, build, schedules)
        else:
            tx = called(factory, *args, **kwargs)
        return explained(tx)._replace(recipe=Recipe(factory, args, dict(kwargs)))

    return make


def explained(tx: GradientTransformation) -> GradientTransformation:
    """``tx``, which says what is wrong with its arguments where it fails; until then nothing is looked at.

    Example:
        >>> import pure_sgd as ps
        >>> ps.trace(0.9).init({"w": 1.0})
        Traceback (most recent call last):
        pure_sgd.errors.PureSGDError: params['w']: is a float, expected a tensor. Convert it with \
torch.as_tensor.
    """

    def init(params: Params) -> State:
        if torch.compiler.is_compiling():
            return tx.init(params)
        try:
            return tx.init(params)
        except FOREIGN as error:
            tree.check_tensors(params, "params")
            raise_told(error, tx.init, (params,), {})
            raise

    def update(updates: Updates, state: State, params: Params = None, **extra: Any) -> tuple[Updates, State]:
        if torch.compiler.is_compiling():
            return tx.update(updates, state, params, **extra)
        try:
            return tx.update(updates, state, params, **extra)
        except FOREIGN as error:
            if isinstance(error, PureSGDError):
                raise
            tree.check_tensors(updates, "updates")
            if params is not None:
                tree.check_tensors(params, "params")
                if not tx.per_example:
                    tree.check_like(updates, params, "updates", "params")
                tree.check_like(state, tx.init(params), "state", "init(params)")
            raise_told(error, tx.update, (updates, state, params), {})
            raise

    return tx._replace(init=init, update=update, extra_args=extra_args_of(tx))


def apply_updates(params: T, updates: Updates) -> T:
    """Add the updates: ``params + updates``, each leaf cast to its parameter's dtype.

    Raises:
        PureSGDError: names the leaf whose structure or shape differs.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.apply_updates({"w": torch.ones(2)}, {"w": torch.full((2,), -0.25)})
        {'w': tensor([0.7500, 0.7500])}
    """
    tree.check_like(updates, params, "updates", "params")
    try:
        return tree.elementwise(lambda p, u: (p + u).to(p.dtype), params, updates)
    except (AttributeError, TypeError):
        tree.check_tensors(params, "params")
        tree.check_tensors(updates, "updates")
        raise


def step_zero(params: Params) -> torch.Tensor:
    """A step count of 0, int64 of shape ``()``, on the device of ``params``.

    Example:
        >>> import torch
        >>> from pure_sgd.transforms.contract import step_zero
        >>> step_zero({"w": torch.ones(2)})
        tensor(0)
    """
    found = tree.leaves(params)
    return torch.zeros((), dtype=torch.int64, device=found[0].device if found else None)


def _scheduled(
    where: str,
    build: Callable[[dict[str, torch.Tensor]], GradientTransformation],
    schedules: dict[str, Callable[..., Any]],
) -> GradientTransformation:
    def at(step: torch.Tensor) -> tuple[GradientTransformation, dict[str, torch.Tensor]]:
        values = {
            name: torch.as_tensor(value_at(schedule, step, where, name), device=step.device)
            for name, schedule in schedules.items()
        }
        return build(values), values

    def init(params: Params) -> ScheduledState:
        step = step_zero(params)
        inner, values = at(step)
        return ScheduledState(step, values, inner.init(params))

    def update(
        updates: Updates, state: ScheduledState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScheduledState]:
        inner, values = at(state.step)
        updates, inner_state = inner.update(updates, state.inner, params, **extra)
        return updates, ScheduledState(state.step + 1, values, inner_state)

    first, _ = at(torch.zeros((), dtype=torch.int64))
    return GradientTransformation(init, update, extra_args_of(first), per_example=first.per_example)


def missing_params(where: str) -> PureSGDError:
    """The error of a rule that reads the parameters and was not given them."""
    return PureSGDError(
        where, "params is None, and this rule reads them", "Call update(updates, state, params)"
    )
