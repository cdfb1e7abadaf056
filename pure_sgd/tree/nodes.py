"""The nodes of a tree, one by one, and how Python reaches each."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from typing import Any

from ..errors import PureSGDError

__all__ = ["Tree", "children", "is_node", "keys_in_order", "too_deep", "walk"]

#: A leaf, or a dict, list, tuple or NamedTuple of trees; ``None`` is an empty tree.
Tree = Any

#: Nodes below each other, above which Python can follow none.
DEEPEST = 500


def walk(tree: Tree, name: str = "") -> Iterator[tuple[str, Any]]:
    """``(path, node)`` of every node, the tree itself first, leaves last.

    Raises:
        PureSGDError: a tree that is nested too deeply, or holds itself.

    Example:
        >>> from pure_sgd import tree
        >>> [path for path, _ in tree.walk({"a": (1, 2)}, "t")]
        ['t', "t['a']", "t['a'][0]", "t['a'][1]"]
    """
    if not isinstance(name, str):
        raise PureSGDError("walk", f"name is a {type(name).__name__}, expected a str", "Pass 'params', say")
    return _walk(tree, name, 0)


def children(node: Any) -> list[tuple[str, Any]]:
    """``(step, child)`` pairs: how Python reaches each child from ``node``, and the child.

    Example:
        >>> from pure_sgd.tree.nodes import children
        >>> children({"a": 1})
        [("['a']", 1)]
    """
    # Plain Python rather than an optree accessor, because masks are resolved while a step is traced.
    if not is_node(node):
        return []
    if isinstance(node, dict):
        return [(f"[{key!r}]", node[key]) for key in keys_in_order(node)]
    if hasattr(node, "_fields"):
        return [(f".{field}", getattr(node, field)) for field in node._fields]
    return [(f"[{index}]", child) for index, child in enumerate(node)]


def is_node(node: Any) -> bool:
    """Whether ``node`` holds children, rather than being a leaf or None.

    Example:
        >>> from pure_sgd.tree.nodes import is_node
        >>> is_node([1]), is_node(1)
        (True, False)
    """
    # As for optree, an instance of another subclass of dict, list or tuple is a leaf.
    return type(node) in (dict, OrderedDict, defaultdict, list, tuple) or (
        isinstance(node, tuple) and hasattr(node, "_fields")
    )


def keys_in_order(node: dict[Any, Any]) -> list[Any]:
    """The keys of ``node`` in the order in which its leaves are traversed.

    Example:
        >>> from pure_sgd.tree.nodes import keys_in_order
        >>> keys_in_order({"b": 1, "a": 2})
        ['a', 'b']
    """
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


def too_deep(name: str) -> PureSGDError:
    """The error of a tree that is nested more deeply than Python can follow, or holds itself.

    Example:
        >>> from pure_sgd.tree.nodes import too_deep
        >>> print(too_deep("params"))
        params: is nested too deeply, or holds itself. Pass a tree that ends.
    """
    return PureSGDError(name, "is nested too deeply, or holds itself", "Pass a tree that ends")


def _walk(node: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    if depth > DEEPEST:
        raise too_deep(path[:60])
    yield path, node
    for step, child in children(node):
        yield from _walk(child, path + step, depth + 1)
