"""Checkpoints: whole or not there, whatever happens while they are written."""

from __future__ import annotations

import ctypes
import errno
import multiprocessing
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from saved_trees import ARRAYS, assert_same, weights

import pure_sgd as ps
from pure_sgd.training.checkpoints import directory, saving

# Only a process with one thread may have a file system of its own. JAX, where another test has imported it,
# warns of every fork.
FORK = multiprocessing.get_context("fork")
pytestmark = pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")


@pytest.mark.parametrize("moment", ["write_tensors", "write_manifest", "_verify", "_make_room"])
def test_a_failure_while_writing_leaves_the_older_one_and_nothing_else(tmp_path, monkeypatch, moment):
    ps.save_checkpoint(tmp_path, weights(1.0), step=1)

    def fail(*arguments: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(saving, moment, fail)
    with pytest.raises(OSError, match=r"Input/output error, so nothing was saved: .*step_0000000002") as told:
        ps.save_checkpoint(tmp_path, weights(2.0), step=2)
    assert told.value.errno == errno.EIO
    assert [path.name for path in tmp_path.iterdir()] == ["step_0000000001"]
    assert ps.load_checkpoint(tmp_path, weights())["w"][0, 0] == 1


def test_what_a_disk_gives_back_changed_is_not_a_checkpoint(tmp_path, monkeypatch):
    write = saving.write_tensors

    def and_flip(folder: Path, *arguments: Any) -> None:
        write(folder, *arguments)
        with (folder / ARRAYS).open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\x01")

    monkeypatch.setattr(saving, "write_tensors", and_flip)
    with pytest.raises(ps.CorruptCheckpointError, match="does not have its checksum"):
        ps.save_checkpoint(tmp_path, weights(), step=1)
    assert list(tmp_path.iterdir()) == []


def test_what_a_crashed_writer_left_is_removed_when_it_is_old(tmp_path):
    left = tmp_path / f"{directory.UNFINISHED}0"
    left.mkdir()
    (left / ARRAYS).write_bytes(b"half")
    ps.save_checkpoint(tmp_path, weights(), step=1)
    assert left.exists()
    for path in (left / ARRAYS, left):
        os.utime(path, (time.time() - 7200,) * 2)
    ps.save_checkpoint(tmp_path, weights(), step=2)
    assert not left.exists()


# --- full disks ---

NOT_ALLOWED = 77


def small_disk(path: Path) -> None:
    """Mount a file system of 1 MB, which only this process sees."""
    user, group, libc = os.getuid(), os.getgid(), ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x10000000 | 0x00020000):  # new user and mount namespaces
        os._exit(NOT_ALLOWED)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    if libc.mount(b"none", str(path).encode(), b"tmpfs", 0, b"size=1m"):
        os._exit(NOT_ALLOWED)


def small_files(path: Path) -> None:
    """Where no file system may be mounted: no file may grow beyond 1 MB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))


def full_disk_loses_nothing(path: Path, confine: Callable[[Path], None]) -> None:
    torch.set_num_threads(1)
    confine(path)
    ps.save_checkpoint(path, weights(1.0), step=1)
    large = {"w": torch.ones(2**19)}  # 2 MB
    for step in (2, 3, 4):
        with pytest.raises(OSError, match=rf"so nothing was saved: .*step_000000000{step}") as told:
            ps.save_checkpoint(path, large, step)
        assert told.value.errno in (errno.ENOSPC, errno.EFBIG)
        assert [left.name for left in path.iterdir()] == ["step_0000000001"]
    checkpoints = ps.AsyncCheckpoints(path)
    checkpoints.save(large, step=5)
    with pytest.raises(OSError, match=r"so nothing was saved: .*step_0000000005"):
        checkpoints.save(weights(6.0), step=6)
    assert_same(ps.load_checkpoint(path, weights()), weights(1.0))
    checkpoints.save(weights(6.0), step=6)
    checkpoints.wait()
    assert_same(ps.load_checkpoint(path, weights()), weights(6.0))


def disk_of_any_room_loses_nothing(path: Path) -> None:
    """Whichever write it is that finds the disk full."""
    torch.set_num_threads(1)
    small_disk(path)
    state, filler, failures = {"w": torch.ones(2**13)}, path / "filler", 0
    ps.save_checkpoint(path, state, step=0, keep=1)
    for pages in range(16):
        filler.unlink(missing_ok=True)
        room = os.statvfs(path)
        filler.write_bytes(b"0" * (room.f_bavail - pages) * room.f_bsize)
        try:
            ps.save_checkpoint(path, state, step=pages + 1, keep=1)
        except OSError as error:
            failures += error.errno == errno.ENOSPC
        assert len(list(path.iterdir())) == 2
        assert_same(ps.load_checkpoint(path, state), state)
    assert 5 < failures < 16


@pytest.mark.parametrize(
    "body, arguments",
    [
        (full_disk_loses_nothing, (small_disk,)),
        (full_disk_loses_nothing, (small_files,)),
        (disk_of_any_room_loses_nothing, ()),
    ],
)
def test_a_full_disk(tmp_path, body, arguments):
    process = FORK.Process(target=body, args=(tmp_path, *arguments))
    process.start()
    process.join()
    if process.exitcode == NOT_ALLOWED:
        pytest.skip("this system lets nobody mount a file system of his own")
    assert process.exitcode == 0


# --- two writers ---


def save_all(path: Path, writer: int, saved: Any) -> None:
    torch.set_num_threads(1)
    for step in range(20):
        try:
            ps.save_checkpoint(
                path, {"w": torch.full((1000,), float(writer)), "writer": writer}, step, keep=None
            )
        except (ps.PureSGDError, OSError):
            continue
        saved.put(step)


def test_two_writers_do_not_mix(tmp_path):
    saved = FORK.SimpleQueue()
    writers = [FORK.Process(target=save_all, args=(tmp_path, writer, saved)) for writer in (1, 2, 3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert sorted(saved.get() for _ in range(20)) == list(range(20))
    assert saved.empty()
    for step in range(20):
        like: dict[str, Any] = {"w": torch.zeros(1000), "writer": 0}
        loaded = ps.load_checkpoint(tmp_path, like, step)
        assert torch.all(loaded["w"] == loaded["writer"])
    assert len(list(tmp_path.iterdir())) == 20


# --- writers that are killed ---


def save_for_ever(path: Path, ready: Any) -> None:
    torch.set_num_threads(1)
    for step in range(1, 10**6):
        ps.save_checkpoint(path, {"w": torch.full((200_000,), float(step)), "step": step}, step, keep=2)
        ready.set()


def save_for_ever_behind(path: Path, ready: Any) -> None:
    torch.set_num_threads(1)
    tree = {"w": torch.zeros(200_000)}
    with ps.AsyncCheckpoints(path, keep=2) as checkpoints:
        for step in range(1, 10**6):
            tree["w"].fill_(step)
            checkpoints.save({**tree, "step": step}, step)
            if step > 1:
                ready.set()


def killed_while_saving(path: Path, target: Callable[..., None], times: int) -> None:
    """Kill a process that does nothing but save; what is listed then is whole."""
    draw = random.Random(0)
    for round in range(times):
        ready = FORK.Event()
        writer = FORK.Process(target=target, args=(path / str(round), ready))
        writer.start()
        assert ready.wait(60)
        time.sleep(draw.uniform(0.0, 0.03))
        os.kill(writer.pid or 0, signal.SIGKILL)
        writer.join()
        like: dict[str, Any] = {"w": torch.zeros(200_000), "step": 0}
        steps = ps.checkpoint_steps(path / str(round))
        assert steps
        for step in steps:
            loaded = ps.load_checkpoint(path / str(round), like, step)
            assert loaded["step"] == step
            assert torch.all(loaded["w"] == step)
        shutil.rmtree(path / str(round))


@pytest.mark.parametrize("target", [save_for_ever, save_for_ever_behind])
def test_a_writer_that_is_killed_leaves_whole_checkpoints(tmp_path, target):
    killed_while_saving(tmp_path, target, times=3)


@pytest.mark.slow
@pytest.mark.parametrize("target", [save_for_ever, save_for_ever_behind])
def test_a_writer_that_is_killed_at_50_moments_leaves_whole_checkpoints(tmp_path, target):
    killed_while_saving(tmp_path, target, times=50)
