"""Tensors along one of their axes: what a matrix does to every fibre, and how the fibres covary."""

from __future__ import annotations

import torch

__all__ = ["along", "fibre_covariance"]


def along(x: torch.Tensor, axis: int, matrix: torch.Tensor) -> torch.Tensor:
    """``matrix`` times each fibre of ``x`` along ``axis``: rows of ``x`` for axis 1, columns for axis 0.

    Example:
        >>> import torch
        >>> from pure_sgd.transforms.matrices import along
        >>> along(torch.tensor([[1.0, 2.0]]), 1, torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        tensor([[2., 1.]])
    """
    return (x.movedim(axis, -1) @ matrix.mT).movedim(-1, axis)


def fibre_covariance(x: torch.Tensor, axis: int) -> torch.Tensor:
    """The sum of ``f f^H`` over the fibres ``f`` along ``axis``: shape (n, n), n the axis' length.

    Example:
        >>> import torch
        >>> from pure_sgd.transforms.matrices import fibre_covariance
        >>> fibre_covariance(torch.tensor([[1.0, 2.0]]), 1)
        tensor([[1., 2.],
                [2., 4.]])
    """
    unfolded = x.movedim(axis, 0).reshape(x.shape[axis], -1)
    return unfolded @ unfolded.mH
