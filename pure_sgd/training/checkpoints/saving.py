"""A checkpoint is written: whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ... import tree
from ...errors import PureSGDError, check_count
from .contents import CorruptCheckpointError, leaf_of, read_manifest, read_values, sync_folder, write_folder
from .directory import checkpoint_steps, clean, discard, folder_of, unfinished_folder

__all__ = ["save_checkpoint"]


def save_checkpoint(
    directory: str | os.PathLike[str],
    state: Any,
    step: int,
    keep: int | None = 3,
    *,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``state`` as the checkpoint of ``step``, and delete all but the newest ``keep``.

    ``state`` is any tree of tensors, numbers and strings, such as a :class:`TrainState`. Under
    ``directory/step_0000000042`` lie ``arrays.safetensors``, which other programs read too, and
    ``manifest.json`` with path, shape, dtype and SHA-256 of every leaf and your ``metadata`` (anything that
    JSON holds); no pickle. It is written under another name, read back and verified, and then renamed:
    after a crash at any moment there is the whole checkpoint or none, and those before it are as they
    were. Two writers of one step cannot mix: the later one is refused.

    Returns:
        The folder of the checkpoint.

    Raises:
        PureSGDError: a leaf of another type, ``metadata`` that is not JSON, a step that is there already
            and intact, a state that changed while it was written (a donated one), ``keep`` under 1.
        OSError: the disk is full or not writable; the older checkpoints stay.

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
    check_count("save_checkpoint", "step", step, low=0)
    if keep is not None:
        check_count("save_checkpoint", "keep", keep)
    root = Path(directory)
    root.mkdir(parents=True, exist_ok=True)
    values = dict(tree.named_leaves(state))
    final, unfinished = folder_of(root, step), unfinished_folder(root)
    try:
        write_folder(unfinished, values, step, dict(metadata or {}))
        _verify(unfinished, values)
        _make_room(final)
        unfinished.rename(final)
        sync_folder(root)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    for old in checkpoint_steps(root)[: -keep or None] if keep else []:
        discard(folder_of(root, old))
    clean(root)
    return final


def _verify(folder: Path, values: Mapping[str, Any]) -> None:
    """Read back what was written, and compare it with what ``values`` are now."""
    manifest = read_manifest(folder)
    read_values(folder, manifest, list(manifest.leaves))
    for path, value in values.items():
        if leaf_of(path, value) != manifest.leaves[path]:
            raise PureSGDError(
                f"state{path}",
                "changed while it was written",
                "Save a copy of a state that is donated or changed in place",
            )


def _make_room(final: Path) -> None:
    """See that a checkpoint can take its name: an intact one of the same step stays."""
    if not final.exists():
        return
    try:
        manifest = read_manifest(final)
        read_values(final, manifest, list(manifest.leaves))
    except CorruptCheckpointError:
        discard(final)
        return
    raise PureSGDError(str(final), "is there already", "Delete it, or save another step")
