"""What the state dict of an optimizer holds for one of its groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..errors import PureSGDError
from .groups import Group

__all__ = ["saved_leaves"]


def saved_leaves(
    group: Group, saved: Mapping[str, Any], state: Mapping[int, Mapping[str, Any]]
) -> dict[str, torch.Tensor]:
    """The leaves of the state of ``group``, by path, from its entry in ``param_groups`` and from ``state``.

    Raises:
        PureSGDError: names the leaf that is missing, that nobody expects, or whose shape differs.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> from pure_sgd.bridges.groups import Group
        >>> from pure_sgd.bridges.loading import saved_leaves
        >>> group = Group(ps.trace(0.9), {"params": [torch.zeros(2)]}, compile=False)
        >>> saved = {"params": [0], "shared": {".step": torch.tensor(3)}}
        >>> saved_leaves(group, saved, {0: {".trace": torch.ones(2)}})
        {'.step': tensor(3), '.trace[0]': tensor([1., 1.])}
    """
    ids = dict(zip(group.params, saved["params"], strict=False))
    group.cover([name for name, index in ids.items() if index in state])
    owners, found = group.owners(), dict[str, torch.Tensor]()
    places: dict[str, Mapping[str, Any]] = {"": saved.get("shared", {})}
    places |= {f"{name!r}": state.get(index, {}) for name, index in ids.items()}
    left = {(owner, key) for owner, place in places.items() for key in place}
    for path, leaf in group.leaves.items():
        name, key = owners.get(path, (None, path))
        owner = "" if name is None else f"{name!r}"
        where = f"state_dict, {owner}{key}"
        if (owner, key) not in left:
            raise PureSGDError(where, "is missing", "Load what an optimizer of the same chain has saved")
        value = places[owner][key]
        if value.shape != leaf.shape:
            got, expected = tuple(value.shape), tuple(leaf.shape)
            raise PureSGDError(
                where, f"has shape {got}, expected {expected}", "Load what was saved for such parameters"
            )
        left.remove((owner, key))
        found[path] = value
    for owner, key in sorted(left):
        where = f"state_dict, {owner}{key}"
        raise PureSGDError(
            where, "is nothing that this chain remembers", "Load what the same chain has saved"
        )
    return found
