"""A faulty step on disk: the state before it and its batch, in a checkpoint that one call runs again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ..arguments import typed
from ..errors import PureSGDError
from ..transforms import GradientTransformation
from .checkpoints import checkpoint_metadata, checkpoint_steps, load_checkpoint, save_checkpoint
from .faults import Fault, find_fault
from .outlines import like_outline, outline
from .state import TrainState, init_train_state

__all__ = ["FaultyStep", "load_fault", "replay_fault", "save_fault"]

Directory = str | os.PathLike[str]


class FaultyStep(NamedTuple):
    """What a step was called with."""

    state: TrainState
    batch: Any
    extra: dict[str, Any]


def save_fault(directory: Directory, step: FaultyStep, metadata: dict[str, Any]) -> Path:
    """Write down what a step was called with; :func:`load_fault` reads it.

    Raises:
        PureSGDError: a batch or an extra argument that a checkpoint does not hold.

    Example:
        >>> import tempfile
        >>> import torch
        >>> import pure_sgd as ps
        >>> from pure_sgd.training.reproducing import FaultyStep, save_fault
        >>> tx, params = ps.sgd(0.1), torch.ones(2)
        >>> step = FaultyStep(ps.init_train_state(params, tx), (torch.tensor([1.0, 2.0]),), {})
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     path = save_fault(directory, step, {"seed": 0})
        ...     ps.load_fault(directory, tx, params).batch
        (tensor([1., 2.]),)
    """
    number = int(step.state.step)
    if number in checkpoint_steps(directory):
        return Path(directory)
    forms = {"batch": outline(step.batch), "extra": outline(step.extra)}
    save_checkpoint(directory, step._asdict(), number, metadata={**metadata, **forms})
    return Path(directory)


@typed
def load_fault(directory: Directory, tx: GradientTransformation, params: Any) -> FaultyStep:
    """``(state, batch, extra)`` of the faulty step that :func:`fit` saved in ``directory``.

    ``params`` gives structure, shapes and devices, its values are not looked at: what :func:`fit` began with
    will do. The batch comes back on the device of the parameters.

    Raises:
        PureSGDError: no faulty step there, or one of other parameters or another optimizer.
        CorruptCheckpointError: it is not what was written.

    Example:
        >>> import tempfile
        >>> import torch
        >>> import pure_sgd as ps
        >>> loss, tx = ps.empirical_risk(lambda params, x: (params * x).log()), ps.sgd(0.1)
        >>> data, params = (torch.tensor([2.0, 1.0, 0.0]),), torch.tensor(1.0)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     try:
        ...         ps.fit(loss, tx, params, data, epochs=1, checkpoint=directory)
        ...     except ps.NonFiniteError as error:
        ...         state, batch, extra = ps.load_fault(error.path, tx, params)
        >>> state.params, batch
        (tensor(1.), (tensor([2., 1., 0.]),))
    """
    metadata = checkpoint_metadata(directory)
    if "batch" not in metadata or "extra" not in metadata:
        raise PureSGDError(
            str(directory), "holds no faulty step", "Pass the path that the error of fit named"
        )
    state = init_train_state(params, tx)
    batch, extra = (like_outline(metadata[name], state.step.device) for name in ("batch", "extra"))
    return FaultyStep(**load_checkpoint(directory, FaultyStep(state, batch, extra)._asdict()))


@typed
def replay_fault(
    directory: Directory,
    loss: Callable[..., Any],
    tx: GradientTransformation,
    params: Any,
    *,
    has_aux: bool = False,
) -> Fault | None:
    """Run the faulty step that :func:`fit` saved in ``directory`` again, and say where it is not finite.

    ``loss``, ``tx``, ``has_aux`` and ``params`` are those of :func:`fit`; of ``params`` only the structure
    counts. None: with this ``loss`` and ``tx`` all is finite.

    Raises:
        PureSGDError: as :func:`load_fault` and :func:`find_fault`.

    Example:
        >>> import tempfile
        >>> import torch
        >>> import pure_sgd as ps
        >>> loss, tx = ps.empirical_risk(lambda params, x: (params * x).log()), ps.sgd(0.1)
        >>> data, params = (torch.tensor([2.0, 1.0, 0.0]),), torch.tensor(1.0)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     try:
        ...         ps.fit(loss, tx, params, data, epochs=1, checkpoint=directory)
        ...     except ps.NonFiniteError as error:
        ...         ps.replay_fault(error.path, loss, tx, params)
        Fault(stage='loss', leaves=('params',), example=2, inputs=())
    """
    state, batch, extra = load_fault(directory, tx, params)
    return find_fault(loss, tx, state, batch, has_aux=has_aux, **extra)
