"""A step that is not finite: where it began, and how compiled steps leave the state as it was."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from .. import tree
from ..arguments import typed
from ..data import take
from ..gradients import EmpiricalRisk, per_example_grads
from ..gradients.examples import arguments, over_examples
from ..models.buffers import trainable
from ..transforms import GradientTransformation
from ..tree.traversal import aligned
from .state import TrainState
from .step import Metrics, Step, make_step

__all__ = ["Fault", "find_fault", "guarded", "is_faulty", "unfinite_leaves"]

#: Examples whose gradients are looked at together.
CHUNK = 16
#: The metric of a guarded step that is compiled: whether it left the parameters as they were.
KEPT = "kept"


class Fault(NamedTuple):
    """What is not finite in one step, and where it began."""

    stage: str  # the first of "loss", "gradient" and "update" that is not finite
    leaves: tuple[str, ...]  # the paths at which gradient or new parameters are not, for that example
    example: (
        int | None
    )  # the first in the batch by whose loss or gradient it is; None: by that of no single one
    inputs: tuple[str, ...]  # what was not finite to begin with, such as "params['w']" or "batch[0]"


@typed
def find_fault(
    loss: Callable[..., Any],
    tx: GradientTransformation,
    state: TrainState,
    batch: Any,
    *,
    has_aux: bool = False,
    by_example: bool = True,
    **extra: Any,
) -> Fault | None:
    """Run one step and say what is the first in it that is not finite; None where all is.

    The step is that of :func:`make_step`. Of an :func:`empirical_risk` the losses and gradients of single
    examples tell which one it is, unless ``by_example`` is False: 16 of them are held at a time.

    Raises:
        PureSGDError: whatever the step raises.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> loss, tx = ps.empirical_risk(lambda params, x: (params["w"] * x).sqrt()), ps.sgd(0.1)
        >>> state = ps.init_train_state({"w": torch.tensor(1.0)}, tx)
        >>> ps.find_fault(loss, tx, state, (torch.tensor([4.0, 0.0, -1.0]),))
        Fault(stage='loss', leaves=("params['w']",), example=2, inputs=())
    """
    seen: dict[str, Any] = {}

    def update(grads: Any, opt_state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        seen["grads"] = grads
        return tx.update(grads, opt_state, params, **extra)

    with torch.no_grad():
        new, metrics = make_step(loss, tx._replace(update=update), has_aux)(state, batch, **extra)
        gradient = unfinite_leaves(seen["grads"], "params")
        updated = unfinite_leaves(new.params, "params")
        inputs = (*unfinite_leaves(state.params, "params"), *unfinite_leaves(batch, "batch"))
        if not math.isfinite(metrics["loss"].item()):
            fault = Fault("loss", gradient, None, inputs)
        elif gradient:
            fault = Fault("gradient", gradient, None, inputs)
        else:
            return Fault("update", updated, None, inputs) if updated else None
        if by_example and isinstance(loss, EmpiricalRisk):
            return _by_example(fault, loss.example_loss, state.params, batch)
    return fault


def guarded(step: Step) -> Step:
    """``step``, which where compiled leaves the parameters as they were if loss or gradient is not finite.

    The optimizer state too; the metric ``kept`` then says so. Elsewhere it is ``step`` as it stands: who
    called it still has the state from before.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> from pure_sgd.training.faults import guarded
        >>> tx = ps.sgd(0.5)
        >>> step = guarded(ps.make_step(ps.empirical_risk(lambda params, x: params * x), tx))
        >>> step = ps.compile_step(step, backend="aot_eager")
        >>> state = ps.init_train_state(torch.tensor(1.0), tx)
        >>> state, metrics = step(state, (torch.tensor([1.0, torch.inf]),))
        >>> state.params, state.step, metrics["kept"]
        (tensor(1.), tensor(1), tensor(True))
    """

    def keeping(state: TrainState, batch: Any, **extra: Any) -> tuple[TrainState, Metrics]:
        new, metrics = step(state, batch, **extra)
        if not torch.compiler.is_compiling():
            return new, metrics
        fine = torch.isfinite(metrics["loss"]) & torch.isfinite(metrics["grad_norm"])
        columns, rebuild = aligned(tuple(new[1:]), tuple(state[1:]))
        rows = zip(*columns, strict=True)
        params, opt_state = rebuild([torch.where(fine, now, before) for now, before in rows])
        return TrainState(new.step, params, opt_state), {**metrics, KEPT: ~fine}

    return keeping


def is_faulty(metrics: Metrics) -> bool:
    """Whether loss or gradient of a step were not finite.

    Example:
        >>> import torch
        >>> from pure_sgd.training.faults import is_faulty
        >>> is_faulty({"loss": torch.tensor(1.0), "grad_norm": torch.tensor(torch.inf)})
        True
    """
    if KEPT in metrics:
        return bool(metrics[KEPT])
    return not (math.isfinite(metrics["loss"].item()) and math.isfinite(metrics["grad_norm"].item()))


def unfinite_leaves(whole: Any, name: str) -> tuple[str, ...]:
    """The paths of the leaves that hold a NaN or an infinity; ``'buffers'`` are left out.

    Example:
        >>> import torch
        >>> from pure_sgd.training.faults import unfinite_leaves
        >>> unfinite_leaves({"w": torch.tensor([1.0, torch.nan]), "b": torch.ones(2)}, "params")
        ("params['w']",)
    """
    named = tree.named_leaves(trainable(whole), name)
    return tuple(path for path, leaf in named if not _is_finite(leaf))


def _is_finite(leaf: Any) -> bool:
    if not isinstance(leaf, torch.Tensor) or not (leaf.is_floating_point() or leaf.is_complex()):
        return True
    # One pass; where the sum overflows, a second one decides.
    total: Any = leaf.sum().item()
    return bool(abs(total) < math.inf or torch.isfinite(leaf).all())


def _by_example(fault: Fault, example_loss: Callable[..., Any], params: Any, batch: Any) -> Fault:
    """The same fault, with the first example that shows it alone."""
    if fault.stage == "loss":
        losses = over_examples(lambda *example: example_loss(params, *example), batch, "batch")
        found = torch.nonzero(~torch.isfinite(losses))
        if not len(found):
            return fault
        first = int(found[0])
        grads = _grads(example_loss, params, batch, slice(first, first + 1))
        return fault._replace(example=first, leaves=unfinite_leaves(grads, "params"))
    for start in range(0, tree.batch_length(batch), CHUNK):
        grads = _grads(example_loss, params, batch, slice(start, start + CHUNK))
        bad = [~torch.isfinite(leaf).reshape(len(leaf), -1).all(1) for leaf in tree.leaves(grads)]
        found = torch.nonzero(torch.stack(bad).any(0))
        if len(found):
            inside = int(found[0])
            leaves = unfinite_leaves(take(grads, inside), "params")
            return fault._replace(example=start + inside, leaves=leaves)
    return fault


def _grads(example_loss: Callable[..., Any], params: Any, batch: Any, rows: slice) -> Any:
    return per_example_grads(example_loss)(params, take(arguments(batch), rows))
