"""What :func:`fit` does about a step that is not finite: it stops and tells of it, or leaves it out."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from .. import tree
from ..data import BatchSource
from ..errors import PureSGDError
from ..transforms import GradientTransformation
from .faults import KEPT, Fault, find_fault, is_faulty, unfinite_leaves
from .reproducing import FaultyStep, save_fault
from .run import Run
from .state import TrainState
from .step import Metrics, Step

__all__ = ["SKIPPED", "NonFiniteError", "Place", "Policy", "Watch", "first_bad_update"]

Policy = Literal["stop", "skip", "allow"]
MOST_NAMED = 8
#: The metric that counts the steps that were left out.
SKIPPED = "skipped"
YES, NO = torch.tensor(True), torch.tensor(False)


class Place(NamedTuple):
    """Which batch a step took."""

    epoch: int
    batch: int  # its number in the epoch, from 0


class NonFiniteError(PureSGDError):
    """A step whose loss, gradient or new parameters are not finite.

    ``step`` is the number of steps taken before it, ``fault`` what :func:`find_fault` says of it, ``rows``
    the examples of its batch where the data is in memory, ``path`` what :func:`replay_fault` reads.

    Example:
        >>> import pure_sgd as ps
        >>> issubclass(ps.NonFiniteError, ps.PureSGDError)
        True
    """

    def __init__(
        self,
        problem: str,
        remedy: str,
        step: int,
        fault: Fault | None,
        rows: list[int] | None,
        path: Path | None,
    ) -> None:
        super().__init__("fit", problem, remedy)
        self.step, self.fault, self.rows, self.path = step, fault, rows, path


@dataclass(frozen=True)
class Watch:
    """What a run does about faulty steps, and what it needs to know to tell of them.

    Raises:
        NonFiniteError: by its methods.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> from pure_sgd.training.watching import Watch
        >>> watch = Watch("skip", ps.empirical_risk(lambda params, x: x), ps.sgd(0.1))
        >>> state = ps.init_train_state(torch.ones(1), ps.sgd(0.1))
        >>> metrics = {"loss": torch.tensor(0.5), "grad_norm": torch.tensor(1.0)}
        >>> watch.settled(FaultyStep(state, None, {}), state, metrics, Place(0, 0))[1]["skipped"]
        tensor(False)
    """

    policy: Policy
    loss: Callable[..., Any]
    tx: GradientTransformation
    has_aux: bool = False
    by_example: bool = True
    directory: str | os.PathLike[str] | None = None  # of the run's checkpoints
    setting: dict[str, Any] = field(default_factory=dict[str, Any])
    rows: Callable[..., Iterable[torch.Tensor]] | None = None  # as of BatchSource
    trace: Callable[[Watch, int], tuple[FaultyStep, Place] | None] = lambda watch, until: None
    rank: int = 0  # each has rows of its own

    def settled(
        self, called: FaultyStep, state: TrainState, metrics: Metrics, place: Place
    ) -> tuple[TrainState, Metrics]:
        """What comes of a step: as it is, or left out, or an error."""
        if self.policy == "allow":
            return state, metrics
        faulty = is_faulty(metrics)
        if faulty:
            # A donated state is written over; a compiled step has written what there was before.
            before = called.state._replace(step=state.step - 1)
            bad = unfinite_leaves(before.params, "params")
            if bad or self.policy == "stop":
                found = self.trace(self, int(before.step)) if bad else None
                raise self.error(*(found or (called._replace(state=before), place)))
            if KEPT not in metrics:
                state = before._replace(step=state.step)
        metrics.pop(KEPT, None)
        if self.policy == "skip":
            metrics[SKIPPED] = YES if faulty else NO
        return state, metrics

    def look(self, state: TrainState) -> None:
        """See that the parameters are finite.

        Raises:
            NonFiniteError: they are not; of the step that made them so where it can be taken again.
        """
        if self.policy == "allow" or not (bad := unfinite_leaves(state.params, "params")):
            return
        steps = int(state.step)
        if found := self.trace(self, steps):
            raise self.error(*found)
        problem = f"{_listed(bad)} is not finite after {steps} steps, while each loss and gradient was"
        raise NonFiniteError(problem, "Record more often to find the step", steps, None, None, None)

    def error(self, called: FaultyStep, place: Place) -> NonFiniteError:
        """Say what is wrong with a step, and write down what it was called with."""
        state, batch, extra = called
        fault = find_fault(
            self.loss, self.tx, state, batch, has_aux=self.has_aux, by_example=self.by_example, **extra
        )
        rows = None if self.rows is None else next(iter(self.rows(place.epoch, place.batch))).tolist()
        step = int(state.step)
        told = [f"step {step} (epoch {place.epoch}, batch {place.batch}) is not finite: {_told(fault, rows)}"]
        metadata = {**self.setting, **place._asdict(), "rows": rows, "fault": fault and fault._asdict()}
        try:
            path = save_fault(self._place_of(step), called, metadata)
        except (PureSGDError, OSError) as error:
            told.append(f"it could not be saved ({error})")
            path = None
        else:
            told.append(f"replay_fault({str(path)!r}, loss, tx, params) runs it again")
        remedy = "nonfinite='skip' leaves such steps out and counts them"
        return NonFiniteError("; ".join(told), remedy, step, fault, rows, path)

    def _place_of(self, step: int) -> Path:
        if self.directory is None:
            return Path(tempfile.mkdtemp(prefix="pure_sgd_fault_"))
        name = f"step_{step}_rank_{self.rank}" if self.rank else f"step_{step}"
        return Path(self.directory) / "faults" / name


def first_bad_update(
    step: Step, source: BatchSource, run: Run, until: int, watch: Watch
) -> tuple[FaultyStep, Place] | None:
    """Take the steps of a run again, up to the first whose new parameters are not finite.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> from pure_sgd.training.run import Run
        >>> from pure_sgd.training.watching import Watch, first_bad_update
        >>> loss, tx = ps.empirical_risk(lambda params, x: params * x), ps.sgd(3e38)
        >>> data, state = (torch.ones(2),), ps.init_train_state(torch.tensor(0.0), tx)
        >>> run, source = Run(state), ps.data.batch_source(data)
        >>> found = first_bad_update(ps.make_step(loss, tx), source, run, 3, Watch("stop", loss, tx))
        >>> found[0].state.params, found[1]
        (tensor(-3.0000e+38), Place(epoch=1, batch=0))
    """
    state = run.state
    for place, batch in islice(_places(source, run), until - run.done):
        before = FaultyStep(tree.map(torch.clone, state), batch, {})
        state, metrics = step(state, batch)
        if unfinite_leaves(state.params, "params"):
            return before, place
        state, _ = watch.settled(before, state, metrics, place)
    return None


def _places(source: BatchSource, run: Run) -> Iterator[tuple[Place, Any]]:
    first, start = run.epoch, run.in_epoch
    for epoch in count(first):
        for number, batch in enumerate(source.epoch(epoch, start), start):
            yield Place(epoch, number), batch
        start = 0


def _told(fault: Fault | None, rows: list[int] | None) -> str:
    """What is bad, in the words of a sentence."""
    if fault is None:
        return "run again without compiling, it is finite"
    at = f" at {_listed(fault.leaves)}" if fault.leaves else ""
    words = [f"the first that is not is the {fault.stage}{at}"]
    if fault.example is not None:
        row = "" if rows is None else f", row {rows[fault.example]} of the data"
        words.append(f"of example {fault.example} of the batch{row}")
    elif rows is not None:
        words.append(f"of rows {_listed(rows)} of the data")
    if fault.inputs:
        words.append(f"and {_listed(fault.inputs)} was not to begin with")
    return " ".join(words)


def _listed(words: Any) -> str:
    more = f" and {len(words) - MOST_NAMED} more" if len(words) > MOST_NAMED else ""
    return ", ".join(str(word) for word in words[:MOST_NAMED]) + more
