"""The progress bars of runs."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from types import TracebackType
from typing import Any, TextIO

import torch

from .watching import SKIPPED

__all__ = ["Progress", "progress_bar"]

#: What is shown besides the losses.
SHOWN = ("learning_rate", SKIPPED)


@contextmanager
def progress_bar(total: int | None, unit: str, shown: bool, done: int = 0) -> Generator[Any]:
    """A bar of tqdm, in a terminal or a notebook if it is to be shown, and else nowhere.

    While it is shown, lines that anyone prints or logs go above it.

    Example:
        >>> from pure_sgd.training.progress import progress_bar
        >>> with progress_bar(total=10, unit="run", shown=False) as bar:
        ...     bar.update()
    """
    shell = sys.modules.get("IPython")
    if shell is None or not hasattr(shell.get_ipython(), "kernel"):
        from tqdm.std import tqdm

        hidden = None if shown else True  # None: where standard error is no terminal
    else:
        # Without ipywidgets it warns, and draws the bar as text.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from tqdm.auto import tqdm

        hidden = not shown
    bar = tqdm(total=total, initial=done, unit=unit, disable=hidden, dynamic_ncols=True, mininterval=0.2)
    with ExitStack() as printing, bar:
        if not bar.disable:
            for redirect, stream, others in (
                (redirect_stdout, sys.stdout, ()),
                (redirect_stderr, sys.stderr, ("\r", "\n", "\x1b")),
            ):
                above: Any = LinesAbove(bar, stream, others)
                printing.callback(above.finish)
                printing.enter_context(redirect(above))
                for handler in _handlers_of(stream):
                    printing.callback(handler.setStream, stream)
                    handler.setStream(above)
        yield bar


def _handlers_of(stream: TextIO) -> list[logging.StreamHandler[Any]]:
    """What logs to a stream: a handler keeps the one that it found when it was made."""
    loggers = (logging.root, *logging.root.manager.loggerDict.values())
    found = {handler for logger in loggers for handler in getattr(logger, "handlers", ())}
    return [each for each in found if isinstance(each, logging.StreamHandler) and each.stream is stream]


class LinesAbove:
    """A stream while a bar is shown: what is written goes above the bar, line by line.

    What begins with one of ``others`` goes straight through: other bars move to their own places by it.

    Example:
        >>> import sys
        >>> from tqdm import tqdm
        >>> from pure_sgd.training.progress import LinesAbove
        >>> with tqdm(total=3) as bar:
        ...     print("a line", file=LinesAbove(bar, sys.stdout, others=()))
        a line
    """

    def __init__(self, bar: Any, stream: TextIO, others: tuple[str, ...]) -> None:
        self.bar, self.stream, self.others, self.begun = bar, stream, others, ""

    def write(self, text: str) -> int:
        if not self.begun and text.startswith(self.others):
            return self.stream.write(text)
        lines, newline, self.begun = (self.begun + text).rpartition("\n")
        if newline:
            # Without the lock: a process forked while another thread has it would wait forever.
            with type(self.bar).external_write_mode(file=self.bar.fp, nolock=True):
                self.stream.write(lines + newline)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def finish(self) -> None:
        """Write what has begun as a line, and has not ended."""
        self.stream.write(self.begun)


class Progress:
    """A bar of the steps, their speed, the time that remains, and the newest losses and learning rate.

    It is there in a terminal or a notebook if it is to be ``shown``, and else nowhere.

    Example:
        >>> import torch
        >>> from pure_sgd.training.progress import Progress
        >>> with Progress(total=10, done=0, shown=False) as bar:
        ...     bar.step({"loss": torch.tensor(0.5)})
        ...     bar.record({"loss": 0.5, "val_loss": 0.6})
    """

    def __init__(self, total: int | None, done: int, shown: bool) -> None:
        self.drawn = progress_bar(total, "step", shown, done)
        self.values: dict[str, str] = {}

    def step(self, metrics: Mapping[str, torch.Tensor]) -> None:
        """Count a step. When the bar is drawn, loss and learning rate are read, and shown the next time."""
        if self.bar.update():
            newest = {name: metrics[name].item() for name in ("loss", "learning_rate") if name in metrics}
            self._show(newest, refresh=False)

    def record(self, record: Mapping[str, float]) -> None:
        """Show a record: its losses, held-out ones too, and its learning rate."""
        self._show({name: v for name, v in record.items() if "loss" in name or name in SHOWN}, refresh=True)

    def _show(self, values: Mapping[str, float], refresh: bool) -> None:
        self.values |= {name: f"{value:.4g}" for name, value in values.items()}
        self.bar.set_postfix(self.values, refresh=refresh)

    def __enter__(self) -> Progress:
        self.bar = self.drawn.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.drawn.__exit__(kind, error, trace)
