"""Empirical risk, and the estimate of the population risk on held-out data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ..arguments import typed
from ..errors import PureSGDError, check_count
from .examples import Batch, ExampleLoss, Params, example_losses
from .moments import GradientMoments, gradient_moments

__all__ = ["EmpiricalRisk", "RiskEstimate", "empirical_risk", "population_risk"]


class RiskEstimate(NamedTuple):
    """A mean loss with its uncertainty."""

    mean: torch.Tensor  # shape (), in the unit of the loss
    standard_error: torch.Tensor  # shape (), in the unit of the loss
    count: int  # the number of examples


@dataclass(frozen=True)
class EmpiricalRisk:
    """A loss of batches, ``loss(params, batch)``, that knows the loss of one example: a mean over them.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> loss = ps.empirical_risk(lambda params, x: (x - params) ** 2)
        >>> loss(torch.tensor(0.0), (torch.tensor([1.0, 3.0]),))
        tensor(5.)
        >>> loss.example_loss(torch.tensor(0.0), torch.tensor(3.0))
        tensor(9.)
    """

    example_loss: ExampleLoss

    @typed
    def __call__(self, params: Params, batch: Batch) -> torch.Tensor:
        """The mean loss, shape ``()``."""
        return example_losses(self.example_loss, params, batch).mean()

    def moments(self) -> Callable[[Params, Batch], GradientMoments]:
        """What measures mean and variance of its gradient: :func:`gradient_moments`."""
        return gradient_moments(self.example_loss)


@typed
def empirical_risk(example_loss: ExampleLoss) -> EmpiricalRisk:
    """The mean loss over a batch: ``loss(params, batch)``, shape ``()``.

        loss(params, batch) = mean_i example_loss(params, *batch[i])

    ``batch`` is a tuple of trees whose leaves all have a leading axis of B examples. On the whole data
    set this is the empirical risk; on a random batch it is an unbiased estimate of it, and so is its
    gradient.

    Raises:
        PureSGDError: leaves of different lengths, an empty batch, or a loss of one example that is not a
            scalar.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> loss = ps.empirical_risk(lambda params, x, y: (x @ params - y) ** 2 / 2)
        >>> loss(torch.zeros(2), (torch.ones(3, 2), torch.tensor([1.0, 2.0, 3.0])))
        tensor(2.3333)
    """
    return EmpiricalRisk(example_loss)


@typed
def population_risk(
    example_loss: ExampleLoss, chunk_size: int | None = None
) -> Callable[[Params, Batch], RiskEstimate]:
    """Estimate the expected loss on new data: ``f(params, held_out) -> RiskEstimate``.

        mean           = mean_i example_loss(params, *held_out[i])
        standard_error = std_i / sqrt(count)             std with count - 1

    Unbiased as long as ``held_out`` had no part in choosing ``params``. With
    :func:`losses.zero_one_loss` the mean is the error rate. ``chunk_size`` bounds the memory.

    Raises:
        PureSGDError: fewer than two examples, or as :func:`empirical_risk`.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> risk = ps.population_risk(lambda params, x: (x - params) ** 2)
        >>> risk(torch.tensor(0.0), (torch.tensor([1.0, 2.0, 3.0]),))
        RiskEstimate(mean=tensor(4.6667), standard_error=tensor(2.3333), count=3)
    """
    if chunk_size is not None:
        check_count("population_risk", "chunk_size", chunk_size)

    def estimate(params: Params, held_out: Batch) -> RiskEstimate:
        losses = example_losses(example_loss, params, held_out, chunk_size)
        count = losses.shape[0]
        if count < 2:
            raise PureSGDError(
                "held_out", f"holds {count} example, and a standard error needs two", "Hold out more"
            )
        return RiskEstimate(losses.mean(), losses.std() / count**0.5, count)

    return estimate
