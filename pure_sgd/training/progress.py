"""The progress bars of runs."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import torch

from .watching import SKIPPED

__all__ = ["Progress", "progress_bar"]

#: What is shown besides the losses.
SHOWN = ("learning_rate", SKIPPED)


def progress_bar(total: int | None, unit: str, shown: bool, done: int = 0) -> Any:
    """A bar of tqdm, in a terminal or a notebook if it is to be shown, and else nowhere.

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
    return tqdm(total=total, initial=done, unit=unit, disable=hidden, dynamic_ncols=True, mininterval=0.2)


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
        self.bar = progress_bar(total, "step", shown, done)
        self.values: dict[str, str] = {}

    def step(self, metrics: Mapping[str, torch.Tensor]) -> None:
        """Count a step. When the bar is drawn, loss and learning rate are read, and shown the next time."""
        if self.bar.update():
            newest = {name: metrics[name].item() for name in ("loss", "learning_rate") if name in metrics}
            self._show(newest, refresh=False)

    def record(self, record: Mapping[str, float]) -> None:
        """Show a record: its losses, held-out ones too, and its learning rate."""
        self._show({name: v for name, v in record.items() if "loss" in name or name in SHOWN}, refresh=True)

    def aside(self) -> AbstractContextManager[None]:
        """While it lasts, what is printed goes above the bar."""
        return type(self.bar).external_write_mode()

    def _show(self, values: Mapping[str, float], refresh: bool) -> None:
        self.values |= {name: f"{value:.4g}" for name, value in values.items()}
        self.bar.set_postfix(self.values, refresh=refresh)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()
