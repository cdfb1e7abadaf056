"""What a run notes down of itself, now and then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..transforms import eval_params
from ..transforms.reading import average_names
from .run import History, Record, Run
from .state import TrainState
from .step import Metrics
from .together import ALONE, Together
from .watching import SKIPPED

__all__ = ["Recorder", "evaluation", "summary"]

#: Measured at some steps; the ratio of their means is the noise scale.
NOISE = ("trace_covariance", "grad_sq_norm")


class Recorder:
    """What is noted down of a run at each record, who is told, and what follows from it.

    ``extra`` are the extra arguments of the steps up to the next record.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> from pure_sgd.training.records import Recorder
        >>> from pure_sgd.training.run import Run
        >>> run = Run(ps.init_train_state(torch.tensor(1.0), ps.sgd(0.1)))
        >>> recorder = Recorder(run.history, stop_when=lambda history: history["loss"][-1] < 1)
        >>> run.take(run.state, {"loss": torch.tensor(0.5)})
        >>> recorder.keep(run)
        >>> run.history, recorder.stops(run.history)
        ({'epoch': [0], 'step': [1], 'loss': [0.5]}, True)
    """

    def __init__(
        self,
        history: History,
        evaluate: Callable[[Any], Any] | None = None,
        callbacks: Sequence[Callable[[Record, TrainState], object]] = (),
        extra_args: Callable[[Record | None], dict[str, Any]] | None = None,
        stop_when: Callable[[History], bool] | None = None,
        together: Together = ALONE,
    ) -> None:
        self._evaluate, self._callbacks, self._extra_args = evaluate, callbacks, extra_args
        self._stop_when, self._together = stop_when, together
        self.extra = extra_args(history.last()) if extra_args else {}

    def keep(self, run: Run) -> None:
        """Record what happened since the last one."""
        record = {"epoch": run.epoch, "step": run.done, **summary(run.window)}
        record |= evaluation(self._evaluate, run.state)
        run.window.clear()
        for name, value in record.items():
            run.history.setdefault(name, []).append(value)
        for callback in self._callbacks:
            callback(record, run.state)
        if self._extra_args:
            self.extra = self._extra_args(record)

    def stops(self, history: History) -> bool:
        """Whether any rank is told to stop by its history."""
        return self._stop_when is not None and self._together.most(int(self._stop_when(history))) > 0


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
