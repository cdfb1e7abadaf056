"""Hyperparameters of a finished chain, moved into its state, where each parameter group can set its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch

from .. import tree
from ..transforms import GradientTransformation, InjectHyperparamsState, inject_hyperparams
from ..transforms.contract import transformation
from ..transforms.finding import by_name

__all__ = ["RATE", "SHORT", "arguments_of", "hold", "settable"]

RATE = "learning_rate"
#: What a parameter group calls it.
SHORT = {RATE: "lr"}
Values = Mapping[str, Any]


def hold(tx: GradientTransformation, names: Collection[str]) -> GradientTransformation:
    """The same chain, its hyperparameters ``names`` in its state; see :func:`inject_hyperparams`.

    A name is one of an argument in the recipe, given as a number or 0-d tensor, everywhere in it as the same;
    others stay as they are. But ``learning_rate`` may also follow a schedule, or be several: then what the
    state holds is 1, a factor on all of them.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> from pure_sgd.bridges.held import hold
        >>> for rate in (0.1, ps.linear_schedule(0.1, 0.0, 10)):
        ...     tx = hold(ps.chain(ps.clip(1.0), ps.sgd(rate)), ["learning_rate"])
        ...     print(tx.init(torch.zeros(2)).hyperparams["learning_rate"])
        tensor(0.1000, dtype=torch.float64)
        tensor(1., dtype=torch.float64)
    """
    found: dict[str, list[Any]] = {}
    for name, value in arguments_of(tx):
        if name is not None and name in names and value is not None:
            found.setdefault(name, []).append(value)
    given = {name: values[0] for name, values in found.items() if _one_number(values)}
    factors = {RATE} & (found.keys() - given.keys())
    given |= dict.fromkeys(factors, 1.0)
    make = _maker(tx, given, factors)
    if make is None:
        return tx

    def chain(**values: Any) -> GradientTransformation:
        return make(values)

    parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in given]
    vars(chain)["__signature__"] = inspect.Signature(parameters)
    return inject_hyperparams(chain)(**given)


def settable(state: Any) -> dict[str, str]:
    """The paths of the hyperparameters that lie in a state to be set, by name (or path, where two share one).

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> from pure_sgd.bridges.held import settable
        >>> settable(ps.inject_hyperparams(ps.sgd)(learning_rate=0.1).init(torch.zeros(2)))
        {'learning_rate': ".hyperparams['learning_rate']"}
    """
    found = [
        (path, name, path)
        for where, node in tree.walk(state)
        if isinstance(node, InjectHyperparamsState)
        for name in node.hyperparams
        if name not in node.schedule_steps
        for path in [f"{where}.hyperparams[{name!r}]"]
    ]
    return by_name(found)


def arguments_of(value: Any) -> Iterator[tuple[str | None, Any]]:
    """The arguments of every call in a recipe, by name; by None what came in a list of them.

    Example:
        >>> import pure_sgd as ps
        >>> from pure_sgd.bridges.held import arguments_of
        >>> [name for name, value in arguments_of(ps.chain(ps.clip(1.0), ps.trace(0.9)))]
        [None, 'max_delta', None, 'decay']
    """
    if isinstance(value, GradientTransformation):
        if value.recipe is not None:
            for name, given in _named(value):
                yield name, given
                yield from arguments_of(given)
    else:
        for child in _children(value):
            yield from arguments_of(child)


def _named(tx: GradientTransformation) -> list[tuple[str | None, Any]]:
    assert tx.recipe is not None
    parameters = inspect.signature(tx.recipe.factory).parameters.values()
    names = [p.name if p.kind is p.POSITIONAL_OR_KEYWORD else None for p in parameters]
    names += [None] * len(tx.recipe.args)
    return [*zip(names, tx.recipe.args, strict=False), *tx.recipe.kwargs.items()]


def _maker(value: Any, given: Values, factors: set[str]) -> Callable[[Values], Any] | None:
    """What makes ``value`` with other hyperparameters; None where it has none of those ``given``."""
    if isinstance(value, GradientTransformation):
        return _maker_of_transform(value, given, factors)
    children = _children(value)
    makers = [_maker(child, given, factors) for child in children]
    if not any(makers):
        return None
    kind, keys = type(value), list(value) if isinstance(value, dict) else None

    def make(values: Values) -> Any:
        made = [m(values) if m else child for m, child in zip(makers, children, strict=True)]
        return kind(made) if keys is None else dict(zip(keys, made, strict=True))

    return make


def _maker_of_transform(
    tx: GradientTransformation, given: Values, factors: set[str]
) -> Callable[[Values], Any] | None:
    if tx.recipe is None:
        return None
    named = _named(tx)
    makers = [
        _maker(value, given, factors)
        if name is None or value is None or name not in given
        else _times(name, value)
        if name in factors
        else _given(name)
        for name, value in named
    ]
    if not any(makers):
        return None
    # Made once, here: to look at a signature does not trace.
    factory, count, keys = transformation(tx.recipe.factory), len(tx.recipe.args), list(tx.recipe.kwargs)

    def make(values: Values) -> GradientTransformation:
        made = [m(values) if m else value for m, (_, value) in zip(makers, named, strict=True)]
        return factory(*made[:count], **dict(zip(keys, made[count:], strict=True)))

    return make


def _given(name: str) -> Callable[[Values], Any]:
    return lambda values: values[name]


def _times(name: str, value: Any) -> Callable[[Values], Any]:
    """What makes the product of ``value``, a number or a schedule, and a factor."""
    if callable(value):
        return lambda values: lambda step: values[name] * value(step)
    return lambda values: values[name] * value


def _children(value: Any) -> list[Any]:
    if type(value) in (list, tuple):
        return list(value)
    return list(value.values()) if type(value) is dict else []


def _one_number(values: list[Any]) -> bool:
    """Whether all are the same number; a tensor is only ever the same as itself."""
    first = values[0]
    if isinstance(first, torch.Tensor):
        return all(value is first for value in values)
    plain = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    return plain and all(value == first for value in values)
