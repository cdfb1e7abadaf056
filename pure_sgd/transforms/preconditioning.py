"""Preconditioning: a learning rate of its own for every coordinate."""

from __future__ import annotations

from typing import Any

from .. import tree
from ..errors import check_hyperparameter
from .combining import stateless
from .contract import GradientTransformation, Hyperparameter, Params, Updates, transformation

__all__ = ["scale_by_preconditioner"]


@transformation
def scale_by_preconditioner(curvature: Any, power: Hyperparameter = 1.0) -> GradientTransformation:
    """Divide every coordinate by a power of its curvature.

        u = curvature**(-power) * u

    ``curvature`` is a tree like the parameters, of positive numbers (the diagonal of the Hessian, say);
    ``power`` in [0, 1] goes from plain SGD to balanced rates: on a quadratic with curvatures h the error
    decays as (1 - learning_rate * h**(1 - power))**step. Source: Zhang et al. 2019, arXiv:1907.04164.

    Raises:
        PureSGDError: ``power`` outside [0, 1], or a curvature whose structure or shapes differ from the
            updates'.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.scale_by_preconditioner(torch.tensor([4.0, 1.0]), power=0.5)
        >>> tx.update(torch.ones(2), tx.init(torch.ones(2)))[0]
        tensor([0.5000, 1.0000])
    """
    check_hyperparameter("scale_by_preconditioner", "power", power, low=0, high=1)

    def precondition(updates: Updates, params: Params) -> Updates:
        tree.check_like(curvature, updates, "curvature", "updates")
        return tree.map(lambda u, h: (u * tree.widened(h) ** (-power)).to(u.dtype), updates, curvature)

    return stateless(precondition)
