"""A run that was stopped, at any step and in any way, ends as the run that never was: bit for bit."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, TensorDataset

import pure_sgd as ps
from pure_sgd.training.checkpoints import background
from pure_sgd.training.checkpoints.arrays import ARRAYS

(X, Y), _ = ps.data.linear_regression(ps.random.key(0), n=50, features=3)
MODEL = ps.models.linear(3)
PARAMS = MODEL.init(ps.random.key(1))
#: Momentum, a schedule, an average, and a plateau, which all must go on where they were.
TX = ps.chain(
    ps.sgd(ps.linear_schedule(0.1, 0.0, 30), momentum=0.9),
    ps.reduce_on_plateau(factor=0.5, patience=1),
    ps.params_ema(0.9),
)
EPOCHS, STEPS = 3, 12
OPTIONS: dict[str, Any] = {"epochs": EPOCHS, "batch_size": 13, "seed": 5, "progress": False, "compile": False}


def example_loss(params: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return ps.losses.squared_error(MODEL.apply(params, x), y)


def evaluate(params: Any) -> torch.Tensor:
    return ps.empirical_risk(example_loss)(params, (X, Y))


def value_of_last(record: Any) -> dict[str, float]:
    return {"value": record["val_loss"] if record else 1.0}


def fit(data: Any = (X, Y), stop_at: int | None = None, **options: Any) -> ps.FitResult:
    """Train; ``stop_at`` sends SIGINT to this process while that step is computed."""
    taken = 0

    def loss(params: Any, batch: Any) -> torch.Tensor:
        nonlocal taken
        taken += 1
        if taken == stop_at:
            signal.raise_signal(signal.SIGINT)
        return ps.empirical_risk(example_loss)(params, batch)

    options = {**OPTIONS, **options}
    return ps.fit(loss, TX, PARAMS, data, evaluate=evaluate, extra_args=value_of_last, **options)


def assert_same(one: ps.FitResult, other: ps.FitResult) -> None:
    assert one.history == other.history
    assert ps.tree.structure(one.state) == ps.tree.structure(other.state)
    for (path, a), b in zip(ps.tree.named_leaves(one.state), ps.tree.leaves(other.state), strict=True):
        assert torch.equal(a, b), path


def order(epoch: int) -> list[torch.Tensor]:
    return list(ps.epoch_indices(50, 10, 3, epoch))


@pytest.mark.parametrize(
    "stop_at, every", [*((step, None) for step in range(1, STEPS + 1)), (4, 1), (5, 1), (6, 5), (12, 5)]
)
def test_a_run_stopped_at_any_step_goes_on_as_if_it_had_not(tmp_path, stop_at, every):
    with pytest.raises(KeyboardInterrupt):
        fit(stop_at=stop_at, checkpoint=tmp_path, checkpoint_every=every)
    assert ps.checkpoint_steps(tmp_path)[-1] == stop_at
    resumed = fit(checkpoint=tmp_path, checkpoint_every=every, resume=True)
    assert_same(resumed, fit())
    assert ps.checkpoint_steps(tmp_path)[-1] == STEPS


@pytest.mark.parametrize(
    "options",
    [
        {"replacement": True},
        {"batch_size": None},
        {"epochs": None, "steps": 10},
        {"record_every": 3},
        {"order": order, "batch_size": 10},
        {"data": DataLoader(TensorDataset(X, Y), batch_size=13)},
        {"data": [(X[:20], Y[:20]), (X[20:], Y[20:])]},
    ],
    ids=lambda options: "-".join(options),
)
def test_whatever_the_data_and_the_records(tmp_path, options):
    if "data" in options:
        options = {**options, "batch_size": None}
    for stop_at in (2, 2, 2):  # a run may be stopped more than once
        with suppress(KeyboardInterrupt):
            fit(stop_at=stop_at, checkpoint=tmp_path, resume=True, **options)
    assert_same(fit(checkpoint=tmp_path, resume=True, **options), fit(**options))


class Noisy(Dataset[Any]):
    """Examples that are drawn anew whenever they are read."""

    def __init__(self, draw: Callable[[], float]) -> None:
        self.draw = draw

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        return X[row] + self.draw(), Y[row]


ROWS = TensorDataset(X, Y)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def from_torch() -> float:
    return torch.rand(()).item()


@pytest.mark.parametrize(
    "loader",
    [
        lambda: DataLoader(ROWS, batch_size=13, shuffle=True),
        lambda: DataLoader(ROWS, batch_size=13, shuffle=True, generator=seeded()),
        lambda: DataLoader(ROWS, batch_size=13, sampler=RandomSampler(ROWS, generator=seeded())),
        lambda: DataLoader(ROWS, batch_size=13, sampler=RandomSampler(ROWS, replacement=True)),
        lambda: DataLoader(
            ROWS, batch_sampler=BatchSampler(RandomSampler(ROWS, generator=seeded()), 13, False)
        ),
        lambda: DataLoader(Noisy(from_torch), batch_size=13, shuffle=True),
        lambda: DataLoader(Noisy(from_torch), batch_size=13, shuffle=True, num_workers=2),
    ],
)
def test_what_a_loader_draws_is_drawn_again(tmp_path, loader):
    torch.manual_seed(1)
    whole = fit(loader(), batch_size=None)
    for stop_at, seed in ((3, 1), (1, 2), (4, 3)):  # in the first epoch, at its end, at the end of the second
        torch.manual_seed(seed)
        with pytest.raises(KeyboardInterrupt):
            fit(loader(), stop_at, checkpoint=tmp_path, resume=True, batch_size=None)
    assert_same(fit(loader(), checkpoint=tmp_path, resume=True, batch_size=None), whole)


@pytest.mark.parametrize(
    "before, after",
    [
        ((X, Y), (X + 1, Y)),
        (DataLoader(Noisy(random.random), batch_size=13), DataLoader(Noisy(random.random), batch_size=13)),
        ([(X[:20], Y[:20]), (X[20:], Y[20:])], [(X[:20], Y[:20])]),
    ],
)
@pytest.mark.parametrize("stop_at", [2, 4])
def test_other_batches_than_the_run_took_are_an_error(tmp_path, before, after, stop_at):
    options: dict[str, Any] = {"batch_size": 13 if isinstance(before, tuple) else None}
    with pytest.raises(KeyboardInterrupt):
        fit(before, stop_at, checkpoint=tmp_path, **options)
    with pytest.raises(ps.PureSGDError, match=r"data: gives another batch \d of epoch"):
        fit(after, checkpoint=tmp_path, resume=True, **options)


def test_what_fit_has_not_written_is_not_gone_on_with(tmp_path):
    ps.save_checkpoint(tmp_path, ps.init_train_state(PARAMS, TX), step=0)
    with pytest.raises(ps.PureSGDError, match="holds a checkpoint that fit has not written"):
        fit(checkpoint=tmp_path, resume=True)


def test_a_corrupt_checkpoint_on_the_way_is_written_again(tmp_path):
    fit(epochs=2, checkpoint=tmp_path, checkpoint_every=2)
    for step in (6, 8):
        (tmp_path / f"step_{step:010d}" / ARRAYS).write_bytes(b"")
    with pytest.warns(UserWarning, match="step_0000000008"), pytest.warns(match="step_0000000006"):
        fit(epochs=2, checkpoint=tmp_path, checkpoint_every=2, resume=True)
    for step in ps.checkpoint_steps(tmp_path):
        ps.load_checkpoint(tmp_path, ps.init_train_state(PARAMS, TX), step)


def test_a_checkpoint_that_cannot_be_written_ends_the_run(tmp_path, monkeypatch):
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(background, "save_snapshot", full)
    with pytest.raises(OSError, match="No space left on device"):
        fit(checkpoint=tmp_path, checkpoint_every=1)


@pytest.mark.slow
def test_a_scan_that_is_cut_anywhere(tmp_path):
    rows = torch.cat([ps.epoch_indices(50, 10, 3, epoch) for epoch in range(4)])  # 20 steps
    tx = ps.chain(ps.sgd(ps.linear_schedule(0.1, 0.0, 30), momentum=0.9), ps.params_ema(0.9))
    step, start, chunk = ps.make_step(evaluate_loss, tx), ps.init_train_state(PARAMS, tx), 8

    def run(state: Any, first: int, last: int) -> Any:
        for begin in range(first, last, chunk):
            steps = rows[begin : min(begin + chunk, last)]
            state, _ = ps.scan_indices(step, state, (X, Y), steps)
        return state

    whole = run(start, 0, 20)
    for stop in (3, 8, 13):
        state = run(start, 0, stop)
        ps.save_checkpoint(tmp_path, state, stop)
        resumed = run(ps.load_checkpoint(tmp_path, state, stop), stop, 20)
        assert_same(ps.FitResult(resumed, {}), ps.FitResult(whole, {}))


@pytest.mark.slow
def test_a_compiled_run(tmp_path):
    calls = 0

    def stopping(epoch: int) -> Iterator[torch.Tensor]:
        nonlocal calls
        calls += 1
        for number, rows in enumerate(order(epoch)):
            if calls == 2 and number == 2:  # the first call only counts the steps of an epoch
                signal.raise_signal(signal.SIGINT)
            yield rows

    options: dict[str, Any] = {"batch_size": 10, "compile": True}
    with pytest.raises(KeyboardInterrupt):
        fit(checkpoint=tmp_path, order=stopping, **options)
    assert ps.checkpoint_steps(tmp_path)[-1] == 3
    assert_same(fit(checkpoint=tmp_path, resume=True, order=order, **options), fit(order=order, **options))


def test_early_stopping_stays_stopped(tmp_path):
    stop = ps.early_stopping("val_loss", patience=1, min_delta=100.0)
    options: dict[str, Any] = {"checkpoint": tmp_path, "stop_when": stop}
    first = fit(**options)
    assert first.state.step == 8
    assert_same(fit(resume=True, **options), first)


def test_a_finished_run_may_be_made_longer(tmp_path):
    fit(epochs=2, checkpoint=tmp_path)
    assert_same(fit(epochs=3, checkpoint=tmp_path, resume=True), fit(epochs=3))


def test_the_newest_intact_checkpoint_is_taken(tmp_path):
    fit(epochs=2, checkpoint=tmp_path)
    (tmp_path / "step_0000000008" / ARRAYS).write_bytes(b"")
    with pytest.warns(UserWarning, match="step_0000000008"):
        resumed = fit(checkpoint=tmp_path, resume=True)
    assert_same(resumed, fit())


def test_a_second_signal_acts_at_once(tmp_path):
    def loss(params: Any, batch: Any) -> torch.Tensor:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the second signal came to nothing")

    with pytest.raises(KeyboardInterrupt):
        ps.fit(loss, ps.sgd(0.1), PARAMS, (X, Y), checkpoint=tmp_path, **OPTIONS)
    assert ps.checkpoint_steps(tmp_path) == []


def test_nor_does_a_second_signal_wait_for_the_disk(tmp_path, monkeypatch):
    gate, write = threading.Event(), background.save_snapshot
    taken = 0

    def slow(*arguments: Any) -> Path:
        gate.wait(60)
        return write(*arguments)

    def loss(params: Any, batch: Any) -> torch.Tensor:
        nonlocal taken
        taken += 1
        for _ in range(2 if taken == 2 else 0):  # step 1 is still being written
            signal.raise_signal(signal.SIGINT)
        return evaluate_loss(params, batch)

    monkeypatch.setattr(background, "save_snapshot", slow)
    with pytest.raises(KeyboardInterrupt):
        ps.fit(loss, ps.sgd(0.1), PARAMS, (X, Y), checkpoint=tmp_path, checkpoint_every=1, **OPTIONS)
    assert ps.checkpoint_steps(tmp_path) == []
    gate.set()


def test_sigterm_ends_the_process_with_a_checkpoint(tmp_path):
    def loss(params: Any, batch: Any) -> torch.Tensor:
        signal.raise_signal(signal.SIGTERM)
        return ps.empirical_risk(example_loss)(params, batch)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as left:
        ps.fit(loss, ps.sgd(0.1), PARAMS, (X, Y), checkpoint=tmp_path, **OPTIONS)
    assert left.value.code == 128 + signal.SIGTERM
    assert ps.checkpoint_steps(tmp_path) == [1]
    assert signal.getsignal(signal.SIGTERM) == before


def test_without_checkpoints_signals_are_left_alone():
    with pytest.raises(KeyboardInterrupt):
        fit(stop_at=1)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"seed": 6}, "holds a run with seed=5, and this one has seed=6"),
        ({"batch_size": 10}, "holds a run with batch_size=13, and this one has batch_size=10"),
        ({"resume": False}, "holds the checkpoints of another run"),
        ({"checkpoint": None}, "resume=True without a checkpoint"),
        ({"checkpoint_every": 0}, "checkpoint_every=0 is not at least 1"),
    ],
)
def test_another_run_is_not_gone_on_with(tmp_path, options, message):
    fit(epochs=1, checkpoint=tmp_path)
    with pytest.raises(ps.PureSGDError, match=message):
        fit(**{"checkpoint": tmp_path, "resume": True, **options})


def test_another_optimizer_is_an_error_that_names_its_leaves(tmp_path):
    fit(epochs=1, checkpoint=tmp_path)
    with pytest.raises(ps.PureSGDError, match="is in the file, and nobody expects it"):
        ps.fit(evaluate_loss, ps.sgd(0.1), PARAMS, (X, Y), checkpoint=tmp_path, resume=True, **OPTIONS)


def evaluate_loss(params: Any, batch: Any) -> torch.Tensor:
    return ps.empirical_risk(example_loss)(params, batch)


# --- processes that are killed ---


def train(path: Path, epochs: int) -> None:
    torch.set_num_threads(1)
    fit(checkpoint=path, resume=True, checkpoint_every=1, epochs=epochs)


def killed_while_training(path: Path, times: int) -> int:
    """Kill a training process so many times, and start it again; the epochs in which to end what it began."""
    draw, context = random.Random(0), multiprocessing.get_context("fork")
    for _ in range(times):
        process = context.Process(target=train, args=(path, 10**6))
        process.start()
        process.join(draw.uniform(0.1, 0.4))
        assert process.is_alive()
        process.kill()
        process.join()
    return ps.checkpoint_steps(path)[-1] // (STEPS // EPOCHS) + 2


def test_a_killed_process_goes_on_where_it_was(tmp_path):
    epochs = killed_while_training(tmp_path, times=3)
    assert_same(fit(checkpoint=tmp_path, resume=True, epochs=epochs), fit(epochs=epochs))


@pytest.mark.slow
def test_killed_at_50_moments(tmp_path):
    epochs = killed_while_training(tmp_path, times=50)
    assert_same(fit(checkpoint=tmp_path, resume=True, epochs=epochs), fit(epochs=epochs))


class Slow(Dataset[Any]):
    """Rows, of which none comes in the time of a test from the third batch on, if that is asked for."""

    def __init__(self, endless: bool) -> None:
        self.endless = endless

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.endless and row >= 26:
            time.sleep(1000)
        return X[row], Y[row]


def by_workers(endless: bool = False) -> DataLoader[Any]:
    return DataLoader(Slow(endless), batch_size=13, num_workers=2)


def train_in_a_group(path: Path, awaiting: bool, told: Any) -> None:
    """Leave the process group of the tests; tell when the second step is being taken, or has been."""
    os.setpgid(0, 0)
    torch.set_num_threads(1)
    taken = 0

    def loss(params: Any, batch: Any) -> torch.Tensor:
        nonlocal taken
        taken += 1
        if taken == 2:
            told.set()
            for _ in range(0 if awaiting else 20):
                time.sleep(0.05)  # the workers end in the middle of the step
        return evaluate_loss(params, batch)

    options: Any = {**OPTIONS, "batch_size": None}
    ps.fit(loss, ps.sgd(0.1), PARAMS, by_workers(awaiting), checkpoint=path, **options)


@pytest.mark.parametrize(
    "number, awaiting", [(signal.SIGTERM, True), (signal.SIGTERM, False), (signal.SIGINT, False)]
)
def test_a_signal_to_the_workers_of_a_loader_too_ends_the_run_with_a_checkpoint(tmp_path, number, awaiting):
    context = multiprocessing.get_context("fork")
    told = context.Event()
    process = context.Process(target=train_in_a_group, args=(tmp_path, awaiting, told))
    process.start()
    try:
        assert told.wait(60)
        time.sleep(0.5 if awaiting else 0.1)
        os.killpg(process.pid or 0, number)
        process.join(60)
    finally:
        if process.is_alive():
            os.killpg(process.pid or 0, signal.SIGKILL)
    assert process.exitcode == (128 + number if number == signal.SIGTERM else 1)
    assert ps.checkpoint_steps(tmp_path) == [2]
    options: Any = {**OPTIONS, "batch_size": None}
    found, expected = (
        ps.fit(evaluate_loss, ps.sgd(0.1), PARAMS, by_workers(), **options, **more)
        for more in ({"checkpoint": tmp_path, "resume": True}, {})
    )
    assert_same(found, expected)
