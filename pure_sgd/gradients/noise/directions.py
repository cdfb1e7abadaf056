"""Per-example gradients along one direction, and where they point, without ever forming them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from ... import tree
from ...arguments import typed
from ...errors import PureSGDError, check_count
from ...models.buffers import trainable, without_buffers
from ..examples import Batch, ExampleLoss, Params, example_losses
from ..norms import per_example_grad_norms
from ..risk import empirical_risk
from ..value_and_grad import check_differentiable, value_and_grad

__all__ = ["TopExamples", "per_example_cosines", "per_example_slopes", "top_examples"]


@typed
def per_example_slopes(example_loss: ExampleLoss) -> Callable[[Params, Batch, Params], torch.Tensor]:
    """The inner product of every example's gradient with a direction: ``f(params, batch, direction)``, (B,).

        slopes[i] = <g_i, direction> = d/de example_loss(params + e * direction, *batch[i])   at e = 0

    One forward pass with tangents: no gradient is formed. ``direction`` is a tree like ``params``.

    Raises:
        PureSGDError: a direction unlike ``params``, leaves of different lengths, or an empty batch.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> slopes = ps.per_example_slopes(lambda params, x: x @ params)
        >>> slopes(torch.zeros(2), (torch.tensor([[1.0, 2.0], [3.0, 4.0]]),), torch.tensor([1.0, 0.0]))
        tensor([1., 3.])
    """

    def slopes(params: Params, batch: Batch, direction: Params) -> torch.Tensor:
        loss, params = without_buffers(example_loss, params)
        direction = trainable(direction)
        check_differentiable(params)
        tree.check_like(direction, params, "direction", "params")
        found, rebuild = tree.flatten(params)

        def losses(*leaves: torch.Tensor) -> torch.Tensor:
            return example_losses(loss, rebuild(list(leaves)), batch)

        tangents = tuple(d.to(p.dtype) for d, p in zip(tree.leaves(direction), found, strict=True))
        return torch.func.jvp(losses, tuple(found), tangents)[1]

    return slopes


@typed
def per_example_cosines(example_loss: ExampleLoss) -> Callable[[Params, Batch], torch.Tensor]:
    """The cosine of every example's gradient with the mean gradient: ``f(params, batch)``, (B,).

        cosines[i] = <g_i, mean> / (|g_i| * |mean|)            0 where a gradient is 0

    Raises:
        PureSGDError: leaves of different lengths, an empty batch, or a loss that is not a scalar.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> cosines = ps.per_example_cosines(lambda params, x: x @ params)
        >>> cosines(torch.zeros(2), (torch.tensor([[2.0, 0.0], [0.0, 2.0]]),))
        tensor([0.7071, 0.7071])
    """
    gradient = value_and_grad(empirical_risk(example_loss))
    slopes, norms = per_example_slopes(example_loss), per_example_grad_norms(example_loss)

    def cosines(params: Params, batch: Batch) -> torch.Tensor:
        mean = gradient(params, batch)[1]
        lengths = norms(params, batch) * tree.norm(mean)
        return torch.where(lengths > 0, slopes(params, batch, mean) / lengths, 0.0)

    return cosines


class TopExamples(NamedTuple):
    """The examples with the largest gradients, the largest first."""

    norms: torch.Tensor  # (k,)
    indices: torch.Tensor  # int64, (k,): their places in the batch


@typed
def top_examples(norms: torch.Tensor, k: int) -> TopExamples:
    """The ``k`` examples of a batch with the largest gradients, from ``per_example_grad_norms``.

    Examples far above the rest are worth a look: outliers and wrong labels are often among them.

    Raises:
        PureSGDError: ``norms`` that are no vector, or a ``k`` that is not between 1 and its length.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.top_examples(torch.tensor([0.5, 3.0, 1.0]), 2)
        TopExamples(norms=tensor([3., 1.]), indices=tensor([1, 2]))
    """
    if norms.ndim != 1:
        raise PureSGDError(
            "top_examples",
            f"norms has shape {tuple(norms.shape)}, expected (B,)",
            "Pass what per_example_grad_norms returns",
        )
    check_count("top_examples", "k", k, high=len(norms))
    return TopExamples(*torch.topk(norms, k))
