"""The structure of a tree as JSON, and a tree of such a structure: for files that hold no code."""

from __future__ import annotations

import collections
from operator import attrgetter
from typing import Any

import torch

from ..tree.traversal import children, is_node

__all__ = ["like_outline", "outline"]

#: By its name as a string: the type checker wants the fields written out.
_namedtuple: Any = attrgetter("namedtuple")(collections)
#: A leaf of each kind that a checkpoint holds besides tensors.
PLAIN = {"bool": False, "int": 0, "float": 0.0, "str": ""}


def outline(node: Any) -> Any:
    """A tree without its values, as JSON.

    Example:
        >>> import torch
        >>> from pure_sgd.training.outlines import outline
        >>> outline([torch.ones(2), 0.5])
        {'list': [{'tensor': ['float32', [2]]}, {'plain': 'float'}]}
    """
    if node is None:
        return None
    if not is_node(node):
        if isinstance(node, torch.Tensor):
            return {"tensor": [str(node.dtype).removeprefix("torch."), list(node.shape)]}
        return {"plain": type(node).__name__}
    if isinstance(node, dict):
        return {"dict": [[key, outline(child)] for key, child in node.items()]}
    if hasattr(node, "_fields"):
        return {"fields": [[name, outline(getattr(node, name))] for name in node._fields]}
    return {type(node).__name__: [outline(child) for _, child in children(node)]}


def like_outline(form: Any, device: torch.device) -> Any:
    """A tree of which :func:`outline` gives ``form``; a NamedTuple is one of the same fields.

    Example:
        >>> import torch
        >>> from pure_sgd.training.outlines import like_outline
        >>> like_outline({"list": [{"plain": "float"}]}, torch.device("cpu"))
        [0.0]
    """
    if form is None:
        return None
    ((kind, content),) = form.items()
    if kind == "tensor":
        dtype, shape = content
        # One number that stands for all: the file says how many there are.
        return torch.zeros((), dtype=getattr(torch, dtype), device=device).expand(shape)
    if kind == "plain":
        return PLAIN[content]
    if kind == "dict":
        return {key: like_outline(item, device) for key, item in content}
    if kind == "fields":
        return _namedtuple("Batch", [name for name, _ in content])(
            *[like_outline(item, device) for _, item in content]
        )
    found = [like_outline(child, device) for child in content]
    return tuple(found) if kind == "tuple" else found
