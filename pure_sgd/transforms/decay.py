"""Weight decay: pull the parameters towards zero."""

from __future__ import annotations

from typing import Any

from .. import tree
from ..errors import check_hyperparameter
from .combining import stateless
from .contract import GradientTransformation, Hyperparameter, Params, Updates, missing_params, transformation

__all__ = ["add_decayed_weights"]


@transformation
def add_decayed_weights(weight_decay: Hyperparameter = 0.0, mask: Any = None) -> GradientTransformation:
    """Add ``weight_decay * params`` to the updates.

        u = u + weight_decay * p

    Before momentum and the learning rate this is the gradient of the penalty
    ``weight_decay / 2 * |params|**2`` in the objective; after an adaptive rule it is decoupled decay
    (Loshchilov and Hutter 2019, arXiv:1711.05101). ``mask`` picks the leaves: a tree or prefix of bools,
    or a predicate on the path such as ``lambda path: "['b']" not in path``.

    Raises:
        PureSGDError: a negative ``weight_decay``, no ``params``, or a mask that does not fit them.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.add_decayed_weights(0.1, mask={"w": True, "b": False})
        >>> params = {"w": torch.ones(2), "b": torch.ones(())}
        >>> tx.update(ps.tree.map(torch.zeros_like, params), tx.init(params), params)[0]
        {'w': tensor([0.1000, 0.1000]), 'b': tensor(0.)}
    """
    check_hyperparameter("add_decayed_weights", "weight_decay", weight_decay, low=0)

    def decayed(updates: Updates, params: Params) -> Updates:
        if params is None:
            raise missing_params("add_decayed_weights")
        found, rebuild = tree.flatten(updates)
        chosen = tree.select(mask, params, "add_decayed_weights")
        return rebuild(
            [
                (u + weight_decay * tree.widened(p)).to(u.dtype) if decays else u
                for u, p, decays in zip(found, tree.leaves(params), chosen, strict=True)
            ]
        )

    return stateless(decayed)
