"""Sums of per-example gradients of which none is longer than a bound."""

from __future__ import annotations

from typing import Any

import torch

from .. import tree
from ..arguments import typed
from ..errors import check_hyperparameter
from .clipping import shrinking
from .contract import Hyperparameter, Updates
from .running import root, squared

__all__ = ["per_example_global_norm_clip", "per_example_layer_norm_clip"]


@typed
def per_example_global_norm_clip(
    grads: Updates, l2_norm_clip: Hyperparameter
) -> tuple[Updates, torch.Tensor]:
    """Sum the gradients of examples, each shrunk to a norm over all leaves of at most ``l2_norm_clip``.

        clipped_sum = sum_i g_i * min(1, l2_norm_clip / |g_i|)
        num_clipped = how many |g_i| are above l2_norm_clip

    Leaves of ``grads`` are (B, *P), such as :func:`per_example_grads` gives; those of the sum are (*P),
    in the same dtypes, summed in at least float32; the count is int64 of shape ``()``.
    Source: Abadi et al. 2016, arXiv:1607.00133.

    Raises:
        PureSGDError: leaves without a common leading axis, or a negative ``l2_norm_clip``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> grads = {"w": torch.tensor([[3.0, 4.0], [0.3, 0.4]])}
        >>> ps.per_example_global_norm_clip(grads, 1.0)
        ({'w': tensor([0.9000, 1.2000])}, tensor(1))
    """
    check_hyperparameter("per_example_global_norm_clip", "l2_norm_clip", l2_norm_clip, low=0)
    clipped, count = clipped_sum(grads, l2_norm_clip, "grads")
    return tree.cast_like(clipped, grads), count


@typed
def per_example_layer_norm_clip(
    grads: Updates, global_l2_norm_clip: Hyperparameter, uniform: bool = True
) -> tuple[Updates, Any]:
    """Sum the gradients of examples, each leaf of each shrunk to a bound of its own.

        bound = global_l2_norm_clip * sqrt(1 / K)              K leaves
        bound = global_l2_norm_clip * sqrt(D_leaf / D)         D numbers in all, without uniform

    The norm over all leaves of what is summed is then at most ``global_l2_norm_clip``. Shapes and dtypes are
    those of :func:`per_example_global_norm_clip`; the counts are a tree, one for each leaf.
    Source: McMahan et al. 2018, arXiv:1710.06963.

    Raises:
        PureSGDError: leaves without a common leading axis, or a negative ``global_l2_norm_clip``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> grads = {"w": torch.tensor([[3.0, 4.0], [0.0, 0.1]]), "b": torch.tensor([2.0, -1.0])}
        >>> ps.per_example_layer_norm_clip(grads, 2**0.5)
        ({'w': tensor([0.6000, 0.9000]), 'b': tensor(0.)}, {'w': tensor(1), 'b': tensor(1)})
    """
    check_hyperparameter("per_example_layer_norm_clip", "global_l2_norm_clip", global_l2_norm_clip, low=0)
    tree.batch_length(grads, "grads")
    found, rebuild = tree.flatten(grads)
    sizes = [1 if uniform else leaf[0].numel() for leaf in found]
    total = max(sum(sizes), 1)
    pairs = [
        per_example_global_norm_clip(leaf, global_l2_norm_clip * (size / total) ** 0.5)
        for leaf, size in zip(found, sizes, strict=True)
    ]
    return rebuild([clipped for clipped, _ in pairs]), rebuild([count for _, count in pairs])


def clipped_sum(grads: Updates, bound: Any, name: str) -> tuple[Updates, torch.Tensor]:
    """The sum of the clipped gradients in at least float32, and how many were clipped."""
    count = tree.batch_length(grads, name)
    found, rebuild = tree.flatten(grads)
    squares = [squared(leaf).reshape(count, -1).sum(1) for leaf in found]
    norms = root(sum(squares[1:], squares[0]))
    weights = shrinking(norms, bound)
    sums = [torch.tensordot(weights.to(tree.wide(leaf.dtype)), tree.widened(leaf), 1) for leaf in found]
    return rebuild(sums), (norms > bound).sum()
