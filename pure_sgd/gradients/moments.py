"""Mean and variance of the gradient over examples: what a mini-batch gradient scatters about, and how far."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, NamedTuple

import torch

from .. import tree
from ..arguments import typed
from ..errors import PureSGDError
from ..functorch import readable
from ..hints import T
from ..models.buffers import trainable, without_buffers
from .compilable import compilable
from .example_gradients import (
    ExampleGradients,
    check_method,
    example_gradients,
    merged_leaves,
    sliced,
)
from .examples import Batch, ExampleLoss, Params
from .norms import NORMS, check_finite
from .onepass.stack import LeafSums, Want, squared

__all__ = ["GradientMoments", "gradient_moments", "merge_moments"]

MEAN_AND_VARIANCE = Want(mean=True, variance=True, norms=False)


class GradientMoments(NamedTuple, Generic[T]):
    """The gradients of ``count`` examples, summed up; tensors in at least float32."""

    count: torch.Tensor  # shape (), int64: the number of examples
    loss: torch.Tensor  # shape (): the mean loss
    mean: T  # a tree like params: the mean gradient, that of the empirical risk
    variance: T  # a tree like params: the unbiased variance of each entry over examples


@typed
def gradient_moments(
    example_loss: ExampleLoss, method: str = "auto", chunk_size: int | None = None
) -> Callable[[T, Batch], GradientMoments[T]]:
    """Mean and variance over examples of the gradient: ``f(params, batch) -> GradientMoments``.

        grads[i]  =  gradient of example_loss(params, *batch[i])
        mean      =  sum_i grads[i] / B
        variance  =  sum_i (grads[i] - mean)**2 / (B - 1)

    The variance is that of one example's gradient, entry by entry; that of the mean of b examples
    drawn at random is ``variance / b``. Shapes: batch leaves (B, ...), mean and variance as params,
    all in at least float32 (a bfloat16 model has float32 moments). The variance of a complex entry is
    that of its real part plus that of its imaginary part.

    ``method="auto"`` takes the fastest way, and the result does not depend on it. That is one forward and
    one backward pass over the batch, from which the sums are formed without ever holding the
    gradients of all examples (Goodfellow 2015, arXiv:1510.01799, for dense layers); parameters that are
    used in a way it does not recognise are differentiated by ``vmap(grad)``, a few examples at a time;
    :func:`gradient_paths` tells which. Inside ``vmap`` and ``grad``, and where ``params`` or ``batch``
    require grad, everything goes by ``vmap(grad)``, and the moments can be mapped over and differentiated.
    Under ``torch.compile`` it is one pass too, and ``example_loss`` is run rather than read: what it reads
    besides its arguments is read once. Where ``params`` or ``batch`` hold None, or this function is made
    within what is compiled, that is ``vmap(grad)``. ``method="fast"`` raises where one pass is not
    possible, ``"vmap"`` never tries it. ``chunk_size`` bounds the examples in memory at a time; chunks are
    merged exactly.

    The variance is formed from differences to the mean, or from a difference of sums where no more than two
    digits cancel, so it is never negative, and in float32 its relative error is about 1e-5, however large
    the mean. What rounding each gradient to its own dtype does to it comes on top.

    Raises:
        PureSGDError: a batch of one example, which has no variance, or of none; leaves of different
            lengths; parameters that are not floating-point; a loss that is not a scalar, or not the
            same function for every example; gradients that are not finite, by example.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> moments = ps.gradient_moments(lambda params, x: (params - x) ** 2 / 2)
        >>> moments(torch.tensor(0.0), (torch.tensor([1.0, 2.0, 3.0]),))
        GradientMoments(count=tensor(3), loss=tensor(2.3333), mean=tensor(-2.), variance=tensor(1.))
    """
    check_method("gradient_moments", method, chunk_size)

    def sums(params: Params, batch: Batch) -> list[torch.Tensor | None]:
        """The losses, the means and the variances of all leaves."""
        loss, params = without_buffers(example_loss, params)
        count = tree.batch_length(batch)
        if count < 2:
            raise PureSGDError("batch", "holds 1 example, and a variance needs two", "Pass a larger batch")
        losses: list[torch.Tensor] = []
        total: list[LeafSums] = []
        for start in range(0, count, chunk_size or count):
            stop = min(start + (chunk_size or count), count)
            part = batch if stop - start == count else sliced(batch, start, stop)
            gradients = example_gradients(loss, params, part, method)
            sums = gradients.sums(MEAN_AND_VARIANCE)
            _check_finite(gradients, sums.leaves, start)
            losses.append(sums.losses)
            total = merged_leaves(total, start, sums.leaves, stop - start)
        return [torch.cat(losses), *(leaf.mean for leaf in total), *(leaf.variance for leaf in total)]

    compilable_sums = compilable(sums)

    def moments(params: Params, batch: Batch) -> GradientMoments:
        losses, *rest = compilable_sums(params, batch)
        leaves, rebuild = tree.flatten(trainable(params))
        return GradientMoments(
            torch.tensor(len(losses), device=losses.device),
            tree.widened(losses).mean(),
            rebuild(rest[: len(leaves)]),
            rebuild(rest[len(leaves) :]),
        )

    return moments


@typed
def merge_moments(a: GradientMoments[T], b: GradientMoments[T]) -> GradientMoments[T]:
    """The moments of two sets of examples together, as if they had been one batch.

        count     =  a.count + b.count
        mean      =  a.mean + (b.mean - a.mean) * b.count / count
        variance  =  ((a.count - 1) * a.variance + (b.count - 1) * b.variance
                      + (b.mean - a.mean)**2 * a.count * b.count / count) / (count - 1)

    For batches that were taken one after the other at the same ``params``, or by different ranks.
    Source: Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample
    variances".

    Raises:
        PureSGDError: the moments of different models.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> moments = ps.gradient_moments(lambda params, x: (params - x) ** 2 / 2)
        >>> a = moments(torch.tensor(0.0), (torch.tensor([1.0, 2.0]),))
        >>> b = moments(torch.tensor(0.0), (torch.tensor([3.0, 4.0]),))
        >>> ps.merge_moments(a, b)
        GradientMoments(count=tensor(4), loss=tensor(3.7500), mean=tensor(-2.5000), variance=tensor(1.6667))
    """
    tree.check_like(b.mean, a.mean, "b.mean", "a.mean")
    count = a.count + b.count

    def mean(mean_a: torch.Tensor, mean_b: torch.Tensor) -> torch.Tensor:
        return mean_a + (mean_b - mean_a) * b.count / count

    def variance(
        mean_a: torch.Tensor, mean_b: torch.Tensor, of_a: torch.Tensor, of_b: torch.Tensor
    ) -> torch.Tensor:
        # Each count meets a leaf first: the quotient of two integer tensors would have float32 alone.
        between = squared(mean_b - mean_a) * a.count / count * b.count
        return (of_a * (a.count - 1) + of_b * (b.count - 1) + between) / (count - 1)

    return GradientMoments(
        count,
        mean(a.loss, b.loss),
        tree.map(mean, a.mean, b.mean),
        tree.map(variance, a.mean, b.mean, a.variance, b.variance),
    )


def _check_finite(gradients: ExampleGradients, sums: list[LeafSums], start: int) -> None:
    """Name the examples whose gradients are not finite; the sum of a mean tells whether there are any."""
    if not readable():
        return
    totals = torch.stack([leaf.mean.sum().abs() for leaf in sums if leaf.mean is not None])
    if bool(totals.isfinite().all()):
        return
    norms = gradients.sums(NORMS).leaves
    for (path, _), leaf in zip(tree.named_leaves(gradients.params, "params"), norms, strict=True):
        if leaf.norms is not None:
            check_finite(path, leaf.norms, start)
