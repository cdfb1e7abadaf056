"""The sentence that says where two trees differ."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import PureSGDError
from .nodes import Tree, is_node, walk

__all__ = ["check_no_difference", "check_tensors", "kind_of", "shape_of"]


def check_no_difference(tree: Tree, like: Tree, name: str, like_name: str) -> None:
    """Check that two trees have the same nodes, and leaves of the same shapes.

    Raises:
        PureSGDError: names the first place where they differ.

    Example:
        >>> from pure_sgd.tree.differences import check_no_difference
        >>> check_no_difference({"a": 1}, {"a": 2}, "one", "other")
    """
    got, expected = dict(walk(tree)), dict(walk(like))
    remedy = f"Give {name} the structure of {like_name}"
    for path in expected:
        if path not in got:
            raise PureSGDError(f"{name}{path}", f"is missing, and {like_name}{path} is there", remedy)
    for path, node in got.items():
        if path not in expected:
            raise PureSGDError(f"{name}{path}", f"is there, and {like_name}{path} is not", remedy)
        other = expected[path]
        if isinstance(other, torch.Tensor) and not isinstance(node, torch.Tensor):
            raise PureSGDError(
                f"{name}{path}", f"is a {type(node).__name__}, expected a tensor", "Pass a tensor"
            )
        if kind_of(node) is not kind_of(other):
            raise PureSGDError(
                f"{name}{path}",
                f"is of type {type(node).__name__}, and {like_name}{path} of type {type(other).__name__}",
                remedy,
            )
        if isinstance(node, torch.Tensor) and not isinstance(other, torch.Tensor) and kind_of(other) is None:
            got = f"is a {type(other).__name__}, and {name}{path} a tensor"
            raise PureSGDError(f"{like_name}{path}", got, "Pass a tensor")
        if shape_of(node) != shape_of(other):
            raise PureSGDError(
                f"{name}{path}",
                f"shape {tuple(node.shape)} does not match shape {tuple(other.shape)} of {like_name}{path}",
                "Nothing is broadcast here: reshape or reduce it first",
            )


def kind_of(node: Any) -> type | None:
    """What tells two places of a tree apart, beyond the shapes of two leaves.

    Example:
        >>> from pure_sgd.tree.differences import kind_of
        >>> kind_of([1]), kind_of(1)
        (<class 'list'>, None)
    """
    return type(node) if node is None or is_node(node) else None


def shape_of(leaf: Any) -> Any:
    """The shape of a tensor; None of what is none.

    Example:
        >>> from pure_sgd.tree.differences import shape_of
        >>> shape_of(1) is None
        True
    """
    return leaf.shape if isinstance(leaf, torch.Tensor) else None


def check_tensors(tree: Tree, name: str) -> None:
    """Check that every leaf of ``tree`` is a tensor.

    Raises:
        PureSGDError: names the first leaf that is something else.

    Example:
        >>> import torch
        >>> from pure_sgd import tree
        >>> tree.check_tensors({"w": torch.ones(2), "b": None}, "params")
    """
    for path, leaf in walk(tree, name):
        if leaf is not None and not is_node(leaf) and not isinstance(leaf, torch.Tensor):
            got = f"is a {type(leaf).__name__}, expected a tensor"
            raise PureSGDError(path, got, "Convert it with torch.as_tensor")
