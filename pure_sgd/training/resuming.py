"""What a run writes down so that it can go on as if it had never been stopped."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from ..errors import PureSGDError
from .checkpoints import AsyncCheckpoints, checkpoint_metadata, checkpoint_steps
from .checkpoints.loading import load_step, newest_intact
from .run import History, Run
from .state import TrainState
from .together import ALONE, Together

__all__ = ["Interruption", "load_run", "saving_runs", "signals_wait"]

Directory = str | os.PathLike[str]


@contextmanager
def saving_runs(
    directory: Directory | None, setting: dict[str, Any], done: int, together: Together = ALONE
) -> Generator[Callable[[Run], None], None, None]:
    """``save(run)``, which writes a run behind it, unless it is still where it was ``done`` or last saved.

    Of ranks that take the run together the first writes for all.

    Example:
        >>> import tempfile
        >>> import torch
        >>> import pure_sgd as ps
        >>> from pure_sgd.training.resuming import load_run, saving_runs
        >>> from pure_sgd.training.run import History, Run
        >>> state = ps.init_train_state(torch.ones(2), ps.sgd(0.1))
        >>> run = Run(state, history=History(loss=[0.5]))
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
                metadata = _metadata(run, setting, together.each(run.place))
                together.first(lambda: checkpoints.save(run.state, run.done, metadata=metadata))
                done = run.done

        yield save
        together.first(checkpoints.wait)


def load_run(
    directory: Directory, like: TrainState, setting: dict[str, Any], together: Together = ALONE
) -> Run | None:
    """The newest run that was saved and is intact, or None where there is none.

    Ranks that take the run together go on with the same; where their number has changed, all from the place
    of the first.

    Raises:
        PureSGDError: it was begun with another ``setting``, its state is unlike ``like``, or it is no run.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> from pure_sgd.training.resuming import load_run
        >>> load_run("nowhere", ps.init_train_state(torch.ones(2), ps.sgd(0.1)), {}) is None
        True
    """
    steps = together.first(lambda: checkpoint_steps(directory))
    if not steps:
        return None

    def load(step: int) -> TrainState:
        return together.all(lambda: load_step(Path(directory), step, like))

    state = newest_intact(Path(directory), steps, True, load)
    done = int(state.step)
    saved = checkpoint_metadata(directory, done)
    if not saved.keys() >= {"epoch", "in_epoch", "history", "window", "places", "setting"}:
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
    history = History({name: [_read(value) for value in row] for name, row in saved["history"].items()})
    place = saved["places"][together.rank if len(saved["places"]) == together.ranks else 0]
    return Run(state, saved["epoch"], saved["in_epoch"], done, history, window, place)


class Interruption:
    """Which signal has come, if any.

    Raises:
        Exception: from ``taken``, what the batches raise where none has.

    Example:
        >>> from pure_sgd.training.resuming import Interruption
        >>> Interruption().signal is None
        True
    """

    signal: int | None = None
    awaiting: bool = False  # a batch

    def taken(self, batches: Iterable[Any], together: Together) -> Iterator[Any]:
        """The batches, up to where they cannot be had because the signal has come to their makers too.

        Of several ranks none may end by itself: the others would wait for it.
        """
        batches = iter(batches)
        while True:
            try:
                self.awaiting = True
                batch = next(batches)
            except StopIteration:
                return
            except Exception:
                if self.signal is None or together.ranks > 1:
                    raise
                return
            finally:
                self.awaiting = False
            yield batch

    def heard(self, together: Together) -> bool:
        """Whether one has come to any of the ranks; to those that it has not it has then, too."""
        if number := together.most(self.signal or 0):
            self.signal = number
        return self.signal is not None


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
    interruption, before, at_the_end = Interruption(), dict[int, Any](), ExitStack()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        interruption.signal = number
        restore()
        at_the_end.enter_context(_deaths_wait(interruption))

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
    try:
        yield interruption
    finally:
        restore()
        at_the_end.close()
    if interruption.signal == signal.SIGINT:
        raise KeyboardInterrupt
    if interruption.signal is not None:
        raise SystemExit(128 + interruption.signal)


@contextmanager
def _deaths_wait(interruption: Interruption) -> Generator[None, None, None]:
    """The signal may have ended the workers of a loader, too: whoever awaits no batch is not told."""
    number = getattr(signal, "SIGCHLD", None)
    handler = None if number is None else signal.getsignal(number)
    if number is None or not callable(handler):
        yield
        return

    def told(number: int, frame: FrameType | None) -> None:
        if interruption.awaiting:
            handler(number, frame)

    signal.signal(number, told)
    try:
        yield
    finally:
        signal.signal(number, handler)


def _metadata(run: Run, setting: dict[str, Any], places: list[Mapping[str, Any]]) -> dict[str, Any]:
    names = run.window[0] if run.window else {}
    return {
        "epoch": run.epoch,
        "in_epoch": run.in_epoch,
        "history": {name: [_written(value) for value in values] for name, values in run.history.items()},
        "window": {name: [_written(metrics[name].item()) for metrics in run.window] for name in names},
        "places": places,
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
