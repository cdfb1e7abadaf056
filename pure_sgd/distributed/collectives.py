"""Means over ranks that are differentiated, mapped over and compiled as any function of tensors is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch._dynamo import allow_in_graph
from torch.distributed import _functional_collectives as collectives
from torch.distributed.device_mesh import DeviceMesh

from .. import tree
from ..errors import PureSGDError
from .placement import placed_like, whole

__all__ = ["Group", "group_of", "pooled", "shared", "summed"]

#: Bytes that travel together: few enough that the gradient of the last layer leaves before that of the first.
BUCKET = 25 << 20

Weight = int | torch.Tensor
#: The name of a process group, for which torch has a type of its own.
Group: TypeAlias = Any


def group_of(mesh: DeviceMesh, where: str) -> Group:
    """The name of the process group of a mesh of one axis.

    Raises:
        PureSGDError: it is no mesh, or one of several axes.

    Example:
        >>> from pure_sgd.distributed.collectives import group_of
        >>> group_of(None, "shard")
        Traceback (most recent call last):
        pure_sgd.errors.PureSGDError: mesh: shard got a NoneType, expected a DeviceMesh. \
Make one with torch.distributed.device_mesh.init_device_mesh.
    """
    if not isinstance(mesh, DeviceMesh):
        raise PureSGDError(
            "mesh",
            f"{where} got a {type(mesh).__name__}, expected a DeviceMesh",
            "Make one with torch.distributed.device_mesh.init_device_mesh",
        )
    if mesh.ndim != 1:
        names = mesh.mesh_dim_names
        raise PureSGDError(
            "mesh",
            f"{where} got one of {mesh.ndim} axes, {names or 'without names'}, expected one axis",
            "Pass the axis along which the batch is split, as in mesh['data']",
        )
    return mesh.get_group().group_name


def shared(values: Any, weight: Weight, group: Group) -> Any:
    """What is the same on all ranks, for use in what is not: ``values``, whose gradient is pooled.

        result = values
        gradient of values = sum_r weight_r * gradient_r / sum_r weight_r

    The transpose of :func:`pooled`. Leaves whose rows are spread over the ranks are gathered, and so
    is their gradient spread. Leaves that are not floating-point pass through.

    Example:
        >>> from pure_sgd.distributed.collectives import shared
        >>> shared({}, 1, "0")
        {}
    """
    return _on_floats(_share, values, weight, group)


def pooled(values: Any, weight: Weight, group: Group) -> Any:
    """The mean over ranks, the same bits on each of them; what flows back is each rank's own.

        result = sum_r weight_r * values_r / sum_r weight_r

    Leaves that are not floating-point pass through: they are taken to be the same everywhere.

    Example:
        >>> from pure_sgd.distributed.collectives import pooled
        >>> pooled({}, 1, "0")
        {}
    """
    return _on_floats(_pool, values, weight, group)


def summed(values: Sequence[torch.Tensor], group: Group) -> list[torch.Tensor]:
    """The sums over ranks, in at least float32; not to be differentiated.

    Example:
        >>> from pure_sgd.distributed.collectives import summed
        >>> summed([], "0")
        []
    """
    totals: dict[int, torch.Tensor] = {}
    for indices in _buckets(values, limit=None):
        parts = [_real(tree.widened(values[index])) for index in indices]
        flat = torch.cat([part.reshape(-1) for part in parts])
        total = collectives.wait_tensor(collectives.all_reduce(flat, "sum", group))
        pieces = total.split([part.numel() for part in parts])
        for index, part, piece in zip(indices, parts, pieces, strict=True):
            piece = piece.view(part.shape)
            totals[index] = torch.view_as_complex(piece) if values[index].is_complex() else piece
    return [totals[index] for index in range(len(values))]


def _on_floats(function: Callable[..., Any], values: Any, weight: Weight, group: Group) -> Any:
    found, rebuild = tree.flatten(values)
    for indices in _buckets(found, BUCKET):
        for index, leaf in zip(indices, function(group, weight, *[found[i] for i in indices]), strict=True):
            found[index] = leaf
    return rebuild(found)


def _buckets(leaves: Sequence[torch.Tensor], limit: int | None) -> list[list[int]]:
    """The places of the floating-point leaves, those of one dtype together up to ``limit`` bytes, roughly."""
    full: list[list[int]] = []
    filling: dict[torch.dtype, tuple[list[int], int]] = {}
    for index, leaf in enumerate(leaves):
        if not (leaf.is_floating_point() or leaf.is_complex()):
            continue
        dtype = tree.wide(leaf.dtype)
        indices, size = filling.get(dtype, ([], 0))
        indices, size = [*indices, index], size + leaf.numel() * leaf.element_size()
        if limit is not None and size >= limit:
            full.append(indices)
            indices, size = [], 0
        filling[dtype] = (indices, size)
    return [*full, *[indices for indices, _ in filling.values() if indices]]


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(group: Group, weight: Weight, *leaves: torch.Tensor) -> Any:
        return tuple(whole(leaf.view_as(leaf)) for leaf in leaves)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.group, ctx.weight = inputs[:2]
        ctx.like = inputs[2:]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        means = _pool(ctx.group, ctx.weight, *grads)
        return None, None, *[placed_like(mean, like) for mean, like in zip(means, ctx.like, strict=True)]

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return tuple(whole(tangent.view_as(tangent)) for tangent in tangents[2:])

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        return _Shared.apply(*inputs), in_dims[2:]


class _Pooled(torch.autograd.Function):
    @staticmethod
    def forward(group: Group, weight: Weight, *leaves: torch.Tensor) -> Any:
        return _weighted_mean(group, weight, leaves)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.group, ctx.weight = inputs[:2]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return None, None, *_share(ctx.group, ctx.weight, *grads)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return _pool(ctx.group, ctx.weight, *tangents[2:])

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        return _Pooled.apply(*inputs), in_dims[2:]


# Inside torch.func.grad the compiler cannot read what has its own derivative: it is told to run it.
@allow_in_graph
def _share(group: Group, weight: Weight, *leaves: torch.Tensor) -> Any:
    return _Shared.apply(group, weight, *leaves)


@allow_in_graph
def _pool(group: Group, weight: Weight, *leaves: torch.Tensor) -> Any:
    return _Pooled.apply(group, weight, *leaves)


def _weighted_mean(group: Group, weight: Weight, leaves: Sequence[torch.Tensor]) -> Any:
    wide = [tree.widened(leaf) for leaf in leaves]
    own = torch.as_tensor(weight, dtype=_real(wide[0]).dtype, device=wide[0].device)
    *sums, total = summed([*[own * leaf for leaf in wide], own], group)
    return tuple((sum / total).to(leaf.dtype) for sum, leaf in zip(sums, leaves, strict=True))


def _real(leaf: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(leaf.resolve_conj()) if leaf.is_complex() else leaf
