"""Many steps at once: over stacked batches, or over the rows of data in memory."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch

from .. import functorch, tree
from ..arguments import typed
from ..errors import PureSGDError
from ..hints import T
from .mapped_scan import mapped_scan
from .one_program import Many, can_be_one_program, one_by_one, one_program
from .state import TrainState
from .step import Metrics, Step

__all__ = ["scan", "scan_indices"]

#: Bytes of batches gathered at a time, at least: so many steps that the cost of a call does not show.
#: Gathered within the loop, the smallest steps take a third longer.
GATHER_BYTES = 2**24


@typed
def scan(
    step: Step[T],
    state: TrainState[T],
    batches: Any,
    *,
    compile: bool = True,
    backend: Any = "inductor",
) -> tuple[TrainState[T], Metrics]:
    """Many steps as one compiled program: ``step`` along the leading axis of ``batches``.

        for k in range(steps):
            state, metrics[k] = step(state, batches[k])

    ``batches`` is a batch whose leaves are stacked, (steps, B, ...); metrics come back stacked, (steps,).
    A small step on the CPU becomes a loop in C++ that allocates nothing: the step of a linear model takes a
    fraction of a microsecond. That wants a state of less than 8192 numbers, and arithmetic that Inductor
    compiles to kernels: matrix products of up to 2**15 multiplications, say, but neither larger ones, nor
    convolutions, nor eigenvalues. Any other step is compiled by itself, as by :func:`compile_step`, and
    called in turn on one copy of the state.

    The first call compiles for some 10 to 60 s; later ones do not, also with another number of steps: for
    progress, evaluation and checkpoints call it again on the next batches. The program belongs to ``step``,
    so make that once. ``backend`` is that of ``torch.compile``; only its default makes the loop in C++.

    The numbers are those of the loop above, up to the rounding of a compiler. The loop itself runs,
    uncompiled, with ``compile=False``; within ``torch.func.grad`` and what is compiled around it, and where a
    leaf requires a gradient; and, with a warning, for a step that torch cannot compile. Within ``vmap``, as
    in a :func:`sweep`, it runs uncompiled where there is no loop in C++ for all runs together. In
    C++ both sides of a branch run, and one is taken. Arguments are never changed. Tensors that
    ``step`` reads besides its arguments are those of the first call, with what they hold at each.

    Raises:
        PureSGDError: ``batches`` that do not share one number of steps, a ``step`` that changes what it reads
            besides its arguments, and what the step itself raises.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.sgd(0.5)
        >>> step = ps.make_step(ps.empirical_risk(lambda params, x: (params - x) ** 2 / 2), tx)
        >>> state = ps.init_train_state(torch.tensor(0.0), tx)
        >>> state, metrics = ps.scan(step, state, (torch.ones(3, 4),), backend="eager")
        >>> state.params, metrics["loss"]
        (tensor(0.8750), tensor([0.5000, 0.1250, 0.0312]))
    """
    _check_steps(batches, "batches")
    return _run(_fastest(step, state, batches, compile, backend), state, [batches])


@typed
def scan_indices(
    step: Step[T],
    state: TrainState[T],
    data: Any,
    indices: torch.Tensor,
    *,
    compile: bool = True,
    backend: Any = "inductor",
) -> tuple[TrainState[T], Metrics]:
    """The same over ``data`` in memory: step k is taken on the rows ``indices[k]`` of every leaf.

        for k in range(steps):
            state, metrics[k] = step(state, data[indices[k]])

    ``data`` has leaves (n, ...), ``indices`` is an integer tensor (steps, B), as :func:`epoch_indices`
    makes it, of rows from 0 on. The batches are gathered before the loop, for as many steps at a time as
    take 16 to 32 MiB. All else is as in :func:`scan`.

    Raises:
        PureSGDError: leaves of ``data`` that differ in length, ``indices`` that are no integers or name no
            step, and what the step itself raises.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.sgd(0.5)
        >>> step = ps.make_step(ps.empirical_risk(lambda params, x: (params - x) ** 2 / 2), tx)
        >>> state = ps.init_train_state(torch.tensor(0.0), tx)
        >>> data, indices = (torch.arange(4.0),), torch.tensor([[0, 1], [2, 3]])
        >>> state, metrics = ps.scan_indices(step, state, data, indices, backend="eager")
        >>> state.params, metrics["loss"]
        (tensor(1.3750), tensor([0.2500, 2.6562]))
    """
    tree.batch_length(data, "data")
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool or not indices.ndim:
        raise PureSGDError(
            "scan_indices",
            f"indices has dtype {indices.dtype} and shape {tuple(indices.shape)}, expected int64 (steps, B)",
            "Pass epoch_indices(n, batch_size, seed, epoch), say",
        )
    _check_steps(indices, "indices")
    bytes_a_step = indices[0].numel() * sum(leaf[0].nbytes for leaf in tree.leaves(data))
    chunks = max(1, len(indices) // max(1, GATHER_BYTES // max(1, bytes_a_step)))
    gathered = (tree.map(partial(_rows_of, rows), data) for rows in indices.tensor_split(chunks))
    return _run(_fastest(step, state, data, compile, backend), state, gathered)


def _rows_of(rows: torch.Tensor, leaf: torch.Tensor) -> torch.Tensor:
    # A third of the time of leaf[rows], which for a small step would show.
    return leaf.index_select(0, rows.reshape(-1)).unflatten(0, rows.shape)


def _fastest(step: Step, state: TrainState, data: Any, compile: bool, backend: Any) -> Many:
    if compile and can_be_one_program(state, data):
        return one_program(step, backend)
    if compile and backend == "inductor" and not torch.compiler.is_compiling() and functorch.is_mapped_only():
        return partial(mapped_scan, step)
    return partial(one_by_one, step)


def _run(many: Many, state: TrainState, chunks: Iterable[Any]) -> tuple[TrainState, Metrics]:
    """Through chunks of stacked batches, one after the other."""
    seen: list[Metrics] = []
    for batches in chunks:
        state, metrics = many(state, batches)
        seen.append(metrics)
    if len(seen) == 1:
        return state, seen[0]
    return state, {name: torch.cat([metrics[name] for metrics in seen]) for name in seen[0]}


def _check_steps(batches: Any, name: str) -> None:
    remedy = "Stack the batches, so that all leaves share a leading axis of steps"
    named = tree.named_leaves(batches, name)
    if not named:
        raise PureSGDError(name, "holds no tensor", remedy)
    lengths = [len(leaf) if isinstance(leaf, torch.Tensor) and leaf.ndim else 0 for _, leaf in named]
    for (path, _), length in zip(named, lengths, strict=True):
        if not length:
            raise PureSGDError(path, "holds no step", remedy)
        if length != lengths[0]:
            first = f"{named[0][0]} holds {lengths[0]}"
            raise PureSGDError(path, f"holds {length} steps where {first}", remedy)
