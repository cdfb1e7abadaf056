"""A state that is spread over ranks is saved whole or not at all, and goes on with any number of ranks."""

from __future__ import annotations

import errno
import pickle
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
from ranks import Failure, mesh_of, start
from saved_trees import ARRAYS, MANIFEST, assert_same, rewritten
from torch import distributed
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.tensor import DTensor, Partial

import pure_sgd as ps
from pure_sgd.distributed import checkpoints

WORLD = 4
PLANS = ("optimizer", "all")


class Kinds(NamedTuple):
    """Leaves of every kind, in tuples and NamedTuples."""

    dtypes: tuple[torch.Tensor, ...]
    odd: tuple[Any, ...]


def state_of(seed: int = 0) -> ps.TrainState:
    """The same on every rank, with leaves of fewer rows than ranks."""
    key = ps.random.key(seed)
    numbers = ps.random.normal(key, (5, 3), torch.float64).abs()
    dtypes = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.float8_e5m2)
    params = {
        **start(),
        "dtypes": tuple(numbers.to(dtype) for dtype in dtypes),
        "odd": Kinds(
            (numbers.T, numbers[:1], numbers[0]), (numbers > 0.5, numbers[0, 0], numbers[:0], 3, "text")
        ),
        "ünïcode / .": [numbers, None, numbers],
    }
    opt_state = (ps.tree.map(lambda leaf: leaf, params), torch.tensor(7))
    return ps.TrainState(torch.tensor(seed), params, opt_state)


def zeros() -> ps.TrainState:
    return ps.tree.map(lambda leaf: torch.zeros_like(leaf) if torch.is_tensor(leaf) else leaf, state_of())


def place_of(directory: Path, mesh: Any) -> Path:
    """Each group of ranks that act by themselves saves in a directory of its own."""
    return directory / str(distributed.get_rank() // mesh.size())


def spread_over(state: ps.TrainState, world: int, plan: str | None) -> Any:
    return ps.distributed.shard(state, mesh_of(world), plan) if plan else state


def without_pickle() -> ExitStack:
    """Whatever is read or written by pickle raises."""
    stack = ExitStack()
    for module, name in (
        (pickle, "load"),
        (pickle, "loads"),
        (pickle, "dump"),
        (torch, "save"),
        (torch, "load"),
    ):
        stack.enter_context(mock.patch.object(module, name, side_effect=AssertionError("pickle")))
    return stack


def save(directory: Path, world: int, plan: str | None, step: int = 0, keep: int | None = 3) -> str:
    mesh, spread = mesh_of(world), spread_over(state_of(step), world, plan)
    with without_pickle():
        path = ps.distributed.save_checkpoint(
            place_of(directory, mesh), spread, step, mesh, keep, metadata={"step": step}
        )
    return str(path)


def load(
    directory: Path, world: int, plan: str | None, step: int | None = None, fallback: bool = False
) -> int:
    """Asserts that what is loaded is what was saved, and lies where it is to; its step."""
    mesh = mesh_of(world)
    like = spread_over(zeros(), world, plan)
    with without_pickle():
        loaded = ps.distributed.load_checkpoint(directory, like, mesh, step, fallback=fallback)
    expected = spread_over(state_of(int(loaded.step)), world, plan)
    assert_same(ps.tree.map(part, loaded), ps.tree.map(part, expected))
    for (path, leaf), other in zip(ps.tree.named_leaves(loaded), ps.tree.leaves(like), strict=True):
        assert getattr(leaf, "placements", None) == getattr(other, "placements", None), path
    return int(loaded.step)


def part(leaf: Any) -> Any:
    """What this rank has of it."""
    return leaf.to_local() if isinstance(leaf, DTensor) else leaf


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("saved, loaded", [(2, 4), (4, 2), (2, 2)])
def test_what_some_ranks_save_any_number_of_ranks_loads(ranks, tmp_path, saved, loaded, plan):
    folder = Path(ranks(save, tmp_path, saved, plan)[0])
    names = {path.name for path in folder.iterdir()}
    assert names == {MANIFEST, *(f"shard-{n + 1:05d}-model-00001-of-00001.safetensors" for n in range(saved))}
    for other in (plan, *PLANS, None):
        assert ranks(load, folder.parent, loaded, other) == [0] * WORLD
    assert_same(ps.load_checkpoint(folder.parent, zeros()), state_of())
    assert ps.checkpoint_metadata(folder.parent) == {"step": 0}


def test_whole_tensors_are_saved_as_one_process_does(ranks, tmp_path):
    folder = Path(ranks(save, tmp_path, 4, None)[0])
    alone = ps.save_checkpoint(tmp_path / "alone", state_of(), 0, metadata={"step": 0})
    for name in (ARRAYS, MANIFEST):
        assert (folder / name).read_bytes() == (alone / name).read_bytes()
    for plan in (*PLANS, None):
        assert ranks(load, folder.parent, 2, plan) == [0] * WORLD


def test_older_checkpoints_are_deleted_but_for_those_to_keep(ranks, tmp_path):
    folder = tmp_path
    for step in range(4):
        folder = Path(ranks(save, tmp_path, 4, "all", step, 2)[0])
    assert ps.checkpoint_steps(folder.parent) == [2, 3]
    assert ranks(load, folder.parent, 4, "all") == [3] * WORLD
    assert ranks(load, folder.parent, 4, "all", 2) == [2] * WORLD
    for answer in ranks.answers(save, tmp_path, 4, "all", 3):
        assert "rank 0: " in answer
        assert "step_0000000003: is there already. Delete it, or save another step." in answer


# --- what fails on one rank ---


def full_disk(*arguments: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "/disk")


def broken(*arguments: Any) -> None:
    raise RuntimeError("broken")


def flipped(path: Path, *arguments: Any) -> Any:
    """What a disk does that gives back something else than was written."""
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    return verified(path, *arguments)


verified = checkpoints._verified
FAULTS: dict[str, tuple[Any, str, Any, str]] = {
    "its disk is full": (
        FileSystem,
        "create_stream",
        full_disk,
        "OSError: [Errno 28] rank {}: No space left",
    ),
    "it cannot write": (checkpoints, "_verified", broken, "rank {}: RuntimeError: broken"),
    "it reads something else": (checkpoints, "_verified", flipped, "rank {}: .* is not what was written"),
    "no manifest": (checkpoints, "write_manifest", full_disk, "OSError: [Errno 28] rank 0: No space left"),
    "no room": (checkpoints, "new_checkpoint", full_disk, "OSError: [Errno 28] rank 0: No space left"),
}


def save_with(fault: str, faulty: int, directory: Path) -> str:
    module, name, failing, _ = FAULTS[fault]
    with ExitStack() as stack:
        if distributed.get_rank() == faulty:
            stack.enter_context(mock.patch.object(module, name, failing))
        return save(directory, 4, "all", 1)


@pytest.mark.parametrize(
    "fault, faulty",
    [
        (fault, faulty)
        for fault in FAULTS
        for faulty in (0, 2)
        if not (faulty and "rank 0" in FAULTS[fault][3])
    ],
)
def test_what_fails_on_one_rank_all_raise_and_name_it(ranks, tmp_path, fault, faulty):
    ranks(save, tmp_path, 4, "all", 0)
    words = FAULTS[fault][3].format(faulty)
    for answer in ranks.answers(save_with, fault, faulty, tmp_path):
        assert isinstance(answer, Failure)
        assert re.search(words.replace("[", r"\["), answer.splitlines()[-1]), answer
    assert [path.name for path in (tmp_path / "0").iterdir()] == ["step_0000000000"]
    assert ranks(load, tmp_path / "0", 4, "all") == [0] * WORLD


def save_something(kind: str, directory: Path) -> None:
    mesh, rank = mesh_of(4), distributed.get_rank()
    state: dict[str, Any] = ps.distributed.shard(
        ps.TrainState(torch.tensor(0), {"w": torch.ones(8)}, ()), mesh, "all"
    ).params
    if kind == "a set" and rank == 3:
        state["x"] = {1, 2}
    elif kind == "another shape":
        state["x"] = torch.ones(3 if rank == 2 else 4)
    elif kind == "a sum":
        state["x"] = DTensor.from_local(torch.ones(2), mesh, [Partial()])
    elif kind == "complex128":
        state["x"] = torch.ones(2, dtype=torch.complex128)
    ps.distributed.save_checkpoint(directory, state, 0, mesh)


@pytest.mark.parametrize(
    "kind, words",
    [
        ("a set", "rank 3: state['x']: is a set, which a checkpoint does not hold. Save trees"),
        ("another shape", "state['x']: is float32 (4,) on rank 0, and float32 (3,) on rank 2."),
        ("a sum", "rank 0: state['x']: is a sum over ranks that has not been added up: (Partial(sum),)."),
        ("complex128", "rank 0: state['x']: is of torch.complex128, which is not saved beside leaves"),
    ],
)
def test_a_state_that_cannot_be_saved_is_refused_before_anything_is_written(ranks, tmp_path, kind, words):
    for answer in ranks.answers(save_something, kind, tmp_path):
        assert isinstance(answer, Failure)
        assert words in answer.splitlines()[-1]
    assert [*tmp_path.iterdir()] == []


# --- what is read is what was written ---


def shard_of(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}-model-00001-of-00001.safetensors"


def forged(folder: Path) -> None:
    """One file fewer, and a manifest that agrees."""
    shard_of(folder, 2).unlink()
    rewritten(folder, lambda body: body["files"].pop(shard_of(folder, 2).name))


def flip(folder: Path) -> None:
    file = shard_of(folder, 2)
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)


DAMAGES = {
    "a bit": (flip, "00002-model-00001-of-00001.safetensors does not have its checksum"),
    "cut off": (
        lambda f: shard_of(f, 2).write_bytes(b"short"),
        "safetensors has 5 bytes, and by the manifest",
    ),
    "missing": (lambda f: shard_of(f, 4).unlink(), "00004-model-00001-of-00001.safetensors is missing"),
    "one more": (lambda f: (f / "x.safetensors").write_bytes(b""), "x.safetensors is not expected"),
    "forged": (forged, "the pieces of .* do not make up float"),
    "elsewhere": (
        lambda f: rewritten(f, lambda body: body["files"].update({"../x": {"size": 0, "sha256": ""}})),
        r"manifest.json cannot be read \(../x is no file of a rank",
    ),
    "no files": (lambda f: rewritten(f, lambda body: body.pop("files")), "manifest.json does not have its"),
    "no list": (lambda f: rewritten(f, lambda body: body.update(files=[])), "manifest.json cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_by_all_or_left_for_an_older_one(ranks, tmp_path, damage):
    ranks(save, tmp_path, 4, "all", 0)
    folder = Path(ranks(save, tmp_path, 4, "all", 1)[0])
    change, words = DAMAGES[damage]
    change(folder)
    answers = ranks.answers(load, folder.parent, 4, "all")
    for answer in answers:
        assert isinstance(answer, Failure)
        assert re.search(rf"CorruptCheckpointError: rank \d: .*{words}", answer.splitlines()[-1]), answer
        assert answer.splitlines()[-1] == answers[0].splitlines()[-1]
    with pytest.raises(ps.CorruptCheckpointError, match=words):
        ps.load_checkpoint(folder.parent, zeros())
    assert ranks(load_older, folder.parent) == [0] * WORLD


def load_older(directory: Path) -> int:
    with pytest.warns(UserWarning, match="load_checkpoint: rank"):
        return load(directory, 4, "all", None, True)


def load_unlike(directory: Path) -> None:
    like = zeros()._replace(opt_state=torch.zeros(3))
    ps.distributed.load_checkpoint(directory, spread_over(like, 4, "all"), mesh_of(4))


def test_a_state_of_another_structure_is_told_of_leaf_by_leaf(ranks, tmp_path):
    folder = Path(ranks(save, tmp_path, 4, "all")[0])
    for answer in ranks.answers(load_unlike, folder.parent):
        assert "rank 0: " in answer
        assert (
            ".opt_state is not in the file; .opt_state[0]['dtypes'][0] is in the file, and nobody" in answer
        )


def test_one_process_does_not_save_a_part_as_the_whole(ranks, tmp_path):
    for answer in ranks.answers(save_alone, tmp_path):
        assert "state.params[0]['w']: is spread over ranks. Save it with pure_sgd.distributed." in answer


def save_alone(directory: Path) -> None:
    state = spread_over(ps.TrainState(torch.tensor(0), ({"w": torch.ones(8)},), ()), 4, "all")
    ps.save_checkpoint(directory, state, 0)
