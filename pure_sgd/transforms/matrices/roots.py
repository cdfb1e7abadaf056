"""Inverse roots of covariances."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["eigen", "inverse_root"]


def eigen(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues (rising) and eigenvectors of a Hermitian matrix, constants for every derivative.

    A matrix that is not finite gives those of zero: on CPU torch would raise.

    Example:
        >>> import torch
        >>> from pure_sgd.transforms.matrices import eigen
        >>> eigen(torch.diag(torch.tensor([2.0, 1.0])))[0]
        tensor([1., 2.])
    """
    values, vectors = torch.linalg.eigh(constant(matrix))
    return values, vectors


def constant(matrix: torch.Tensor) -> torch.Tensor:
    """What a decomposition may read: a constant for every derivative, and zero where it is not finite."""
    matrix = matrix.detach()
    finite = torch.isfinite(matrix).all(-1, keepdim=True).all(-2, keepdim=True)
    return torch.where(finite, matrix, 0.0)


def inverse_root(matrix: torch.Tensor, order: int, eps: Any) -> torch.Tensor:
    """``(matrix + eps * I)**(-1 / order)`` for a positive semidefinite Hermitian matrix, eps > 0.

        V @ diag((values + eps)**(-1 / order)) @ V^H               values, V the eigenvalues and eigenvectors

    Eigenvalues that round-off made negative count as 0; a matrix that is not finite gives NaN. The first
    derivative is that of the matrix function, by divided differences of ``x**(-1 / order)``, also where
    eigenvalues meet and the derivative of an eigenvector does not exist; higher ones with respect to
    ``matrix`` are not those of the function. Shape (n, n).

    Example:
        >>> import torch
        >>> from pure_sgd.transforms.matrices import inverse_root
        >>> inverse_root(torch.diag(torch.tensor([16.0, 81.0])), 4, 1e-12)
        tensor([[0.5000, 0.0000],
                [0.0000, 0.3333]])
    """
    values, vectors = eigen(matrix)
    shifted = values.clamp(min=0) + eps
    roots = (shifted ** (-1 / order)).to(values.dtype)
    # Zero, but its derivative is that of the matrix as its eigenvectors see it.
    drift = vectors.mH @ (matrix - matrix.detach()) @ vectors
    slopes = _divided_differences(shifted.to(values.dtype).detach(), roots.detach(), order)
    return vectors @ (torch.diag_embed(roots) + slopes * drift) @ vectors.mH


def _divided_differences(values: torch.Tensor, roots: torch.Tensor, order: int) -> torch.Tensor:
    """``(roots_i - roots_j) / (values_i - values_j)``, for equal ones the slope, without cancellation."""
    x, y = roots[..., :, None], roots[..., None, :]
    total = torch.stack([x**power * y ** (order - 1 - power) for power in range(order)]).sum(0)
    slopes = -1 / (values[..., :, None] * values[..., None, :] * total)
    # An infinite slope would make NaN of a drift of zero.
    return slopes.clamp(min=torch.finfo(slopes.dtype).min)
