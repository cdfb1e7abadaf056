"""How a tree is taken apart and put together: the only file that imports optree."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import optree
import torch

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

#: A leaf, or a dict, list, tuple or NamedTuple of trees; ``None`` is an empty tree.
Tree = Any


def map(function: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """Apply ``function`` to every leaf of ``tree`` and to the leaves of ``rest`` in the same places.

    Example:
        >>> import torch
        >>> from pure_sgd import tree
        >>> tree.map(lambda p, u: p + u, {"w": torch.ones(2)}, {"w": torch.ones(2)})
        {'w': tensor([2., 2.])}
    """
    return optree.tree_map(function, tree, *rest)


def leaves(tree: Tree) -> list[Any]:
    """The leaves in traversal order: dict entries by sorted key, ``None`` left out.

    Example:
        >>> from pure_sgd import tree
        >>> tree.leaves({"b": 2, "a": [1, None]})
        [1, 2]
    """
    if torch.compiler.is_compiling():
        # While a step is traced, optree refuses trees with a node that holds no tensor, such as {}.
        return [leaf for _, leaf in _walk_leaves(tree, "")]
    return optree.tree_leaves(tree)


def flatten(tree: Tree) -> tuple[list[Any], Callable[[list[Any]], Tree]]:
    """The leaves, and the function that builds a tree of this structure from such a list.

    Example:
        >>> from pure_sgd import tree
        >>> found, rebuild = tree.flatten({"b": 2, "a": 1})
        >>> rebuild([10 * leaf for leaf in found])
        {'b': 20, 'a': 10}
    """
    if torch.compiler.is_compiling():
        return leaves(tree), lambda new: _refilled(tree, iter(new))
    found, spec = optree.tree_flatten(tree)
    return found, lambda new: optree.tree_unflatten(spec, new)


def aligned(tree: Tree, *rest: Tree) -> tuple[list[list[Any]], Callable[[list[Any]], Tree]]:
    """The leaves of ``tree``, those of each of ``rest`` in the same places, and what :func:`flatten` adds.

    Example:
        >>> from pure_sgd.tree.traversal import aligned
        >>> aligned({"b": 2, "a": 1}, {"a": 3, "b": 4})[0]
        [[1, 2], [3, 4]]
    """
    if torch.compiler.is_compiling():
        found, rebuild = flatten(tree)
        return [found, *[leaves(other) for other in rest]], rebuild
    found, spec = optree.tree_flatten(tree)
    return [found, *[spec.flatten_up_to(other) for other in rest]], lambda new: optree.tree_unflatten(
        spec, new
    )


def structure(tree: Tree) -> Any:
    """The structure without its leaves: equal for trees that :func:`map` can run over together.

    Example:
        >>> from pure_sgd import tree
        >>> tree.structure({"a": 1}) == tree.structure({"a": 2.0})
        True
    """
    return optree.tree_structure(tree)


def outline(tree: Tree) -> tuple[list[Any], Any]:
    """The leaves, and the structure without them, in one go; not while tracing.

    Example:
        >>> from pure_sgd import tree
        >>> from pure_sgd.tree.traversal import outline
        >>> outline([1, 2]) == ([1, 2], tree.structure([1, 2]))
        True
    """
    return optree.tree_flatten(tree)


def named_leaves(tree: Tree, name: str = "") -> list[tuple[str, Any]]:
    """``(path, leaf)`` pairs, the path spelled as Python reaches the leaf from ``name``.

    Example:
        >>> from pure_sgd import tree
        >>> tree.named_leaves({"layers": [{"b": 0.0}]}, "params")
        [("params['layers'][0]['b']", 0.0)]
    """
    return list(_walk_leaves(tree, name))


def walk(tree: Tree, name: str = "") -> Iterator[tuple[str, Any]]:
    """``(path, node)`` of every node, the tree itself first, leaves last.

    Example:
        >>> from pure_sgd import tree
        >>> [path for path, _ in tree.walk({"a": (1, 2)}, "t")]
        ['t', "t['a']", "t['a'][0]", "t['a'][1]"]
    """
    yield name, tree
    for step, child in children(tree):
        yield from walk(child, name + step)


def children(node: Any) -> list[tuple[str, Any]]:
    """``(step, child)`` pairs: how Python reaches each child from ``node``, and the child.

    Example:
        >>> from pure_sgd.tree.traversal import children
        >>> children({"a": 1})
        [("['a']", 1)]
    """
    # Plain Python rather than an optree accessor, because masks are resolved while a step is traced.
    if not is_node(node):
        return []
    if isinstance(node, dict):
        return [(f"[{key!r}]", node[key]) for key in _keys_in_order(node)]
    if hasattr(node, "_fields"):
        return [(f".{field}", getattr(node, field)) for field in node._fields]
    return [(f"[{index}]", child) for index, child in enumerate(node)]


def is_node(node: Any) -> bool:
    """Whether ``node`` holds children, rather than being a leaf or None.

    Example:
        >>> from pure_sgd.tree.traversal import is_node
        >>> is_node([1]), is_node(1)
        (True, False)
    """
    # As for optree, an instance of another subclass of dict, list or tuple is a leaf.
    return type(node) in (dict, OrderedDict, defaultdict, list, tuple) or (
        isinstance(node, tuple) and hasattr(node, "_fields")
    )


def _keys_in_order(node: dict[Any, Any]) -> list[Any]:
    """The keys of ``node`` in the order in which its leaves are traversed."""
    if isinstance(node, OrderedDict):
        return list(node)
    try:
        return sorted(node)
    except TypeError:
        pass
    try:
        return sorted(node, key=lambda key: (f"{type(key).__module__}.{type(key).__qualname__}", key))
    except TypeError:
        return list(node)


def _refilled(node: Any, new: Iterator[Any]) -> Any:
    if not is_node(node):
        return None if node is None else next(new)
    if isinstance(node, dict):
        fresh = {key: _refilled(node[key], new) for key in _keys_in_order(node)}
        pairs = [(key, fresh[key]) for key in node]
        return (
            defaultdict(node.default_factory, pairs) if isinstance(node, defaultdict) else type(node)(pairs)
        )
    fresh = [_refilled(child, new) for _, child in children(node)]
    return type(node)(*fresh) if hasattr(node, "_fields") else type(node)(fresh)


def _walk_leaves(tree: Tree, path: str) -> Iterator[tuple[str, Any]]:
    for where, node in walk(tree, path):
        if node is not None and not is_node(node):
            yield where, node
