"""A checkpoint is read: every leaf verified, each difference named."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ... import tree
from ...arguments import typed
from ...errors import PureSGDError, check_count
from ...hints import T
from .arrays import read_tensors
from .contents import CorruptCheckpointError, Leaf, described
from .directory import checkpoint_steps, folder_of, is_folder
from .manifest import Manifest, read_manifest
from .shards import read_shards, verify_files

__all__ = ["checkpoint_metadata", "form", "load_checkpoint", "load_step", "newest_intact", "verify_part"]

MOST_DIFFERENCES = 20


@typed
def load_checkpoint(
    directory: str | os.PathLike[str],
    like: T,
    step: int | None = None,
    *,
    fallback: bool = False,
    rename: Mapping[str, str] | None = None,
    partial: bool = False,
) -> T:
    """The tree that was saved, in the structure of ``like``, on the devices of its tensors.

    Every leaf is verified. ``like`` gives structure, shapes, dtypes and devices, its values are not looked
    at: ``init_train_state(params, tx)``, say. Leaves go by their path, such as ``.params['w']``, so that a
    class may be renamed between writing and reading.

    Args:
        directory: Where :func:`save_checkpoint` has written.
        like: A tree like the one that was saved.
        step: Of which step; None: the newest.
        fallback: Where the newest is corrupt, warn and take the newest that is intact.
        rename: How paths of ``like`` that begin with a key begin in the file instead:
            ``{"": ".params"}`` reads the parameters alone out of a :class:`TrainState`.
        partial: Leaves that the file does not have keep the value of ``like``, and leaves of the file that
            ``like`` does not have are left out.

    Raises:
        PureSGDError: no checkpoint there; leaves that the file does not have or that nobody expects, and
            differences in shape, dtype or kind, all of them named.
        CorruptCheckpointError: the checkpoint is not what was written.

    Example:
        >>> import tempfile
        >>> import torch
        >>> import pure_sgd as ps
        >>> state = ps.init_train_state({"w": torch.ones(2)}, ps.adam(0.1))
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     path = ps.save_checkpoint(directory, state, step=0)
        ...     ps.load_checkpoint(directory, {"w": torch.zeros(2)}, rename={"": ".params"}, partial=True)
        {'w': tensor([1., 1.])}
    """
    root, steps = _chosen("load_checkpoint", directory, step)

    def load(step: int) -> Any:
        return load_step(root, step, like, rename, partial)

    return newest_intact(root, steps, fallback and step is None, load)


def newest_intact(root: Path, steps: list[int], fallback: bool, load: Callable[[int], T]) -> T:
    """``load(step)`` of the last of ``steps``; with ``fallback`` of the last that is intact.

    Raises:
        PureSGDError: there is none, and what ``load`` raises.

    Example:
        >>> from pure_sgd.training.checkpoints.loading import newest_intact
        >>> newest_intact(Path("runs"), [1, 2], fallback=True, load=str)
        '2'
    """
    for step in reversed(steps):
        try:
            return load(step)
        except CorruptCheckpointError as error:
            if not fallback:
                raise
            warnings.warn(f"load_checkpoint: {error}", stacklevel=4)
    problem = "holds no checkpoint that is intact" if steps else "holds no checkpoint"
    raise PureSGDError(str(root), problem, "Save one with save_checkpoint, or pass its directory")


@typed
def checkpoint_metadata(directory: str | os.PathLike[str], step: int | None = None) -> dict[str, Any]:
    """The ``metadata`` that was saved with a checkpoint, of the newest if no step is named.

    Raises:
        PureSGDError: no checkpoint there.
        CorruptCheckpointError: its manifest is not what was written.

    Example:
        >>> import tempfile
        >>> import pure_sgd as ps
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     path = ps.save_checkpoint(directory, {}, step=5, metadata={"loss": 0.5})
        ...     ps.checkpoint_metadata(directory)
        {'loss': 0.5}
    """
    root, steps = _chosen("checkpoint_metadata", directory, step)
    if not steps:
        raise PureSGDError(str(root), "holds no checkpoint", "Save one with save_checkpoint")
    return _opened(root, steps[-1]).metadata


def _chosen(where: str, directory: str | os.PathLike[str], step: int | None) -> tuple[Path, list[int]]:
    """The directory, and the steps that come into question."""
    if step is not None:
        check_count(where, "step", step, low=0)
    return Path(directory), checkpoint_steps(directory) if step is None else [step]


def _opened(root: Path, step: int) -> Manifest:
    folder = folder_of(root, step)
    if not is_folder(folder):
        raise PureSGDError(str(folder), "there is no such checkpoint", "Ask checkpoint_steps which there are")
    return read_manifest(folder, step)


def load_step(
    root: Path,
    step: int,
    like: Any,
    rename: Mapping[str, str] | None = None,
    partial: bool = False,
    verified: bool = False,
) -> Any:
    """What :func:`load_checkpoint` gives of one step; ``verified`` where :func:`verify_part` was called.

    Raises:
        PureSGDError: as :func:`load_checkpoint`.

    Example:
        >>> import tempfile
        >>> import pure_sgd as ps
        >>> from pure_sgd.training.checkpoints.loading import load_step
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     path = ps.save_checkpoint(directory, {"rate": 0.5}, step=7)
        ...     load_step(Path(directory), 7, like={"rate": 0.0})
        {'rate': 0.5}
    """
    folder, (_, _, leaves, files) = folder_of(root, step), _opened(root, step)
    named = tree.named_leaves(like)
    sources = {path: _renamed(path, dict(rename or {})) for path, _ in named}
    _check_fit(folder, leaves, named, sources, partial)
    wanted = {path: leaves[path] for path in sources.values() if path in leaves}
    tensors = [path for path, leaf in wanted.items() if leaf.kind == "tensor"]
    values = {path: _number(leaf) for path, leaf in wanted.items() if leaf.kind != "tensor"}
    if files is None:
        values.update(read_tensors(folder, leaves, tensors))
    else:
        if not verified:
            verify_part(root, step, 0, 1)
        placed = {sources[path]: leaf for path, leaf in named}
        values.update(read_shards(folder, leaves, {path: placed[path] for path in tensors}))
    _, rebuild = tree.flatten(like)
    return rebuild([_placed(values.get(sources[path], leaf), leaf) for path, leaf in named])


def verify_part(root: Path, step: int, rank: int, ranks: int) -> None:
    """Verify the files of which each rank has written one; of so many ranks each sees to a part of them.

    Raises:
        CorruptCheckpointError: one of them is not what was written.

    Example:
        >>> import tempfile
        >>> import pure_sgd as ps
        >>> from pure_sgd.training.checkpoints.loading import verify_part
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     path = ps.save_checkpoint(directory, {"rate": 0.5}, step=7)
        ...     verify_part(Path(directory), 7, rank=0, ranks=1)
    """
    files = _opened(root, step).files
    if files is not None:
        verify_files(folder_of(root, step), files, sorted(files)[rank::ranks])


def _renamed(path: str, rename: dict[str, str]) -> str:
    """The path in the file: the longest key that ``path`` begins with is replaced."""
    keys = [key for key in rename if path.startswith(key)]
    if not keys:
        return path
    key = max(keys, key=len)
    return rename[key] + path.removeprefix(key)


def _check_fit(
    folder: Path,
    leaves: dict[str, Leaf],
    named: list[tuple[str, Any]],
    sources: dict[str, str],
    partial: bool,
) -> None:
    """Say of all leaves at once how the file and ``like`` differ."""
    found: list[str] = []
    for path, value in named:
        stored, expected = leaves.get(sources[path]), described(value)
        if stored is None:
            found += [] if partial else [f"{path} is not in the file"]
        elif form(stored) != form(expected):
            found.append(f"{path} is {form(stored)} in the file, expected {form(expected)}")
    if not partial:
        unexpected = leaves.keys() - sources.values()
        found += [f"{path:.120} is in the file, and nobody expects it" for path in sorted(unexpected)]
    if found:
        more = f"; and {len(found) - MOST_DIFFERENCES} more" if len(found) > MOST_DIFFERENCES else ""
        remedy = "Pass a tree like the one that was saved, or rename=... and partial=True"
        raise PureSGDError(str(folder), "; ".join(found[:MOST_DIFFERENCES]) + more, remedy)


def form(leaf: Leaf) -> str:
    """What a leaf must be to take the place of another.

    Example:
        >>> from pure_sgd.training.checkpoints.loading import form
        >>> form(described(torch.ones(2)))
        'float32 (2,)'
    """
    return f"{leaf.dtype} {leaf.shape}" if leaf.kind == "tensor" else leaf.kind


def _number(leaf: Leaf) -> Any:
    return float.fromhex(leaf.value) if leaf.kind == "float" else leaf.value


def _placed(value: Any, like: Any) -> Any:
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(like, DTensor) and not isinstance(value, DTensor):
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return value.to(like.device) if isinstance(value, torch.Tensor) else value
