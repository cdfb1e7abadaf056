"""Arithmetic on trees of tensors: the only file that imports optree.

A tree is a tensor, or a dict, list, tuple or NamedTuple of trees; ``None`` is an empty tree. Here as
everywhere, ``P`` stands for a leaf's own axes and ``B`` for a leading axis of examples.
"""

from __future__ import annotations

import builtins
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import optree
import torch

from .errors import PureSGDError

__all__ = [
    "batch_length",
    "cast_like",
    "check_like",
    "flatten",
    "leaves",
    "map",
    "named_leaves",
    "norm",
    "select",
    "structure",
    "walk",
    "zeros_like",
]

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
    return optree.tree_leaves(tree)


def flatten(tree: Tree) -> tuple[list[Any], Callable[[list[Any]], Tree]]:
    """The leaves, and the function that builds a tree of this structure from such a list.

    Example:
        >>> from pure_sgd import tree
        >>> found, rebuild = tree.flatten({"b": 2, "a": 1})
        >>> rebuild([10 * leaf for leaf in found])
        {'b': 20, 'a': 10}
    """
    found, structure = optree.tree_flatten(tree)

    def rebuild(new: list[Any]) -> Tree:
        return optree.tree_unflatten(structure, new)

    return found, rebuild


def structure(tree: Tree) -> Any:
    """The structure without its leaves: equal for trees that :func:`map` can run over together.

    Example:
        >>> from pure_sgd import tree
        >>> tree.structure({"a": 1}) == tree.structure({"a": 2.0})
        True
    """
    return optree.tree_structure(tree)


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
    for step, child in _children(tree):
        yield from walk(child, name + step)


def check_like(tree: Tree, like: Tree, name: str, like_name: str) -> None:
    """Check that ``tree`` has the structure and the leaf shapes of ``like``.

    Raises:
        PureSGDError: names the first leaf that is missing, that nobody expects, or whose shape differs.

    Example:
        >>> import torch
        >>> from pure_sgd import tree
        >>> tree.check_like({"w": torch.ones(3, 1)}, {"w": torch.ones(3)}, "updates", "params")
        Traceback (most recent call last):
        pure_sgd.errors.PureSGDError: updates['w']: shape (3, 1) does not match shape (3,) of \
params['w']. Nothing is broadcast here: reshape or reduce it first.
    """
    got, expected = optree.tree_flatten(tree), optree.tree_flatten(like)
    if got[1] == expected[1] and all(
        _shape(a) == _shape(b) for a, b in zip(got[0], expected[0], strict=True)
    ):
        return
    _explain_difference(tree, like, name, like_name)


def select(mask: Tree, tree: Tree, where: str) -> list[bool]:
    """Resolve ``mask`` to one bool for each leaf of ``tree``, in traversal order.

    ``mask`` is ``None`` (every leaf), a tree of bools like ``tree``, a prefix of it (one bool for a whole
    subtree), or a predicate on the leaf's path such as ``lambda path: not path.endswith("['b']")``.

    Raises:
        PureSGDError: names the place where the mask does not fit.

    Example:
        >>> from pure_sgd import tree
        >>> tree.select({"w": True, "head": False}, {"w": 1.0, "head": {"w": 2.0, "b": 3.0}}, "masked")
        [False, False, True]
    """
    if mask is None:
        return [True for _ in leaves(tree)]
    if callable(mask):
        return [bool(mask(path)) for path, _ in named_leaves(tree)]
    return list(_spread(mask, tree, where, "mask"))


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
    """The L2 norm over all leaves together, shape ``()``, in at least float32.

    Example:
        >>> import torch
        >>> from pure_sgd import tree
        >>> tree.norm({"w": torch.tensor([3.0]), "b": torch.tensor(4.0)})
        tensor(5.)
    """
    squares = [_sum_of_squares(leaf) for leaf in leaves(tree)]
    if not squares:
        return torch.zeros(())
    return builtins.sum(squares[1:], squares[0]).sqrt()


def batch_length(batch: Tree, name: str = "batch") -> int:
    """The number of examples ``B``: the length that the leading axes of all leaves share.

    Raises:
        PureSGDError: no leaf, a leaf that is no tensor or has no axis, lengths that disagree, or no example.

    Example:
        >>> import torch
        >>> from pure_sgd import tree
        >>> tree.batch_length((torch.ones(32, 5), torch.ones(32)))
        32
    """
    found = leaves(batch)
    lengths = {leaf.shape[0] if isinstance(leaf, torch.Tensor) and leaf.ndim else None for leaf in found}
    if len(lengths) == 1:
        length = lengths.pop()
        if length:
            return length
    raise _bad_batch(batch, name)


def _sum_of_squares(leaf: torch.Tensor) -> torch.Tensor:
    leaf = leaf.to(wide(leaf.dtype))
    # Autograd gives lazy conjugates, which cannot be viewed as real.
    parts = torch.view_as_real(leaf.resolve_conj()) if leaf.is_complex() else leaf
    return parts.square().sum()


def _shape(leaf: Any) -> Any:
    return leaf.shape if isinstance(leaf, torch.Tensor) else None


def _children(node: Any) -> list[tuple[str, Any]]:
    # Plain Python rather than an optree accessor, because masks are resolved while a step is traced.
    if not _is_node(node):
        return []
    if isinstance(node, dict):
        return [(f"[{key!r}]", node[key]) for key in _keys_in_order(node)]
    if hasattr(node, "_fields"):
        return [(f".{field}", getattr(node, field)) for field in node._fields]
    return [(f"[{index}]", child) for index, child in enumerate(node)]


def _is_node(node: Any) -> bool:
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


def _walk_leaves(tree: Tree, path: str) -> Iterator[tuple[str, Any]]:
    for where, node in walk(tree, path):
        if node is not None and not _is_node(node):
            yield where, node


def _spread(mask: Tree, tree: Tree, where: str, path: str) -> Iterator[bool]:
    count = len(leaves(tree))
    if not count:
        return
    if isinstance(mask, bool):
        yield from [mask] * count
        return
    inner, outer = dict(_children(mask)), dict(_children(tree))
    if inner.keys() != outer.keys() or not outer:
        raise PureSGDError(
            where,
            f"{path} is {mask if not inner else list(inner)} where the tree holds "
            f"{list(outer) or 'a leaf'}",
            "Pass a bool for every leaf or subtree, or a predicate on the leaf's path",
        )
    for step, child in outer.items():
        yield from _spread(inner[step], child, where, path + step)


def _explain_difference(tree: Tree, like: Tree, name: str, like_name: str) -> None:
    got, expected = dict(walk(tree)), dict(walk(like))
    remedy = f"Give {name} the structure of {like_name}"
    for path in expected:
        if path not in got:
            raise PureSGDError(name + path, f"is missing, and {like_name}{path} is there", remedy)
    for path, node in got.items():
        if path not in expected:
            raise PureSGDError(name + path, f"is there, and {like_name}{path} is not", remedy)
        other = expected[path]
        if isinstance(other, torch.Tensor) and not isinstance(node, torch.Tensor):
            raise PureSGDError(
                name + path, f"is a {type(node).__name__}, expected a tensor", "Pass a tensor"
            )
        if _kind(node) is not _kind(other):
            raise PureSGDError(
                name + path,
                f"is of type {type(node).__name__}, and {like_name}{path} of type "
                f"{type(other).__name__}",
                remedy,
            )
        if _shape(node) != _shape(other):
            raise PureSGDError(
                name + path,
                f"shape {tuple(node.shape)} does not match shape {tuple(other.shape)} of "
                f"{like_name}{path}",
                "Nothing is broadcast here: reshape or reduce it first",
            )


def _kind(node: Any) -> type | None:
    """What tells two places of a tree apart, beyond the shapes of two leaves."""
    return type(node) if node is None or _is_node(node) else None


def _bad_batch(batch: Tree, name: str) -> PureSGDError:
    named = named_leaves(batch, name)
    if not named:
        return PureSGDError(name, "holds no tensor", "Pass a tensor, or a tuple or dict of tensors")
    for path, leaf in named:
        if not isinstance(leaf, torch.Tensor):
            return PureSGDError(
                path, f"is a {type(leaf).__name__}, expected a tensor", "Convert it with torch.as_tensor"
            )
        if not leaf.ndim:
            return PureSGDError(
                path, "has shape (), expected a leading axis of examples", "Give every leaf that axis"
            )
    (first, like), *rest = named
    for path, leaf in rest:
        if len(leaf) != len(like):
            return PureSGDError(
                path,
                f"holds {len(leaf)} examples where {first} holds {len(like)}",
                "Give every leaf the same leading length",
            )
    return PureSGDError(first, "holds 0 examples: an empty data set has no mean loss", "Pass at least one")
