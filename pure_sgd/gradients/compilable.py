"""Functions of a batch that ``torch.compile`` takes into its program as they run without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ..functorch import within_transform
from .examples import Batch, Params

__all__ = ["compilable"]

Function = Callable[[Params, Batch], Any]


def compilable(function: Function) -> Function:
    """``function(params, batch)``, which under ``torch.compile`` can watch a pass too.

    The compiler reads Python, and cannot read a pass that is watched. It is therefore told to run
    ``function`` on tensors without values, and to take what that does to tensors. Where a result is to be
    differentiated or mapped, where there is a None among the arguments, or where ``function`` is itself
    made within what is compiled, it reads it as any other. The result is a tensor or a list of tensors.

    Example:
        >>> import torch
        >>> from pure_sgd.gradients.compilable import compilable
        >>> compilable(lambda params, batch: params * batch)(torch.ones(2), torch.ones(2))
        tensor([1., 1.])
    """
    if torch.compiler.is_dynamo_compiling():
        return function
    from torch._dynamo import nonstrict_trace

    @nonstrict_trace
    def run(params: Params, batch: Batch) -> Any:
        return function(*pytree.tree_map(_of_fixed_size, (params, batch)))

    def chosen(params: Params, batch: Batch) -> Any:
        if not torch.compiler.is_dynamo_compiling() or within_transform():
            return function(params, batch)
        leaves = pytree.tree_leaves((params, batch))
        if not all(isinstance(leaf, torch.Tensor) for leaf in leaves):
            return function(params, batch)
        if torch.is_grad_enabled() and any(leaf.requires_grad for leaf in leaves):
            return function(params, batch)
        return run(params, batch)

    return chosen


def _of_fixed_size(tensor: torch.Tensor) -> torch.Tensor:
    # vmap cannot do with sizes that are left open, so there is a program for each size of batch.
    return tensor.view([int(size) for size in tensor.shape])
