"""A rule for one leaf, applied to many leaves together: one call for each of its operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any

import torch

from .. import functorch
from ..errors import PureSGDError
from .traversal import Tree, aligned

__all__ = ["elementwise", "may_go_together"]

#: Numbers up to which leaves go together: what one operation wrote is in the cache for the next.
MANY = 1 << 18

#: What torch.optim is made of has no public name.
_torch: Any = import_module("torch")


def elementwise(rule: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """Apply ``rule`` to every leaf, as :func:`map` does.

    The rule is made of ``+``, ``-``, ``*``, ``/``, ``sqrt`` and ``to``, of leaves and of
    numbers or 0-d tensors. Leaves of one wide real dtype then go through each operation together, which
    saves most of the time where they are small; the numbers are the same.

    Raises:
        PureSGDError: as :func:`map`.

    Example:
        >>> import torch
        >>> from pure_sgd import tree
        >>> params = {"w": torch.ones(2), "b": torch.zeros(1)}
        >>> tree.elementwise(lambda p: 2 * p + 1, params)
        {'w': tensor([3., 3.]), 'b': tensor([1.])}
    """
    if not callable(rule):
        raise PureSGDError("elementwise", f"rule is a {type(rule).__name__}", "Pass a function")
    columns, rebuild = aligned(tree, *rest)
    if not may_go_together(columns):
        return rebuild([rule(*row) for row in zip(*columns, strict=True)])
    groups = [rule(*[Leaves(column[part]) for column in columns]) for part in _parts(columns[0])]
    return rebuild([leaf for group in groups for leaf in group.tensors])


def may_go_together(columns: Sequence[Sequence[Any]]) -> bool:
    """Whether all are plain tensors with axes, each column in float32 or float64, outside of torch.func.

    Example:
        >>> import torch
        >>> from pure_sgd.tree.together import may_go_together
        >>> may_go_together([[torch.ones(2), torch.ones(3)]]), may_go_together([[torch.tensor(1)]])
        (True, False)
    """
    if not functorch.readable():
        return False
    for column in columns:
        if not {*map(type, column)} <= {torch.Tensor, torch.nn.Parameter}:
            return False
        if {leaf.dtype for leaf in column} not in ({torch.float32}, {torch.float64}):
            return False
    # One without axes would take on the dtype of a number.
    return all(leaf.ndim for leaf in columns[0])


def _parts(leaves: Sequence[torch.Tensor]) -> Iterator[slice]:
    start = total = 0
    for index, leaf in enumerate(leaves):
        size = leaf.numel()
        if index > start and total + size > MANY:
            yield slice(start, index)
            start, total = index, 0
        total += size
    yield slice(start, len(leaves))


class Leaves:
    """Tensors of one dtype that go through a rule together, as if they were one."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self.tensors = tensors

    @property
    def dtype(self) -> torch.dtype:
        return self.tensors[0].dtype

    def to(self, dtype: torch.dtype) -> Leaves:
        return self if self.dtype == dtype else Leaves([leaf.to(dtype) for leaf in self.tensors])

    def is_complex(self) -> bool:
        return False

    def sqrt(self) -> Leaves:
        return Leaves(_torch._foreach_sqrt(self.tensors))

    def __add__(self, other: Any) -> Leaves:
        other = self._operand(other)
        if isinstance(other, torch.Tensor):
            # With alpha torch takes the tensor as it is, and without as a number for every leaf.
            return Leaves(_torch._foreach_add(self.tensors, other, alpha=1))
        return Leaves(_torch._foreach_add(self.tensors, other))

    def __mul__(self, other: Any) -> Leaves:
        return Leaves(_torch._foreach_mul(self.tensors, self._operand(other)))

    def __truediv__(self, other: Any) -> Leaves:
        return Leaves(_torch._foreach_div(self.tensors, self._operand(other)))

    def __sub__(self, other: Any) -> Leaves:
        if isinstance(other, Leaves):
            return Leaves(_torch._foreach_sub(self.tensors, other.tensors))
        return self + -other

    __radd__ = __add__
    __rmul__ = __mul__

    def _operand(self, other: Any) -> Any:
        """A number as a tensor of this dtype, which torch would make anew for every leaf."""
        if isinstance(other, Leaves):
            return other.tensors
        return torch.as_tensor(other, dtype=self.dtype, device=self.tensors[0].device)
