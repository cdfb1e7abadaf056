"""The memory that is free, and a bound that makes a call fail which wants more, not the process."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import torch

__all__ = ["bounded", "free_memory", "ran_out"]

#: Of what is free, how much may be taken: the rest is for others, and for what is not known.
SHARE = 0.8
#: What torch and its libraries say where an allocation fails, in errors that have no type of their own.
WORDS = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "could not create a primitive",  # oneDNN, of its workspace
)
ROOT = Path("/")

_bound = Lock()


def free_memory() -> int | None:
    """Bytes that this process can still take, by its machine and by every control group that it is in.

    Only Linux tells; elsewhere, and where that is hidden, None.

    Example:
        >>> from pure_sgd.training.memory import free_memory
        >>> (free_memory() or 1) > 0
        True
    """
    if not sys.platform.startswith("linux"):
        return None
    try:
        free = _kilobytes("proc/meminfo", "MemAvailable")
        return max(0, min([free, *_left_in_groups(free)]))
    except (OSError, ValueError, KeyError, StopIteration):
        return None


@contextmanager
def bounded() -> Generator[None]:
    """While this lasts, what allocates more than four fifths of the memory that is free now fails.

    It fails with an error that :func:`ran_out` knows, where else Linux would end the process. The bound is
    one of the process: of all of its threads, and of what it starts. Inside another block, and where
    :func:`free_memory` is not known, there is none.

    Example:
        >>> from pure_sgd.training.memory import bounded
        >>> with bounded():
        ...     torch.ones(2)
        tensor([1., 1.])
    """
    free = free_memory()
    if free is None or not _bound.acquire(blocking=False):
        yield
        return
    import resource  # not on Windows

    kind = resource.RLIMIT_DATA
    before, hard = resource.getrlimit(kind)
    most = _kilobytes("proc/self/status", "VmData") + int(SHARE * free)
    try:
        limits = [limit for limit in (before, hard, most) if limit != resource.RLIM_INFINITY]
        resource.setrlimit(kind, (min(limits), hard))
        yield
    finally:
        resource.setrlimit(kind, (before, hard))
        _bound.release()


def ran_out(error: Exception) -> bool:
    """Whether there was too little memory, of the machine or of an accelerator.

    Example:
        >>> from pure_sgd.training.memory import ran_out
        >>> ran_out(MemoryError()), ran_out(ValueError("x"))
        (True, False)
    """
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or any(word in str(error) for word in WORDS)


def _left_in_groups(wanted: int) -> Iterator[int]:
    """What each control group that may not take so much still may; the files that it keeps count as free."""
    for line in (ROOT / "proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, limit, used, total = "sys/fs/cgroup", "memory.max", "memory.current", ""
        elif controllers == "memory":  # of the first version
            top, total = "sys/fs/cgroup/memory", "total_"
            limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        # In a container the path is often that outside of it, and the limit that of the top.
        folder = ROOT / top / path.lstrip("/")
        for place in (folder, *folder.parents):
            if place.is_relative_to(ROOT / top) and (place / limit).is_file():
                most = (place / limit).read_text().strip()
                left = wanted if most == "max" else int(most) - int((place / used).read_text())
                if left < wanted:
                    stat = dict(row.split() for row in (place / "memory.stat").read_text().splitlines())
                    yield left + sum(int(stat[f"{total}{kind}_file"]) for kind in ("active", "inactive"))


def _kilobytes(path: str, name: str) -> int:
    """What a line such as ``VmData: 123 kB`` says, in bytes."""
    lines = (ROOT / path).read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":")) * 1024
