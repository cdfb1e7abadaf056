"""A checkpoint is written: whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ...arguments import typed
from ...errors import PureSGDError, check_count
from .arrays import read_tensors, write_tensors
from .contents import CorruptCheckpointError, Snapshot, checksum, described, snapshot
from .directory import (
    checkpoint_steps,
    clean,
    discard,
    folder_of,
    is_folder,
    sync_folder,
    unfinished_folder,
)
from .manifest import Manifest, read_manifest, write_manifest
from .shards import verify_files

__all__ = ["new_checkpoint", "save_checkpoint", "save_snapshot"]


@typed
def save_checkpoint(
    directory: str | os.PathLike[str],
    state: Any,
    step: int,
    keep: int | None = 3,
    *,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``state`` as the checkpoint of ``step``, and delete the older ones but for ``keep - 1``.

    ``state`` is any tree of tensors, numbers and strings, such as a :class:`TrainState`. Under
    ``directory/step_0000000042`` lie ``arrays.safetensors``, which other programs read too, and
    ``manifest.json`` with path, shape, dtype and SHA-256 of every leaf and your ``metadata`` (anything that
    JSON holds); no pickle. It is written under another name, read back and verified, and then renamed:
    after a crash at any moment there is the whole checkpoint or none, and those before it are as they
    were. Two writers of one step cannot mix: the later one is refused. :class:`AsyncCheckpoints` does the
    same behind the training.

    Returns:
        The folder of the checkpoint.

    Raises:
        PureSGDError: a leaf of another type, ``metadata`` that is not JSON, a step that is there already
            and intact, ``keep`` under 1.
        OSError: the disk is full or not writable; the older checkpoints stay, and nothing else is left.

    Example:
        >>> import tempfile
        >>> import torch
        >>> import pure_sgd as ps
        >>> state = ps.init_train_state({"w": torch.ones(2)}, ps.adam(0.1))
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     path = ps.save_checkpoint(directory, state, step=0)
        ...     ps.load_checkpoint(directory, like=state).params
        {'w': tensor([1., 1.])}
    """
    check_keep("save_checkpoint", keep)
    check_count("save_checkpoint", "step", step, low=0)
    return save_snapshot(Path(directory), snapshot(state, step, metadata), keep)


def save_snapshot(root: Path, taken: Snapshot, keep: int | None) -> Path:
    """Write what was taken of a state, as :func:`save_checkpoint` promises.

    Raises:
        PureSGDError: the step is there already and intact.
        OSError: the disk is full or not writable.

    Example:
        >>> import tempfile
        >>> from pure_sgd.training.checkpoints.contents import snapshot
        >>> from pure_sgd.training.checkpoints.saving import save_snapshot
        >>> with tempfile.TemporaryDirectory() as name:
        ...     save_snapshot(Path(name), snapshot({}, step=7, metadata=None), keep=3).name
        'step_0000000007'
    """
    with new_checkpoint(root, taken.step, keep) as unfinished:
        _write(unfinished, taken)
        _verify(unfinished, taken.step)
    return folder_of(root, taken.step)


@contextmanager
def new_checkpoint(root: Path, step: int, keep: int | None) -> Generator[Path]:
    """A folder that becomes the checkpoint of ``step`` at the end of the block; gone if that raises.

    Raises:
        PureSGDError: the step is there already and intact.
        OSError: the disk is full or not writable.

    Example:
        >>> import tempfile
        >>> from pure_sgd.training.checkpoints.saving import new_checkpoint
        >>> with tempfile.TemporaryDirectory() as name:
        ...     with new_checkpoint(Path(name), 7, keep=3) as folder:
        ...         write_manifest(folder, Manifest(7, {}, {}))
        ...     [path.name for path in Path(name).iterdir()]
        ['step_0000000007']
    """
    final = folder_of(root, step)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with unfinished_folder(root) as unfinished:
            yield unfinished
            sync_folder(unfinished)
            _make_room(final, step)
            unfinished.rename(final)
        sync_folder(root)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}, so nothing was saved", str(final)) from error
    # What is newer than this one is corrupt, or another run's: no reason to delete this one or its like.
    if keep is not None:
        older = [before for before in checkpoint_steps(root) if before < step]
        for before in older[: len(older) - keep + 1]:
            discard(folder_of(root, before))
    clean(root)


def check_keep(where: str, keep: int | None) -> None:
    """Check how many checkpoints are to be kept; None: all."""
    if keep is not None:
        check_count(where, "keep", keep)


def _write(folder: Path, taken: Snapshot) -> None:
    leaves = {path: described(value) for path, value in taken.values.items()}
    for path, value in taken.values.items():
        if isinstance(value, torch.Tensor):
            leaves[path] = leaves[path]._replace(sha256=checksum(value))
    write_tensors(folder, taken.values, leaves)
    write_manifest(folder, Manifest(taken.step, taken.metadata, leaves))


def _verify(folder: Path, step: int) -> None:
    """Read all that a folder holds.

    Raises:
        CorruptCheckpointError: it is not what was written.
    """
    _, _, leaves, files = read_manifest(folder, step)
    if files is not None:
        verify_files(folder, files, [*files])
        return
    for _ in read_tensors(folder, leaves, [path for path, leaf in leaves.items() if leaf.kind == "tensor"]):
        pass


def _make_room(final: Path, step: int) -> None:
    """See that a checkpoint can take its name: an intact one of the same step stays."""
    if not os.path.lexists(final):
        return
    try:
        if is_folder(final):
            _verify(final, step)
    except CorruptCheckpointError:
        discard(final)
        return
    raise PureSGDError(str(final), "is there already", "Delete it, or save another step")
