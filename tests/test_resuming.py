"""A run that was stopped, at any step and in any way, ends as the run that never was: bit for bit."""

from __future__ import annotations

import multiprocessing
import random
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import pure_sgd as ps
from pure_sgd.training.checkpoints import contents

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
    (tmp_path / "step_0000000008" / contents.ARRAYS).write_bytes(b"")
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


def killed_while_training(path: Path, times: int, epochs: int) -> int:
    """Kill a training process up to so many times, start it again each time, and let the last one finish."""
    draw, context, killed = random.Random(0), multiprocessing.get_context("fork"), 0
    for _ in range(times):
        process = context.Process(target=train, args=(path, epochs))
        process.start()
        process.join(draw.uniform(0.05, 0.35))
        killed += process.is_alive()
        process.kill()
        process.join()
    process = context.Process(target=train, args=(path, epochs))
    process.start()
    process.join()
    assert process.exitcode == 0
    return killed


def test_a_killed_process_goes_on_where_it_was(tmp_path):
    assert killed_while_training(tmp_path, times=3, epochs=60) == 3
    assert_same(fit(checkpoint=tmp_path, resume=True, epochs=60), fit(epochs=60))


@pytest.mark.slow
def test_killed_at_50_moments(tmp_path):
    assert killed_while_training(tmp_path, times=50, epochs=300) > 25
    assert_same(fit(checkpoint=tmp_path, resume=True, epochs=300), fit(epochs=300))
