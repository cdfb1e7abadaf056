"""An update that writes over the parameters and the state that it is given."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch

from .. import tree
from ..training.programs.direct import compile_directly
from ..transforms import GradientTransformation, apply_updates, extra_args_of

__all__ = ["read", "update_in_place"]

Tensors = list[torch.Tensor]


def update_in_place(
    tx: GradientTransformation, params: dict[Hashable, torch.Tensor], state: Any, compile: bool
) -> Callable[[Tensors, Tensors, dict[str, Any]], None]:
    """``write(memory, grads, extra)``: one update of parameters like ``params``, with a state like ``state``.

    ``memory`` holds the parameters in their order in the dict, then the leaves of the state; all are written
    over. What has shape ``()`` is there with an axis of length 1.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> from pure_sgd.bridges.in_place import update_in_place
        >>> tx, weight = ps.trace(0.5), torch.zeros(2)
        >>> state = tx.init({"w": weight})
        >>> write = update_in_place(tx, {"w": weight}, state, compile=False)
        >>> write([weight, state.step.view(1), state.trace["w"]], [torch.ones(2)], {})
        >>> weight, state
        (tensor([1., 1.]), TraceState(step=tensor(1), trace={'w': tensor([1., 1.])}))
    """
    names = list(params)
    shapes = [leaf.shape for leaf in (*params.values(), *tree.leaves(state))]
    like = tree.map(lambda leaf: 0, state)
    reads_grad = "grad" in extra_args_of(tx)

    def write(memory: Tensors, grads: Tensors, extra: dict[str, Any]) -> None:
        held = [m if m.shape == shape else m.view(shape) for m, shape in zip(memory, shapes, strict=True)]
        params: Any = dict(zip(names, held, strict=False))
        updates: Any = dict(zip(names, grads, strict=True))
        if reads_grad:
            extra = {"grad": updates, **extra}
        updates, new = tx.update(updates, tree.flatten(like)[1](held[len(names) :]), params, **extra)
        params = apply_updates(params, updates)
        written = [*(params[name] for name in names), *tree.leaves(new)]
        for place, value in zip(held, read(written, memory), strict=True):
            place.copy_(value)

    return compile_directly(write) if compile else write


def read(written: Tensors, memory: Tensors) -> Tensors:
    """What is written, where it lies in the memory that is about to change as a copy.

    Example:
        >>> import torch
        >>> from pure_sgd.bridges.in_place import read
        >>> a, b = torch.ones(2), torch.zeros(2)
        >>> [leaf is old for leaf, old in zip(read([a, b], memory=[b]), (a, b), strict=True)]
        [True, False]
    """
    if torch.compiler.is_compiling():
        # Not clone: Inductor of torch 2.13 drops copies, and reads after the memory has been written over.
        return [torch.where(leaf == leaf, leaf, leaf) for leaf in written]
    taken = {_address(held) for held in memory}
    return [leaf.clone() if _address(leaf) in taken else leaf for leaf in written]


def _address(leaf: torch.Tensor) -> int:
    return leaf.untyped_storage().data_ptr()
