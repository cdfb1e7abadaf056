"""What a run notes down of itself, now and then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..transforms import eval_params
from ..transforms.reading import average_names
from .state import TrainState
from .step import Metrics
from .watching import SKIPPED

if TYPE_CHECKING:
    from ..plotting.figures import Axes

__all__ = ["History", "Record", "evaluation", "note", "summary"]

Record = dict[str, float]

#: Measured at some steps; the ratio of their means is the noise scale.
NOISE = ("trace_covariance", "grad_sq_norm")
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


def note(window: list[Metrics], metrics: Metrics) -> None:
    """Add the metrics of a step to ``window``, in place.

    Those of the last 64 steps are laid together now and then: small tensors that stay, each between two
    batches that go, would keep the memory of the batches from being used again.

    Example:
        >>> import torch
        >>> from pure_sgd.training.records import note
        >>> window = []
        >>> note(window, {"loss": torch.tensor(1.0)})
        >>> window
        [{'loss': tensor(1.)}]
    """
    window.append(metrics)
    if len(window) % TOGETHER == 0 and all(part.keys() == metrics.keys() for part in window[-TOGETHER:]):
        columns = [torch.stack([part[name] for part in window[-TOGETHER:]]).unbind() for name in metrics]
        window[-TOGETHER:] = [dict(zip(metrics, row, strict=True)) for row in zip(*columns, strict=True)]


def summary(window: list[Metrics]) -> Record:
    """The means over the steps of a window, and of the learning rate the last.

    Example:
        >>> import torch
        >>> from pure_sgd.training.records import summary
        >>> summary([{"loss": torch.tensor(1.0)}, {"loss": torch.tensor(2.0)}])
        {'loss': 1.5}
    """
    record = {}
    taken = [metrics for metrics in window if not metrics.get(SKIPPED)] or window[-1:]
    for name in window[-1]:
        values = torch.stack([metrics[name].detach() for metrics in taken])
        if name in NOISE:  # NaN at the steps that did not measure it
            record[name] = values.double().nanmean().item()
        else:
            record[name] = (values[-1] if name == "learning_rate" else values.double().mean()).item()
    if SKIPPED in record:
        record[SKIPPED] = sum(bool(metrics[SKIPPED]) for metrics in window)
    if set(NOISE) <= record.keys():
        record["noise_scale"] = record[NOISE[0]] / record[NOISE[1]]
    return record


def evaluation(evaluate: Callable[[Any], Any] | None, state: TrainState) -> Record:
    """What ``evaluate`` says of the parameters, and of each average of them.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> from pure_sgd.training.records import evaluation
        >>> state = ps.init_train_state(torch.tensor(2.0), ps.chain(ps.sgd(0.1), ps.params_ema(0.9)))
        >>> evaluation(lambda params: params**2, state)
        {'val_loss': 4.0, 'val_loss_averaged': 4.0}
    """
    if evaluate is None:
        return {}
    record = _named(evaluate(state.params), "")
    names = average_names(state.opt_state)
    for name in names:
        averaged = eval_params(state.opt_state, state.params, name)
        record.update(_named(evaluate(averaged), "_averaged" if len(names) == 1 else f"_{name}"))
    return record


def _named(result: Any, suffix: str) -> Record:
    results = result if isinstance(result, dict) else {"loss": result}
    return {f"val_{name}{suffix}": float(value) for name, value in results.items()}
