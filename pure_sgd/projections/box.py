"""Projections onto sets that bound every entry by itself."""

from __future__ import annotations

import math
from typing import Any

import torch

from .. import tree as trees
from ..arguments import typed
from ..errors import PureSGDError
from ..tree.traversal import is_node
from .checks import Tree, check_leaves, check_size

__all__ = ["projection_box", "projection_hypercube", "projection_linf_ball", "projection_non_negative"]


@typed
def projection_non_negative(tree: Tree) -> Tree:
    """The nearest tree without negative entries: ``max(x, 0)``.

    Raises:
        PureSGDError: a leaf that holds no real numbers.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.projection_non_negative({"w": torch.tensor([-1.0, 2.0])})
        {'w': tensor([0., 2.])}
    """
    return _clamped("projection_non_negative", tree, 0.0, math.inf)


@typed
def projection_box(tree: Tree, lower: Any, upper: Any) -> Tree:
    """The nearest tree between two bounds: ``min(max(x, lower), upper)``.

    A bound is a number, a 0-d tensor, or a tree of such or of tensors of the shapes of ``tree``; without a
    bound on one side pass ``-math.inf`` or ``math.inf``.

    Raises:
        PureSGDError: a leaf that holds no real numbers, a bound that is NaN or does not fit ``tree``, or two
            numbers of which the lower is above the upper.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> x = {"w": torch.tensor([-1.0, 2.0]), "b": torch.tensor(3.0)}
        >>> ps.projection_box(x, -0.5, {"w": 1.0, "b": 5.0})
        {'w': tensor([-0.5000,  1.0000]), 'b': tensor(3.)}
    """
    return _clamped("projection_box", tree, lower, upper)


@typed
def projection_hypercube(tree: Tree, scale: Any = 1) -> Tree:
    """The nearest tree with entries from 0 to ``scale``, which is a bound as in :func:`projection_box`.

    Raises:
        PureSGDError: a leaf that holds no real numbers, or a ``scale`` that is negative, NaN or does not
            fit ``tree``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.projection_hypercube(torch.tensor([-1.0, 0.5, 2.0]))
        tensor([0.0000, 0.5000, 1.0000])
    """
    return _clamped("projection_hypercube", tree, 0.0, scale, upper_name="scale")


@typed
def projection_linf_ball(tree: Tree, scale: Any = 1) -> Tree:
    """The nearest tree with no entry beyond ``scale``: ``max |x_i| <= scale``.

    Raises:
        PureSGDError: a leaf that holds no real numbers, or a ``scale`` that is negative, infinite or NaN.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.projection_linf_ball(torch.tensor([-3.0, 0.5, 2.0]))
        tensor([-1.0000,  0.5000,  1.0000])
    """
    check_size("projection_linf_ball", "scale", scale)
    return _clamped("projection_linf_ball", tree, -scale, scale)


def _clamped(where: str, tree: Tree, lower: Any, upper: Any, upper_name: str = "upper") -> Tree:
    check_leaves(where, tree)
    found, rebuild = trees.flatten(tree)
    lows, highs = _spread(where, "lower", lower, tree), _spread(where, upper_name, upper, tree)

    def clamped(x: torch.Tensor, low: Any, high: Any) -> torch.Tensor:
        both_numbers = not isinstance(low, torch.Tensor) and not isinstance(high, torch.Tensor)
        if both_numbers and low > high:
            raise PureSGDError(
                where,
                f"lower={low:g} is above {upper_name}={high:g}: no tree lies between them",
                "Pass the smaller bound first" if upper_name == "upper" else f"Pass a {upper_name} from 0 on",
            )
        wide = trees.widened(x)
        # Both as tensors: torch.clamp does not mix them with numbers.
        low, high = (torch.as_tensor(bound, dtype=wide.dtype, device=x.device) for bound in (low, high))
        return torch.clamp(wide, low, high).to(x.dtype)

    return rebuild([clamped(x, low, high) for x, low, high in zip(found, lows, highs, strict=True)])


def _spread(where: str, name: str, bound: Any, tree: Tree) -> list[Any]:
    """A bound for each leaf of ``tree``: a number, a 0-d tensor, or a tensor of the leaf's shape."""
    named = trees.named_leaves(tree)
    if not is_node(bound) and not (isinstance(bound, torch.Tensor) and bound.ndim):
        check_size(where, name, bound, low=-math.inf, finite=False)
        return [bound] * len(named)
    bounds = dict(trees.named_leaves(bound))
    for path, leaf in named:
        if path not in bounds:
            raise PureSGDError(
                where, f"{name}{path} is missing, and tree{path} is there", "Pass a bound for every leaf"
            )
        own = bounds[path]
        if isinstance(own, torch.Tensor) and own.shape == leaf.shape:
            continue
        if isinstance(own, torch.Tensor) and own.ndim:
            raise PureSGDError(
                where,
                f"{name}{path} has shape {tuple(own.shape)}, and tree{path} shape {tuple(leaf.shape)}",
                "Give both one shape, or pass one number for the leaf",
            )
        check_size(where, f"{name}{path}", own, low=-math.inf, finite=False)
    for path in bounds:
        if path not in dict(named):
            raise PureSGDError(
                where, f"{name}{path} is there, and tree{path} is not", "Pass bounds for the leaves alone"
            )
    return [bounds[path] for path, _ in named]
