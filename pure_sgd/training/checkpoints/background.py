"""Checkpoints that are written behind the training."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any

from ...arguments import typed
from ...errors import check_count
from .contents import Snapshot, snapshot
from .saving import check_keep, save_snapshot

__all__ = ["AsyncCheckpoints"]


class AsyncCheckpoints:
    """Saves as :func:`save_checkpoint` does, in a thread: training waits only while the state is copied.

    One checkpoint is written at a time: a ``save`` that comes earlier waits for the one before. What went
    wrong with one is raised by the next ``save``, by ``wait`` or at the end of the block, which waits too,
    except where a ``KeyboardInterrupt`` ends it; then, as after a crash, the older checkpoints are there.

    Raises:
        PureSGDError: ``keep`` under 1.

    Example:
        >>> import tempfile
        >>> import torch
        >>> import pure_sgd as ps
        >>> weights = torch.zeros(2)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     with ps.AsyncCheckpoints(directory, keep=2) as checkpoints:
        ...         for step in range(5):
        ...             weights += 1
        ...             checkpoints.save({"w": weights}, step)
        ...     ps.checkpoint_steps(directory), ps.load_checkpoint(directory, {"w": weights})
        ([3, 4], {'w': tensor([5., 5.])})
    """

    @typed
    def __init__(self, directory: str | os.PathLike[str], keep: int | None = 3) -> None:
        check_keep("AsyncCheckpoints", keep)
        self._root, self._keep = Path(directory), keep
        self._writer: Thread | None = None
        self._failure: Exception | None = None

    @typed
    def save(self, state: Any, step: int, *, metadata: Mapping[str, Any] | None = None) -> None:
        """Copy ``state``, and leave the rest to the thread: the state may be written over, a donated one too.

        Raises:
            PureSGDError: as :func:`save_checkpoint`; or what the checkpoint before this one raised, which
                is then not there, nor is this one.
            OSError: so for the one before.
        """
        check_count("AsyncCheckpoints.save", "step", step, low=0)
        self.wait()
        # A daemon, so that it does not hold a process that is told to leave at once.
        self._writer = Thread(target=self._write, args=(snapshot(state, step, metadata),), daemon=True)
        self._writer.start()

    @typed
    def wait(self) -> None:
        """Wait until the last checkpoint is written.

        Raises:
            PureSGDError: it was not.
            OSError: so for a full disk.
        """
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _write(self, taken: Snapshot) -> None:
        try:
            save_snapshot(self._root, taken, self._keep)
        except Exception as error:
            self._failure = error

    def __enter__(self) -> AsyncCheckpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, KeyboardInterrupt):
            return
        try:
            self.wait()
        except Exception as failure:
            if error is None:
                raise
            error.add_note(f"Nor was the last checkpoint written: {failure}")
