"""Shuffled batches of 256 rows and labels from files of 1 GB, in three sizes of a row.

In the cache of the file system: beside a loop that reads each row with ``os.preadv``, as little as keeps
memory bounded; beside one over ``numpy.memmap``, whose pages add up in the memory of the process until it
holds the whole file; and in torch's ``DataLoader``, without and with two worker processes, beside data sets
of a few lines. And from the disk, as where the file is larger than memory: the cache forgets it after
each call. All visit the same rows.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rounds import Group, Results, Row, Settings, Way
from torch.utils.data import DataLoader, Dataset

import pure_sgd as ps

BATCH_SIZE = 256
ROW_SIZES = {"256 B": 256, "4 KB": 4096, "64 KB": 65536}


class Files(NamedTuple):
    """What every way is given."""

    x: Path
    y: Path
    count: int
    row_bytes: int
    batches: int  # that one call takes


class OneByOne(Dataset[Any]):
    """An example at a time, as the tutorials have it."""

    def __init__(self, files: Files) -> None:
        self.x, self.y = np.load(files.x, mmap_mode="r"), np.load(files.y, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, row: int) -> Any:
        return torch.from_numpy(self.x[row].copy()), int(self.y[row])


class Whole(OneByOne):
    """A batch at a time."""

    def __getitem__(self, row: Any) -> Any:
        return torch.from_numpy(self.x[row]), torch.from_numpy(self.y[row])


def written(folder: str, row_bytes: int, megabytes: int, batches: int) -> Files:
    count = megabytes * 2**20 // row_bytes
    files = Files(Path(folder) / "x.npy", Path(folder) / "y.npy", count, row_bytes, batches)
    x = np.lib.format.open_memmap(files.x, "w+", np.float32, (count, row_bytes // 4))
    for start in range(0, count, 4096):
        part = x[start : start + 4096]
        part[:] = np.arange(start, start + len(part), dtype=np.float32)[:, None]
    x.flush()
    np.save(files.y, np.arange(count))
    return files


def rows(files: Files) -> Iterator[Any]:
    sampler = ps.data.BatchSampler(files.count, BATCH_SIZE, seed=0)
    return (np.array(batch) for batch, _ in zip(sampler, range(files.batches), strict=False))


def by_preadv(files: Files) -> Iterator[Any]:
    y = np.load(files.y, mmap_mode="r")
    offset = files.x.stat().st_size - files.count * files.row_bytes
    descriptor = os.open(files.x, os.O_RDONLY)
    for batch in rows(files):
        x = torch.empty(BATCH_SIZE, files.row_bytes // 4)
        for place, out in zip((batch * files.row_bytes + offset).tolist(), x.numpy(), strict=True):
            os.preadv(descriptor, [out], place)
        yield x, torch.from_numpy(y[batch])
    os.close(descriptor)


def by_memmap(files: Files) -> Iterator[Any]:
    data = Whole(files)
    return (data[batch] for batch in rows(files))


def ours(files: Files) -> Iterator[Any]:
    source = ps.data.batch_source(ps.data.from_files((files.x, files.y)), BATCH_SIZE, seed=0)
    return (batch for batch, _ in zip(source.epoch(0), range(files.batches), strict=False))


def loaded(files: Files, data: Any, workers: int, whole: bool = True) -> Callable[[], Iterator[Any]]:
    sampler = ps.data.BatchSampler(files.count, BATCH_SIZE, seed=0)
    sampler.set_epoch(0, start=len(sampler) - files.batches)
    options: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0}
    if whole:
        loader = DataLoader(data, sampler=sampler, batch_size=None, **options)
    else:
        loader = DataLoader(data, batch_sampler=sampler, **options)
    return lambda: iter(loader)


def summed(batches: Callable[[], Iterable[Any]], name: str) -> Way:
    """Take all batches; what comes out is a number of each that depends on which they were."""

    def work() -> torch.Tensor:
        return torch.stack([x[:, 0].double().sum() + y.sum() for x, y in batches()])

    def read(found: torch.Tensor) -> Results:
        return {name: [found]}

    return Way(lambda: work, read, threads=1)


def forgotten(batches: Callable[[Files], Iterable[Any]], files: Files) -> Iterator[Any]:
    """The same, of a file that is not in the cache, and is not afterwards."""
    for path in (files.x, files.y):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    yield from batches(files)


PLAIN = {
    "from_files": ours,
    "a loop over os.preadv": by_preadv,
    "a loop over numpy.memmap": by_memmap,
}
MAPPED = "one row, one call of the system; its pages stay in the process, which comes to hold the file"


def in_cache(size: str, settings: Settings) -> Group:
    folder, row_bytes = tempfile.TemporaryDirectory(), ROW_SIZES[size]
    files = written(folder.name, row_bytes, 512 if settings.quick else 1024, min(400, 2**20 // row_bytes))
    dataset = ps.data.from_files((files.x, files.y))
    ways = {name: summed(partial(plain, files), "batches") for name, plain in PLAIN.items()}
    rows = [
        Row(("from_files",), ("a loop over os.preadv",), 1.1),
        Row(("from_files",), ("a loop over numpy.memmap",), 1.1, why=MAPPED),
    ]
    for workers in (0, 2):
        name = f"DataLoader, {workers} workers"
        ways[f"from_files, {name}"] = summed(loaded(files, dataset, workers), "last batches")
        ways[f"numpy.memmap, {name}"] = summed(loaded(files, Whole(files), workers), "last batches")
        ways[f"one by one, {name}"] = summed(loaded(files, OneByOne(files), workers, False), "last batches")
        rows.append(Row((f"from_files, {name}",), (f"one by one, {name}",), 1.1))
        rows.append(Row((f"from_files, {name}",), (f"numpy.memmap, {name}",), 1.1, why=MAPPED))
    return Group(f"data/{size}", _kept(ways, folder), rows, files.batches)


def from_disk(size: str, settings: Settings) -> Group:
    folder, row_bytes = tempfile.TemporaryDirectory(), ROW_SIZES[size]
    files = written(folder.name, row_bytes, 512 if settings.quick else 1024, 2)
    ways = {name: summed(partial(forgotten, plain, files), "first batches") for name, plain in PLAIN.items()}
    rows = [Row(("from_files",), (name,), 1.1) for name in PLAIN if name != "from_files"]
    return Group(f"data/{size}, disk", _kept(ways, folder), rows, files.batches)


def _kept(ways: dict[str, Way], folder: Any) -> dict[str, Way]:
    """The folder is there as long as somebody may read from it."""

    def kept(set_up: Callable[[], Any]) -> Callable[[], Any]:
        work = set_up()
        return lambda: (work(), folder)[0]

    return {name: way._replace(set_up=partial(kept, way.set_up)) for name, way in ways.items()}


GROUPS: dict[str, Callable[[Settings], Group]] = {
    f"data/{size}{place}": partial(make, size)
    for size in ROW_SIZES
    for place, make in (("", in_cache), (", disk", from_disk))
}
