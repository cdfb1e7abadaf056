"""The step as a recorded list of tensor operations: most of a compiler's gain for none of its wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from .. import functorch, tree
from ..arguments import typed
from ..hints import T
from .programs.below import Axes, below, mapped
from .programs.recording import record
from .state import TrainState
from .step import Metrics, Step

__all__ = ["replay_step"]

#: Recordings kept for batches of different shapes; further shapes run without one.
MAX_RECORDINGS = 4

Result = tuple[TrainState, Metrics]
Leaves = Sequence[Any]


class _Program(NamedTuple):
    """A flat program, and how its results become a state and metrics again."""

    program: Callable[..., Leaves]
    constants: list[torch.Tensor]
    rebuild: Callable[[list[Any]], Result]
    checked: bool

    def replay(self, leaves: Sequence[Any]) -> Leaves:
        return self.program(*leaves, *self.constants)


@typed
def replay_step(step: Step[T]) -> Step[T]:
    """The same step, recorded on the first call and replayed from then on.

    The first call runs ``step`` and writes down its tensor operations, those of ``grad`` and ``vmap``
    included; later calls run that list without the Python around it. Recording takes about as long as
    ten calls, and a small step becomes about four times as fast; a large one, whose time is
    arithmetic, stays as it is (:func:`compile_step` is for those). The operations are those of the step, so
    the numbers are too.

    The second call runs both and keeps the recording only if they agree bit for bit. A step that reads the
    value of a tensor in Python or draws from torch's global generator is never recorded and runs as it
    is; so do batches of a fifth shape. Inside ``torch.func.vmap``, as in a :func:`sweep`, the step of all
    runs together is recorded. As under any tracing compiler, what ``step`` reads besides its arguments is
    read once. Runs without autograd: for gradients through a run use the step itself.

    Raises:
        PureSGDError: what the step itself raises.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.sgd(0.5)
        >>> step = ps.make_step(ps.empirical_risk(lambda params, x: (params - x) ** 2 / 2), tx)
        >>> step = ps.replay_step(step)
        >>> state = ps.init_train_state(torch.tensor(0.0), tx)
        >>> for _ in range(3):
        ...     state, metrics = step(state, (torch.tensor([1.0, 3.0]),))
        >>> state.params
        tensor(1.7500)
    """
    recordings: dict[Any, _Program | None] = {}

    @torch.no_grad()
    def replayed(state: TrainState, batch: Any, **extra: Any) -> Result:
        if any(callable(leaf) for leaf in tree.leaves(extra)):
            return step(state, batch, **extra)
        # A Python number would be recorded as a constant.
        arguments = (state, batch, tree.map(torch.as_tensor, extra))
        leaves, restore = tree.flatten(arguments)
        structure = tree.structure(arguments)
        rebuild: Callable[[list[Any]], Any] = list

        def flat(*leaves: Any) -> tuple[Any, ...]:
            nonlocal rebuild
            state, batch, extra = restore(list(leaves))
            results, rebuild = tree.flatten(step(state, batch, **extra))
            return tuple(results)

        def recorded(axes: Axes, leaves: Leaves) -> Leaves:
            nonlocal rebuild
            function = mapped(flat, axes)
            signature = (structure, axes, *[_signature(leaf) for leaf in leaves])
            recording = recordings.get(signature)
            if recording is not None and recording.checked:
                rebuild = recording.rebuild
                return recording.replay(leaves)
            if recording is not None:
                results = function(*leaves)
                agrees = _equal(recording.replay(leaves), results)
                recordings[signature] = recording._replace(checked=True) if agrees else None
                return results
            if signature in recordings or len(recordings) == MAX_RECORDINGS:
                return function(*leaves)
            found, results = record(function, leaves)
            recordings[signature] = found and _Program(
                found.program(), found.constants, rebuild, checked=False
            )
            return results

        if functorch.is_mapped_only():
            results = below(recorded, leaves)
        elif functorch.within_transform():
            return step(state, batch, **arguments[2])
        else:
            results = recorded((), leaves)
        result: Any = rebuild(list(results))
        return result

    return replayed


def _signature(leaf: Any) -> Any:
    return (leaf.shape, leaf.dtype, leaf.device) if isinstance(leaf, torch.Tensor) else type(leaf)


def _equal(some: Leaves, others: Leaves) -> bool:
    pairs = zip(some, others, strict=True)
    return all(torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)) for a, b in pairs)
