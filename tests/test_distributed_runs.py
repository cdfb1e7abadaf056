"""A run that ranks take together is saved once, stops as one, and goes on as if it had not been stopped."""

from __future__ import annotations

import errno
import shutil
import signal
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from ranks import CLOSE, Failure, difference, example_loss, mesh_of, start
from saved_trees import assert_same
from torch import distributed
from torch.utils.data import DataLoader, TensorDataset

import pure_sgd as ps
from pure_sgd.training.checkpoints import background

WORLD, STEPS, ROWS, BATCH = 4, 12, 48, 12
TX = ps.chain(ps.sgd(ps.linear_schedule(0.1, 0.0, STEPS), momentum=0.9), ps.params_ema(0.9))


def rows() -> tuple[torch.Tensor, torch.Tensor]:
    one, other = ps.random.split(ps.random.key(1))
    return ps.random.normal(one, (ROWS, 5), torch.float64), ps.random.normal(other, (ROWS, 3), torch.float64)


def place_of(directory: Path, world: int) -> Path:
    """Each group of ranks that act by themselves saves in a directory of its own."""
    return directory / str(distributed.get_rank() // world)


def fit(
    directory: Path | None,
    world: int,
    stop: tuple[int, int] | None = None,
    data: Any = None,
    **options: Any,
) -> ps.FitResult:
    """Train on ``world`` ranks; ``stop=(rank, step)`` sends SIGTERM to one while it takes that step."""
    mesh = mesh_of(world)
    rank, taken = mesh.get_local_rank(), 0
    sampler = ps.data.BatchSampler(ROWS, BATCH, seed=3, rank=rank, ranks=world)

    def counted(params: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        nonlocal taken
        taken += 1
        if (rank, taken) == stop:
            signal.raise_signal(signal.SIGTERM)
        return ps.empirical_risk(example_loss)(params, (x, y))

    loss = ps.distributed.data_parallel(lambda params, batch: counted(params, *batch), mesh)
    checkpoint = None if directory is None else place_of(directory, world)
    data = data or DataLoader(TensorDataset(*rows()), batch_sampler=sampler)
    options = {"steps": STEPS, "progress": False, **options}
    return ps.fit(loss, TX, start(), data, checkpoint=checkpoint, **options)


def whole(world: int) -> ps.FitResult:
    return fit(None, world)


def stopped(directory: Path, world: int, stop: tuple[int, int], every: int | None = None) -> list[int]:
    """How each rank leaves, and which checkpoints there are then."""
    with pytest.raises(SystemExit) as left:
        fit(directory, world, stop, checkpoint_every=every)
    assert left.value.code == 128 + signal.SIGTERM
    return ps.checkpoint_steps(place_of(directory, world))


def resumed(directory: Path, world: int) -> ps.FitResult:
    return fit(directory, world, resume=True)


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("stop, every", [((1, 5), None), ((0, 4), 1), ((1, 8), 3)])
def test_what_stops_one_rank_stops_all_and_they_go_on_as_if_it_had_not(ranks, tmp_path, world, stop, every):
    for steps in ranks(stopped, tmp_path, world, stop, every):
        assert steps[-1] == stop[1]
    expected = ranks(whole, world)
    for answer, other in zip(ranks(resumed, tmp_path, world), expected, strict=True):
        assert_same(answer.state, other.state)
        assert answer.history == other.history == expected[0].history


def fit_on_own_rows(directory: Path | None, stop: tuple[int, int] | None, resume: bool) -> Any:
    """Each rank has rows of its own, in an order that it draws itself."""
    rank = distributed.get_rank()
    mine = TensorDataset(*(leaf[rank::WORLD] for leaf in rows()))
    data = DataLoader(mine, batch_size=3, shuffle=True, generator=torch.Generator().manual_seed(rank))
    try:
        return fit(directory, WORLD, stop, data, resume=resume)
    except SystemExit:
        return None


def test_each_rank_goes_on_from_its_own_place(ranks, tmp_path):
    expected = ranks(fit_on_own_rows, None, None, False)
    assert ranks(fit_on_own_rows, tmp_path, (0, 6), False) == [None] * WORLD
    for answer, other in zip(ranks(fit_on_own_rows, tmp_path, None, True), expected, strict=True):
        assert_same(answer.state, other.state)


def resumed_from(directory: Path, world: int) -> ps.FitResult:
    """All groups of ranks go on from what the first has saved."""
    copy = place_of(directory / "copies", world)
    if mesh_of(world).get_local_rank() == 0:
        shutil.copytree(directory / "0", copy)
    distributed.barrier()
    return fit(directory / "copies", world, resume=True)


@pytest.mark.parametrize("before, after", [(2, 4), (4, 2)])
def test_a_run_goes_on_with_another_number_of_ranks(ranks, tmp_path, before, after):
    ranks(stopped, tmp_path, before, (0, 5))
    expected = ranks(whole, 4)[0]
    for answer in ranks(resumed_from, tmp_path, after):
        assert difference(answer.state, expected.state) < CLOSE


def full_disk(*arguments: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "/disk")


def fit_on_a_full_disk(directory: Path) -> None:
    with mock.patch.object(background, "save_snapshot", full_disk):
        fit(directory, 4, checkpoint_every=4)


def test_a_checkpoint_that_the_first_rank_cannot_write_is_raised_by_all(ranks, tmp_path):
    for answer in ranks.answers(fit_on_a_full_disk, tmp_path):
        assert isinstance(answer, Failure)
        assert answer.splitlines()[-1] == "OSError: [Errno 28] rank 0: No space left on device: '/disk'"


def fit_again(directory: Path) -> None:
    fit(directory, 4)


def test_the_checkpoints_of_another_run_are_refused_by_all(ranks, tmp_path):
    ranks(fit_again, tmp_path)
    for answer in ranks.answers(fit_again, tmp_path):
        assert isinstance(answer, Failure)
        assert "holds the checkpoints of another run. Pass resume=True" in answer


def impatient(history: dict[str, list[float]]) -> bool:
    return distributed.get_rank() == 2 and len(history["loss"]) == 3


def fit_until_one_has_enough() -> int:
    return int(fit(None, 4, record_every=2, stop_when=impatient).state.step)


def test_one_rank_that_has_enough_stops_all(ranks):
    assert ranks(fit_until_one_has_enough) == [6] * WORLD


def fit_with_a_nan(directory: Path, nonfinite: str) -> Any:
    """One row is not a number: who of the ranks gets it alone sees why."""
    mesh, (x, y) = mesh_of(4), rows()
    x[7, 2] = torch.nan
    sampler = ps.data.BatchSampler(ROWS, BATCH, seed=3, rank=mesh.get_local_rank(), ranks=4)
    data = DataLoader(TensorDataset(x, y), batch_sampler=sampler)
    loss = ps.distributed.data_parallel(ps.empirical_risk(example_loss), mesh)
    options: Any = {"nonfinite": nonfinite, "checkpoint": directory, "progress": False, "epochs": 1}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "fit: 1 of 4 steps")
            state, history = ps.fit(loss, TX, start(), data, **options)
    except ps.NonFiniteError as error:
        return error.step, error.fault and error.fault.example, error.path
    return sum(history["skipped"]), state


def test_what_is_not_finite_on_one_rank_all_stop_at(ranks, tmp_path):
    steps, examples, paths = zip(*ranks(fit_with_a_nan, tmp_path, "stop"), strict=True)
    assert len({*steps}) == 1
    assert [example is None for example in examples].count(False) == 1
    assert len({*paths}) == WORLD


def test_and_all_leave_out_the_same_step(ranks, tmp_path):
    answers = ranks(fit_with_a_nan, tmp_path, "skip")
    for skipped, state in answers:
        assert skipped == 1
        assert_same(state, answers[0][1])
