"""The folders under a directory of checkpoints, and what becomes of old and unfinished ones."""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from pathlib import Path

__all__ = ["checkpoint_steps"]

NAME = re.compile(r"step_(\d{10,})")
UNFINISHED, DISCARDED = ".unfinished-", ".discarded-"
#: Seconds after which what was left unfinished has no writer any more.
STALE = 3600.0


def checkpoint_steps(directory: str | os.PathLike[str]) -> list[int]:
    """The steps of which there are checkpoints, ascending; none where there is no such directory.

    Example:
        >>> import pure_sgd as ps
        >>> ps.checkpoint_steps("nowhere")
        []
    """
    root = Path(directory)
    names = [NAME.fullmatch(path.name) for path in root.iterdir()] if root.is_dir() else []
    return sorted(int(found[1]) for found in names if found)


def folder_of(root: Path, step: int) -> Path:
    """Where the checkpoint of ``step`` lies."""
    return root / f"step_{step:010d}"


def unfinished_folder(root: Path) -> Path:
    """A new folder, which nobody takes for a checkpoint."""
    folder = root / f"{UNFINISHED}{uuid.uuid4().hex}"
    folder.mkdir()
    return folder


def discard(folder: Path) -> None:
    """Delete a checkpoint."""
    # Renamed first: what is half deleted must not be taken for a checkpoint.
    gone = folder.with_name(f"{DISCARDED}{uuid.uuid4().hex}")
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def clean(root: Path) -> None:
    """Remove what writers that are gone have left."""
    for path in root.iterdir():
        if path.name.startswith((UNFINISHED, DISCARDED)):
            try:
                newest = max(file.stat().st_mtime for file in (path, *path.iterdir()))
            except FileNotFoundError:
                continue
            if time.time() - newest > STALE:
                shutil.rmtree(path, ignore_errors=True)
