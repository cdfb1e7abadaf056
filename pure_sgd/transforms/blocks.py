"""Rules that measure each leaf against the parameters there: trust ratios and parameter scales."""

from __future__ import annotations

import torch

from .. import tree
from ..errors import check_hyperparameter
from .clipping import block_rms
from .combining import stateless
from .contract import (
    GradientTransformation,
    Hyperparameter,
    Params,
    Updates,
    missing_params,
    transformation,
)
from .scaling import multiply

__all__ = [
    "scale_by_param_block_norm",
    "scale_by_param_block_rms",
    "scale_by_trust_ratio",
    "shrink_by_learning_rate",
]


@transformation
def scale_by_trust_ratio(
    min_norm: Hyperparameter = 0.0,
    trust_coefficient: Hyperparameter = 1.0,
    eps: Hyperparameter = 0.0,
) -> GradientTransformation:
    """Let every leaf move in proportion to its own size.

        u     = u * ratio
        ratio = trust_coefficient * |p| / (|u| + eps)        1 where either norm is 0

    Norms are those of one leaf, in at least float32, and no smaller than ``min_norm``.
    Source: You et al. 2017, arXiv:1708.03888.

    Raises:
        PureSGDError: a negative number, or no ``params``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx, params = ps.scale_by_trust_ratio(), torch.tensor([3.0, 4.0])
        >>> tx.update(torch.tensor([0.0, -2.0]), tx.init(params), params)[0]
        tensor([ 0., -5.])
    """
    check_hyperparameter("scale_by_trust_ratio", "min_norm", min_norm, low=0)
    check_hyperparameter("scale_by_trust_ratio", "trust_coefficient", trust_coefficient, low=0)
    check_hyperparameter("scale_by_trust_ratio", "eps", eps, low=0)

    def ratio(u: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        u_norm, p_norm = (tree.norm(leaf).clamp(min=min_norm) for leaf in (u, p))
        zero = (u_norm == 0) | (p_norm == 0)
        # The inner where keeps the NaN of 0/0 out of gradients too.
        return torch.where(zero, 1.0, trust_coefficient * p_norm / (torch.where(zero, 1.0, u_norm) + eps))

    def scaled(updates: Updates, params: Params) -> Updates:
        if params is None:
            raise missing_params("scale_by_trust_ratio")
        return tree.map(lambda u, p: multiply(u, ratio(u, p)), updates, params)

    return stateless(scaled)


@transformation
def scale_by_param_block_norm(min_scale: Hyperparameter = 1e-3) -> GradientTransformation:
    """Multiply every leaf by the norm of its parameters, or by ``min_scale`` where that is larger.

        u = u * max(|p|, min_scale)

    Raises:
        PureSGDError: a negative ``min_scale``, or no ``params``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx, params = ps.scale_by_param_block_norm(), torch.tensor([3.0, 4.0])
        >>> tx.update(torch.ones(2), tx.init(params), params)[0]
        tensor([5., 5.])
    """
    check_hyperparameter("scale_by_param_block_norm", "min_scale", min_scale, low=0)

    def scaled(updates: Updates, params: Params) -> Updates:
        if params is None:
            raise missing_params("scale_by_param_block_norm")
        return tree.map(lambda u, p: multiply(u, tree.norm(p).clamp(min=min_scale)), updates, params)

    return stateless(scaled)


@transformation
def scale_by_param_block_rms(min_scale: Hyperparameter = 1e-3) -> GradientTransformation:
    """Multiply every leaf by the root mean square of its parameters, at least by ``min_scale``.

        u = u * max(rms(p), min_scale)

    Source: Shazeer and Stern 2018, arXiv:1804.04235.

    Raises:
        PureSGDError: a negative ``min_scale``, or no ``params``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx, params = ps.scale_by_param_block_rms(), torch.tensor([2.0, -2.0])
        >>> tx.update(torch.ones(2), tx.init(params), params)[0]
        tensor([2., 2.])
    """
    check_hyperparameter("scale_by_param_block_rms", "min_scale", min_scale, low=0)

    def scaled(updates: Updates, params: Params) -> Updates:
        if params is None:
            raise missing_params("scale_by_param_block_rms")
        return tree.map(lambda u, p: multiply(u, block_rms(p).clamp(min=min_scale)), updates, params)

    return stateless(scaled)


@transformation
def shrink_by_learning_rate(learning_rate: Hyperparameter) -> GradientTransformation:
    """Undo the growth of a step at right angles to the parameters: Fromage's last line, for a chain's end.

        u = (params + u) / sqrt(1 + learning_rate**2) - params

    A step of the length ``learning_rate * |params|`` at right angles leaves the norm as it was.
    Source: Bernstein et al. 2020, arXiv:2002.03432.

    Raises:
        PureSGDError: a negative ``learning_rate``, or no ``params``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx, params = ps.shrink_by_learning_rate(0.75), torch.tensor([1.0, 0.0])
        >>> updates, _ = tx.update(torch.tensor([0.0, 0.75]), tx.init(params), params)
        >>> params + updates
        tensor([0.8000, 0.6000])
    """
    check_hyperparameter("shrink_by_learning_rate", "learning_rate", learning_rate, low=0)

    def shrunk(updates: Updates, params: Params) -> Updates:
        if params is None:
            raise missing_params("shrink_by_learning_rate")
        keep = 1 / (1 + learning_rate**2) ** 0.5
        return tree.map(
            lambda u, p: (keep * tree.widened(u) + (keep - 1) * tree.widened(p)).to(u.dtype),
            updates,
            params,
        )

    return stateless(shrunk)
