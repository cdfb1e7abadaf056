"""From the loss of one example to functions of a batch: what every file of this folder begins with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .. import tree
from ..errors import PureSGDError

__all__ = ["Batch", "ExampleLoss", "check_scalar", "over_examples"]

Params = Any
Batch = Any
#: ``example_loss(params, *example)``, shape ``()``: the loss of one example, without a batch axis.
ExampleLoss = Callable[..., torch.Tensor]


def check_scalar(value: Any, name: str, advice: str) -> torch.Tensor:
    """Check that a loss is one real number, shape ``()``.

    Raises:
        PureSGDError: names the loss and what it returned.

    Example:
        >>> import torch
        >>> from pure_sgd.gradients.examples import check_scalar
        >>> check_scalar(torch.tensor(2.0), "loss", "Return the mean")
        tensor(2.)
    """
    if not isinstance(value, torch.Tensor):
        raise PureSGDError(name, f"returned a {type(value).__name__}, expected a tensor of shape ()", advice)
    if value.ndim:
        raise PureSGDError(name, f"returned shape {tuple(value.shape)}, expected shape ()", advice)
    if not value.is_floating_point():
        raise PureSGDError(name, f"returned dtype {value.dtype}, expected a floating-point one", advice)
    return value


def over_examples(
    function: Callable[..., Any], batch: Batch, name: str, chunk_size: int | None = None
) -> Any:
    """Call ``function(*example)`` for each example of ``batch`` at once; results gain a leading axis B.

    A batch is a tuple or list of trees, one per argument of the loss after ``params``, or any other tree
    for a single argument. Every leaf has the same leading axis.

    Raises:
        PureSGDError: a batch without examples, or whose leaves disagree in length.

    Example:
        >>> import torch
        >>> from pure_sgd.gradients.examples import over_examples
        >>> over_examples(lambda x, y: x * y, (torch.arange(3), torch.arange(3)), "batch")
        tensor([0, 1, 4])
    """
    tree.batch_length(batch, name)
    found, rebuild = tree.flatten(batch)

    rebuild_result: Callable[[list[Any]], Any] = rebuild

    # vmap sees flat tuples only: it takes no None, and orders dicts in its own way.
    def on_leaves(*example_leaves: torch.Tensor) -> tuple[torch.Tensor, ...]:
        nonlocal rebuild_result
        example = rebuild(list(example_leaves))
        # A NamedTuple is one structured example, not a list of arguments.
        as_arguments = isinstance(example, (tuple, list)) and not hasattr(example, "_fields")
        results, rebuild_result = tree.flatten(function(*example) if as_arguments else function(example))
        return tuple(results)

    mapped = torch.func.vmap(on_leaves, chunk_size=chunk_size)(*found)
    return rebuild_result(list(mapped))
