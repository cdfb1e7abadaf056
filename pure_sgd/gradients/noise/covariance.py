"""The covariance of per-example gradients: its products and leading eigenvalues, without a P x P matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from ... import tree
from ...arguments import typed
from ...errors import PureSGDError, check_count
from ...models.buffers import trainable, without_buffers
from ..examples import Batch, ExampleLoss, Params, example_losses
from ..norms import check_finite
from ..per_example import per_example_grads
from .directions import per_example_slopes

__all__ = ["CovarianceSpectrum", "covariance_spectrum", "covariance_vector_product", "gradient_gram_matrix"]


@typed
def covariance_vector_product(example_loss: ExampleLoss) -> Callable[[Params, Batch, Params], Params]:
    """The unbiased gradient covariance of a batch times a vector: ``f(params, batch, vector)``.

        product = sum_i (g_i - mean) <g_i - mean, vector> / (B - 1)              a tree like params

    One forward pass with tangents and one gradient of a weighted loss; no per-example gradient is formed.

    Raises:
        PureSGDError: fewer than 2 examples, or a vector unlike ``params``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> product = ps.covariance_vector_product(lambda params, x: x @ params)
        >>> batch = (torch.tensor([[1.0, 0.0], [-1.0, 0.0]]),)
        >>> product(torch.zeros(2), batch, torch.tensor([3.0, 5.0]))
        tensor([6., 0.])
    """
    slopes = per_example_slopes(example_loss)

    def product(params: Params, batch: Batch, vector: Params) -> Params:
        count = _at_least_two(batch, "covariance_vector_product")
        along = slopes(params, batch, vector)
        return _weighted(example_loss, params, batch, (along - along.mean()) / (count - 1))

    return product


@typed
def gradient_gram_matrix(
    example_loss: ExampleLoss, chunk_size: int | None = None
) -> Callable[[Params, Batch], torch.Tensor]:
    """All inner products of the gradients of a batch: ``f(params, batch)``, (B, B).

        gram[i, j] = <g_i, g_j>

    Without ``chunk_size`` all B gradients are held at once; with it those of two chunks, which are then
    computed again for each pair of chunks. It has at least float32.

    Raises:
        PureSGDError: leaves of different lengths, an empty batch, or a loss that is not a scalar.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> gram = ps.gradient_gram_matrix(lambda params, x: x @ params)
        >>> gram(torch.zeros(2), (torch.tensor([[1.0, 0.0], [1.0, 2.0]]),))
        tensor([[1., 1.],
                [1., 5.]])
    """
    if chunk_size is not None:
        check_count("gradient_gram_matrix", "chunk_size", chunk_size)
    grads = per_example_grads(example_loss)

    def gram(params: Params, batch: Batch) -> torch.Tensor:
        count = tree.batch_length(batch, "batch")
        size = chunk_size or count
        starts = range(0, count, size)

        def rows_of(start: int) -> list[torch.Tensor]:
            chunk = tree.map(lambda leaf: leaf[start : start + size], batch)
            return [_as_rows(leaf) for leaf in tree.leaves(grads(params, chunk))]

        def block(start: int) -> list[torch.Tensor]:
            """The products of a chunk with itself and all earlier ones."""
            mine = rows_of(start)
            others = [mine if other == start else rows_of(other) for other in starts if other <= start]
            return [_added([a @ b.T for a, b in zip(mine, other, strict=True)]) for other in others]

        blocks = [block(start) for start in starts]
        return torch.cat(
            [
                torch.cat([blocks[i][j] if j <= i else blocks[j][i].T for j in range(len(blocks))], 1)
                for i in range(len(blocks))
            ]
        )

    return gram


class CovarianceSpectrum(NamedTuple):
    """The leading part of the gradient covariance."""

    eigenvalues: torch.Tensor  # (k,), the largest first
    eigenvectors: Any  # a tree like params, of leaves (k, *P), each of norm 1
    trace: torch.Tensor  # shape (): the sum of all eigenvalues


@typed
def covariance_spectrum(
    example_loss: ExampleLoss, k: int, chunk_size: int | None = None
) -> Callable[[Params, Batch], CovarianceSpectrum]:
    """The ``k`` leading eigenvalues and eigenvectors of the gradient covariance: ``f(params, batch)``.

        covariance = sum_i (g_i - mean) (g_i - mean)^T / (B - 1)                 its rank is at most B - 1

    They come from the B x B matrix of inner products, whose nonzero eigenvalues are the same: for batches
    up to a few thousand examples. ``chunk_size`` is that of :func:`gradient_gram_matrix`. An eigenvector
    is determined up to its sign, and is zero where the eigenvalue is.

    Raises:
        PureSGDError: fewer than 2 examples, a gradient that is not finite, or a ``k`` that is not between 1
            and B - 1.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> spectrum = ps.covariance_spectrum(lambda params, x: x @ params, k=1)
        >>> found = spectrum(torch.zeros(2), (torch.tensor([[3.0, 0.0], [-3.0, 0.0]]),))
        >>> found.eigenvalues, found.eigenvectors.abs()
        (tensor([18.]), tensor([[1., 0.]]))
    """
    check_count("covariance_spectrum", "k", k)
    gram = gradient_gram_matrix(example_loss, chunk_size)

    def spectrum(params: Params, batch: Batch) -> CovarianceSpectrum:
        count = _at_least_two(batch, "covariance_spectrum")
        check_count("covariance_spectrum", "k", k, high=count - 1)
        products = gram(params, batch)
        check_finite("covariance_spectrum", products.diagonal())
        rows = products - products.mean(0)
        centred = (rows - rows.mean(1, keepdim=True)) / (count - 1)
        values, vectors = torch.linalg.eigh(centred)
        largest = values.flip(0)[:k].clamp(min=0)
        weights = vectors.flip(1)[:, :k].T
        # The eigenvector in parameter space is the weighted sum of centred gradients, made of norm 1; what
        # is left of rounding in place of an eigenvalue of 0 has no direction.
        real = largest > torch.finfo(products.dtype).eps * count * largest[0]
        scale = torch.where(real, (largest * (count - 1)).clamp(min=torch.finfo(products.dtype).tiny), 1.0)
        weights = torch.where(real, scale.rsqrt(), 0.0)[:, None] * (weights - weights.mean(1, keepdim=True))
        found = torch.func.vmap(lambda w: _leaves_weighted(example_loss, params, batch, w))(weights)
        return CovarianceSpectrum(largest, tree.flatten(trainable(params))[1](list(found)), centred.trace())

    return spectrum


def _weighted(example_loss: ExampleLoss, params: Params, batch: Batch, weights: torch.Tensor) -> Params:
    """The sum of the per-example gradients, each times its weight."""
    return tree.flatten(trainable(params))[1](list(_leaves_weighted(example_loss, params, batch, weights)))


def _leaves_weighted(
    example_loss: ExampleLoss, params: Params, batch: Batch, weights: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    loss, params = without_buffers(example_loss, params)
    found, rebuild = tree.flatten(params)

    def total(leaves: tuple[torch.Tensor, ...]) -> torch.Tensor:
        losses = example_losses(loss, rebuild(list(leaves)), batch)
        return (losses * weights.to(losses.dtype)).sum()

    return torch.func.grad(total)(tuple(found))


def _at_least_two(batch: Batch, where: str) -> int:
    count = tree.batch_length(batch, "batch")
    if count < 2:
        raise PureSGDError(where, f"the batch has {count} example, and a covariance needs 2", "Pass more")
    return count


def _as_rows(grads: torch.Tensor) -> torch.Tensor:
    """(B, *P) as real rows (B, n), in at least float32."""
    wide = tree.widened(grads)
    return (torch.view_as_real(wide) if wide.is_complex() else wide).reshape(len(wide), -1)


def _added(terms: list[torch.Tensor]) -> torch.Tensor:
    return sum(terms[1:], terms[0])
