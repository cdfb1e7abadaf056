"""All that a run has come to: its state, how far it is, and what it has noted down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from .state import TrainState
from .step import Metrics

if TYPE_CHECKING:
    from ..plotting.figures import Axes

__all__ = ["History", "Record", "Run"]

Record = dict[str, float]

#: Steps after which their metrics are laid together.
TOGETHER = 64


class History(dict[str, list[float]]):
    """What a run recorded: one list for each quantity, with one entry for each record.

    Example:
        >>> import pure_sgd as ps
        >>> history = ps.History(epoch=[0, 1], loss=[2.0, 1.0])
        >>> history["loss"][-1]
        1.0
        >>> [axes.get_ylabel() for axes in history.plot()]
        ['loss']
    """

    def plot(self, *panels: Sequence[str], by: str = "epoch", ax: Any = None) -> list[Axes]:
        """Draw it, with the quantities of each panel where they are named: :func:`plotting.plot_history`."""
        from ..plotting import plot_history

        return plot_history(self, *([panels] if panels else []), by=by, ax=ax)

    def last(self) -> Record | None:
        """The last record; None before the first."""
        return {name: values[-1] for name, values in self.items()} or None


@dataclass
class Run:
    """A run, which grows with every step.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> from pure_sgd.training.run import Run
        >>> state = ps.init_train_state(torch.tensor(1.0), ps.sgd(0.1))
        >>> run = Run(state)
        >>> run.take(state, {"loss": torch.tensor(0.5)})
        >>> run.done, run.window
        (1, [{'loss': tensor(0.5000)}])
    """

    state: TrainState[Any]
    epoch: int = 0
    in_epoch: int = 0  # steps taken in this epoch
    done: int = 0  # steps taken in all
    history: History = field(default_factory=History)
    window: list[Metrics] = field(default_factory=list[Metrics])  # of the steps since the last record
    place: Mapping[str, Any] = field(default_factory=dict[str, Any])  # among the batches; see Rewound

    def take(self, state: TrainState[Any], metrics: Metrics) -> None:
        """Go on by what a step has returned."""
        self.state = state
        self.done, self.in_epoch = self.done + 1, self.in_epoch + 1
        self.window.append(metrics)
        last = self.window[-TOGETHER:]
        # Small tensors that stay, each between two batches that go, would keep the memory of the batches
        # from being used again: those of some steps are laid together now and then.
        if len(self.window) % TOGETHER == 0 and all(part.keys() == metrics.keys() for part in last):
            columns = [torch.stack([part[name] for part in last]).unbind() for name in metrics]
            self.window[-TOGETHER:] = [
                dict(zip(metrics, row, strict=True)) for row in zip(*columns, strict=True)
            ]
