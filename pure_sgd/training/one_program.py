"""Many steps as one program, where torch can make one: the loop lies inside what is compiled."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch

from .. import functorch, tree
from ..errors import PureSGDError
from .compiled import compile_step
from .state import TrainState
from .step import Metrics, Step

__all__ = ["can_be_one_program", "one_by_one", "one_program"]

#: Programs kept, for as many steps; the one that was used least recently is compiled again when it returns.
MAX_PROGRAMS = 32

#: Numbers in the state from which on a step takes so long that a loop around it costs nothing.
LARGE_STATE = 2**13

logger = logging.getLogger(__name__)

Result = tuple[TrainState, Metrics]
Many = Callable[[TrainState, Any], Result]


def one_by_one(step: Step, state: TrainState, batches: Any) -> Result:
    """The loop that :func:`scan` stands for, run by Python.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> from pure_sgd.training.one_program import one_by_one
        >>> tx = ps.sgd(0.5)
        >>> step = ps.make_step(ps.empirical_risk(lambda params, x: (params - x) ** 2 / 2), tx)
        >>> state = ps.init_train_state(torch.tensor(0.0), tx)
        >>> one_by_one(step, state, (torch.ones(3, 4),))[1]["loss"]
        tensor([0.5000, 0.1250, 0.0312])
    """
    seen: list[Metrics] = []
    leaves, rebuild = tree.flatten(batches)
    for batch in zip(*[leaf.unbind() for leaf in leaves], strict=True):
        state, metrics = step(state, rebuild(list(batch)))
        # What a metric shares with a state that is written over must not change after this step.
        seen.append({name: value.clone() for name, value in metrics.items()})
    return state, {name: torch.stack([metrics[name] for metrics in seen]) for name in seen[0]}


def can_be_one_program(state: TrainState, batches: Any) -> bool:
    """Whether steps can be compiled here: not under ``vmap`` or ``grad``, nor with autograd at work.

    Nor inside another program, or with tensors on several devices.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> from pure_sgd.training.one_program import can_be_one_program
        >>> state = ps.init_train_state(torch.tensor(0.0), ps.sgd(0.5))
        >>> can_be_one_program(state, torch.ones(3))
        True
        >>> can_be_one_program(state, torch.ones(3, requires_grad=True))
        False
    """
    if torch.compiler.is_compiling():
        return False
    leaves = tree.leaves((state, batches))
    return (
        not functorch.within_transform()
        and all(isinstance(leaf, torch.Tensor) for leaf in leaves)
        and len({leaf.device for leaf in leaves}) == 1
        and not (torch.is_grad_enabled() and any(leaf.requires_grad for leaf in leaves))
    )


@lru_cache(maxsize=MAX_PROGRAMS)
def one_program(step: Step, backend: Any) -> Many:
    """``many(state, batches) -> (state, metrics)``, compiled, for any number of steps.

    What is small, on the CPU and made of kernels alone becomes a :func:`cpp_loop`. Any other step is compiled
    by itself and called in turn, on one copy of the state.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> from pure_sgd.training.one_program import one_program
        >>> tx = ps.sgd(0.5)
        >>> step = ps.make_step(ps.empirical_risk(lambda params, x: (params - x) ** 2 / 2), tx)
        >>> many = one_program(step, "eager")
        >>> many(ps.init_train_state(torch.tensor(0.0), tx), (torch.ones(3, 4),))[1]["loss"]
        tensor([0.5000, 0.1250, 0.0312])
    """
    from torch._dynamo.exc import TorchDynamoException

    chosen: dict[Any, Many] = {}  # for each structure, and the shapes and dtypes of its leaves

    def many(state: TrainState, batches: Any) -> Result:
        rows = [(leaf.shape[1:], leaf.dtype) for leaf in tree.leaves(batches)]
        signature = (tree.structure((state, batches)), *map(_signature, tree.leaves(state)), *rows)
        if signature not in chosen:
            chosen[signature] = _fastest(step, backend, state, batches)
        try:
            return chosen[signature](state, batches)
        except (TorchDynamoException, OSError) as refusal:  # the second where no file can be written
            chosen[signature] = partial(one_by_one, step)
            result = one_by_one(step, state, batches)  # raises what the step itself has to say
            reason = " ".join(str(refusal).split()[:60])
            warnings.warn(f"scan: this step runs uncompiled, for torch says: {reason}", stacklevel=5)
            return result

    return many


def _fastest(step: Step, backend: Any, state: TrainState, batches: Any) -> Many:
    """What takes many steps from states and batches like these."""
    leaves = tree.leaves(state)
    metrics = _metrics_like(step, state, batches)
    if metrics is None:
        return partial(one_by_one, step)
    small = sum(leaf.numel() for leaf in leaves) < LARGE_STATE
    if small and backend == "inductor" and leaves[0].device.type == "cpu":
        try:
            return _in_cpp(step, state, batches, metrics)
        except PureSGDError:
            raise
        except Exception as error:
            # Of torch or of its C++ compiler, of any type: what they refuse runs in another way.
            logger.info("scan: no loop in C++, for %s: %s", type(error).__name__, error)
    compiled = compile_step(step, donate=True, backend=backend)

    def in_turn(state: TrainState, batches: Any) -> Result:
        state, metrics = one_by_one(compiled, tree.map(torch.clone, state), batches)
        return tree.map(torch.clone, state), metrics  # the leaves of a donated state may share their memory

    return in_turn


def _in_cpp(step: Step, state: TrainState, batches: Any, metrics: Metrics) -> Many:
    from .programs.cpp_loop import (
        cpp_loop,  # Inductor takes seconds to import, and other versions lack what it needs
    )

    leaves, rebuild = tree.flatten(state)
    stacked, rebuild_batch = tree.flatten(batches)
    rebuild_metrics = tree.flatten(metrics)[1]

    def body(carry: list[torch.Tensor], row: list[torch.Tensor]) -> Any:
        new, metrics = step(rebuild(carry), rebuild_batch(row))
        return tree.leaves(new), tree.leaves(metrics)

    with torch.no_grad():
        loop = cpp_loop(body, leaves, [leaf[0] for leaf in stacked])

    def many(state: TrainState, batches: Any) -> Result:
        carry, stacked = loop(tree.leaves(state), tree.leaves(batches))
        return rebuild(carry), rebuild_metrics(stacked)

    return many


def _metrics_like(step: Step, state: TrainState, batches: Any) -> Metrics | None:
    """The metrics of the first step, or None if its new state is no carry."""
    with torch.no_grad():
        new, metrics = step(state, tree.map(lambda leaf: leaf[0], batches))
    tree.check_like(new, state, "new state", "state")
    pairs = zip(tree.leaves(new), tree.leaves(state), strict=True)
    return metrics if all(_signature(a) == _signature(b) for a, b in pairs) else None


def _signature(leaf: torch.Tensor) -> Any:
    return leaf.shape, leaf.dtype, leaf.device
