"""Checkpoints: any tree comes back bit for bit, and each difference from what is expected is named."""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

import pytest
import safetensors.torch
import torch
from saved_trees import ARRAYS, MANIFEST, Names, assert_same, everything, weights

import pure_sgd as ps


class Twin:
    """Two of these are spelled the same."""

    def __repr__(self) -> str:
        return "Twin"

    def __lt__(self, other: Twin) -> bool:
        return id(self) < id(other)


class Others(NamedTuple):
    first: Any
    second: Any


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


def test_other_programs_read_every_dtype(tmp_path):
    tree = {path: leaf for path, leaf in everything().items() if isinstance(leaf, torch.Tensor)}
    read = safetensors.torch.load_file(ps.save_checkpoint(tmp_path, tree, step=1) / ARRAYS)
    for name, leaf in tree.items():
        got = read[f"[{name!r}]"]
        assert_same(torch.view_as_complex(got) if leaf.dtype == torch.complex128 else got, leaf)


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
        (
            lambda path: ps.save_checkpoint(path, {"f": [torch.ones]}, step=0),
            r"state\['f'\]\[0\]: is a builtin",
        ),
        (
            lambda path: ps.save_checkpoint(path, {"x": [torch.eye(2).to_sparse()]}, 0),
            r"state\['x'\]\[0\]: is a .*spar",
        ),
        (lambda path: ps.save_checkpoint(path, torch.ones(1, device="meta"), 0), "state: is a .* on meta"),
        (
            lambda path: ps.save_checkpoint(path, torch.ones(1).byte().view(torch.bits8), 0),
            "dtype torch.bits8",
        ),
        (lambda path: ps.save_checkpoint(path, {"n": -(10**5000)}, 0), "is a int of more than 4000 digits"),
        (
            lambda path: ps.save_checkpoint(path, {Twin(): 1, Twin(): 2}, 0),
            r"\[Twin\]: is the path of two leaves",
        ),
        (
            lambda path: torch.func.vmap(lambda x: ps.save_checkpoint(path, x, 0))(torch.ones(2)),
            "inside vmap",
        ),
        (lambda path: ps.save_checkpoint(path, {}, step=-1), "step=-1 is not at least 0"),
        (lambda path: ps.save_checkpoint(path, {}, step=0, keep=0), "keep=0 is not at least 1"),
        (lambda path: ps.save_checkpoint(path, {}, step=0, metadata={"f": print}), "metadata: is not JSON"),
        (lambda path: ps.save_checkpoint(path, {}, 0, metadata={"x": float("nan")}), "metadata: is not JSON"),
        (lambda path: ps.save_checkpoint(path, {}, 0, metadata={1: 2, "1": 3}), "a name comes twice"),
        (lambda path: ps.save_checkpoint(path, {}, 0, metadata=[1]), r"metadata=\[1\] is of type list"),
        (lambda path: ps.AsyncCheckpoints(path, keep=0), "keep=0 is not at least 1"),
        (lambda path: ps.AsyncCheckpoints(path).save({}, step=-1), "step=-1 is not at least 0"),
        (lambda path: ps.load_checkpoint(path, {}), "holds no checkpoint"),
        (lambda path: ps.load_checkpoint(path, {}, step=3), "there is no such checkpoint"),
        (lambda path: ps.load_checkpoint(path, {}, step="../x"), "step='../x' is of type str"),
        (lambda path: ps.checkpoint_metadata(path, step=1.5), "step=1.5 is of type float"),
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


def test_the_newest_written_is_never_deleted_for_others(tmp_path):
    for step in (7, 8, 9):
        (ps.save_checkpoint(tmp_path, weights(step), step) / ARRAYS).write_bytes(b"")
    ps.save_checkpoint(tmp_path, weights(1), step=1, keep=1)
    assert ps.load_checkpoint(tmp_path, weights(), step=1)["w"][0, 0] == 1


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
