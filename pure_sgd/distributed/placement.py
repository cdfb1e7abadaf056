"""Where the numbers of a leaf are: whole on every rank, or a part of the rows on each."""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard

__all__ = ["everywhere", "placed_like", "spread", "whole"]


def spread(leaf: Any, mesh: DeviceMesh) -> Any:
    """A leaf that is the same on all ranks, of which each keeps its rows; nothing is sent.

    One without axes or entries stays whole, and so does one that is not floating-point.

    Example:
        >>> import torch
        >>> from pure_sgd.distributed.placement import spread
        >>> spread(torch.tensor(3), mesh=None)
        tensor(3)
    """
    if not (isinstance(leaf, torch.Tensor) and leaf.ndim and leaf.numel() and leaf.is_floating_point()):
        return leaf
    return everywhere(leaf, mesh).redistribute(placements=[Shard(0)])


def everywhere(leaf: torch.Tensor, mesh: DeviceMesh) -> DTensor:
    """What is known to be the same on all ranks, said to be so.

    Example:
        >>> import torch
        >>> from torch import distributed
        >>> from pure_sgd.distributed.placement import everywhere
        >>> distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        >>> everywhere(torch.ones(2), distributed.init_device_mesh("cpu", (1,))).placements
        (Replicate(),)
        >>> distributed.destroy_process_group()
    """
    return DTensor.from_local(leaf, mesh, [Replicate()], run_check=False)


def whole(leaf: Any) -> Any:
    """The leaf with all its rows, on every rank.

    Example:
        >>> import torch
        >>> from pure_sgd.distributed.placement import whole
        >>> whole(torch.ones(2))
        tensor([1., 1.])
    """
    return leaf.full_tensor() if isinstance(leaf, DTensor) else leaf


def placed_like(leaf: Any, like: Any) -> Any:
    """The leaf with its rows where those of ``like`` are.

    Example:
        >>> import torch
        >>> from pure_sgd.distributed.placement import placed_like
        >>> placed_like(torch.ones(2), torch.zeros(2))
        tensor([1., 1.])
    """
    if not isinstance(like, DTensor):
        return whole(leaf)
    leaf = leaf if isinstance(leaf, DTensor) else everywhere(leaf, like.device_mesh)
    return leaf.redistribute(placements=like.placements)
