"""The noise of a mini-batch: how the variance of its mean gradient falls with its size."""

from __future__ import annotations

from typing import Any

import torch

from ... import tree
from ...arguments import typed
from ...errors import PureSGDError, check_count, check_hyperparameter

__all__ = ["minibatch_variance"]


@typed
def minibatch_variance(
    variance: Any, batch_size: Any, population: int | None = None, *, replacement: bool = False
) -> Any:
    """The variance of the mean gradient of ``batch_size`` examples drawn at random.

        variance / b                                   from a distribution: no population
        variance / b * (N - 1) / N                     from N examples, with replacement
        variance / b * (1 - b / N)                     from N examples, without: none is left at b = N

    ``variance`` is the unbiased variance (divisor count - 1) of single examples: a tree of it per
    parameter, as :func:`gradient_moments` has it, or its sum, the trace of the covariance. Of the last two
    lines it is that over all N examples. ``b`` is ``batch_size``, a number or a tensor that broadcasts
    against every leaf; N is ``population``. The result is like ``variance``.
    Source: Cochran 1977, Sampling Techniques, theorem 2.2.

    Raises:
        PureSGDError: a ``batch_size`` that is not positive, one larger than the population without
            replacement, or replacement without a population.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> sizes = torch.tensor([1.0, 10.0, 100.0])
        >>> ps.minibatch_variance(torch.tensor(2.0), sizes)
        tensor([2.0000, 0.2000, 0.0200])
        >>> ps.minibatch_variance(torch.tensor(2.0), sizes, population=100)
        tensor([1.9800, 0.1800, 0.0000])
    """
    where = "minibatch_variance"
    if not isinstance(batch_size, torch.Tensor):
        check_hyperparameter(where, "batch_size", batch_size, low=0, open_low=True)
    if population is None:
        if replacement:
            raise PureSGDError(
                where, "replacement=True needs a population to put examples back into", "Pass population=N"
            )
        return tree.map(lambda v: v / batch_size, variance)
    check_count(where, "population", population)
    if replacement:
        return tree.map(lambda v: v / batch_size * ((population - 1) / population), variance)
    if isinstance(batch_size, (int, float)) and batch_size > population:
        raise PureSGDError(
            where,
            f"batch_size={batch_size} is more than the population of {population}",
            "Draw at most the population, or pass replacement=True",
        )
    return tree.map(lambda v: v / batch_size * (1 - batch_size / population), variance)
