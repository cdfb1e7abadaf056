"""Many small tensors as few vectors: what a compiled loop carries costs by the tensor."""

from __future__ import annotations

import torch

__all__ = ["pack", "unpack"]

#: Numbers up to which a vector more costs more than to convert them: those of several dtypes then share
#: the widest one, from which every number comes back exactly.
FEW = 1024
REALS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def pack(leaves: list[torch.Tensor]) -> list[torch.Tensor]:
    """Few vectors that hold every number of ``leaves``: one for the reals, one for the integers.

    Where there are many numbers, or numbers of another kind, there is one for each dtype.

    Example:
        >>> import torch
        >>> from pure_sgd.tree.packing import pack
        >>> pack([torch.tensor(3), torch.ones(2), torch.tensor([True])])
        [tensor([3, 1]), tensor([1., 1.])]
    """
    return [
        torch.cat([leaves[index].reshape(-1).to(dtype) for index in group])
        for dtype, group in _groups(leaves)
    ]


def unpack(vectors: list[torch.Tensor], like: list[torch.Tensor]) -> list[torch.Tensor]:
    """The leaves behind vectors of shape (..., n), in the shapes (..., P) and dtypes of ``like``.

    Axes in front of the last one stay in front, so that stacked vectors give stacked leaves. These may share
    the memory of the vectors.

    Example:
        >>> import torch
        >>> from pure_sgd.tree.packing import pack, unpack
        >>> leaves = [torch.tensor(3), torch.ones(2), torch.tensor([True])]
        >>> unpack(pack(leaves), leaves)
        [tensor(3), tensor([1., 1.]), tensor([True])]
    """
    found = list(like)
    for vector, (_, group) in zip(vectors, _groups(like), strict=True):
        parts = torch.split(vector, [like[index].numel() for index in group], dim=-1)
        for index, part in zip(group, parts, strict=True):
            found[index] = part.reshape(vector.shape[:-1] + like[index].shape).to(like[index].dtype)
    return found


def _groups(leaves: list[torch.Tensor]) -> list[tuple[torch.dtype, list[int]]]:
    """The dtype of each vector, and which leaves lie in it."""
    few = sum(leaf.numel() for leaf in leaves) <= FEW
    groups: dict[torch.dtype, tuple[torch.dtype, list[int]]] = {}
    for index, leaf in enumerate(leaves):
        kind = leaf.dtype
        if few and kind in REALS:
            kind = torch.float64
        if few and kind in INTEGERS:
            kind = torch.int64
        dtype, group = groups.get(kind, (leaf.dtype, []))
        groups[kind] = torch.promote_types(dtype, leaf.dtype), [*group, index]
    return list(groups.values())
