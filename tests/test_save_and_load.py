"""Every state survives a file: it is tensors under names, and goes on as if nothing had happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from catalogue import CATALOGUE, grads_of, params_of
from safetensors.torch import load_file, save_file

import pure_sgd as ps

NAMES = sorted(CATALOGUE)
BEFORE, AFTER = 3, 2


def saved(tree: Any, path: Path) -> None:
    # A file needs written out what memory may hold transposed, or once for many runs.
    save_file({name: leaf.contiguous() for name, leaf in ps.tree.named_leaves(tree)}, path)


def loaded(path: Path, like: Any) -> Any:
    """The tree in the file; ``like`` gives its structure and nothing else."""
    tensors = load_file(path)
    _, rebuild = ps.tree.flatten(like)
    return rebuild([tensors[name] for name, _ in ps.tree.named_leaves(like)])


def steps(name: str, params: Any, state: Any, first: int, count: int) -> tuple[Any, Any]:
    entry = CATALOGUE[name]
    # Made anew: what a run needs to go on lies in its state, and nowhere else.
    tx = entry.build(**entry.hyperparams)
    for step in range(first, first + count):
        updates, state = tx.update(grads_of(params, step), state, params, **entry.extra)
        params = ps.apply_updates(params, updates)
    return params, state


def assert_same(one: Any, other: Any) -> None:
    assert ps.tree.structure(one) == ps.tree.structure(other)
    for (path, a), (_, b) in zip(ps.tree.named_leaves(one), ps.tree.named_leaves(other), strict=True):
        assert a.dtype == b.dtype, path
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True, msg=path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_went_through_a_file_is_the_run_that_did_not(
    name: str, dtype: torch.dtype, tmp_path: Path
):
    start = params_of(dtype)
    init = CATALOGUE[name].build(**CATALOGUE[name].hyperparams).init
    half_way = steps(name, start, init(start), 0, BEFORE)
    saved(half_way, tmp_path / "state.safetensors")
    params, state = loaded(tmp_path / "state.safetensors", (start, init(start)))
    assert_same((params, state), half_way)
    through_a_file = steps(name, params, state, BEFORE, AFTER)
    assert_same(through_a_file, steps(name, start, init(start), 0, BEFORE + AFTER))


@pytest.mark.parametrize("name", NAMES)
def test_the_names_of_a_state_do_not_change_from_step_to_step(name: str):
    start = params_of()
    state = CATALOGUE[name].build(**CATALOGUE[name].hyperparams).init(start)
    later = steps(name, start, state, 0, BEFORE)[1]
    names, same = ([path for path, _ in ps.tree.named_leaves(tree)] for tree in (state, later))
    assert names == same
    assert len(set(names)) == len(names)


def test_the_states_of_many_runs_are_saved_as_one(tmp_path: Path):
    params = {"w": torch.linspace(-1, 1, 6).reshape(2, 3)}

    def init(rate: torch.Tensor) -> Any:
        return ps.inject_hyperparams(ps.adam)(rate, b1=0.8).init(params)

    states = torch.func.vmap(init)(torch.tensor([0.1, 0.2, 0.3]))
    saved(states, tmp_path / "states.safetensors")
    assert_same(loaded(tmp_path / "states.safetensors", init(torch.tensor(0.0))), states)
