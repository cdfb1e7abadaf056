"""What the wrappers of a transform share: a check, the extra arguments, and a choice between two results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .. import functorch, tree
from ..errors import PureSGDError
from .contract import GradientTransformation, extra_args_of

__all__ = ["check_inner", "either", "extras_for"]


def check_inner(where: str, inner: Any) -> None:
    """Check that what is to be wrapped is a transform.

    Raises:
        PureSGDError: it is something else, such as a factory that was not called.

    Example:
        >>> import pure_sgd as ps
        >>> from pure_sgd.transforms.wrapping import check_inner
        >>> check_inner("masked", ps.trace(0.9))
    """
    if not isinstance(inner, GradientTransformation):
        raise PureSGDError(
            where,
            f"got a {type(inner).__name__}, expected a GradientTransformation",
            "Call the factory, as in trace(0.9)" if callable(inner) else "Pass a transform",
        )


def extras_for(tx: GradientTransformation, extra: dict[str, Any]) -> dict[str, Any]:
    """Those of the extra arguments that ``tx`` reads.

    Example:
        >>> import pure_sgd as ps
        >>> from pure_sgd.transforms.wrapping import extras_for
        >>> extras_for(ps.reduce_on_plateau(), {"value": 1.0, "key": 2})
        {'value': 1.0}
    """
    return {name: extra[name] for name in extra_args_of(tx) if name in extra}


def either(condition: torch.Tensor, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    """``yes()`` where ``condition`` (bool, shape ``()``) holds, else ``no()``; both like each other.

    Only one of the two runs: eagerly by an ``if``, which waits for the condition where it lies on a GPU;
    compiled by ``torch.cond``. Mapped by ``vmap``, compiled under a transform of ``torch.func``, or captured
    in a CUDA graph, both run and ``torch.where`` picks one: NaN in the other does no harm.

    Example:
        >>> import torch
        >>> from pure_sgd.transforms.wrapping import either
        >>> either(torch.tensor(True), lambda: torch.ones(2), lambda: torch.zeros(2))
        tensor([1., 1.])
    """
    if torch.compiler.is_compiling():
        # torch.cond has no rule for several results under vmap, and none for torch.func.grad.
        both = functorch.within_transform()
        return _selected(condition, yes, no) if both else _branched(condition, yes, no)
    holds = known(condition)
    if holds is None:
        return _selected(condition, yes, no)
    return yes() if holds else no()


def known(condition: torch.Tensor) -> bool | None:
    """The value of a bool tensor of shape ``()``, or None where Python cannot read it."""
    if torch.compiler.is_compiling() or (condition.is_cuda and torch.cuda.is_current_stream_capturing()):
        return None
    try:
        return bool(condition)
    except RuntimeError:  # under vmap it is many values at once
        return None


def _selected(condition: torch.Tensor, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    found, rebuild = tree.flatten(no())
    pairs = zip(tree.leaves(yes()), found, strict=True)
    return rebuild([torch.where(condition, new.to(old.dtype), old) for new, old in pairs])


def _branched(condition: torch.Tensor, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    found, rebuild = tree.flatten(no())

    # Inductor takes each result of torch.cond for memory of its own, and then merges equal ones (the
    # update and the buffer of a momentum): one vector for each dtype has no equal. A leaf without entries
    # has nothing to choose, and would come out with other strides, for which all is compiled again.
    groups: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    for index, leaf in enumerate(found):
        if leaf.numel():
            groups.setdefault((leaf.dtype, leaf.device), []).append(index)
    if not groups:
        return yes()

    def packed(leaves: list[torch.Tensor]) -> list[torch.Tensor]:
        return [
            torch.cat([leaves[index].to(dtype).reshape(-1) for index in indices])
            for (dtype, _), indices in groups.items()
        ]

    vectors = torch.cond(condition, lambda: packed(tree.leaves(yes())), lambda: packed(found), ())
    chosen = list(found)
    for vector, indices in zip(vectors, groups.values(), strict=True):
        parts = torch.split(vector, [found[index].numel() for index in indices])
        for index, part in zip(indices, parts, strict=True):
            chosen[index] = part.reshape(found[index].shape).clone()
    return rebuild(chosen)
