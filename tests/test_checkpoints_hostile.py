"""Checkpoints: nothing that was changed is believed, whoever changed it and however."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from saved_trees import (
    ARRAYS,
    MANIFEST,
    a_lie,
    assert_same,
    certified,
    everything,
    forms,
    rewritten,
    weights,
)

import pure_sgd as ps
from pure_sgd.training.checkpoints import manifest


def number(kind: str, value: Any) -> dict[str, Any]:
    return {"kind": kind, "dtype": None, "shape": [], "sha256": None, "value": value}


def tensor_of(*shape: int) -> dict[str, Any]:
    return {"kind": "tensor", "dtype": "float32", "shape": shape, "sha256": "0" * 64, "value": None}


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


def lies_are_told(root: Path, tries: int) -> int:
    """Manifests with a lie and a checksum that is right: an error, or leaves of the kinds asked for."""
    draw, errors = random.Random(0), set[str]()
    state = {"tree": weights(), "n": 7, "x": 0.5, "on": True, "name": "text"}
    folder = ps.save_checkpoint(root, state, step=1)
    original = (folder / MANIFEST).read_bytes()
    for _ in range(tries):
        (folder / MANIFEST).write_bytes(certified(a_lie(original, draw)))
        try:
            loaded = ps.load_checkpoint(root, state)
        except ps.PureSGDError as error:
            errors.add(str(error))
        else:
            assert forms(loaded) == forms(state)
    assert all(str(root) in error for error in errors)
    return len(errors)


def test_lies_with_a_checksum_that_is_right(tmp_path):
    assert lies_are_told(tmp_path, tries=300) > 50


@pytest.mark.slow
def test_10_000_lies(tmp_path):
    lies_are_told(tmp_path, tries=10_000)


@pytest.mark.parametrize(
    "lie, message",
    [
        (lambda body: body.update(format="pure_sgd checkpoint 99"), "its format is 'pure_sgd checkpoint 99'"),
        (lambda body: body.update(extra=1), "does not have its checksum"),
        (lambda body: body.update(step=2), "it is the checkpoint of step 2"),
        (lambda body: body.update(step="1"), "has no step"),
        (lambda body: body.update(metadata=[]), "has no step or no metadata"),
        (lambda body: body.update(leaves=[]), "cannot be read"),
        (lambda body: body["leaves"]["['w']"].pop("sha256"), "cannot be read"),
        (lambda body: body["leaves"]["['w']"].update(shape=[10**12]), r"\(1000000000000,\) in the file"),
        (lambda body: body["leaves"]["['w']"].update(shape=7), "cannot be read"),
        (lambda body: body["leaves"]["['w']"].update(dtype="Tensor"), r"\['w'\] is no leaf"),
        (lambda body: body["leaves"]["['w']"].update(shape=[2**70, 0]), r"\['w'\] is no leaf"),
        (lambda body: body["leaves"]["['w']"].update(shape=[-4, -2]), r"\['w'\] is no leaf"),
        (lambda body: body["leaves"]["['w']"].update(shape=[4.0, 2.0]), r"\['w'\] is no leaf"),
        (lambda body: body["leaves"]["['w']"].update(kind="ghost"), r"\['w'\] is no leaf"),
        (lambda body: body["leaves"].update(n=number("int", "7")), "n is no leaf"),
        (lambda body: body["leaves"].update(n=number("float", "0x1p99999")), "cannot be read"),
        (lambda body: body["leaves"].update(n=number("bool", 1)), "n is no leaf"),
        (
            lambda body: body["leaves"].update(n=tensor_of(2**40)),
            f"{ARRAYS} has .* bytes, and by the manifest",
        ),
        (lambda body: body["leaves"].update(n=tensor_of(2**62, 2**62, 0)), f"{ARRAYS} .*bytes"),
        (lambda body: body["leaves"]["['w']"].update(sha256="0" * 64), "does not have its checksum"),
        (lambda body: body["leaves"].update({"../../x": body["leaves"]["['w']"]}), f"{ARRAYS} has .* bytes"),
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


def test_files_of_two_checkpoints_do_not_mix(tmp_path):
    one, two = (ps.save_checkpoint(tmp_path, weights(step), step) for step in (1, 2))
    for name, message in ((ARRAYS, "does not have its checksum"), (MANIFEST, "is the checkpoint of step 1")):
        kept = (two / name).read_bytes()
        shutil.copy(one / name, two / name)
        with pytest.raises(ps.CorruptCheckpointError, match=message):
            ps.load_checkpoint(tmp_path, weights(), step=2)
        (two / name).write_bytes(kept)
    shutil.rmtree(two)
    one.rename(two)
    with pytest.raises(ps.CorruptCheckpointError, match="is the checkpoint of step 1"):
        ps.load_checkpoint(tmp_path, weights())


@pytest.mark.parametrize("name", [ARRAYS, MANIFEST])
def test_links_are_not_followed(tmp_path, name):
    folder = ps.save_checkpoint(tmp_path, weights(), step=1)
    shutil.move(folder / name, tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ps.CorruptCheckpointError, match="is no plain file"):
        ps.load_checkpoint(tmp_path, weights())
    (folder / name).unlink()
    os.mkfifo(folder / name)  # to open it would hang
    with pytest.raises(ps.CorruptCheckpointError, match="is no plain file"):
        ps.load_checkpoint(tmp_path, weights())


def test_what_is_named_like_a_checkpoint_and_is_none_is_left_alone(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    folder = ps.save_checkpoint(outside, weights(), step=5)
    inside.mkdir()
    (inside / folder.name).symlink_to(folder)
    (inside / "step_0000000006").write_text("a file")
    (inside / "step_00000000000007").mkdir()
    (inside / "step_٠٠٠٠٠٠٠٠٠٨").mkdir()
    (inside / ".unfinished-link").symlink_to(outside)
    before = sorted(path.name for path in inside.iterdir())
    assert ps.checkpoint_steps(inside) == []
    with pytest.raises(ps.PureSGDError, match="is there already"):
        ps.save_checkpoint(inside, weights(), step=5)
    ps.save_checkpoint(inside, weights(), step=9, keep=1)
    assert sorted(path.name for path in inside.iterdir()) == sorted([*before, "step_0000000009"])
    assert_same(ps.load_checkpoint(outside, weights()), weights())


def test_a_header_that_lies_takes_no_memory(tmp_path):
    folder = ps.save_checkpoint(tmp_path, weights(), step=1)
    for size in (0, 2**20, 2**40, 2**64 - 1):
        with (folder / ARRAYS).open("r+b") as file:
            file.write(size.to_bytes(8, "little"))
        tracemalloc.start()
        with pytest.raises(ps.CorruptCheckpointError, match="begins otherwise than the manifest says"):
            ps.load_checkpoint(tmp_path, weights())
        assert tracemalloc.get_traced_memory()[1] < 2**20
        tracemalloc.stop()


def many(item: Callable[[int], str], brackets: str = "{}") -> str:
    """As many items as half a megabyte holds, without a space."""
    found: list[str] = []
    size = 0
    while size < 2**19:
        found.append(item(len(found)))
        size += len(found[-1]) + 1
    return brackets[0] + ",".join(found) + brackets[1]


def leaf(shape: str) -> str:
    return f'{{"kind":"tensor","dtype":"bool","shape":{shape},"sha256":"","value":null}}'


#: What is much where it is parsed, and little where it is written: in metadata, and as leaves.
LISTS: dict[str, Callable[[int], str]] = {
    "lists": lambda number: "[]",
    "lists in lists": lambda number: "[" * 800 + "]" * 800,
    "objects": lambda number: '{"":0}',
    "objects in objects": lambda number: "".join(f'{{"{number}.{k}":' for k in range(300)) + "0" + "}" * 300,
    "strings": lambda number: f'"{number:05}"',
    "numbers": lambda number: "1e9",
    "long numbers": lambda number: "9" * 4000,
    "names": lambda number: f'{{"{number:x}":"ab","a{number:x}":0,"b{number:x}":0}}',
    "letters from afar": lambda number: '"abcdefghijklmnop\\ud83d\\ude00"',
}
METADATA: dict[str, Callable[[], str]] = {
    "names in one object": lambda: many(lambda number: f'"{number:x}":"ab"'),
    "a long string": lambda: f'{{"x":"{"a" * 2**19}"}}',
    "a long string of wide letters": lambda: f'{{"x":"\\ud83d\\ude00{"a" * 2**19}"}}',
    **{name: lambda item=item: f'{{"x":{many(item, "[]")}}}' for name, item in LISTS.items()},
}
LEAVES: dict[str, Callable[[], str]] = {
    "empty leaves": lambda: many(lambda number: f'"{number:x}":{leaf("[0]")}'),
    "leaves of many axes": lambda: many(lambda number: f'"{number:x}":{leaf("[0" + ",0" * 100 + "]")}'),
    "long paths": lambda: many(lambda number: f'"{number:x}\\ud83d\\ude00{"a" * 999}":{leaf("[0]")}'),
    "a long path to no leaf": lambda: f'{{"\\ud83d\\ude00{"a" * 2**19}":{leaf("7")}}}',
}


@pytest.mark.parametrize("kind", [*METADATA, *LEAVES])
def test_a_manifest_takes_no_more_memory_than_the_checkpoint_has_bytes_and_some_besides(
    tmp_path, monkeypatch, kind
):
    folder = ps.save_checkpoint(tmp_path, weights(), step=1)
    entries = [made[kind]() if kind in made else "{}" for made in (METADATA, LEAVES)]
    body = '"format":"pure_sgd checkpoint 2","library":"","step":1,"metadata":{},"leaves":{}'.format(*entries)
    digest = hashlib.sha256(json.dumps(json.loads(f"{{{body}}}"), sort_keys=True).encode()).hexdigest()
    text = f'{{{body},"sha256":"{digest}"}}'
    (folder / MANIFEST).write_text(text)

    def taken(besides: int, message: str) -> int:
        monkeypatch.setattr(manifest, "BESIDES", besides)
        tracemalloc.start()
        with pytest.raises(ps.CorruptCheckpointError, match=message):
            ps.load_checkpoint(tmp_path, {}, partial=True)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    # Where there is room it is read, and takes no more than was foretold.
    most = manifest.most_memory(text)
    assert taken(most, "by the manifest it has|is no leaf") < most
    # Where there is not it is refused, before it is parsed.
    assert taken(2**20, "may take") < 2**20 + sum(path.stat().st_size for path in folder.iterdir())


def test_what_we_write_is_never_too_much(tmp_path):
    state = {f"layer{number}": {"w": torch.zeros(1), "ü": number, "none": 0.5} for number in range(3000)}
    history = {"loss": [(0.1 * number).hex() for number in range(30_000)], "in_epoch": [*range(30_000)]}
    ps.save_checkpoint(tmp_path, state, step=1, metadata={"history": history, "short": ["0x0.0p+0"] * 30_000})
    assert ps.checkpoint_metadata(tmp_path)["history"] == history
    assert_same(ps.load_checkpoint(tmp_path, state), state)


def test_a_huge_manifest_is_not_read(tmp_path):
    folder = ps.save_checkpoint(tmp_path, weights(), step=1)
    with (folder / MANIFEST).open("r+b") as file:
        file.truncate(2**40)  # takes no room on the disk
    with pytest.raises(ps.CorruptCheckpointError, match="more than any has"):
        ps.load_checkpoint(tmp_path, weights())
