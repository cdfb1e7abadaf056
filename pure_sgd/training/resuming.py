"""What a run writes down so that it can go on as if it had never been stopped."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

import torch

from ..errors import PureSGDError
from .checkpoints import AsyncCheckpoints, checkpoint_metadata, checkpoint_steps, load_checkpoint
from .state import TrainState
from .step import Metrics

__all__ = ["Interruption", "Run", "load_run", "saving_runs", "signals_wait"]

Directory = str | os.PathLike[str]


class Run(NamedTuple):
    """All that a run has come to."""

    state: TrainState
    epoch: int
    in_epoch: int  # steps taken in this epoch
    done: int  # steps taken in all
    history: dict[str, list[float]]
    window: list[Metrics]  # of the steps since the last record
    place: Mapping[str, Any] = {}  # among the batches; see Rewound


@contextmanager
def saving_runs(
    directory: Directory | None, setting: dict[str, Any], done: int
) -> Generator[Callable[[Run], None], None, None]:
    """``save(run)``, which writes a run behind it, unless it is still where it was ``done`` or last saved.

    Example:
        >>> import tempfile
        >>> import torch
        >>> import pure_sgd as ps
        >>> from pure_sgd.training.resuming import Run, load_run, saving_runs
        >>> state = ps.init_train_state(torch.ones(2), ps.sgd(0.1))
        >>> run = Run(state, epoch=0, in_epoch=0, done=0, history={"loss": [0.5]}, window=[])
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     with saving_runs(directory, {"seed": 0}, done=-1) as save:
        ...         save(run)
        ...     load_run(directory, state, {"seed": 0}).history
        {'loss': [0.5]}
    """
    if directory is None:
        yield lambda run: None
        return
    with AsyncCheckpoints(directory) as checkpoints:

        def save(run: Run) -> None:
            nonlocal done
            if run.done != done:
                checkpoints.save(run.state, run.done, metadata=_metadata(run, setting))
                done = run.done

        yield save


def load_run(directory: Directory, like: TrainState, setting: dict[str, Any]) -> Run | None:
    """The newest run that was saved and is intact, or None where there is none.

    Raises:
        PureSGDError: it was begun with another ``setting``, its state is unlike ``like``, or it is no run.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> from pure_sgd.training.resuming import load_run
        >>> load_run("nowhere", ps.init_train_state(torch.ones(2), ps.sgd(0.1)), {}) is None
        True
    """
    if not checkpoint_steps(directory):
        return None
    state: TrainState = load_checkpoint(directory, like, fallback=True)
    done = int(state.step)
    saved = checkpoint_metadata(directory, done)
    if not saved.keys() >= {"epoch", "in_epoch", "history", "window", "place", "setting"}:
        raise PureSGDError(
            str(directory), "holds a checkpoint that fit has not written", "Choose another directory"
        )
    for name, value in saved["setting"].items():
        if setting.get(name) != value:
            problem = f"holds a run with {name}={value!r}, and this one has {name}={setting.get(name)!r}"
            raise PureSGDError(str(directory), problem, "Resume with the same, or choose another directory")
    window = [
        {name: _as_metric(value, state.step.device) for name, value in zip(saved["window"], row, strict=True)}
        for row in zip(*saved["window"].values(), strict=True)
    ]
    history = {name: [_read(value) for value in values] for name, values in saved["history"].items()}
    return Run(state, saved["epoch"], saved["in_epoch"], done, history, window, saved["place"])


class Interruption:
    """Which signal has come, if any.

    Example:
        >>> from pure_sgd.training.resuming import Interruption
        >>> Interruption().signal is None
        True
    """

    signal: int | None = None


@contextmanager
def signals_wait() -> Generator[Interruption, None, None]:
    """Note down the first SIGINT or SIGTERM, and leave at the end of the block; a second one acts at once.

    In a thread other than the main one, where Python hears no signal, nothing changes.

    Raises:
        KeyboardInterrupt: at the end, after a SIGINT.
        SystemExit: at the end, after a SIGTERM; the exit status is 143, as if it had not waited.

    Example:
        >>> import signal
        >>> from pure_sgd.training.resuming import signals_wait
        >>> with signals_wait() as interruption:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     print("saving")
        Traceback (most recent call last):
        SystemExit: 143
    """
    interruption, before = Interruption(), dict[int, Any]()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        interruption.signal = number
        restore()

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
    try:
        yield interruption
    finally:
        restore()
    if interruption.signal == signal.SIGINT:
        raise KeyboardInterrupt
    if interruption.signal is not None:
        raise SystemExit(128 + interruption.signal)


def _metadata(run: Run, setting: dict[str, Any]) -> dict[str, Any]:
    names = run.window[0] if run.window else {}
    return {
        "epoch": run.epoch,
        "in_epoch": run.in_epoch,
        "history": {name: [_written(value) for value in values] for name, values in run.history.items()},
        "window": {name: [_written(metrics[name].item()) for metrics in run.window] for name in names},
        "place": run.place,
        "setting": setting,
    }


def _written(value: float) -> Any:
    """A number as JSON holds it to the last bit, infinities and NaN too."""
    return value if isinstance(value, int) else float(value).hex()


def _read(value: Any) -> Any:
    return float.fromhex(value) if isinstance(value, str) else value


def _as_metric(value: Any, device: torch.device) -> torch.Tensor:
    # As wide as the mean over a window is taken.
    return torch.tensor(_read(value), dtype=torch.float64, device=device)
