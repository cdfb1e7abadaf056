"""Leaves as one flat message, whole or of each rank its own rows, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from .. import functorch, tree

__all__ = [
    "Place",
    "buckets",
    "is_one_message",
    "is_summable",
    "joined",
    "own_rows",
    "packed",
    "place_of",
    "unpacked",
    "wire_dtype",
]

#: Bytes that travel together: few enough that the gradient of the last layer leaves before that of the first.
BUCKET = 25 << 20


class Place(NamedTuple):
    """What a leaf is, without its numbers."""

    shape: torch.Size
    dtype: torch.dtype
    mesh: DeviceMesh | None  # over which its rows are spread

    @property
    def share(self) -> list[int]:
        """The shape of what each rank has of it; where rows do not divide, the last ranks have less."""
        if self.mesh is None:
            return [*self.shape]
        return [-(-self.shape[0] // self.mesh.size()), *self.shape[1:]]

    @property
    def size(self) -> int:
        """How many real numbers that is."""
        return torch.Size(self.share).numel() * (2 if self.dtype.is_complex else 1)


def place_of(leaf: torch.Tensor) -> Place:
    """The place of a leaf.

    Example:
        >>> import torch
        >>> from pure_sgd.distributed.messages import place_of
        >>> place_of(torch.ones(2))
        Place(shape=torch.Size([2]), dtype=torch.float32, mesh=None)
    """
    bare = leaf
    while functorch.is_wrapped(bare):
        bare = functorch.unwrapped(bare)
    return Place(leaf.shape, leaf.dtype, bare.device_mesh if isinstance(bare, DTensor) else None)


def is_summable(leaf: torch.Tensor) -> bool:
    """Whether it has a mean.

    Example:
        >>> import torch
        >>> from pure_sgd.distributed.messages import is_summable
        >>> is_summable(torch.ones(2)), is_summable(torch.tensor(3))
        (True, False)
    """
    return leaf.is_floating_point() or leaf.is_complex()


def wire_dtype(leaf: torch.Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """The dtype in which the numbers of a leaf travel: ``dtype``, or their own raised to at least float32.

    Example:
        >>> import torch
        >>> from pure_sgd.distributed.messages import wire_dtype
        >>> wire_dtype(torch.ones(2, dtype=torch.bfloat16), None)
        torch.float32
    """
    return dtype or tree.wide(leaf.real.dtype)


def buckets(leaves: Sequence[torch.Tensor], dtype: torch.dtype | None) -> list[list[int]]:
    """The places of the floating-point leaves, those that travel alike together up to 25 MiB, roughly.

    Example:
        >>> import torch
        >>> from pure_sgd.distributed.messages import buckets
        >>> buckets([torch.ones(2), torch.tensor(3), torch.ones(2).double(), torch.ones(1)], None)
        [[0, 3], [2]]
    """
    full: list[list[int]] = []
    filling: dict[Any, tuple[list[int], int]] = {}
    for index, leaf in enumerate(leaves):
        if not is_summable(leaf):
            continue
        wire = wire_dtype(leaf, dtype)
        kind = wire, None if place_of(leaf).mesh is None else leaf.dtype
        indices, size = filling.get(kind, ([], 0))
        indices, size = [*indices, index], size + leaf.numel() * wire.itemsize
        if size >= BUCKET:
            full.append(indices)
            indices, size = [], 0
        filling[kind] = (indices, size)
    return [*full, *[indices for indices, _ in filling.values() if indices]]


def is_one_message(leaves: Sequence[torch.Tensor]) -> bool:
    """Whether leaves that are whole on each rank travel together.

    Example:
        >>> import torch
        >>> from pure_sgd.distributed.messages import is_one_message
        >>> is_one_message([torch.ones(2), torch.ones(3)])
        True
    """
    whole = not any(isinstance(leaf, DTensor) for leaf in leaves)
    return whole and sum(leaf.numel() * wire_dtype(leaf, None).itemsize for leaf in leaves) < BUCKET


def packed(
    leaves: Sequence[torch.Tensor], dtype: torch.dtype | None = None, mesh: DeviceMesh | None = None
) -> torch.Tensor:
    """All real numbers of the leaves; on a mesh, those of the first rank's rows come first.

    They are in ``dtype``, by default in that of the leaves or float32.

    Example:
        >>> import torch
        >>> from pure_sgd.distributed.messages import packed
        >>> packed([torch.ones(1), torch.tensor(2j)])
        tensor([1., 0., 2.])
    """
    parts = [_real(leaf).to(wire_dtype(leaf, dtype)) for leaf in leaves]
    if mesh is None:
        return torch.cat([part.reshape(-1) for part in parts])
    ranks = mesh.size()
    parts = [_filled(part, -(-len(part) // ranks) * ranks) for part in parts]
    return torch.cat([part.reshape(ranks, -1) for part in parts], dim=1).reshape(-1)


def unpacked(flat: torch.Tensor, places: Sequence[Place]) -> list[torch.Tensor]:
    """The leaves, of which each rank has its share in ``flat``.

    Example:
        >>> import torch
        >>> from pure_sgd.distributed.messages import place_of, unpacked
        >>> unpacked(torch.ones(3), [place_of(torch.ones(1)), place_of(torch.tensor(2j))])
        [tensor([1.]), tensor(1.+1.j)]
    """
    pieces = flat.split([place.size for place in places])
    shares = [_shaped(piece, place, place.share) for piece, place in zip(pieces, places, strict=True)]
    return [_placed(share, place) for share, place in zip(shares, places, strict=True)]


def own_rows(leaves: Sequence[Any]) -> torch.Tensor:
    """What this rank has of leaves of one dtype that are spread.

    Example:
        >>> import torch
        >>> from torch import distributed
        >>> from pure_sgd.distributed.messages import own_rows
        >>> from pure_sgd.distributed.placement import spread
        >>> distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        >>> own_rows([spread(torch.ones(2), distributed.init_device_mesh("cpu", (1,)))])
        tensor([1., 1.])
        >>> distributed.destroy_process_group()
    """
    rows = [_filled(_real(leaf.to_local()), place_of(leaf).share[0]) for leaf in leaves]
    return torch.cat([part.reshape(-1) for part in rows])


def joined(flat: torch.Tensor, places: Sequence[Place]) -> list[torch.Tensor]:
    """The leaves, whole, from the shares of all ranks.

    Example:
        >>> import torch
        >>> from torch import distributed
        >>> from pure_sgd.distributed.messages import joined, own_rows, place_of
        >>> from pure_sgd.distributed.placement import spread
        >>> distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        >>> leaf = spread(torch.ones(2), distributed.init_device_mesh("cpu", (1,)))
        >>> joined(own_rows([leaf]), [place_of(leaf)])
        [tensor([1., 1.])]
        >>> distributed.destroy_process_group()
    """
    pieces = flat.view(-1, sum(place.size for place in places)).split([place.size for place in places], dim=1)
    return [
        _shaped(piece.reshape(-1), place, [-1, *place.shape[1:]])[: place.shape[0]]
        for piece, place in zip(pieces, places, strict=True)
    ]


def _shaped(flat: torch.Tensor, place: Place, shape: list[int]) -> torch.Tensor:
    if place.dtype.is_complex:
        flat = torch.complex(*flat.to(place.dtype.to_real()).view(-1, 2).unbind(1))
    return flat.to(place.dtype).view(shape)


def _placed(share: torch.Tensor, place: Place) -> torch.Tensor:
    if place.mesh is None:
        return share
    first = place.mesh.get_local_rank() * len(share)
    own = share[: max(min(len(share), place.shape[0] - first), 0)]
    stride = torch.empty(place.shape, device="meta").stride()
    return DTensor.from_local(own, place.mesh, [Shard(0)], run_check=False, shape=place.shape, stride=stride)


def _filled(leaf: torch.Tensor, rows: int) -> torch.Tensor:
    return torch.cat([leaf, leaf.new_zeros(rows - len(leaf), *leaf.shape[1:])]) if len(leaf) < rows else leaf


def _real(leaf: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(leaf.resolve_conj()) if leaf.is_complex() else leaf
