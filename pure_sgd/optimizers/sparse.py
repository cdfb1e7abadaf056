"""Optimizers for gradients that are zero nearly everywhere."""

from __future__ import annotations

from ..arguments import factory
from ..transforms import (
    GradientTransformation,
    Hyperparameter,
    chain,
    scale_by_learning_rate,
    scale_by_sparse_adam,
)

__all__ = ["sparse_adam"]


@factory
def sparse_adam(
    learning_rate: Hyperparameter,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-8,
    *,
    sparse_dim: int | None = 1,
) -> GradientTransformation:
    """Adam that leaves alone every row whose gradient is zero: :func:`scale_by_sparse_adam`, then the rate.

    ``torch.optim.SparseAdam``, for dense gradients. Source: Kingma and Ba 2015, arXiv:1412.6980.

    Raises:
        PureSGDError: as :func:`scale_by_sparse_adam`, and for a negative learning rate.

    Example:
        >>> import pure_sgd as ps
        >>> ps.sparse_adam(1e-3)
        chain(scale_by_sparse_adam(), scale_by_learning_rate(0.001))
    """
    return chain(
        scale_by_sparse_adam(b1, b2, eps, sparse_dim=sparse_dim), scale_by_learning_rate(learning_rate)
    )
