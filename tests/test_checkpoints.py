"""Checkpoints: whole or not there, bit for bit, and nothing that was changed is believed."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import safetensors.torch
import torch

import pure_sgd as ps
from pure_sgd.training.checkpoints import contents, directory, saving

ARRAYS, MANIFEST = contents.ARRAYS, contents.MANIFEST


class Names(NamedTuple):
    first: Any
    second: Any


class Others(NamedTuple):
    first: Any
    second: Any


def everything() -> dict[str, Any]:
    """A tree with one leaf of each kind."""
    real = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    kinds = (torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.complex64, torch.complex128)
    shared = torch.arange(6.0)
    return {
        **{str(dtype): real.to(dtype) for dtype in kinds},
        "eight bits": real.to(torch.float8_e4m3fn).view(torch.uint8),
        "whole": torch.tensor([2**63 - 1, -(2**63)]),
        "bool": torch.tensor([True, False]),
        "not finite": torch.tensor([float("nan"), float("inf"), -0.0]),
        "no axes": torch.tensor(0.1),
        "empty": torch.zeros(0, 3),
        "transposed": real.T,
        "conjugate": torch.tensor([1 + 2j]).conj(),
        "twice": [shared, shared[2:]],
        "ünïcode / .": Names(torch.ones(1), None),
        "numbers": (True, 3, 2**70, 0.1, float("nan"), float("inf"), "text"),
    }


def assert_same(one: Any, other: Any) -> None:
    assert ps.tree.structure(one) == ps.tree.structure(other)
    for (path, a), b in zip(ps.tree.named_leaves(one), ps.tree.leaves(other), strict=True):
        if isinstance(a, torch.Tensor):
            assert (a.shape, a.dtype) == (b.shape, b.dtype), path
            assert contents.leaf_of(path, a) == contents.leaf_of(path, b), path
        else:
            assert type(a) is type(b), path
            assert repr(a) == repr(b), path


def weights(value: float = 1.0) -> dict[str, torch.Tensor]:
    return {"w": torch.full((4, 2), float(value)), "b": torch.zeros(2)}


def test_every_kind_of_leaf_comes_back_bit_for_bit(tmp_path):
    tree = everything()
    ps.save_checkpoint(tmp_path, tree, step=1)
    assert_same(ps.load_checkpoint(tmp_path, tree), tree)


def test_values_come_from_the_file_and_devices_and_structure_from_like(tmp_path):
    ps.save_checkpoint(tmp_path, Names(torch.ones(2), 5), step=1)
    loaded = ps.load_checkpoint(tmp_path, Others(torch.zeros(2), 0))
    assert type(loaded) is Others
    assert loaded.first.tolist() == [1, 1]
    assert loaded.second == 5


def test_other_programs_read_the_tensors(tmp_path):
    folder = ps.save_checkpoint(tmp_path, weights(3.0), step=12)
    assert folder == tmp_path / "step_0000000012"
    assert torch.equal(safetensors.torch.load_file(folder / ARRAYS)["['w']"], weights(3.0)["w"])
    manifest = json.loads((folder / MANIFEST).read_text())
    leaf = manifest["leaves"]["['w']"]
    assert (leaf["dtype"], leaf["shape"]) == ("float32", [4, 2])
    assert leaf["sha256"] == hashlib.sha256(weights(3.0)["w"].numpy().tobytes()).hexdigest()
    assert manifest["library"].startswith("pure_sgd ")


def test_the_newest_are_kept_and_the_newest_is_loaded(tmp_path):
    for step in range(5):
        ps.save_checkpoint(tmp_path, weights(step), step, keep=2, metadata={"loss": step / 2})
    assert ps.checkpoint_steps(tmp_path) == [3, 4]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_0000000003", "step_0000000004"]
    assert ps.load_checkpoint(tmp_path, weights())["w"][0, 0] == 4
    assert ps.load_checkpoint(tmp_path, weights(), step=3)["w"][0, 0] == 3
    assert ps.checkpoint_metadata(tmp_path) == {"loss": 2.0}
    assert ps.checkpoint_metadata(tmp_path, step=3) == {"loss": 1.5}
    ps.save_checkpoint(tmp_path, weights(), step=9, keep=None)
    assert ps.checkpoint_steps(tmp_path) == [3, 4, 9]


def test_parameters_alone_and_under_other_names(tmp_path):
    state = ps.init_train_state(weights(2.0), ps.adam(0.1))
    ps.save_checkpoint(tmp_path, state, step=0)
    alone = ps.load_checkpoint(tmp_path, weights(), rename={"": ".params"}, partial=True)
    assert_same(alone, weights(2.0))
    like = {"body": weights(), "head": torch.full((3,), 7.0)}
    tuned = ps.load_checkpoint(tmp_path, like, rename={"['body']": ".params"}, partial=True)
    assert_same(tuned, {"body": weights(2.0), "head": torch.full((3,), 7.0)})


def test_all_differences_are_named_at_once(tmp_path):
    ps.save_checkpoint(tmp_path, {"a": torch.ones(2), "b": torch.ones(3), "c": 1, "gone": 2.0}, step=0)
    like = {"a": torch.ones(2, 1), "b": torch.ones(3).double(), "c": torch.ones(()), "new": torch.ones(1)}
    with pytest.raises(ps.PureSGDError) as told:
        ps.load_checkpoint(tmp_path, like)
    for sentence in (
        "['a'] is float32 (2,) in the file, expected float32 (2, 1)",
        "['b'] is float32 (3,) in the file, expected float64 (3,)",
        "['c'] is int in the file, expected float32 ()",
        "['new'] is not in the file",
        "['gone'] is in the file, and nobody expects it",
    ):
        assert sentence in str(told.value)


@pytest.mark.parametrize(
    "save, message",
    [
        (lambda path: ps.save_checkpoint(path, {"f": [torch.ones]}, step=0), r"\['f'\]\[0\]: is a builtin"),
        (lambda path: ps.save_checkpoint(path, {}, step=-1), "step=-1 is not at least 0"),
        (lambda path: ps.save_checkpoint(path, {}, step=0, keep=0), "keep=0 is not at least 1"),
        (lambda path: ps.save_checkpoint(path, {}, step=0, metadata={"f": print}), "metadata: is not JSON"),
        (lambda path: ps.save_checkpoint(path, {}, 0, metadata={"x": float("nan")}), "metadata: is not JSON"),
        (lambda path: ps.load_checkpoint(path, {}), "holds no checkpoint"),
        (lambda path: ps.load_checkpoint(path, {}, step=3), "there is no such checkpoint"),
        (lambda path: ps.checkpoint_metadata(path), "holds no checkpoint"),
    ],
)
def test_what_cannot_be_is_an_error_and_leaves_nothing(tmp_path, save, message):
    with pytest.raises(ps.PureSGDError, match=message):
        save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_step_is_never_written_over_unless_it_is_corrupt(tmp_path):
    folder = ps.save_checkpoint(tmp_path, weights(1.0), step=1)
    with pytest.raises(ps.PureSGDError, match="step_0000000001: is there already"):
        ps.save_checkpoint(tmp_path, weights(2.0), step=1)
    assert ps.load_checkpoint(tmp_path, weights())["w"][0, 0] == 1
    (folder / ARRAYS).write_bytes(b"")
    ps.save_checkpoint(tmp_path, weights(2.0), step=1)
    assert ps.load_checkpoint(tmp_path, weights())["w"][0, 0] == 2


def test_a_state_that_changes_while_it_is_written_is_not_saved(tmp_path, monkeypatch):
    tree, write = weights(), saving.write_folder

    def and_change(*arguments: Any) -> None:
        write(*arguments)
        tree["w"][0, 0] = 5.0

    monkeypatch.setattr(saving, "write_folder", and_change)
    with pytest.raises(ps.PureSGDError, match=r"state\['w'\]: changed while it was written"):
        ps.save_checkpoint(tmp_path, tree, step=1)
    assert list(tmp_path.iterdir()) == []


def test_from_a_corrupt_newest_one_falls_back_only_if_asked_and_says_so(tmp_path):
    for step in (1, 2, 3):
        folder = ps.save_checkpoint(tmp_path, weights(step), step)
    (folder / ARRAYS).unlink()
    with pytest.raises(ps.CorruptCheckpointError, match=f"{ARRAYS} is missing"):
        ps.load_checkpoint(tmp_path, weights())
    with pytest.warns(UserWarning, match=f"step_0000000003: {ARRAYS} is missing"):
        assert ps.load_checkpoint(tmp_path, weights(), fallback=True)["w"][0, 0] == 2
    with pytest.raises(ps.CorruptCheckpointError):
        ps.load_checkpoint(tmp_path, weights(), step=3, fallback=True)


# --- files that were changed ---


def flip(data: bytes, draw: random.Random) -> bytes:
    position, bit = draw.randrange(len(data)), 1 << draw.randrange(8)
    return data[:position] + bytes([data[position] ^ bit]) + data[position + 1 :]


def cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def longer(data: bytes, draw: random.Random) -> bytes:
    return data + draw.randbytes(draw.randrange(1, 100))


def shuffled(data: bytes, draw: random.Random) -> bytes:
    start, size = draw.randrange(len(data)), draw.randrange(1, 64)
    return data[:start] + draw.randbytes(size) + data[start + size :]


def none_is_accepted(folder: Path, like: Any, tries: int) -> None:
    """Change one of the files in one of four ways, again and again: an error, or the same bits."""
    draw = random.Random(0)
    originals = {name: (folder / name).read_bytes() for name in (ARRAYS, MANIFEST)}
    for _ in range(tries):
        name, change = draw.choice((ARRAYS, MANIFEST)), draw.choice((flip, cut, longer, shuffled))
        changed = change(originals[name], draw)
        (folder / name).write_bytes(changed)
        try:
            loaded = ps.load_checkpoint(folder.parent, like)
        except ps.CorruptCheckpointError:
            pass
        else:
            # White space in a manifest means nothing.
            assert name == MANIFEST, change
            assert json.loads(changed) == json.loads(originals[name])
            assert_same(loaded, like)
        (folder / name).write_bytes(originals[name])
    assert_same(ps.load_checkpoint(folder.parent, like), like)


def test_no_changed_file_is_accepted(tmp_path):
    folder = ps.save_checkpoint(tmp_path, everything(), step=1)
    none_is_accepted(folder, everything(), tries=300)


@pytest.mark.slow
def test_of_10_000_changed_files_none_is_accepted(tmp_path):
    state = ps.init_train_state(weights(), ps.adam(0.1))
    folder = ps.save_checkpoint(tmp_path, state, step=1)
    none_is_accepted(folder, state, tries=10_000)


def rewritten(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """A manifest that lies, with a checksum that is right."""
    body = json.loads((folder / MANIFEST).read_text())
    del body["sha256"]
    change(body)
    body["sha256"] = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(body))


@pytest.mark.parametrize(
    "lie, message",
    [
        (lambda body: body.update(format="pure_sgd checkpoint 99"), "its format is 'pure_sgd checkpoint 99'"),
        (lambda body: body.update(extra=1), "does not have its checksum"),
        (lambda body: body.update(bytes=10**15), f"{ARRAYS} has .* bytes"),
        (lambda body: body.update(leaves=[]), "cannot be read"),
        (lambda body: body["leaves"]["['w']"].pop("sha256"), "cannot be read"),
        (lambda body: body["leaves"]["['w']"].update(shape=[10**12]), r"\(1000000000000,\) in the file"),
        (lambda body: body["leaves"]["['w']"].update(shape=7), "cannot be read"),
        (lambda body: body["leaves"]["['w']"].update(dtype="Tensor"), r"Tensor \(4, 2\) in the file"),
        (lambda body: body["leaves"]["['w']"].update(sha256="0" * 64), "does not have its checksum"),
        (lambda body: body["leaves"].update({"../../x": body["leaves"]["['w']"]}), "name different leaves"),
    ],
)
def test_a_manifest_that_lies_is_not_believed(tmp_path, lie, message):
    rewritten(ps.save_checkpoint(tmp_path, weights(), step=1), lie)
    with pytest.raises(ps.PureSGDError, match=message):
        ps.load_checkpoint(tmp_path, weights(), partial=True)
    # Nor is it by the writer, who asks whether the step is there already.
    ps.save_checkpoint(tmp_path, weights(2.0), step=1)
    assert_same(ps.load_checkpoint(tmp_path, weights()), weights(2.0))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\x80\x04\x95",
        b"[]",
        b"{}",
        b"null",
        b"[" * 100_000,
        b'{"format": "pure_sgd checkpoint 1", "format": 2}',
        b'{"step": ' + b"9" * 10_000 + b"}",
    ],
)
def test_a_manifest_of_nonsense_is_an_error(tmp_path, text):
    folder = ps.save_checkpoint(tmp_path, weights(), step=1)
    (folder / MANIFEST).write_bytes(text)
    with pytest.raises(ps.CorruptCheckpointError):
        ps.load_checkpoint(tmp_path, weights())


def test_links_are_not_followed(tmp_path):
    folder = ps.save_checkpoint(tmp_path, weights(), step=1)
    shutil.move(folder / ARRAYS, tmp_path / "elsewhere")
    (folder / ARRAYS).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ps.CorruptCheckpointError, match="is no plain file"):
        ps.load_checkpoint(tmp_path, weights())


def test_a_huge_manifest_is_not_read(tmp_path):
    folder = ps.save_checkpoint(tmp_path, weights(), step=1)
    with (folder / MANIFEST).open("r+b") as file:
        file.truncate(2**40)  # takes no room on the disk
    with pytest.raises(ps.CorruptCheckpointError, match="more than any has"):
        ps.load_checkpoint(tmp_path, weights())


# --- crashes ---


@pytest.mark.parametrize("moment", ["write_folder", "_verify", "_make_room"])
def test_a_failure_while_writing_leaves_the_older_one_and_nothing_else(tmp_path, monkeypatch, moment):
    ps.save_checkpoint(tmp_path, weights(1.0), step=1)

    def fail(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, moment, fail)
    with pytest.raises(OSError, match="No space left"):
        ps.save_checkpoint(tmp_path, weights(2.0), step=2)
    assert [path.name for path in tmp_path.iterdir()] == ["step_0000000001"]
    assert ps.load_checkpoint(tmp_path, weights())["w"][0, 0] == 1


def test_what_a_crashed_writer_left_is_removed_when_it_is_old(tmp_path):
    left = directory.unfinished_folder(tmp_path)
    (left / ARRAYS).write_bytes(b"half")
    ps.save_checkpoint(tmp_path, weights(), step=1)
    assert left.exists()
    for path in (left / ARRAYS, left):
        os.utime(path, (time.time() - 7200,) * 2)
    ps.save_checkpoint(tmp_path, weights(), step=2)
    assert not left.exists()


def save_for_ever(path: Path, ready: Any) -> None:
    torch.set_num_threads(1)
    for step in range(1, 10**6):
        tree = {"w": torch.full((200_000,), float(step)), "step": step}
        ps.save_checkpoint(path, tree, step, keep=2)
        ready.set()


def killed_while_saving(path: Path, times: int) -> None:
    """Kill a process that does nothing but save; what is listed then is whole."""
    draw, context = random.Random(0), multiprocessing.get_context("fork")
    for round in range(times):
        ready = context.Event()
        writer = context.Process(target=save_for_ever, args=(path / str(round), ready))
        writer.start()
        assert ready.wait(60)
        time.sleep(draw.uniform(0.0, 0.03))
        os.kill(writer.pid or 0, signal.SIGKILL)
        writer.join()
        like = {"w": torch.zeros(200_000), "step": 0}
        steps = ps.checkpoint_steps(path / str(round))
        assert steps
        for step in steps:
            loaded = ps.load_checkpoint(path / str(round), like, step)
            assert loaded["step"] == step
            assert torch.all(loaded["w"] == step)
        shutil.rmtree(path / str(round))


def test_a_writer_that_is_killed_leaves_whole_checkpoints(tmp_path):
    killed_while_saving(tmp_path, times=4)


@pytest.mark.slow
def test_a_writer_that_is_killed_at_50_moments_leaves_whole_checkpoints(tmp_path):
    killed_while_saving(tmp_path, times=50)
