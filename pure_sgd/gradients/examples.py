"""From the loss of one example to functions of a batch: what every file of this folder begins with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .. import tree
from ..errors import PureSGDError
from .mapping_errors import explained

__all__ = ["Batch", "ExampleLoss", "arguments", "check_scalar", "checked", "example_losses", "over_examples"]

Params = Any
Batch = Any
#: ``example_loss(params, *example)``, shape ``()``: the loss of one example, without a batch axis.
ExampleLoss = Callable[..., torch.Tensor]


def arguments(example: Batch) -> tuple[Any, ...]:
    """What a loss is called with after its parameters, for one example of a batch.

    Example:
        >>> from pure_sgd.gradients.examples import arguments
        >>> arguments([1, 2]), arguments({"x": 1})
        ((1, 2), ({'x': 1},))
    """
    # A NamedTuple is one structured example, not a list of arguments.
    if isinstance(example, (tuple, list)) and not hasattr(example, "_fields"):
        return tuple(example)
    return (example,)


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


def checked(example_loss: ExampleLoss) -> ExampleLoss:
    """``example_loss``, with a check that it returns one real number.

    Raises:
        PureSGDError: when it is called and returns anything else.

    Example:
        >>> import torch
        >>> from pure_sgd.gradients.examples import checked
        >>> checked(lambda params, x: params * x)(torch.ones(2), torch.ones(2))
        Traceback (most recent call last):
        pure_sgd.errors.PureSGDError: example_loss: returned shape (2,), expected shape (). Let it return \
the loss of one example: a mean over that example's own axes.
    """
    advice = "Let it return the loss of one example: a mean over that example's own axes"
    return lambda params, *example: check_scalar(example_loss(params, *example), "example_loss", advice)


def over_examples(
    function: Callable[..., Any], batch: Batch, name: str, chunk_size: int | None = None
) -> Any:
    """Call ``function(*example)`` for each example of ``batch`` at once; results gain a leading axis B.

    A batch is a tuple or list of trees, one per argument of the loss after ``params``, or any other tree
    for a single argument. Every leaf has the same leading axis.

    Raises:
        PureSGDError: a batch without examples, or whose leaves disagree in length; a function that
            cannot be mapped over examples, with the line that says why.

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
        results, rebuild_result = tree.flatten(function(*arguments(rebuild(list(example_leaves)))))
        return tuple(results)

    function_of_batch = torch.func.vmap(on_leaves, chunk_size=chunk_size)
    if torch.compiler.is_dynamo_compiling():
        mapped = function_of_batch(*found)  # first: it sets rebuild_result
        return rebuild_result(list(mapped))
    try:
        mapped = function_of_batch(*found)
    except (RuntimeError, ValueError) as error:
        if told := explained(error):
            raise told from error
        raise
    return rebuild_result(list(mapped))


def example_losses(
    example_loss: ExampleLoss, params: Params, batch: Batch, chunk_size: int | None = None
) -> torch.Tensor:
    """The loss of each example (B,).

    Raises:
        PureSGDError: a loss that is not one real number, or what :func:`over_examples` refuses.

    Example:
        >>> import torch
        >>> from pure_sgd.gradients.examples import example_losses
        >>> example_losses(lambda params, x: params * x, torch.tensor(2.0), (torch.arange(3.0),))
        tensor([0., 2., 4.])
    """
    loss = checked(example_loss)
    return over_examples(lambda *example: loss(params, *example), batch, "batch", chunk_size)
