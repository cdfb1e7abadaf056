"""Adam for gradients that are zero nearly everywhere, such as those of an embedding: lazy moments."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from .. import tree
from ..errors import check_count
from .contract import GradientTransformation, Hyperparameter, Params, Updates, step_zero, transformation
from .running import bias_correction, check_decays, check_offsets, mean, mean_of_squares, real_zeros, root

__all__ = ["ScaleBySparseAdamState", "scale_by_sparse_adam"]


class ScaleBySparseAdamState(NamedTuple):
    """The first two moments of the updates, over the steps at which there was one."""

    step: torch.Tensor  # int64, shape ()
    mu: Updates  # like params, in at least float32
    nu: Updates  # like params, real, in at least float32


@transformation
def scale_by_sparse_adam(
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-8,
    *,
    sparse_dim: int | None = 1,
) -> GradientTransformation:
    """Adam that leaves alone, moments and all, every row whose update is zero.

        mu = b1 * mu + (1 - b1) * u                 nu = b2 * nu + (1 - b2) * u**2
        u  = sqrt(1 - b2**t) / (1 - b1**t) * mu / (sqrt(nu) + eps)

    where the row holds a number other than 0; elsewhere ``mu`` and ``nu`` stay and ``u`` is 0. A row is what
    the first ``sparse_dim`` axes of a leaf number (each entry with None, and of a leaf with fewer axes), as
    in ``u.to_sparse(sparse_dim)``. ``t`` counts all steps from 1. The rule of ``torch.optim.SparseAdam``,
    on dense tensors: a row of an embedding that no example looked up keeps its memory and its place.
    Moments have at least float32. Source: Kingma and Ba 2015, arXiv:1412.6980.

    Raises:
        PureSGDError: ``b1`` or ``b2`` outside [0, 1), a negative ``eps``, or a ``sparse_dim`` that is neither
            None nor an int of at least 1.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.scale_by_sparse_adam()
        >>> state = tx.init(torch.zeros(2, 2))
        >>> _, state = tx.update(torch.ones(2, 2), state)
        >>> tx.update(torch.tensor([[1.0, -9.0], [0.0, 0.0]]), state)[0]
        tensor([[ 1.0000, -0.6656],
                [ 0.0000,  0.0000]])
    """
    check_decays("scale_by_sparse_adam", b1=b1, b2=b2)
    check_offsets("scale_by_sparse_adam", eps=eps)
    if sparse_dim is not None:
        check_count("scale_by_sparse_adam", "sparse_dim", sparse_dim)

    def touched(u: torch.Tensor) -> torch.Tensor:
        """Whether each row holds a number other than 0, its axes kept with length 1."""
        within = [] if sparse_dim is None else list(range(sparse_dim, u.ndim))
        return (u != 0).any(within, keepdim=True) if within else u != 0

    def chosen(mask: Updates, new: Updates, old: Updates) -> Updates:
        return tree.map(torch.where, mask, new, old)

    def init(params: Params) -> ScaleBySparseAdamState:
        return ScaleBySparseAdamState(step_zero(params), tree.zeros_like(params), real_zeros(params))

    def update(
        updates: Updates, state: ScaleBySparseAdamState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleBySparseAdamState]:
        t = state.step + 1
        rows = tree.map(touched, updates)
        mu = chosen(rows, mean(b1, state.mu, updates), state.mu)
        nu = chosen(rows, mean_of_squares(b2, state.nu, updates), state.nu)
        factor = bias_correction(b2, t).sqrt() / bias_correction(b1, t)

        def direction(u: torch.Tensor, m: torch.Tensor, v: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
            return torch.where(row, factor * m / (root(v) + eps), 0.0).to(u.dtype)

        return tree.map(direction, updates, mu, nu, rows), ScaleBySparseAdamState(t, mu, nu)

    return GradientTransformation(init, update)
