"""Many steps of many runs: a scan inside ``vmap`` as one compiled loop that takes a step of all of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import torch

from .. import tree
from ..errors import PureSGDError
from .memory import ran_out
from .one_program import LARGE_STATE, MAX_PROGRAMS, one_by_one
from .programs.below import Axes, Leaves, below, mapped
from .programs.products import products_as_sums
from .programs.recording import Recording, record
from .programs.runs_last import runs_first, runs_last, turned
from .state import TrainState
from .step import Metrics, Step

__all__ = ["mapped_scan"]

logger = logging.getLogger(__name__)

#: Multiplications of one run up to which a product is written as a sum: one of vectors of runs.
MOST = 2**18

#: By what a step of all runs does, as a text, and by the tensors that it does it with; None: refused.
_programs: dict[Any, Callable[..., Any] | None] = {}


class _Refused(Exception):
    """This is no loop in C++."""


def mapped_scan(step: Step, state: TrainState, batches: Any) -> tuple[TrainState, Metrics]:
    """``one_by_one(step, state, batches)`` inside ``vmap``, compiled if it can be.

    One step is taken below ``vmap``, for all runs at once, and written down as a list of tensor operations.
    What runs read besides their arguments, such as a rate that is gone through, are inputs of that list, so
    that the next runs that do the same use the program of these. Batches that runs share are kept once.

    Raises:
        PureSGDError: the step changes a tensor that it reads besides its arguments.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> from pure_sgd.training.mapped_scan import mapped_scan
        >>> def final(rate):
        ...     tx = ps.sgd(rate)
        ...     step = ps.make_step(lambda params, x: (params - x) ** 2 / 2, tx)
        ...     return mapped_scan(step, ps.init_train_state(torch.tensor(0.0), tx), torch.ones(3))[0].params
        >>> torch.func.vmap(final)(torch.tensor([0.5, 1.0]))
        tensor([0.8750, 1.0000])
    """
    leaves, restore = tree.flatten((state, batches))
    count = len(tree.leaves(state))
    rebuild: Callable[[list[Any]], Any] = list

    def flat(*leaves: Any) -> Leaves:
        nonlocal rebuild
        with products_as_sums(MOST):
            results, rebuild = tree.flatten(step(*restore(list(leaves))))
        return tuple(results)

    def caller(axes: Axes, leaves: Leaves) -> Leaves:
        with torch.no_grad():
            return _run(flat, axes, leaves[:count], leaves[count:])

    try:
        results = below(caller, leaves)
    except PureSGDError:
        raise
    except Exception as error:
        if ran_out(error):
            raise  # for a sweep to take fewer runs at once
        # Of torch or of its C++ compiler, of any type; what the step itself has to say, it says again.
        logger.info("scan: these runs have no loop in C++, for %s: %s", type(error).__name__, error)
        return one_by_one(step, state, batches)
    result: Any = rebuild(list(results))
    return result


def _run(flat: Callable[..., Leaves], axes: Axes, state: Leaves, batches: Leaves) -> Leaves:
    """All steps of all runs: the leaves of the last state, and the metrics of every step."""
    count, sizes = len(state), [axis.size for axis in reversed(axes)]
    over = [[axis.in_dims[i] is not None for axis in reversed(axes)] for i in range(count + len(batches))]
    full = [_spread(leaf, mapped_over, sizes) for leaf, mapped_over in zip(state, over, strict=False)]
    _check_small(full, batches, len(sizes))
    # Runs that share their batches come last: then one number of a batch meets a vector of runs.
    order = sorted(range(len(sizes)), key=lambda level: not any(row[level] for row in over[count:]))
    carry = [runs_last(leaf, order).contiguous() for leaf in full]
    rows = [leaf.movedim(sum(row), 0).contiguous() for leaf, row in zip(batches, over[count:], strict=True)]

    spread = tuple(axis._replace(in_dims=(0,) * count + axis.in_dims[count:]) for axis in axes)
    given = [runs_first(leaf, order) for leaf in carry] + [leaf[0] for leaf in rows]
    recording, results = record(mapped(flat, spread), given)
    same = all(_signature(a) == _signature(b) for a, b in zip(results, full, strict=False))
    if recording is None or not same or any(leaf.requires_grad for leaf in recording.constants):
        raise _Refused("a step is no list of operations, or its new state is not like the old one")

    constants = recording.constants
    key = (recording.text, *order, *map(_signature, (*carry, *rows, *constants)))
    if key not in _programs:
        _check_besides(recording, len(given))
        if len(_programs) == MAX_PROGRAMS:
            _programs.pop(next(iter(_programs)))
        _programs[key] = None  # for as long as it is not there
        _programs[key] = _compiled(recording, sizes, order, carry, [leaf[0] for leaf in rows])
    program = _programs[key]
    if program is None:
        raise _Refused("torch could not compile them")
    new, seen = program([*carry, *constants], rows)
    return [runs_first(leaf, order) for leaf in (*new[:count], *seen)]


def _compiled(
    recording: Recording, sizes: list[int], order: list[int], carry: Leaves, row: Leaves
) -> Callable[..., Any]:
    from .programs.cpp_loop import (
        cpp_loop,  # Inductor takes seconds to import, and other versions lack what it needs
    )

    program, count = turned(recording, sizes, order), len(carry)

    def body(carry: list[torch.Tensor], row: list[torch.Tensor]) -> Any:
        given = [runs_first(leaf, order) for leaf in carry[:count]]
        results = [runs_last(leaf, order) for leaf in program(*given, *row, *carry[count:])]
        return [*results[:count], *carry[count:]], results[count:]

    return cpp_loop(body, [*carry, *recording.constants], list(row))


def _check_besides(recording: Recording, count: int) -> None:
    """What comes after so many leaves is read only: a loop would take each change once, or not at all."""
    besides = recording.graph.find_nodes(op="placeholder")[count:]
    for node in recording.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        for taken, value in zip(schema.arguments if schema else (), node.args, strict=False):
            if taken.is_write and value in besides:
                problem = "step changes a tensor that it reads besides its arguments"
                raise PureSGDError("scan", problem, "Keep it in the state, and return the new one")


def _check_small(state: Leaves, batches: Leaves, levels: int) -> None:
    """What takes long by itself gains nothing from a loop in C++."""
    leaves = (*state, *batches)
    if any(leaf.requires_grad or leaf.device.type != "cpu" for leaf in leaves):
        raise _Refused("a leaf requires a gradient or is not on the CPU")
    if sum(math.prod(leaf.shape[levels:]) for leaf in state) >= LARGE_STATE:
        raise _Refused("the state of a run is large")


def _spread(leaf: torch.Tensor, mapped_over: list[bool], sizes: list[int]) -> torch.Tensor:
    """The leaf with an axis for every ``vmap``, also for those that do not map over it."""
    for level, is_mapped in enumerate(mapped_over):
        if not is_mapped:
            leaf = leaf.unsqueeze(level).expand(*leaf.shape[:level], sizes[level], *leaf.shape[level:])
    return leaf


def _signature(leaf: torch.Tensor) -> Any:
    return leaf.shape, leaf.dtype
