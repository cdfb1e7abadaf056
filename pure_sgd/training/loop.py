"""The training loop, written out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any, Generic, Literal, NamedTuple

import torch

from ..arguments import typed
from ..data import batch_source
from ..errors import PureSGDError, check_count
from ..hints import T
from ..transforms import GradientTransformation
from .checkpoints import checkpoint_steps
from .compiled import compile_step, compile_when_it_pays
from .faults import guarded
from .progress import Progress
from .records import Recorder
from .reproducing import FaultyStep
from .resuming import Interruption, load_run, saving_runs, signals_wait
from .rewinding import Rewound
from .run import History, Record, Run
from .state import TrainState, init_train_state
from .step import Step, make_step
from .together import Together
from .watching import SKIPPED, Place, Policy, Watch, first_bad_update

__all__ = ["FitResult", "fit"]


class FitResult(NamedTuple, Generic[T]):
    """What :func:`fit` returns."""

    state: TrainState[T]
    history: History


@typed
def fit(
    loss: Callable[..., Any],
    tx: GradientTransformation,
    params: T,
    data: Any,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    replacement: bool = False,
    order: Callable[[int], Iterable[torch.Tensor]] | None = None,
    evaluate: Callable[[Any], Any] | None = None,
    record_every: int | None = None,
    stop_when: Callable[[History], bool] | None = None,
    callbacks: Sequence[Callable[[Record, TrainState], Any]] = (),
    extra_args: Callable[[Record | None], dict[str, Any]] | None = None,
    has_aux: bool = False,
    statistics: int | None = None,
    compile: Literal["auto"] | bool = "auto",
    progress: bool = True,
    nonfinite: Policy = "stop",
    detect: Literal["example", "leaf"] = "example",
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
) -> FitResult[T]:
    """Train: ``state, metrics = step(state, batch)`` for every batch, with a record of each epoch.

    Args:
        loss: ``loss(params, batch)``, shape ``()``; see :func:`make_step`. It must be pure: what it reads
            besides its arguments is read once, unless ``compile`` is False.
        tx: The optimizer.
        params: Where to begin; copied, never changed.
        data: Tensors in memory (a tuple, dict or tensor with a leading axis of examples), files
            (:func:`from_files`), or an iterable of batches that can be iterated over once an epoch, such as
            a ``DataLoader``. Batches are moved to the device of the parameters.
        epochs: How often to go through ``data``; or
        steps: how many steps to take, through as many epochs as that needs.
        batch_size: Of data in memory: None or n is full gradient descent, 1 is pure SGD. Of data in files.
        seed: Of the order in which data in memory is visited; see :func:`epoch_indices`.
        replacement: Whether batches are drawn with replacement.
        order: ``order(epoch)`` gives the rows of each batch, instead.
        evaluate: ``evaluate(params)`` gives a number or a dict of numbers at each record; they are kept as
            ``val_loss`` or ``val_<name>``, and once more with ``_averaged`` behind for the parameters of
            :func:`eval_params`, where the optimizer holds an average; of several, with the name of each.
        record_every: Steps between two records; None: one a epoch.
        stop_when: ``stop_when(history)`` ends the run after a record; see :func:`early_stopping`.
        callbacks: Each called as ``callback(record, state)`` after a record, to log or save; the tensors of
            ``state`` are written over by later steps, so clone what is to be kept.
        extra_args: ``extra_args(record)`` gives the extra arguments of ``tx`` until the next record, from
            the last one (None before the first): ``{"value": record["val_loss"]}``, say.
        has_aux: Whether ``loss`` returns ``(value, aux)``; see :func:`make_step`.
        statistics: Measure the gradient noise every so many steps; see :func:`make_step`. A record holds
            the means of ``trace_covariance`` and ``grad_sq_norm`` since the last one, and their ratio.
        compile: True compiles the step from the start, False never, and ``"auto"`` only when that ends
            sooner: see :func:`compile_when_it_pays`, which takes at least three minutes of
            steps to be left, and of several ranks never. The state is donated to the compiled step.
        progress: Show a progress bar, in a terminal or a notebook.
        nonfinite: What to do about a step whose loss or gradient is not finite. ``"stop"`` raises
            :class:`NonFiniteError`, which tells where it began and saves the state before the step and its
            batch for :func:`replay_fault`, under ``checkpoint`` or else in a temporary directory;
            ``"skip"`` leaves parameters and optimizer state as they were, and counts in
            ``history["skipped"]``; ``"allow"`` goes on. With the first two, parameters that are not finite
            at a record end the run too, and are traced to their step by taking the steps again, from
            the last checkpoint or the start.
        detect: What the error names: ``"example"`` the first in the batch that is not finite alone, and its
            leaves; ``"leaf"`` those of the whole batch, which takes one step instead of one an example.
        checkpoint: A directory to save the run in, by :class:`AsyncCheckpoints`: at the end, and
        checkpoint_every: every so many steps; None: at each record. A SIGINT or SIGTERM then ends the
            run after its step, with a checkpoint; a second one at once. Where ``loss`` is that of
            :func:`pure_sgd.distributed.data_parallel`, the first rank saves for all, all go on from the
            same checkpoint, and what stops one of them stops all after the same step.
        resume: Go on from the newest intact checkpoint, if there is one. What follows is bit for bit what
            would have followed, with ``compile`` True or False (``"auto"`` decides by the clock). What a
            ``DataLoader`` draws from torch's generators is drawn again; other batches are an error.

    Returns:
        ``(state, history)``: the last state, and a dict of lists: ``epoch``, ``step``, the means of ``loss``,
        ``grad_norm`` and other metrics since the record before, the last ``learning_rate``, and what
        ``evaluate`` gave.

    Raises:
        PureSGDError: neither or both of ``epochs`` and ``steps``, data without examples, a batch size out of
            range, a run to resume that was begun with other settings, and whatever the step raises.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> x = torch.linspace(-1, 1, 64)
        >>> loss = ps.empirical_risk(lambda params, x, y: (params["w"] * x + params["b"] - y) ** 2)
        >>> params = {"w": torch.tensor(0.0), "b": torch.tensor(0.0)}
        >>> state, history = ps.fit(
        ...     loss, ps.sgd(0.1, momentum=0.9), params, (x, 3 * x + 1), epochs=30, batch_size=16
        ... )
        >>> round(state.params["w"].item(), 2), round(state.params["b"].item(), 2)
        (3.0, 1.0)
    """
    for name, number in (("record_every", record_every), ("checkpoint_every", checkpoint_every)):
        if number is not None:
            check_count("fit", name, number)
    _check_choice("nonfinite", nonfinite, ("stop", "skip", "allow"))
    _check_choice("detect", detect, ("example", "leaf"))
    state = init_train_state(params, tx)
    source = batch_source(data, batch_size, seed, replacement, order, state.step.device)
    epochs, total = _length(epochs, steps, source.steps_per_epoch)
    setting = {"seed": seed, "batch_size": batch_size, "replacement": replacement}
    together = Together(getattr(loss, "mesh", None))
    run = _begin(state, checkpoint, setting, resume, together)
    step = make_step(loss, tx, has_aux, statistics=statistics)
    # Ranks that watched the clock, each its own, would not take the same step.
    compile = False if compile == "auto" and together.ranks > 1 else compile
    step = _choose(step if nonfinite == "allow" else guarded(step), compile, total and total - run.done)

    def trace(watch: Watch, until: int) -> tuple[FaultyStep, Place] | None:
        if extra_args or source.rows is None:
            return None  # others, or other batches, may come the second time
        start = init_train_state(params, tx)
        saved = load_run(checkpoint, start, setting, together) if checkpoint is not None else None
        return first_bad_update(step, source, saved or Run(start), until, watch)

    where = (checkpoint, setting, source.rows, trace, together.rank)
    watch = Watch(nonfinite, loss, tx, has_aux, detect == "example", *where)
    batches = Rewound(source, data, run.place)
    bar = Progress(total, run.done, shown=progress and together.rank == 0)
    told = (lambda record, state: bar.record(record), *callbacks)
    recorder = Recorder(run.history, evaluate, told, extra_args, stop_when, together)

    def save() -> None:
        if checkpoint is not None:
            watch.look(run.state)
            run.place = batches.place()
            write(run)

    def record() -> bool:
        """Keep a record; true when it is time to stop."""
        watch.look(run.state)
        recorder.keep(run)
        if checkpoint_every is None:
            save()
        return recorder.stops(run.history)

    writing = saving_runs(checkpoint, setting, run.done, together)
    waiting = nullcontext(Interruption()) if checkpoint is None else signals_wait()
    with torch.no_grad(), bar, waiting as interruption, writing as write:
        if run.done == steps or (run.history and not run.window and recorder.stops(run.history)):
            return _result(run)
        for epoch in range(run.epoch, epochs):
            run.epoch = epoch
            for batch in interruption.taken(batches.epoch(epoch, run.in_epoch), together):
                called = FaultyStep(run.state, batch, recorder.extra)
                state, metrics = step(run.state, batch, **recorder.extra)
                place = Place(epoch, run.in_epoch)
                run.take(*watch.settled(called, state, metrics, place))
                bar.step(metrics)
                ended = run.done == steps
                recorded = ended or (record_every and run.done % record_every == 0)
                stopped = recorded and record()
                heard = checkpoint is not None and interruption.heard(together)
                ended = ended or stopped or heard
                if ended or (checkpoint_every and run.done % checkpoint_every == 0):
                    save()
                if ended:
                    return _result(run)
            if interruption.signal is not None:  # which has ended the workers of a loader, too
                break
            ended = epoch == epochs - 1
            if run.window and (ended or not record_every) and record():
                break
            run.in_epoch = run.in_epoch if ended else 0
        save()
    return _result(run)


def _result(run: Run) -> FitResult[Any]:
    if skipped := sum(run.history.get(SKIPPED, [])):
        told = f"fit: {skipped:.0f} of {run.done} steps were not finite and are left out"
        warnings.warn(told, stacklevel=3)
    return FitResult(run.state, run.history)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise PureSGDError("fit", f"{name}={value!r}", f"Pass one of {choices}")


def _length(epochs: int | None, steps: int | None, per_epoch: int | None) -> tuple[int, int | None]:
    if (epochs is None) == (steps is None):
        raise PureSGDError("fit", f"got epochs={epochs} and steps={steps}", "Pass exactly one of them")
    if epochs is not None:
        check_count("fit", "epochs", epochs)
        return epochs, epochs * per_epoch if per_epoch else None
    check_count("fit", "steps", steps)
    # Every epoch has at least one step: more epochs than steps are never begun.
    return steps or 0, steps


def _begin(
    state: TrainState,
    directory: str | os.PathLike[str] | None,
    setting: dict[str, Any],
    resume: bool,
    together: Together,
) -> Run:
    """The run from its start, or from where it was stopped."""
    if resume and directory is None:
        raise PureSGDError("fit", "resume=True without a checkpoint", "Pass its directory as checkpoint")
    if resume and directory and (run := load_run(directory, state, setting, together)):
        return run
    if directory and not resume and together.first(lambda: checkpoint_steps(directory)):
        raise PureSGDError(
            str(directory),
            "holds the checkpoints of another run",
            "Pass resume=True to go on with it, or another directory",
        )
    return Run(state)


def _choose(step: Step, compile: Literal["auto"] | bool, total: int | None) -> Step:
    if compile == "auto":
        return compile_when_it_pays(step, total)
    if not isinstance(compile, bool):
        raise PureSGDError("fit", f"compile={compile!r}", "Pass True, False or 'auto'")
    return compile_step(step, donate=True) if compile else step
