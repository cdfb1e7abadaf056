"""Projections onto a line, a hyperplane and a halfspace, all leaves together."""

from __future__ import annotations

import math
from typing import Any

import torch

from .. import tree as trees
from ..arguments import typed
from .checks import Tree, check_leaves, check_size

__all__ = ["projection_halfspace", "projection_hyperplane", "projection_vector"]


@typed
def projection_vector(x: Tree, a: Tree) -> Tree:
    """The nearest multiple of ``a``.

        y = <x, a> / <a, a> * a

    Where ``a`` is 0 that is 0, and in Optax NaN.

    Raises:
        PureSGDError: a leaf that holds no real numbers, or ``a`` is unlike ``x``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.projection_vector(torch.tensor([3.0, 1.0]), torch.tensor([2.0, 2.0]))
        tensor([2., 2.])
    """
    share = _share("projection_vector", x, a, 0.0)
    return trees.map(lambda a, x: (-share * trees.widened(a)).to(x.dtype), a, x)


@typed
def projection_hyperplane(x: Tree, a: Tree, b: Any) -> Tree:
    """The nearest tree y with ``<a, y> = b``.

        y = x + (b - <a, x>) / <a, a> * a

    Where ``a`` is 0 it is ``x`` itself, and in Optax NaN.

    Raises:
        PureSGDError: a leaf that holds no real numbers, ``a`` is unlike ``x``, or ``b`` is infinite or NaN.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.projection_hyperplane({"w": torch.tensor([3.0, 1.0])}, {"w": torch.ones(2)}, 2.0)
        {'w': tensor([2., 0.])}
    """
    where = "projection_hyperplane"
    check_size(where, "b", b, low=-math.inf)
    return _moved(x, a, _share(where, x, a, b))


@typed
def projection_halfspace(x: Tree, a: Tree, b: Any) -> Tree:
    """The nearest tree y with ``<a, y> <= b``.

        y = x + min((b - <a, x>) / <a, a>, 0) * a

    A tree that is in the halfspace stays as it is. Where ``a`` is 0 that is every one, and in Optax NaN.

    Raises:
        PureSGDError: a leaf that holds no real numbers, ``a`` is unlike ``x``, or ``b`` is infinite or NaN.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.projection_halfspace(torch.tensor([3.0, 1.0]), torch.ones(2), 2.0)
        tensor([2., 0.])
        >>> ps.projection_halfspace(torch.tensor([0.0, 1.0]), torch.ones(2), 2.0)
        tensor([0., 1.])
    """
    where = "projection_halfspace"
    check_size(where, "b", b, low=-math.inf)
    return _moved(x, a, _share(where, x, a, b).clamp(max=0))


def _share(where: str, x: Tree, a: Tree, b: Any) -> torch.Tensor:
    """``(b - <a, x>) / <a, a>``, and 0 where ``a`` is 0."""
    check_leaves(where, x)
    check_leaves(where, a)
    trees.check_like(a, x, "a", "x")
    square = _dot(a, a)
    some = square > 0
    return torch.where(some, (b - _dot(a, x)) / torch.where(some, square, 1.0), 0.0)


def _dot(one: Tree, other: Tree) -> torch.Tensor:
    pairs = zip(trees.leaves(one), trees.leaves(other), strict=True)
    products = [(trees.widened(u) * trees.widened(v)).sum() for u, v in pairs]
    return sum(products[1:], products[0]) if products else torch.zeros(())


def _moved(x: Tree, a: Tree, share: torch.Tensor) -> Tree:
    return trees.map(lambda x, a: (trees.widened(x) + share * trees.widened(a)).to(x.dtype), x, a)
