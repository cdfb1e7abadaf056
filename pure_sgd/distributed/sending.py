"""What travels between ranks, and what flows back when it is differentiated."""

from __future__ import annotations

from collections.abc import Sequence
from operator import methodcaller
from typing import Any, TypeAlias

import torch
from torch._dynamo import allow_in_graph
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from .. import functorch
from .messages import Place, buckets, joined, own_rows, packed, place_of, unpacked, wire_dtype

__all__ = ["Group", "shared_leaves", "summed_leaves"]

#: The name of a process group, for which torch has a type of its own.
Group: TypeAlias = Any
#: Autograd runs, of the nodes that it can, the one of the highest number.
_run_first = methodcaller("_set_sequence_nr", 2**62)
_ops: Any = torch.ops._c10d_functional


# Inside torch.func.grad the compiler cannot read what has its own derivative: it is told to run it.
@allow_in_graph
def shared_leaves(group: Group, dtype: torch.dtype | None, *leaves: torch.Tensor) -> Any:
    """The leaves, whole; their gradients are summed over ranks.

    Example:
        >>> from pure_sgd.distributed.sending import shared_leaves
        >>> shared_leaves("0", None)
        ()
    """
    found = [*leaves]
    for indices in buckets(leaves, dtype):
        bucket = [leaves[index] for index in indices]
        whole = _Shared.apply(group, dtype, _Landing.apply(dtype, *bucket), *bucket)
        _hurry(whole[0])
        for index, leaf in zip(indices, whole, strict=True):
            found[index] = leaf
    return tuple(found)


@allow_in_graph
def summed_leaves(group: Group, *leaves: torch.Tensor) -> Any:
    """The sums over ranks; their gradients are each rank's own.

    Example:
        >>> from pure_sgd.distributed.sending import summed_leaves
        >>> summed_leaves("0")
        ()
    """
    sent = {
        tuple(indices): _Sent.apply(group, None, packed([leaves[index] for index in indices]))
        for indices in buckets(leaves, None)
    }
    found = {}
    for indices, flat in sent.items():
        places = [place_of(leaves[index]) for index in indices]
        found.update(zip(indices, unpacked(_Arrived.apply(flat), places), strict=True))
    return tuple(found[index] for index in range(len(leaves)))


def _hurry(result: torch.Tensor) -> None:
    """Let autograd run the node that made ``result`` before all others that it could run."""
    if result.grad_fn is not None:
        _run_first(result.grad_fn)
    elif functorch.is_wrapped(result):
        _hurry(functorch.unwrapped(result))


class _Shared(torch.autograd.Function):
    """The leaves, whole. Their gradients are sent, and go on their way as that of ``landing``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(group: Group, dtype: Any, landing: torch.Tensor, *leaves: torch.Tensor) -> Any:
        if not isinstance(leaves[0], DTensor):
            return tuple(leaf.view_as(leaf) for leaf in leaves)
        flat = _ops.all_gather_into_tensor(own_rows(leaves), leaves[0].device_mesh.size(), group)
        return tuple(joined(_ops.wait_tensor(flat), [place_of(leaf) for leaf in leaves]))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.group, ctx.dtype, _, *leaves = inputs
        ctx.mesh = place_of(leaves[0]).mesh

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        flat = packed(grads, ctx.dtype, ctx.mesh)
        return None, None, _Sent.apply(ctx.group, ctx.mesh, flat), *[None for _ in grads]

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return shared_leaves(ctx.group, ctx.dtype, *tangents[3:])


class _Landing(torch.autograd.Function):
    """Zeros in place of what will be sent. It comes first, so that its backward, which waits, comes last."""

    generate_vmap_rule = True

    @staticmethod
    def forward(dtype: Any, *leaves: torch.Tensor) -> Any:
        size = sum(place_of(leaf).size for leaf in leaves)
        return torch.zeros((), dtype=wire_dtype(leaves[0], dtype), device=leaves[0].device).expand(size)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.dtype, ctx.places = inputs[0], [place_of(leaf) for leaf in inputs[1:]]

    @staticmethod
    def backward(ctx: Any, flat: Any) -> Any:
        flat = _Arrived.apply(flat)
        if ctx.places[0].mesh is None:
            return None, *unpacked(flat, ctx.places)
        return None, *_Placed.apply(ctx.places, flat)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return _Landing.apply(ctx.dtype, *tangents[1:])


class _Sent(torch.autograd.Function):
    """The sum over ranks, not to be read yet; on a mesh, each rank's own part of it."""

    @staticmethod
    def forward(group: Group, mesh: DeviceMesh | None, flat: torch.Tensor) -> Any:
        if mesh is None:
            return _ops.all_reduce(flat, "sum", group)
        return _ops.reduce_scatter_tensor(flat, "sum", mesh.size(), group)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.group, ctx.mesh, flat = inputs
        ctx.place = Place(flat.shape, flat.dtype, ctx.mesh)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        if ctx.mesh is not None:
            (grad,) = _Placed.apply([ctx.place], grad)
        return None, None, *shared_leaves(ctx.group, ctx.place.dtype, grad)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return _Sent.apply(ctx.group, ctx.mesh, tangents[2])

    @staticmethod
    def vmap(info: Any, in_dims: Any, group: Any, mesh: Any, flat: Any) -> Any:
        return _Sent.apply(group, mesh, flat.movedim(in_dims[2], -1).contiguous()), 1


class _Arrived(torch.autograd.Function):
    """What was sent, once it is known."""

    @staticmethod
    def forward(flat: torch.Tensor) -> Any:
        return _ops.wait_tensor(flat)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return grad

    @staticmethod
    def jvp(ctx: Any, tangent: Any) -> Any:
        return _Arrived.apply(tangent)

    @staticmethod
    def vmap(info: Any, in_dims: Any, flat: Any) -> Any:
        return _Arrived.apply(flat), in_dims[0]


class _Placed(torch.autograd.Function):
    """The leaves of which this is what each rank has."""

    @staticmethod
    def forward(places: Sequence[Place], flat: torch.Tensor) -> Any:
        return tuple(unpacked(flat, places))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.places, flat = inputs
        ctx.dtype = flat.dtype

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return None, _Own.apply(ctx.dtype, *grads)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return _Placed.apply(ctx.places, tangents[1])


class _Own(torch.autograd.Function):
    """What each rank has of the leaves: the transpose of :class:`_Placed`."""

    @staticmethod
    def forward(dtype: torch.dtype, *leaves: torch.Tensor) -> Any:
        return own_rows(leaves).to(dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.dtype, ctx.places = inputs[0], [place_of(leaf) for leaf in inputs[1:]]

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return None, *_Placed.apply(ctx.places, grad)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return _Own.apply(ctx.dtype, *tangents[1:])
