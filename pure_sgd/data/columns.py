"""One field of a data set on disk: rows of equal size in one or several files, read where they lie."""

from __future__ import annotations

import math
import mmap
import os
import stat
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import repeat
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import get_worker_info

from ..errors import PureSGDError

__all__ = ["File", "Part", "file_at"]

Rows = Any  # a numpy array of int64
#: Bytes of a data set that a process maps, the smallest fields first. The rest is read row by row, since the
#: pages of a map that are looked at add up in the memory of the process.
MOST_MAPPED = 2**28 if hasattr(os, "preadv") else math.inf
MOST_OPEN = 256
#: Bytes of a row up to which Python makes bytes sooner than the place where to read them.
FEW = 2**10
#: Bytes of a batch whose memory is used again: fresh pages would take longer than to read into them.
REUSED = range(2**20, 2**25 + 1)
#: Where torch's own ``default_collate`` puts the batches of a worker.
_shared = attrgetter("_new_shared")(torch.UntypedStorage)


class File(NamedTuple):
    """A file as it was when its header was read."""

    path: str
    bytes: int
    modified: int  # nanoseconds


class Part(NamedTuple):
    """Rows that lie one after the other in a file."""

    file: File
    offset: int  # bytes before the first row
    count: int


@dataclass(frozen=True, eq=False)
class Column:
    """A field whose rows are plain numbers. It holds no file open, so that it may go to other processes.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from pure_sgd.data.columns import Column, Part, file_at
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     path = Path(directory) / "numbers"
        ...     _ = path.write_bytes(bytes(range(10)))
        ...     column = Column("x", torch.uint8, (2,), (Part(file_at(path), 4, 3),))
        ...     column.read(np.array([2, 0]))
        tensor([[8, 9],
                [4, 5]], dtype=torch.uint8)
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]  # of a row
    parts: tuple[Part, ...]
    mapped: bool = False
    firsts: Rows = field(init=False, repr=False)  # the row that each part begins with, and the end
    bases: Rows = field(init=False, repr=False)  # where in the file of each part row 0 would lie

    def __post_init__(self) -> None:
        firsts = np.cumsum([0, *(part.count for part in self.parts)])
        offsets = np.array([part.offset for part in self.parts])
        object.__setattr__(self, "firsts", firsts)
        object.__setattr__(self, "bases", offsets - firsts[:-1] * self.row_bytes)

    def __len__(self) -> int:
        return int(self.firsts[-1])

    @cached_property
    def row_bytes(self) -> int:
        """What one row takes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self, rows: Rows, pinned: bool = False) -> torch.Tensor:
        """The examples ``rows``, (len(rows), ``*shape``), in memory of their own.

        Raises:
            PureSGDError: a file is not there any more, or is not what it was.
        """
        out = _memory((len(rows), self.row_bytes), pinned)
        if len(rows):
            (self._look_up if self.mapped else self._fetch)(rows, out.numpy())
        return out.view(self.dtype).view(len(rows), *self.shape)

    def _part_of(self, rows: Rows) -> Rows:
        return self.firsts.searchsorted(rows, "right") - 1

    def _look_up(self, rows: Rows, out: Rows) -> None:
        if len(self.parts) == 1:
            self._look_up_in(0, rows, out)
            return
        which = self._part_of(rows)
        for number in np.unique(which).tolist():
            chosen = np.flatnonzero(which == number)
            found = np.empty((len(chosen), self.row_bytes), np.uint8)
            self._look_up_in(number, rows[chosen] - self.firsts[number], found)
            out[chosen] = found

    def _look_up_in(self, number: int, rows: Rows, out: Rows) -> None:
        part = self.parts[number]
        source = _opened(part.file)
        # To look at what lies behind the end would end the process.
        if os.fstat(source.descriptor).st_size != part.file.bytes:
            raise changed(part.file)
        array = np.frombuffer(source.map, np.uint8, part.count * self.row_bytes, part.offset)
        array = array.reshape(part.count, self.row_bytes)
        # All rows are there: "clip" means that none is checked, and none is copied twice.
        array.take(rows, axis=0, out=out, mode="clip")

    def _fetch(self, rows: Rows, out: Rows) -> None:
        """Read the rows, those that lie one behind the other in one call."""
        buffers: Any = out
        follows = rows[1:] - rows[:-1] == 1
        if follows.any():
            begins = np.flatnonzero(np.append(True, ~follows | np.isin(rows[1:], self.firsts)))
            buffers, rows = np.split(out, begins[1:]), rows[begins]
        which, sources, descriptors = self._sources(rows)
        places = (self.bases[which] + rows * self.row_bytes).tolist()
        if len(buffers) > 1 and not _is_cached(descriptors[0], buffers[0], places[0]):
            # The disk answers many requests at once sooner than one after the other.
            for descriptor, buffer, place in zip(descriptors, buffers, places, strict=True):
                os.posix_fadvise(descriptor, place, buffer.nbytes, os.POSIX_FADV_WILLNEED)
        if buffers is out and self.row_bytes <= FEW:
            found = b"".join(map(os.pread, descriptors, repeat(self.row_bytes), places))
            if len(found) == out.nbytes:
                out.reshape(-1)[:] = np.frombuffer(found, np.uint8)
                return
        if sum(map(os.preadv, descriptors, zip(buffers, strict=True), places)) != out.nbytes:
            for source, buffer, place in zip(sources, buffers, places, strict=True):
                source.fill(memoryview(buffer).cast("B"), place)

    def _sources(self, rows: Rows) -> tuple[Rows, list[_Opened], list[int]]:
        """The part that each row lies in, 0 where there is but one; its file, and the descriptor of that."""
        if len(self.parts) == 1:
            source = _opened(self.parts[0].file)
            return 0, [source] * len(rows), [source.descriptor] * len(rows)
        which = self._part_of(rows)
        opened = {number: _opened(self.parts[number].file) for number in np.unique(which).tolist()}
        sources = [opened[number] for number in which.tolist()]
        return which, sources, [source.descriptor for source in sources]


def file_at(path: str | os.PathLike[str]) -> File:
    """The file at ``path`` as it is now.

    Raises:
        PureSGDError: there is none.

    Example:
        >>> from pure_sgd.data.columns import file_at
        >>> file_at("nowhere.npy")
        Traceback (most recent call last):
        pure_sgd.errors.PureSGDError: nowhere.npy: is not there (No such file or directory). Pass the path \
of a file.
    """
    name, remedy = os.fspath(path), "Pass the path of a file"
    try:
        found = os.stat(name)
    except (OSError, ValueError) as error:
        raise PureSGDError(name, f"is not there ({getattr(error, 'strerror', error)})", remedy) from None
    if not stat.S_ISREG(found.st_mode):
        raise PureSGDError(name, "is no plain file", remedy)
    return File(name, found.st_size, found.st_mtime_ns)


def changed(file: File) -> PureSGDError:
    """The error of a file that is not what it was when its header was read."""
    return PureSGDError(
        file.path, "has changed since it was opened", "Open it again, and leave it as it is while it is read"
    )


def mapped_where_small(columns: Sequence[Column]) -> list[Column]:
    """The columns, of which the smallest are mapped that together have no more than 256 MB."""
    bytes_of = [column.row_bytes * len(column) for column in columns]
    smaller = [sum(other for other in bytes_of if other <= mine) for mine in bytes_of]
    return [
        replace(column, mapped=total <= MOST_MAPPED) for column, total in zip(columns, smaller, strict=True)
    ]


class _Opened:
    """A file that is open in this process, until nobody has it any more."""

    def __init__(self, file: File) -> None:
        if file_at(file.path) != file:
            raise changed(file)
        self.file, self.descriptor = file, os.open(file.path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.descriptor)

    @cached_property
    def map(self) -> mmap.mmap:
        return mmap.mmap(self.descriptor, 0, access=mmap.ACCESS_READ)

    def fill(self, out: memoryview, offset: int) -> None:
        """Read on from ``offset`` until ``out`` is full, in as many calls as the system takes for it."""
        while out:
            count = os.preadv(self.descriptor, [out], offset)
            if not count:
                raise changed(self.file)
            out, offset = out[count:], offset + count


_opened = lru_cache(MOST_OPEN)(_Opened)


def _memory(shape: tuple[int, int], pinned: bool) -> torch.Tensor:
    """So many bytes; in a worker of a ``DataLoader`` those that it shares with the process that it serves."""
    size = math.prod(shape)
    if size and get_worker_info() is not None:
        return torch.empty(0, dtype=torch.uint8).set_(_shared(size)).view(shape)
    if pinned or size not in REUSED:
        return torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
    spare = _spare(size)
    try:
        memory = spare.pop()
    except IndexError:
        memory = torch.empty(size, dtype=torch.uint8)
    lent: Any = memory.numpy()  # which ends with the last tensor that has the memory
    weakref.finalize(lent, spare.append, memory).atexit = False
    return torch.from_numpy(lent).view(shape)


@lru_cache(2)
def _spare(size: int) -> deque[torch.Tensor]:
    """Memory of batches of ``size`` bytes that nobody has any more."""
    return deque(maxlen=2)


def _is_cached(descriptor: int, buffer: Rows, place: int) -> bool:
    """Whether these bytes are in memory, or nobody could be told to fetch them."""
    if not hasattr(os, "RWF_NOWAIT"):
        return True
    try:
        os.preadv(descriptor, [buffer], place, os.RWF_NOWAIT)
    except OSError:  # they are not, or the file system cannot say
        return False
    return True
