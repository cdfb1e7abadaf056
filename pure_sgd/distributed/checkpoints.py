"""Checkpoints of states that are spread over ranks, for any number of ranks to go on with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.planner import WriteItem
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from .. import training
from ..arguments import typed
from ..errors import PureSGDError, check_count
from ..training.checkpoints.contents import Leaf, bytes_of, corrupt, described, held, plain
from ..training.checkpoints.directory import checkpoint_steps, folder_of
from ..training.checkpoints.loading import form, load_step, newest_intact, verify_part
from ..training.checkpoints.manifest import File, Manifest, write_manifest
from ..training.checkpoints.saving import check_keep, new_checkpoint
from ..training.checkpoints.shards import file_of
from ..training.together import Together
from .collectives import group_of

__all__ = ["load_checkpoint", "save_checkpoint"]

#: What safetensors, as Python reads it, has no name for.
NOT_SPREAD = ("complex128", "float8_e8m0fnu")


@typed
def save_checkpoint(
    directory: str | os.PathLike[str],
    state: Any,
    step: int,
    mesh: DeviceMesh,
    keep: int | None = 3,
    *,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write a state that all ranks hold together as the checkpoint of ``step``; all have to call it.

    As :func:`pure_sgd.save_checkpoint` in all that it promises. Where :func:`shard` has spread leaves, each
    rank writes its own rows, by ``torch.distributed.checkpoint`` in safetensors, and the manifest holds the
    SHA-256 of every file; a state of whole tensors, which are the same on all ranks, the first rank writes
    as one process does. Any number of ranks loads it, spread in another way or whole, and
    :func:`pure_sgd.load_checkpoint` does in one process. ``directory`` is the same folder for all ranks.

    Returns:
        The folder of the checkpoint.

    Raises:
        PureSGDError: as for one process; leaves that differ in shape or dtype from rank to rank, or that are
            sums not yet added up. What fails on one rank is raised by all, and that rank is named.
        OSError: the disk of a rank is full or not writable; the older checkpoints stay.

    Example:
        >>> import tempfile
        >>> import torch
        >>> import pure_sgd as ps
        >>> from torch import distributed
        >>> distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        >>> mesh = distributed.init_device_mesh("cpu", (1,))
        >>> whole = ps.init_train_state({"w": torch.ones(2)}, ps.adam(0.1))
        >>> state = ps.distributed.shard(whole, mesh)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     path = ps.distributed.save_checkpoint(directory, state, step=0, mesh=mesh)
        ...     ps.load_checkpoint(directory, like=whole).params
        {'w': tensor([1., 1.])}
        >>> distributed.destroy_process_group()
    """
    group_of(mesh, "save_checkpoint")
    together = Together(mesh)
    values = together.all(lambda: _checked(state, step, keep, metadata))
    if not any(isinstance(value, DTensor) for value in values.values()):
        return together.first(
            lambda: training.save_checkpoint(directory, state, step, keep, metadata=metadata)
        )
    _check_alike(together.each({path: described(value) for path, value in values.items()}))
    with ExitStack() as finishing:
        folder = together.first(lambda: finishing.enter_context(new_checkpoint(Path(directory), step, keep)))
        tensors = {path: value for path, value in values.items() if isinstance(value, torch.Tensor)}
        written = together.each(together.all(lambda: _written(folder, tensors, together.rank, mesh)))

        def finish() -> Path:
            leaves = {path: described(value) for path, value in values.items()}
            files = {name: file for part in written for name, file in part.items()}
            write_manifest(folder, Manifest(step, plain(metadata), leaves, files))
            finishing.close()
            return folder_of(Path(directory), step)

        return together.first(finish)


@typed
def load_checkpoint(
    directory: str | os.PathLike[str],
    like: Any,
    mesh: DeviceMesh,
    step: int | None = None,
    *,
    fallback: bool = False,
    rename: Mapping[str, str] | None = None,
    partial: bool = False,
) -> Any:
    """The tree that was saved, spread as ``like`` is; all ranks have to call it.

    As :func:`pure_sgd.load_checkpoint`, which reads the same files: of a leaf of ``like`` that is spread over
    ranks, each reads its own rows. Here each rank verifies its part of the files, all take the step that the
    first rank finds, and what is wrong for one is raised by all.

    Raises:
        PureSGDError: as for one process.
        CorruptCheckpointError: the checkpoint is not what was written.

    Example:
        >>> import tempfile
        >>> import torch
        >>> import pure_sgd as ps
        >>> from torch import distributed
        >>> distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        >>> mesh = distributed.init_device_mesh("cpu", (1,))
        >>> state = ps.init_train_state({"w": torch.ones(2)}, ps.adam(0.1))
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     path = ps.save_checkpoint(directory, state, step=0)
        ...     ps.distributed.load_checkpoint(
        ...         directory, ps.distributed.shard(state, mesh, "all"), mesh
        ...     ).params
        {'w': DTensor(local_tensor=tensor([1., 1.]), device_mesh=..., placements=(Shard(dim=0),))}
        >>> distributed.destroy_process_group()
    """
    group_of(mesh, "load_checkpoint")
    root, together = Path(directory), Together(mesh)
    steps = together.first(lambda: checkpoint_steps(root)) if step is None else [step]

    def load(step: int) -> Any:
        together.all(lambda: verify_part(root, step, together.rank, together.ranks))
        return together.all(lambda: load_step(root, step, like, rename, partial, verified=True))

    return newest_intact(root, steps, fallback and step is None, load)


def _checked(state: Any, step: int, keep: int | None, metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """The leaves by their paths, if they can be saved."""
    check_keep("save_checkpoint", keep)
    check_count("save_checkpoint", "step", step, low=0)
    plain(metadata)
    values = held(state)
    spread = any(isinstance(value, DTensor) for value in values.values())
    for path, value in values.items():
        if spread and described(value).dtype in NOT_SPREAD:
            raise PureSGDError(
                f"state{path}",
                f"is of {value.dtype}, which is not saved beside leaves that are spread over ranks",
                "Save it by itself",
            )
        if isinstance(value, DTensor) and any(place.is_partial() for place in value.placements):
            raise PureSGDError(
                f"state{path}",
                f"is a sum over ranks that has not been added up: {value.placements}",
                "Redistribute it to the placements of the parameters",
            )
    return values


def _check_alike(leaves: list[dict[str, Leaf]]) -> None:
    """See that all ranks save the same leaves."""
    for rank, others in enumerate(leaves):
        for path in {**leaves[0], **others}:
            mine, other = leaves[0].get(path), others.get(path)
            if mine is None or other is None or form(mine) != form(other):
                raise PureSGDError(
                    f"state{path}",
                    f"is {mine and form(mine)} on rank 0, and {other and form(other)} on rank {rank}",
                    "Save a state that all ranks have built in the same way",
                )


def _written(folder: Path, tensors: dict[str, torch.Tensor], rank: int, mesh: DeviceMesh) -> dict[str, File]:
    """Write what this rank has of the tensors, and say which file that is."""
    try:
        save(
            {**tensors},
            storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True),
            planner=_Pieces(flatten_state_dict=False, flatten_sharded_tensors=False),
            process_group=mesh.get_group(),
        )
    except CheckpointException as error:  # which every rank raises
        if rank in error.failures:
            raise error.failures[rank][0] from None
        return {}
    files = folder.glob(f"shard-{rank + 1:05d}-*")
    return {path.name: _verified(path, tensors) for path in files}


class _Pieces(DefaultSavePlanner):
    """Pieces that safetensors takes: laid out one after the other, and each with memory of its own."""

    def transform_object(self, write_item: WriteItem, object: Any) -> Any:
        return object.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)


def _verified(path: Path, tensors: dict[str, torch.Tensor]) -> File:
    """A file that holds what this rank has."""
    with safe_open(str(path), framework="pt") as file:
        for name in [*file.keys()]:
            tensor = tensors[name]
            own = tensor.to_local() if isinstance(tensor, DTensor) else tensor
            own = own.detach().cpu().resolve_conj().resolve_neg().contiguous()
            if bytes_of(own) != bytes_of(file.get_tensor(name)):
                raise corrupt(path.parent, f"{name} is not what was written")
    return file_of(path)
