"""Slow copies of the parameters that a training loop keeps by hand, such as target networks."""

from __future__ import annotations

from typing import Any

import torch

from .. import tree
from ..arguments import typed
from ..errors import check_hyperparameter
from .contract import Hyperparameter, Params

__all__ = ["incremental_update", "periodic_update"]


@typed
def incremental_update(new_tensors: Params, old_tensors: Params, step_size: Hyperparameter) -> Params:
    """Move a slow copy towards ``new_tensors``: one step of an exponential moving average.

        step_size * new + (1 - step_size) * old        in the dtypes of old_tensors

    :func:`params_ema` does the same within an optimizer, with ``decay = 1 - step_size``.
    Source: Polyak and Juditsky 1992, doi:10.1137/0330046.

    Raises:
        PureSGDError: names the leaf whose structure or shape differs; a ``step_size`` outside [0, 1].

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.incremental_update({"w": torch.ones(2)}, {"w": torch.zeros(2)}, 0.1)
        {'w': tensor([0.1000, 0.1000])}
    """
    check_hyperparameter("incremental_update", "step_size", step_size, low=0, high=1)
    tree.check_like(new_tensors, old_tensors, "new_tensors", "old_tensors")
    return tree.map(
        lambda new, old: (step_size * tree.widened(new) + (1 - step_size) * old).to(old.dtype),
        new_tensors,
        old_tensors,
    )


@typed
def periodic_update(new_tensors: Params, old_tensors: Params, steps: Any, update_period: Any) -> Params:
    """Replace a slow copy by ``new_tensors`` every ``update_period`` steps.

        new if steps % update_period == 0 else old        in the dtypes of old_tensors

    ``steps`` and ``update_period`` are ints or 0-d tensors of them. The result shares no memory with either.
    Source: Mnih et al. 2013, arXiv:1312.5602.

    Raises:
        PureSGDError: names the leaf whose structure or shape differs.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.periodic_update(torch.ones(2), torch.zeros(2), steps=100, update_period=50)
        tensor([1., 1.])
    """
    tree.check_like(new_tensors, old_tensors, "new_tensors", "old_tensors")
    due = torch.as_tensor(steps % update_period == 0)
    return tree.map(
        lambda new, old: torch.where(due.to(old.device), new.to(old.dtype), old), new_tensors, old_tensors
    )
