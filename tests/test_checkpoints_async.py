"""Checkpoints that are written behind the training: the same files, and no error is lost."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from saved_trees import ARRAYS, MANIFEST, assert_same, everything, weights

import pure_sgd as ps
from pure_sgd.training.checkpoints import background


@pytest.fixture
def slow_disk(monkeypatch):
    """Writes wait for the event that is given."""
    gate, write = threading.Event(), background.save_snapshot

    def waiting(*arguments: Any) -> Path:
        assert gate.wait(60)
        return write(*arguments)

    monkeypatch.setattr(background, "save_snapshot", waiting)
    yield gate
    gate.set()


def broken(*arguments: Any) -> Path:
    raise OSError(28, "No space left on device")


def save_and_leave(path: Path, step: int, how: BaseException | None) -> None:
    with ps.AsyncCheckpoints(path) as checkpoints:
        checkpoints.save(weights(), step)
        if how is not None:
            raise how


def test_the_files_are_those_that_are_written_at_once(tmp_path):
    at_once = ps.save_checkpoint(tmp_path / "at once", everything(), 3, metadata={"loss": 0.5})
    with ps.AsyncCheckpoints(tmp_path / "behind") as checkpoints:
        checkpoints.save(everything(), 3, metadata={"loss": 0.5})
    for name in (ARRAYS, MANIFEST):
        assert (tmp_path / "behind" / at_once.name / name).read_bytes() == (at_once / name).read_bytes()


def test_what_is_saved_is_what_the_state_was(tmp_path, slow_disk):
    tree, metadata = weights(1.0), {"losses": [0.5]}
    checkpoints = ps.AsyncCheckpoints(tmp_path)
    checkpoints.save(tree, step=1, metadata=metadata)
    tree["w"].fill_(2.0)  # as a compiled step does with the state that was donated to it
    metadata["losses"].append(0.25)
    assert ps.checkpoint_steps(tmp_path) == []
    slow_disk.set()
    checkpoints.wait()
    assert_same(ps.load_checkpoint(tmp_path, weights()), weights(1.0))
    assert ps.checkpoint_metadata(tmp_path) == {"losses": [0.5]}


def test_one_is_written_at_a_time_and_the_end_waits(tmp_path, monkeypatch):
    writing, most, write = [], [], background.save_snapshot

    def counted(*arguments: Any) -> Path:
        writing.append(1)
        most.append(len(writing))
        written = write(*arguments)
        writing.pop()
        return written

    monkeypatch.setattr(background, "save_snapshot", counted)
    with ps.AsyncCheckpoints(tmp_path, keep=2) as checkpoints:
        for step in range(10):
            checkpoints.save(weights(step), step)
    assert most == [1] * 10
    assert ps.checkpoint_steps(tmp_path) == [8, 9]
    assert len(list(tmp_path.iterdir())) == 2


def test_an_error_comes_with_the_next_call_once(tmp_path, monkeypatch):
    checkpoints = ps.AsyncCheckpoints(tmp_path)
    for later in (lambda: checkpoints.save(weights(), step=2), checkpoints.wait):
        with monkeypatch.context() as patch:
            patch.setattr(background, "save_snapshot", broken)
            checkpoints.save(weights(), step=1)
            with pytest.raises(OSError, match="No space left"):
                later()
        assert ps.checkpoint_steps(tmp_path) == []
        checkpoints.wait()
    checkpoints.save(weights(), step=3)
    checkpoints.save(weights(), step=3)
    with pytest.raises(ps.PureSGDError, match="step_0000000003: is there already"):
        checkpoints.wait()


def test_an_error_comes_at_the_end_of_the_block_and_hides_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(background, "save_snapshot", broken)
    with pytest.raises(OSError, match="No space left"):
        save_and_leave(tmp_path, 1, None)
    with pytest.raises(ZeroDivisionError) as told:
        save_and_leave(tmp_path, 1, ZeroDivisionError())
    assert told.value.__notes__ == ["Nor was the last checkpoint written: [Errno 28] No space left on device"]


def test_an_exception_waits_for_the_checkpoint_and_an_interrupt_does_not(tmp_path, slow_disk):
    with pytest.raises(KeyboardInterrupt):
        save_and_leave(tmp_path, 1, KeyboardInterrupt())
    assert ps.checkpoint_steps(tmp_path) == []
    slow_disk.set()
    with pytest.raises(SystemExit):
        save_and_leave(tmp_path, 2, SystemExit())
    assert 2 in ps.checkpoint_steps(tmp_path)
