"""How a tree is taken apart and put together: the only file that imports optree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import optree
import torch

from ..errors import PureSGDError
from .differences import check_no_difference
from .nodes import Tree, children, is_node, keys_in_order, too_deep, walk

__all__ = [
    "Tree",
    "aligned",
    "children",
    "flatten",
    "is_node",
    "leaves",
    "map",
    "named_leaves",
    "structure",
    "walk",
]


def map(function: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """Apply ``function`` to every leaf of ``tree`` and to the leaves of ``rest`` in the same places.

    Raises:
        PureSGDError: names the first place where trees do not go together.

    Example:
        >>> import torch
        >>> from pure_sgd import tree
        >>> tree.map(lambda p, u: p + u, {"w": torch.ones(2)}, {"w": torch.ones(2)})
        {'w': tensor([2., 2.])}
    """
    if torch.compiler.is_compiling():
        # Half of the time that it takes to trace a step would go into optree's own Python.
        return _mapped(function, tree, rest)
    try:
        return optree.tree_map(function, tree, *rest)
    except (ValueError, RecursionError, TypeError) as error:
        if not callable(function):
            raise PureSGDError("map", f"function is a {type(function).__name__}", "Pass a function") from None
        _explain(error, tree, rest)
        raise


def leaves(tree: Tree) -> list[Any]:
    """The leaves in traversal order: dict entries by sorted key, ``None`` left out.

    Example:
        >>> from pure_sgd import tree
        >>> tree.leaves({"b": 2, "a": [1, None]})
        [1, 2]
    """
    if torch.compiler.is_compiling():
        # While a step is traced, optree refuses trees with a node that holds no tensor, such as {}.
        found: list[Any] = []
        _gather(tree, found)
        return found
    return _flattened(tree)[0]


def flatten(tree: Tree) -> tuple[list[Any], Callable[[list[Any]], Tree]]:
    """The leaves, and the function that builds a tree of this structure from such a list.

    Example:
        >>> from pure_sgd import tree
        >>> found, rebuild = tree.flatten({"b": 2, "a": 1})
        >>> rebuild([10 * leaf for leaf in found])
        {'b': 20, 'a': 10}
    """
    if torch.compiler.is_compiling():
        return leaves(tree), lambda new: _refilled(tree, new)
    found, spec = _flattened(tree)
    return found, lambda new: optree.tree_unflatten(spec, new)


def aligned(tree: Tree, *rest: Tree) -> tuple[list[list[Any]], Callable[[list[Any]], Tree]]:
    """The leaves of ``tree``, those of each of ``rest`` in the same places, and what :func:`flatten` adds.

    Raises:
        PureSGDError: names the first place where trees do not go together.

    Example:
        >>> from pure_sgd.tree.traversal import aligned
        >>> aligned({"b": 2, "a": 1}, {"a": 3, "b": 4})[0]
        [[1, 2], [3, 4]]
    """
    if torch.compiler.is_compiling():
        found, rebuild = flatten(tree)
        return [found, *[leaves(other) for other in rest]], rebuild
    found, spec = _flattened(tree)
    try:
        columns = [found, *[spec.flatten_up_to(other) for other in rest]]
    except (ValueError, RecursionError) as error:
        _explain(error, tree, rest)
        raise
    return columns, lambda new: optree.tree_unflatten(spec, new)


def structure(tree: Tree) -> Any:
    """The structure without its leaves: equal for trees that :func:`map` can run over together.

    Example:
        >>> from pure_sgd import tree
        >>> tree.structure({"a": 1}) == tree.structure({"a": 2.0})
        True
    """
    return _flattened(tree)[1]


def outline(tree: Tree) -> tuple[list[Any], Any]:
    """The leaves, and the structure without them, in one go; not while tracing.

    Example:
        >>> from pure_sgd import tree
        >>> from pure_sgd.tree.traversal import outline
        >>> outline([1, 2]) == ([1, 2], tree.structure([1, 2]))
        True
    """
    return _flattened(tree)


def named_leaves(tree: Tree, name: str = "") -> list[tuple[str, Any]]:
    """``(path, leaf)`` pairs, the path spelled as Python reaches the leaf from ``name``.

    Example:
        >>> from pure_sgd import tree
        >>> tree.named_leaves({"layers": [{"b": 0.0}]}, "params")
        [("params['layers'][0]['b']", 0.0)]
    """
    return list(_walk_leaves(tree, name))


def _gather(node: Any, found: list[Any]) -> None:
    if isinstance(node, torch.Tensor) or not is_node(node):
        if node is not None:
            found.append(node)
        return
    for child in [node[key] for key in keys_in_order(node)] if isinstance(node, dict) else node:
        _gather(child, found)


def _mapped(function: Callable[..., Any], node: Any, rest: Sequence[Any]) -> Any:
    if isinstance(node, torch.Tensor) or not is_node(node):
        return None if node is None else function(node, *rest)
    for other in rest:
        if len(other) != len(node):
            raise ValueError(f"{len(other)} children in the place of {len(node)}")
    if isinstance(node, dict):
        fresh = {
            key: _mapped(function, node[key], [other[key] for other in rest]) for key in keys_in_order(node)
        }
        pairs = [(key, fresh[key]) for key in node]
        return (
            defaultdict(node.default_factory, pairs) if isinstance(node, defaultdict) else type(node)(pairs)
        )
    fresh = [_mapped(function, child, others) for child, *others in zip(node, *rest, strict=True)]
    return type(node)(*fresh) if hasattr(node, "_fields") else type(node)(fresh)


def _refilled(node: Any, new: Sequence[Any]) -> Any:
    left = iter(new)
    return _mapped(lambda _: next(left), node, ())


def _walk_leaves(tree: Tree, path: str) -> Iterator[tuple[str, Any]]:
    for where, node in walk(tree, path):
        if node is not None and not is_node(node):
            yield where, node


def _flattened(tree: Tree) -> tuple[list[Any], Any]:
    try:
        return optree.tree_flatten(tree)
    except RecursionError:
        raise too_deep("tree") from None


def _explain(error: Exception, tree: Tree, rest: tuple[Tree, ...]) -> None:
    """Raise what is wrong with trees that do not go together; return where they do."""
    if isinstance(error, RecursionError):
        raise too_deep("tree") from None
    if not isinstance(error, PureSGDError):
        for index, other in enumerate(rest):
            check_no_difference(other, tree, f"rest[{index}]", "tree")
