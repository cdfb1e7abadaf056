"""An epoch over files takes the memory of a few batches, where it is trained and where it is read."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import pure_sgd as ps

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
FEATURES, BATCH_SIZE = 1024, 256
MEGABYTE = 2**20
#: Megabytes for what a program takes for its first step; a batch has one.
GROWTH = 128


def megabytes(process: int | str, what: str) -> int:
    """What the system says of a process: ``VmRSS``, the memory that it has, or ``VmHWM``, the most it had."""
    (line,) = [line for line in Path(f"/proc/{process}/status").read_text().splitlines() if what in line]
    return int(line.split()[1]) // 1024


def write(directory: Path, size: int) -> tuple[Path, Path]:
    """Examples of zeros, of which the disk keeps only how many there are."""
    count = size * MEGABYTE // (4 * FEATURES)
    with (directory / "x.npy").open("wb") as file:
        header: Any = {"descr": "<f4", "fortran_order": False, "shape": (count, FEATURES)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + count * 4 * FEATURES)
    np.save(directory / "y.npy", np.zeros(count, np.float32))
    return directory / "x.npy", directory / "y.npy"


def train(files: tuple[Path, Path], workers: int, found: Any) -> None:
    """Take an epoch, and tell by how many megabytes that has made each process grow."""
    torch.set_num_threads(1)
    dataset = ps.data.from_files(files)
    loss = ps.empirical_risk(lambda w, x, y: ((x * w).sum() - y) ** 2)
    data: Any = dataset
    options: Any = {"batch_size": BATCH_SIZE}
    if workers:
        sampler = ps.data.BatchSampler(len(dataset), BATCH_SIZE)
        data = DataLoader(
            dataset, sampler=sampler, batch_size=None, num_workers=workers, persistent_workers=True
        )
        options = {}
    torch.func.grad(torch.sin)(torch.tensor(0.0))  # for the first of which torch imports its compiler
    before = megabytes("self", "VmRSS")
    state, _ = ps.fit(
        loss, ps.sgd(0.1), torch.zeros(FEATURES), data, epochs=1, compile=False, progress=False, **options
    )
    assert state.step == len(dataset) // BATCH_SIZE
    processes = ["self", *(child.pid for child in multiprocessing.active_children())]
    assert len(processes) == 1 + workers
    found.put([megabytes(process, "VmHWM") - before for process in processes])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("size", [512, pytest.param(2048, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_files(tmp_path, size, workers):
    context = multiprocessing.get_context("spawn")
    found = context.Queue()
    process = context.Process(target=train, args=(write(tmp_path, size), workers, found))
    process.start()
    growth = found.get(timeout=300)
    process.join()
    assert process.exitcode == 0
    assert max(growth) < GROWTH, growth
