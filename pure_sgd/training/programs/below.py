"""A call inside ``vmap`` as a call below it, on all that is mapped at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ... import functorch

__all__ = ["Axis", "below", "mapped"]

Leaves = Sequence[Any]


class Axis(NamedTuple):
    """One ``vmap`` around a call: its size, and for every leaf whether it is mapped over its first axis."""

    size: int
    in_dims: tuple[int | None, ...]
    randomness: str


Axes = tuple[Axis, ...]
Caller = Callable[[Axes, Leaves], Leaves]


def below(caller: Caller, leaves: Leaves) -> Leaves:
    """``caller(axes, leaves)``, called below every ``vmap`` around this call.

    There a leaf has one leading axis for each ``vmap`` that maps over it, the outermost first; ``axes`` begin
    with the innermost. The caller gives results with all leading axes, as :func:`mapped` does. What Python
    reads besides the leaves is mapped there as it is here, wherever ``mapped`` goes through all ``axes``.

    Example:
        >>> import torch
        >>> from pure_sgd.training.programs.below import below, mapped
        >>> def caller(axes, leaves):
        ...     print(leaves[0].shape)
        ...     return mapped(lambda x: (2 * x,), axes)(*leaves)
        >>> torch.func.vmap(lambda x: below(caller, [x])[0])(torch.arange(3))
        torch.Size([3])
        tensor([0, 2, 4])
    """
    # Mapped by every vmap around this call, so that each of them is there again below.
    return _Below.apply(_Call(caller, (), len(leaves)), *leaves, *functorch.marks())


def mapped(function: Callable[..., Leaves], axes: Axes) -> Callable[..., Leaves]:
    """``function`` mapped over all ``axes`` again.

    Example:
        >>> import torch
        >>> from pure_sgd.training.programs.below import Axis, mapped
        >>> mapped(lambda x: [x.sum()], (Axis(3, (0,), "error"),))(torch.ones(3, 2))
        [tensor([2., 2., 2.])]
    """
    for axis in axes:
        function = _mapped_once(function, axis)
    return function


def _mapped_once(function: Callable[..., Leaves], axis: Axis) -> Callable[..., Leaves]:
    # A mark again: vmap wants something to map over.
    def marked(mark: torch.Tensor, *leaves: Any) -> Leaves:
        return function(*leaves)

    over = torch.func.vmap(marked, (0, *axis.in_dims), randomness=axis.randomness)
    return lambda *leaves: over(torch.empty(axis.size), *leaves)


@dataclass(frozen=True)
class _Call:
    """Who calls in the end, over which axes the call is mapped so far, and how many leaves are no marks."""

    caller: Caller
    axes: Axes
    count: int


class _Below(torch.autograd.Function):
    @staticmethod
    def forward(call: _Call, *leaves: Any) -> Leaves:
        return tuple(call.caller(call.axes, leaves[: call.count]))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], call: _Call, *leaves: Any
    ) -> tuple[Leaves, tuple[int, ...]]:
        pairs = list(zip(leaves, in_dims[1:], strict=True))
        moved = [leaf if dim is None else leaf.movedim(dim, 0) for leaf, dim in pairs]
        first = tuple(None if dim is None else 0 for _, dim in pairs[: call.count])
        axes = (*call.axes, Axis(info.batch_size, first, info.randomness))
        results = _Below.apply(_Call(call.caller, axes, call.count), *moved)
        return results, (0,) * len(results)
