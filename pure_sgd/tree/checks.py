"""Whether a tree is what was expected, and the sentence that names the place where it is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from ..arguments import typed
from ..errors import PureSGDError
from .differences import check_no_difference, kind_of, shape_of
from .nodes import Tree, children, is_node
from .traversal import leaves, named_leaves, outline

__all__ = ["batch_length", "check_like", "check_real", "select"]


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
    # While tracing, optree cannot compare all structures.
    same = _is_like if torch.compiler.is_compiling() else _is_like_by_outline
    if not same(tree, like):
        check_no_difference(tree, like, name, like_name)


@typed
def check_real(tree: Tree, name: str, where: str) -> None:
    """Check, for a rule that asks which number is larger, that no leaf of ``tree`` is complex.

    Raises:
        PureSGDError: names the first leaf that is.

    Example:
        >>> import torch
        >>> from pure_sgd import tree
        >>> tree.check_real({"w": torch.ones(2, dtype=torch.complex64)}, "updates", "clip")
        Traceback (most recent call last):
        pure_sgd.errors.PureSGDError: clip: updates['w'] holds torch.complex64, and complex numbers have \
no order. Wrap the rule in split_real_and_imaginary.
    """
    for path, leaf in named_leaves(tree, name):
        if leaf.is_complex():
            raise PureSGDError(
                where,
                f"{path} holds {leaf.dtype}, and complex numbers have no order",
                "Wrap the rule in split_real_and_imaginary",
            )


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


@typed
def select(mask: Tree, tree: Tree, where: str) -> list[bool]:
    """Resolve ``mask`` to one bool for each leaf of ``tree``, in traversal order.

    ``mask`` is ``None`` (every leaf), a tree of bools like ``tree``, a prefix of it (one bool for a whole
    subtree), a predicate on the leaf's path such as ``lambda path: not path.endswith("['b']")``, or a
    function from ``tree`` to a tree of bools, as in Optax.

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
        mask, by_path = answers(mask, tree)
        if by_path:
            return [bool(chosen) for chosen in mask]
    return list(_spread(mask, tree, where, "mask"))


def answers(function: Callable[[Any], Any], tree: Tree) -> tuple[Any, bool]:
    """What ``function`` says of each leaf, given its path, and True; or of the whole tree, and False.

    A function of paths is told from one of the whole tree, which is Optax's way, by what it does with a
    path: the latter fails, or returns a tree.

    Example:
        >>> from pure_sgd import tree
        >>> from pure_sgd.tree.checks import answers
        >>> answers(lambda path: path.endswith("['w']"), {"b": 1.0, "w": 2.0})
        ([False, True], True)
        >>> answers(lambda whole: tree.map(lambda leaf: leaf > 1, whole), {"b": 1.0, "w": 2.0})
        ({'b': False, 'w': True}, False)
    """
    paths = [path for path, _ in named_leaves(tree)]
    try:
        found = [function(path) for path in paths]
    except Exception as at_a_path:
        try:
            return function(tree), False
        except Exception:
            raise at_a_path from None
    if any(is_node(answer) for answer in found):
        return function(tree), False
    return found, True


def _is_like_by_outline(tree: Tree, like: Tree) -> bool:
    (got, kind), (expected, like_kind) = outline(tree), outline(like)
    return kind == like_kind and [shape_of(leaf) for leaf in got] == [shape_of(leaf) for leaf in expected]


def _is_like(node: Any, like: Any) -> bool:
    if isinstance(like, torch.Tensor):
        return isinstance(node, torch.Tensor) and node.shape == like.shape
    if kind_of(node) is not kind_of(like) or isinstance(node, torch.Tensor):
        return False
    if isinstance(like, dict):
        return node.keys() == like.keys() and all([_is_like(node[key], like[key]) for key in like])
    if not is_node(like):
        return True
    return len(node) == len(like) and all([_is_like(a, b) for a, b in zip(node, like, strict=True)])


def _spread(mask: Tree, tree: Tree, where: str, path: str) -> Iterator[bool]:
    count = len(leaves(tree))
    if not count:
        return
    if isinstance(mask, bool):
        yield from [mask] * count
        return
    inner, outer = dict(children(mask)), dict(children(tree))
    if inner.keys() != outer.keys() or not outer:
        raise PureSGDError(
            where,
            f"{path} is {mask if not inner else list(inner)} where the tree holds {list(outer) or 'a leaf'}",
            "Pass a bool for every leaf or subtree, or a predicate on the leaf's path",
        )
    for step, child in outer.items():
        yield from _spread(inner[step], child, where, path + step)


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
