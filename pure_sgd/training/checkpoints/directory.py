"""The folders under a directory of checkpoints, and what becomes of old and unfinished ones."""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from ...arguments import typed

__all__ = ["checkpoint_steps"]

NAME = re.compile(r"step_([0-9]{10,})")
UNFINISHED, DISCARDED = ".unfinished-", ".discarded-"
#: Seconds after which what was left unfinished has no writer any more.
STALE = 3600.0


@typed
def checkpoint_steps(directory: str | os.PathLike[str]) -> list[int]:
    """The steps of which there are checkpoints, ascending; none where there is no such directory.

    Example:
        >>> import pure_sgd as ps
        >>> ps.checkpoint_steps("nowhere")
        []
    """
    root = Path(directory)
    paths = {*root.iterdir()} if root.is_dir() else set[Path]()
    found = [int(name[1]) for path in paths if is_folder(path) and (name := NAME.fullmatch(path.name))]
    # A name with more zeros than are written is not one of ours.
    return sorted(step for step in found if folder_of(root, step) in paths)


def folder_of(root: Path, step: int) -> Path:
    """Where the checkpoint of ``step`` lies."""
    return root / f"step_{step:010d}"


@contextmanager
def unfinished_folder(root: Path) -> Generator[Path, None, None]:
    """A new folder, which nobody takes for a checkpoint; gone at the end, unless it was renamed."""
    folder = root / f"{UNFINISHED}{uuid.uuid4().hex}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def discard(folder: Path) -> None:
    """Delete a checkpoint."""
    # Renamed first: what is half deleted must not be taken for a checkpoint.
    gone = folder.with_name(f"{DISCARDED}{uuid.uuid4().hex}")
    with suppress(FileNotFoundError):  # another writer was faster
        folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def clean(root: Path) -> None:
    """Remove what writers that are gone have left."""
    for path in root.iterdir():
        if path.name.startswith((UNFINISHED, DISCARDED)) and is_folder(path):
            with suppress(FileNotFoundError):  # another writer was faster
                newest = max(file.lstat().st_mtime for file in (path, *path.iterdir()))
                if time.time() - newest > STALE:
                    shutil.rmtree(path, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Wait until the disk knows which files lie in ``folder``."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def is_folder(path: Path) -> bool:
    """Whether it is one itself, and does not only lead to one."""
    return path.is_dir() and not path.is_symlink()
