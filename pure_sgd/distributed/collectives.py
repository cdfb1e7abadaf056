"""Means over ranks that are differentiated, mapped over and compiled as any function of tensors is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh

from .. import tree
from ..errors import PureSGDError
from .messages import is_summable
from .sending import Group, shared_leaves, summed_leaves

__all__ = ["Group", "group_of", "pooled", "shared", "summed"]

Weight = int | torch.Tensor


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


def shared(values: Any, group: Group, dtype: torch.dtype | None = None) -> Any:
    """What is the same on all ranks, for use in what is not: ``values``, whose gradient is summed.

        result = values
        gradient of values = sum_r gradient_r

    Gradients travel in ``dtype``, by default in their own or float32, 25 MiB at a time, and as soon as they
    are known: what is left of the backward runs meanwhile. Leaves whose rows are spread over the ranks are
    gathered, and so is their gradient spread. Leaves that are not floating-point pass through.

    Example:
        >>> from pure_sgd.distributed.collectives import shared
        >>> shared({}, "0")
        {}
    """
    found, rebuild = tree.flatten(values)
    return rebuild([*shared_leaves(group, dtype, *found)])


def pooled(values: Any, weight: Weight, group: Group) -> Any:
    """The mean over ranks, the same bits on each of them.

        result = sum_r weight_r * values_r / sum_r weight_r

    Leaves that are not floating-point pass through: they are taken to be the same everywhere.

    Example:
        >>> from pure_sgd.distributed.collectives import pooled
        >>> pooled({}, 1, "0")
        {}
    """
    found, rebuild = tree.flatten(values)
    places = [index for index, leaf in enumerate(found) if is_summable(leaf)]
    if not places:
        return values
    wide = [tree.widened(found[index]) for index in places]
    own = torch.as_tensor(weight, dtype=wide[0].real.dtype, device=wide[0].device)
    *sums, weights = summed([*[own * leaf for leaf in wide], own], group)
    for index, sum in zip(places, sums, strict=True):
        found[index] = (sum / weights).to(found[index].dtype)
    return rebuild(found)


def summed(values: Sequence[torch.Tensor], group: Group) -> list[torch.Tensor]:
    """The sums over ranks, in at least float32; the transpose of :func:`shared`.

    Example:
        >>> from pure_sgd.distributed.collectives import summed
        >>> summed([], "0")
        []
    """
    return [*summed_leaves(group, *[tree.widened(value) for value in values])]
