"""A sweep without a chunk size takes as many runs at once as fit the memory that is free, by halves."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import pure_sgd as ps
from pure_sgd import functorch
from pure_sgd.training import mapped_scan, memory

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells what is free")
MEGABYTE = 2**20
#: Pretended to be free, in megabytes.
FREE = 192


class Fits:
    """A run that fails when more than so many are mapped at once, and tells how many there were each time."""

    def __init__(self, at_most: int, error: Exception) -> None:
        self.at_most, self.error = at_most, error
        self.tried: list[list[int]] = []

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        sizes = functorch.mapped_sizes()
        self.tried.append(sizes)
        if torch.Size(sizes).numel() > self.at_most:
            raise self.error
        return x - y


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory."),
    MemoryError(),
    RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ps.PureSGDError("init", "cannot take key: DefaultCPUAllocator: can't allocate memory", "Pass another"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_where_memory_runs_out_half_as_many_are_taken(error: Exception):
    run = Fits(2, error)
    result = ps.sweep(run, x=[10, 20, 30], y=[1, 2, 3, 4], progress=False)
    assert run.tried[:4] == [[3, 4], [2, 4], [1, 4], [1, 2]]
    assert run.tried[4:] == [[1, 2]] * 5
    assert result.results.tolist() == [[9, 8, 7, 6], [19, 18, 17, 16], [29, 28, 27, 26]]


def test_what_fits_is_taken_at_once_and_another_error_is_not_tried_again():
    run = Fits(12, MemoryError())
    ps.sweep(run, x=[1, 2, 3], y=[1, 2, 3, 4])
    assert run.tried == [[3, 4]]
    run = Fits(2, RuntimeError("diverged"))
    with pytest.raises(RuntimeError, match="diverged"):
        ps.sweep(run, x=[1, 2, 3], y=[1, 2, 3], zipped=True)
    assert run.tried == [[3]]


def test_a_chunk_size_is_taken_as_it_is():
    run = Fits(2, MemoryError())
    with pytest.raises(MemoryError):
        ps.sweep(run, x=[1, 2, 3], y=[1, 2, 3], zipped=True, chunk_size=3)
    assert run.tried == [[3]]


def test_within_another_transform_the_outermost_sweep_is_cut():
    run = Fits(6, MemoryError())
    found = ps.sweep(lambda x: ps.sweep(lambda y: run(x, y), y=range(3)).results, x=range(4)).results
    assert run.tried == [[4, 3], [2, 3], [2, 3]]
    assert found.tolist() == [[x - y for y in range(3)] for x in range(4)]


def test_a_scan_whose_loop_runs_out_of_memory_is_cut_too(monkeypatch):
    def fails(flat: Any, axes: Any, *leaves: Any) -> None:
        tried.append([axis.size for axis in axes])
        raise MemoryError if axes[0].size > 1 else RuntimeError("no loop in C++")

    def run(rate: torch.Tensor) -> torch.Tensor:
        tx = ps.sgd(rate)
        start = ps.init_train_state(torch.tensor(0.0), tx)
        return ps.scan(ps.make_step(lambda param, x: param * x, tx), start, torch.ones(3))[0].params

    tried: list[list[int]] = []
    monkeypatch.setattr(mapped_scan, "_run", fails)
    assert ps.sweep(run, rate=[1.0, 2.0, 3.0], progress=False).results.tolist() == [-3.0, -6.0, -9.0]
    assert tried == [[3], [2], [1], [1], [1]]


def wide(rate: torch.Tensor, seed: torch.Tensor) -> torch.Tensor:
    """A run of a few times two megabytes."""
    x = torch.ones(2**19) * rate
    for _ in range(2):
        x = x - rate * (x + seed)
    return x.mean()


def peak(call: Callable[[], Any]) -> tuple[Any, int]:
    """What it returns, and by how many megabytes the process has grown in between at most."""

    def megabytes(what: str) -> int:
        (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if what in line]
        return int(line.split()[1]) // 1024

    before = megabytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest size from here on
    return call(), megabytes("VmHWM") - before


def told(call: Callable[[], Any]) -> str:
    try:
        call()
    except ps.PureSGDError as error:
        return str(error)
    return "nothing"


def in_little_memory(found: Any) -> None:
    """What sweeps do where little is free, or is said to be."""
    import resource

    torch.set_num_threads(1)
    memory.free_memory = lambda: FREE * MEGABYTE
    sizes: list[list[int]] = []

    def run(rate: torch.Tensor, seed: torch.Tensor) -> torch.Tensor:
        sizes.append(functorch.mapped_sizes())
        return wide(rate, seed)

    grids: Any = {"rate": torch.linspace(0, 1, 16), "seed": range(8), "progress": False}
    ps.sweep(wide, rate=[0.1], seed=[0])  # what torch imports for the first
    cut, with_cut = peak(lambda: ps.sweep(run, **grids).results)
    given = ps.sweep(wide, **grids, chunk_size=torch.Size(sizes[-1]).numel()).results
    whole, with_whole = peak(lambda: ps.sweep(wide, **grids, chunk_size=128).results)
    found.put(((with_cut, with_whole), sizes, torch.equal(cut, given), torch.allclose(cut, whole)))
    many = told(lambda: ps.sweep(lambda x: x * torch.ones(MEGABYTE), x=torch.ones(100), progress=False))
    large = told(lambda: ps.sweep(lambda x: (x * torch.ones(2**27)).sum(), x=torch.ones(4), progress=False))
    found.put((many, large, resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY))


@on_linux
def test_a_sweep_stays_within_the_memory_that_is_free():
    context = multiprocessing.get_context("spawn")
    found = context.Queue()
    process = context.Process(target=in_little_memory, args=(found,), daemon=True)
    process.start()
    (with_cut, with_whole), sizes, as_given, as_whole = found.get(timeout=120)
    assert FREE / 4 < with_cut < FREE < 3 * FREE < with_whole
    used = torch.Size(sizes[-1]).numel()
    assert [torch.Size(tried).numel() for tried in sizes] == [128, 64, 32, *[used] * (128 // used)][
        -len(sizes) :
    ]
    assert as_given
    assert as_whole
    many, large, unbound = found.get(timeout=120)
    assert "the results of all 100 runs take 0.391 GiB, which is more than is free" in many
    assert "a single run takes more memory than is free (" in large
    assert "chunk_size=1" in large
    assert unbound
    process.join()


@on_linux
def test_a_bound_is_lifted_however_its_block_ends():
    import resource

    def limit() -> int:
        return resource.getrlimit(resource.RLIMIT_DATA)[0]

    def fails() -> None:
        with memory.bounded():
            within.append(limit())
            with memory.bounded():
                within.append(limit())
            within.append(limit())
            raise KeyError

    within, before = [], limit()
    with pytest.raises(KeyError):
        fails()
    assert limit() == before
    assert within == within[:1] * 3 != [before] * 3


GROUPS = {
    "first version": (
        "4:memory:/jobs/one\n3:cpu:/jobs",
        "memory/jobs/one memory/jobs memory",
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_", str(2**63 - 4096)),
    ),
    "second version": (
        "0::/jobs/one",
        "jobs/one jobs .",
        ("memory.max", "memory.current", "", "max"),
    ),
    "a container": ("0::/outside/of/it", ". . .", ("memory.max", "memory.current", "", "max")),
}


@on_linux
@pytest.mark.parametrize("kind", GROUPS)
def test_what_is_free_is_the_least_of_the_machine_and_its_groups(monkeypatch, tmp_path, kind: str):
    lines, folders, (limit, used, total, unlimited) = GROUPS[kind]
    monkeypatch.setattr(memory, "ROOT", tmp_path)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(lines)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:  1000 kB\n")
    assert memory.free_memory() == 1000 * 1024
    (tmp_path / "proc/self/cgroup").rename(tmp_path / "hidden")
    assert memory.free_memory() is None
    (tmp_path / "hidden").rename(tmp_path / "proc/self/cgroup")
    one, parent, _ = [tmp_path / "sys/fs/cgroup" / folder for folder in folders.split()]
    for folder, most in ((one, unlimited), (parent, "5000")):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / limit).write_text(most + "\n")
        (folder / used).write_text("4500\n")
        (folder / "memory.stat").write_text(f"cache 4000\n{total}inactive_file 300\n{total}active_file 50\n")
    assert memory.free_memory() == 5000 - 4500 + 300 + 50
