"""A sweep over ranks is that of one process, each run taken once, whatever happens in between."""

from __future__ import annotations

import gc
import os
import signal
import time
import uuid
import weakref
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from ranks import Failure, mesh_of, started
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh

import pure_sgd as ps

WORLD = 4
GRIDS: dict[str, Any] = {"rate": [0.01, 0.1, 0.3], "seed": range(5)}
POINTS = 15
#: The share of the first of two ranks, and what the second has done before its fourth run.
BY_THEN = 8 + 3


class Outcome(NamedTuple):
    losses: list[torch.Tensor]
    final: dict[str, Any]


def trained(rate: torch.Tensor, seed: torch.Tensor) -> Outcome:
    tx = ps.sgd(rate, momentum=0.9)
    step = ps.make_step(lambda params, target: ((params - target) ** 2).sum(), tx)
    state = ps.init_train_state(ps.random.normal(ps.random.key(seed), (3,)), tx)
    losses: list[torch.Tensor] = []
    for _ in range(5):
        state, metrics = step(state, torch.tensor(1.0))
        losses.append(metrics["loss"])
    return Outcome(losses, {"params": state.params, "steps": state.step, "none": None})


def swept(directory: Path, world: int, behave: str = "", **options: Any) -> Any:
    """Sweep on ``world`` ranks; ``behave`` says what one of the runs does before."""
    mesh = mesh_of(world)
    place = directory / str(distributed.get_rank() // world)

    def run(rate: torch.Tensor, seed: torch.Tensor) -> Outcome:
        if behave and (float(rate), int(seed)) == (0.1, 2.0):
            if behave == "fails":
                raise RuntimeError("diverged")
            while len(ps.checkpoint_steps(place / "runs")) < BY_THEN:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        (place / "calls").mkdir(parents=True, exist_ok=True)
        (place / "calls" / uuid.uuid4().hex).touch()
        return trained(rate, seed)

    grids, results = ps.distributed.sweep(run, place, mesh, progress=False, **{**GRIDS, **options})
    return {name: grid.tolist() for name, grid in grids.items()}, ps.tree.leaves(results), results._fields


def zipped_or_mapped(directory: Path, world: int, zipped: bool, chunk_size: int) -> Any:
    grids = {"rate": [0.1, 0.2, 0.3], "seed": [0, 1, 2]} if zipped else {}
    return swept(directory, world, zipped=zipped, chunk_size=chunk_size, **grids)


def calls(directory: Path, group: int = 0) -> int:
    return len([*(directory / str(group) / "calls").iterdir()])


@pytest.mark.parametrize(
    "world, zipped, chunk_size", [(2, False, 1), (4, False, 4), (4, True, 1), (2, True, 2)]
)
def test_a_sweep_over_ranks_is_that_of_one_process(ranks, tmp_path, world, zipped, chunk_size):
    grids: Any = {"rate": [0.1, 0.2, 0.3], "seed": [0, 1, 2]} if zipped else GRIDS
    values, expected = ps.sweep(trained, zipped=zipped, progress=False, **grids)
    for answer in ranks(zipped_or_mapped, tmp_path, world, zipped, chunk_size):
        assert answer[0] == {name: grid.tolist() for name, grid in values.items()}
        assert answer[2] == Outcome._fields
        for found, leaf in zip(answer[1], ps.tree.leaves(expected), strict=True):
            torch.testing.assert_close(found, leaf)
    points = 3 if zipped else POINTS
    assert calls(tmp_path) == -(-points // chunk_size)
    assert [path.name for path in (tmp_path / "0").iterdir() if path.name != "calls"] == ["results"]


def test_the_same_call_again_runs_nothing(ranks, tmp_path):
    first, second = ranks(swept, tmp_path, 4), ranks(swept, tmp_path, 4)
    assert calls(tmp_path) == POINTS
    for one, other in zip(first, second, strict=True):
        assert all(map(torch.equal, one[1], other[1]))


def test_a_run_that_fails_is_raised_by_all_and_the_others_are_kept(ranks, tmp_path):
    for answer in ranks.answers(swept, tmp_path, 4, "fails"):
        assert isinstance(answer, Failure)
        assert "rank 3: RuntimeError: diverged. Its own traceback says where." in answer.splitlines()[-1]
    # The eighth of the runs failed, after which its rank has taken none.
    kept = POINTS - 2
    assert calls(tmp_path) == len(ps.checkpoint_steps(tmp_path / "0" / "runs")) == kept
    ranks(swept, tmp_path, 4)
    assert calls(tmp_path) == POINTS


def test_after_a_rank_was_killed_any_number_of_ranks_takes_the_missing_runs(ranks, tmp_path):
    with started(2) as pair:
        survivor, dead = pair.answers(swept, tmp_path, 2, "dies")
    assert dead == Failure("the process has ended")
    assert isinstance(survivor, Failure)
    kept = ps.checkpoint_steps(tmp_path / "0" / "runs")
    assert len(kept) == calls(tmp_path) == BY_THEN
    answers = ranks(swept, tmp_path, 4)
    assert calls(tmp_path) == POINTS
    expected = ps.tree.leaves(ps.sweep(trained, progress=False, **GRIDS).results)
    for found, leaf in zip(answers[0][1], expected, strict=True):
        torch.testing.assert_close(found, leaf)


def test_a_directory_of_another_sweep_is_refused_by_all(ranks, tmp_path):
    ranks(swept, tmp_path, 4)
    for answer in ranks.answers(other_rates, tmp_path):
        assert isinstance(answer, Failure)
        assert "0: holds a sweep with other grids. Pass another directory, or delete this one." in answer


def other_rates(directory: Path) -> Any:
    return swept(directory, 4, rate=[0.01, 0.1, 0.2])


def test_a_run_may_be_a_whole_fit(ranks, tmp_path):
    for losses in ranks(fits, tmp_path):
        assert losses[0] > losses[1] > 0


def fits(directory: Path) -> list[float]:
    loss = ps.empirical_risk(lambda params, x, y: (params * x - y) ** 2)
    x = torch.linspace(-1, 1, 16)

    def run(rate: torch.Tensor) -> torch.Tensor:
        data, params = (x, 3 * x), torch.tensor(0.0)
        history = ps.fit(loss, ps.sgd(rate), params, data, epochs=3, batch_size=4, progress=False).history
        return torch.tensor(history["loss"][-1])

    return ps.distributed.sweep(run, directory, mesh_of(4), rate=[0.01, 0.1], progress=False).results.tolist()


def test_the_group_and_its_threads_end_when_it_is_destroyed(tmp_path):
    sweep = ps.distributed.sweep  # what torch imports for it while there is a group would hold it
    distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    group = weakref.ref(distributed.group.WORLD)
    mesh = init_device_mesh("cpu", (1,))
    sweep(trained, tmp_path / "runs", mesh, progress=False, **GRIDS)
    del mesh
    distributed.destroy_process_group()
    gc.collect()
    assert group() is None
