"""Arithmetic on the leaves of a tree of tensors."""

from __future__ import annotations

import torch

from ..arguments import typed
from ..errors import PureSGDError
from .checks import check_like
from .traversal import Tree, leaves, map

__all__ = ["cast_like", "norm", "sum", "vdot", "wide", "widened", "zeros_like"]


@typed
def zeros_like(tree: Tree, dtype: torch.dtype | None = None) -> Tree:
    """Zeros for moments: in ``dtype``, or in the leaf's dtype raised to at least float32.

    Example:
        >>> import torch
        >>> from pure_sgd import tree
        >>> tree.zeros_like({"w": torch.ones(2, dtype=torch.bfloat16)})
        {'w': tensor([0., 0.])}
    """
    return map(lambda leaf: torch.zeros_like(leaf, dtype=dtype or wide(leaf.dtype)), tree)


def wide(dtype: torch.dtype) -> torch.dtype:
    """``dtype`` raised to at least float32.

    Example:
        >>> import torch
        >>> from pure_sgd import tree
        >>> tree.wide(torch.bfloat16), tree.wide(torch.float64)
        (torch.float32, torch.float64)
    """
    return torch.promote_types(dtype, torch.float32)


def widened(leaf: torch.Tensor) -> torch.Tensor:
    """``leaf`` in at least float32, for arithmetic that is to be rounded once.

    Raises:
        PureSGDError: no tensor.

    Example:
        >>> import torch
        >>> from pure_sgd import tree
        >>> tree.widened(torch.ones(2, dtype=torch.bfloat16))
        tensor([1., 1.])
    """
    try:
        return leaf.to(wide(leaf.dtype))
    except AttributeError:
        got = f"is a {type(leaf).__name__}, expected a tensor"
        raise PureSGDError("leaf", got, "Convert it with torch.as_tensor") from None


@typed
def cast_like(tree: Tree, like: Tree) -> Tree:
    """The leaves of ``tree`` in the dtypes of ``like``.

    Example:
        >>> import torch
        >>> from pure_sgd import tree
        >>> tree.cast_like([torch.ones(1)], [torch.ones(1, dtype=torch.bfloat16)])
        [tensor([1.], dtype=torch.bfloat16)]
    """
    return map(lambda leaf, other: leaf.to(other.dtype), tree, like)


def norm(tree: Tree) -> torch.Tensor:
    """The L2 norm over all leaves together, shape ``()``, in at least float32; its slope at 0 is 0.

    Example:
        >>> import torch
        >>> from pure_sgd import tree
        >>> tree.norm({"w": torch.tensor([3.0]), "b": torch.tensor(4.0)})
        tensor(5.)
    """
    total = _added([_sum_of_squares(leaf) for leaf in leaves(tree)])
    # sqrt has no slope at 0: one that is never used there keeps NaN out of gradients.
    positive = total > 0
    return torch.where(positive, torch.where(positive, total, 1.0).sqrt(), total)


def sum(tree: Tree) -> torch.Tensor:
    """The sum of all entries of all leaves, shape ``()``, in at least float32.

    Example:
        >>> import torch
        >>> from pure_sgd import tree
        >>> tree.sum({"w": torch.tensor([3.0, 1.0]), "b": torch.tensor(4.0)})
        tensor(8.)
    """
    return _added([widened(leaf).sum() for leaf in leaves(tree)])


def vdot(one: Tree, other: Tree) -> torch.Tensor:
    """The inner product of two trees, shape ``()``, in at least float32.

    The sum of the products of their entries; for complex leaves the real part of ``conj(one) * other``,
    so that ``vdot(t, t)`` is ``norm(t)**2``.

    Raises:
        PureSGDError: trees that differ in structure or shapes.

    Example:
        >>> import torch
        >>> from pure_sgd import tree
        >>> tree.vdot({"w": torch.tensor([3.0, 1.0])}, {"w": torch.tensor([1.0, 2.0])})
        tensor(5.)
    """
    check_like(one, other, "one", "other")
    return _added(leaves(map(_inner_product, one, other)))


def _inner_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    product = widened(a).conj() * widened(b)
    return (product.real if product.is_complex() else product).sum()


def _added(numbers: list[torch.Tensor]) -> torch.Tensor:
    total = torch.zeros(()) if not numbers else numbers[0]
    for number in numbers[1:]:
        total = total + number
    return total


def _sum_of_squares(leaf: torch.Tensor) -> torch.Tensor:
    leaf = widened(leaf)
    # Autograd gives lazy conjugates, which cannot be viewed as real.
    parts = torch.view_as_real(leaf.resolve_conj()) if leaf.is_complex() else leaf
    return parts.square().sum()
