"""Transforms made of other transforms, or of a plain function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import tree
from ..errors import PureSGDError
from .contract import (
    EmptyState,
    GradientTransformation,
    Params,
    State,
    Updates,
    extra_args_of,
    transformation,
)

__all__ = ["chain", "identity", "named_chain", "stateless", "stateless_with_tree_map"]


@transformation
def chain(*transforms: GradientTransformation) -> GradientTransformation:
    """Apply transforms one after the other; the state is the tuple of their states.

        u_0 = updates;  u_{i+1}, state_i = transforms[i].update(u_i, state_i, params)

    Each transform receives the extra arguments that it reads, and no others.

    Raises:
        PureSGDError: no transform, or something else among them; later, updates unlike params, a state
            of another chain, or an extra argument that no transform reads.

    Example:
        >>> import pure_sgd as ps
        >>> ps.chain(ps.clip_by_global_norm(1.0), ps.sgd(0.1, momentum=0.9))
        chain(clip_by_global_norm(1.0), chain(trace(0.9), scale_by_learning_rate(0.1)))
    """
    _check_members("chain", [(str(index), tx) for index, tx in enumerate(transforms)])

    def init(params: Params) -> tuple[State, ...]:
        return tuple(tx.init(params) for tx in transforms)

    def update(
        updates: Updates, state: tuple[State, ...], params: Params = None, **extra: Any
    ) -> tuple[Updates, tuple[State, ...]]:
        return _run("chain", transforms, updates, state, params, extra)

    return GradientTransformation(init, update, _union(transforms), per_example=transforms[0].per_example)


@transformation
def named_chain(*transforms: tuple[str, GradientTransformation]) -> GradientTransformation:
    """A :func:`chain` of ``(name, transform)`` pairs, whose state is a dict by name.

    Raises:
        PureSGDError: as :func:`chain`, and for a name that comes twice.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.named_chain(("momentum", ps.trace(0.9)), ("rate", ps.scale(-0.1)))
        >>> list(tx.init(torch.zeros(2)))
        ['momentum', 'rate']
    """
    _check_members("named_chain", list(transforms))
    names = [name for name, _ in transforms]
    members = tuple(tx for _, tx in transforms)
    for name in names:
        if names.count(name) > 1:
            raise PureSGDError("named_chain", f"the name {name!r} comes twice", "Name each transform once")

    def init(params: Params) -> dict[str, State]:
        return {name: tx.init(params) for name, tx in zip(names, members, strict=True)}

    def update(
        updates: Updates, state: dict[str, State], params: Params = None, **extra: Any
    ) -> tuple[Updates, dict[str, State]]:
        if not isinstance(state, dict) or sorted(state) != sorted(names):
            got = sorted(state) if isinstance(state, dict) else type(state).__name__
            raise _foreign_state("named_chain", got, sorted(names))
        states = tuple(state[name] for name in names)
        updates, states = _run("named_chain", members, updates, states, params, extra)
        return updates, dict(zip(names, states, strict=True))

    return GradientTransformation(init, update, _union(members), per_example=members[0].per_example)


@transformation
def identity() -> GradientTransformation:
    """Return the updates as they are.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.identity().update(torch.ones(2), ps.EmptyState())[0]
        tensor([1., 1.])
    """
    return stateless(lambda updates, params: updates)


@transformation
def stateless(function: Callable[[Updates, Params], Updates]) -> GradientTransformation:
    """The transform of a function ``function(updates, params) -> updates``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> sign = ps.stateless(lambda updates, params: ps.tree.map(torch.sign, updates))
        >>> sign.update({"w": torch.tensor([-3.0, 2.0])}, sign.init(None))[0]
        {'w': tensor([-1.,  1.])}
    """

    def init(params: Params) -> EmptyState:
        return EmptyState()

    def update(
        updates: Updates, state: EmptyState, params: Params = None, **extra: Any
    ) -> tuple[Updates, EmptyState]:
        return function(updates, params), state

    return GradientTransformation(init, update)


@transformation
def stateless_with_tree_map(function: Callable[[Any, Any], Any]) -> GradientTransformation:
    """The transform of a function of one leaf, ``function(u, p) -> u``; ``p`` is None without params.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> sign = ps.stateless_with_tree_map(lambda u, p: torch.sign(u))
        >>> sign.update({"w": torch.tensor([-3.0, 2.0])}, sign.init(None))[0]
        {'w': tensor([-1.,  1.])}
    """

    def leafwise(updates: Updates, params: Params) -> Updates:
        if params is None:
            return tree.map(lambda u: function(u, None), updates)
        return tree.map(function, updates, params)

    return stateless(leafwise)


def _run(
    where: str,
    transforms: tuple[GradientTransformation, ...],
    updates: Updates,
    states: Any,
    params: Params,
    extra: dict[str, Any],
) -> tuple[Updates, tuple[State, ...]]:
    if not isinstance(states, tuple) or len(states) != len(transforms):
        got = f"{len(states)} states" if isinstance(states, tuple) else type(states).__name__
        raise _foreign_state(where, got, f"{len(transforms)} states")
    for name in extra:
        if not any(name in extra_args_of(tx) for tx in transforms):
            read = sorted(_union(transforms))
            raise PureSGDError(
                where,
                f"nobody reads the extra argument {name!r}; this chain reads {read or 'none'}",
                "Leave it out, or add the transform that needs it",
            )
    if params is not None and not transforms[0].per_example:
        tree.check_like(updates, params, "updates", "params")
    new = []
    for tx, state in zip(transforms, states, strict=True):
        wanted = {name: extra[name] for name in extra_args_of(tx) if name in extra}
        updates, state = tx.update(updates, state, params, **wanted)
        new.append(state)
    return updates, tuple(new)


def _union(transforms: tuple[GradientTransformation, ...]) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for tx in transforms:
        names.update(dict.fromkeys(extra_args_of(tx)))
    return tuple(names)


def _check_members(where: str, members: list[Any]) -> None:
    if not members:
        raise PureSGDError(where, "got no transform", "Pass at least one, or identity()")
    for member in members:
        pair = isinstance(member, tuple) and len(member) == 2 and isinstance(member[0], str)
        if not pair or not isinstance(member[1], GradientTransformation):
            name, got = (member[0], member[1]) if pair else ("", member)
            raise PureSGDError(
                f"{where}[{name}]",
                f"is a {type(got).__name__}, expected a GradientTransformation",
                "Call the factory, as in trace(0.9)" if callable(got) else "Pass a transform",
            )


def _foreign_state(where: str, got: Any, expected: Any) -> PureSGDError:
    return PureSGDError(
        where, f"the state holds {got}, expected {expected}", "Pass the state that this chain's init gave"
    )
