"""Many steps as one program: the loop lies inside what is compiled."""

from __future__ import annotations

import importlib
import types
import warnings
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from torch._dynamo import config, mark_dynamic
from torch._dynamo.exc import TorchDynamoException

from .. import tree
from ..transforms.wrapping import both_run, within_torch_func
from ..tree.packing import pack, unpack
from .compiled import compile_step
from .stack_memory import results_on_the_stack, stack_options
from .state import TrainState
from .step import Metrics, Step

__all__ = ["can_be_one_program", "donating", "one_by_one", "one_program"]

#: Programs kept, for as many steps; the one that was used least recently is compiled again when it returns.
MAX_PROGRAMS = 32

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
    """Whether the loop can lie inside a program: not under ``vmap`` or ``grad``, nor with autograd at work.

    Nor inside another program, where this version of torch has no loop to compile to, or with tensors
    on several devices.

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
        _loop_operator() is not None
        and not within_torch_func()
        and all(isinstance(leaf, torch.Tensor) for leaf in leaves)
        and len({leaf.device for leaf in leaves}) == 1
        and not (torch.is_grad_enabled() and any(leaf.requires_grad for leaf in leaves))
    )


@lru_cache(maxsize=MAX_PROGRAMS)
def one_program(step: Step, backend: Any, unroll: int = 1) -> Many:
    """``many(state, batches) -> (state, metrics)`` as one program, for any number of steps.

    The state travels through the loop as few vectors, and so do the metrics, because each tensor that a
    compiled loop carries costs as much as the arithmetic of a small step. The length of the loop is an
    argument of the program: another number of steps compiles nothing. One round of the loop takes ``unroll``
    steps; those of the last round that nobody asked for leave the state as it was.

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
    loop = _loop_of(step, unroll)
    programs: dict[str, list[Callable[..., Any]]] = {}  # for each type of device, the fastest first
    likes: dict[Any, Metrics | None] = {}  # the metrics of one step; None where it is no loop
    failed: dict[Any, int] = {}  # how many of the programs torch could not compile

    def many(state: TrainState, batches: Any) -> Result:
        leaves, stacked = tree.leaves(state), tree.leaves(batches)
        if len(stacked[0]) == 1:
            return one_by_one(step, state, batches)  # torch makes a program of its own for a length of 1
        device = leaves[0].device.type
        if device not in programs:
            programs[device] = _programs(loop, backend, device)
        shapes = [(leaf.shape[1:], leaf.dtype) for leaf in stacked]
        signature = (tree.structure((state, batches)), *map(_signature, leaves), *shapes)
        if signature not in likes:
            likes[signature] = _metrics_like(step, state, batches)
        like, refusal = likes[signature], None
        while like is not None and failed.get(signature, 0) < len(programs[device]):
            program = programs[device][failed.get(signature, 0)]
            try:
                with torch.no_grad(), both_run(), results_on_the_stack(), config.patch(specialize_float=True):
                    carry, seen = program(state, tree.map(_of_any_length, _rounds(batches, unroll)))
                seen = [vector.reshape(-1, vector.shape[-1])[: len(stacked[0])] for vector in seen]
                return _apart(carry, state), _apart(seen, like)
            except TorchDynamoException as error:
                refusal, failed[signature] = error, failed.get(signature, 0) + 1
        result = one_by_one(step, state, batches)  # raises what the step itself has to say
        if refusal is not None:
            reason = " ".join(str(refusal).split()[:60])
            warnings.warn(f"scan: this step runs uncompiled, for torch says: {reason}", stacklevel=4)
        return result

    return many


@lru_cache(maxsize=MAX_PROGRAMS)
def donating(step: Step, backend: Any) -> Many:
    """``many(state, batches) -> (state, metrics)`` that writes over ``state``: a compiled step in turn.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> from pure_sgd.training.one_program import donating
        >>> tx = ps.sgd(0.5)
        >>> step = ps.make_step(ps.empirical_risk(lambda params, x: (params - x) ** 2 / 2), tx)
        >>> many = donating(step, "eager")
        >>> many(ps.init_train_state(torch.tensor(0.0), tx), (torch.ones(3, 4),))[1]["loss"]
        tensor([0.5000, 0.1250, 0.0312])
    """
    return partial(one_by_one, compile_step(step, donate=True, backend=backend))


def _loop_of(
    step: Step, unroll: int
) -> Callable[[TrainState, Any], tuple[list[torch.Tensor], list[torch.Tensor]]]:
    operator = _loop_operator()

    def loop(state: TrainState, rounds: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        leaves, rebuild = tree.flatten(state)
        stacked, rebuild_batch = tree.flatten(rounds)

        def one_step(carry: list[torch.Tensor], batch: Any) -> Any:
            new, metrics = step(rebuild(unpack(carry, leaves)), batch)
            return pack(tree.leaves(new)), pack(tree.leaves(metrics))

        def one_round(carry: list[torch.Tensor], found: list[torch.Tensor]) -> Any:
            if unroll == 1:
                return one_step(carry, rebuild_batch(list(found)))
            seen: list[list[torch.Tensor]] = []
            for k in range(unroll):
                wanted, batch = rebuild_batch([leaf[k] for leaf in found])
                new, metrics = one_step(carry, batch)
                carry = [torch.where(wanted, a, b) for a, b in zip(new, carry, strict=True)]
                seen.append(metrics)
            return carry, [torch.stack(vectors) for vectors in zip(*seen, strict=True)]

        return operator(one_round, pack(leaves), stacked)

    return loop


def _rounds(batches: Any, unroll: int) -> Any:
    """``(wanted, batches)`` for the rounds of a loop: whether a step counts, and its batch."""
    if unroll == 1:
        return batches
    first = tree.leaves(batches)[0]
    steps = len(first)
    rounds = max(2, -(-steps // unroll))  # torch makes a program of its own for a length of 1
    counted = torch.arange(rounds * unroll, device=first.device)
    if len(counted) != steps:
        batches = tree.map(lambda leaf: leaf.index_select(0, counted.clamp(max=steps - 1)), batches)
    return tree.map(lambda leaf: leaf.unflatten(0, (rounds, unroll)), (counted < steps, batches))


def _programs(loop: Callable[..., Any], backend: Any, device: str) -> list[Callable[..., Any]]:
    """The ways to compile the loop, the fastest first: torch does not manage each of them for every step."""
    choices: list[dict[str, Any] | None] = [None]
    if backend == "inductor" and device == "cpu":
        # A C++ program, in which what is computed goes straight to where the vector will lie. Reuse of
        # memory is off, for torch 2.13 fails to plan it within a loop.
        plain: dict[str, Any] = {
            "cpp_wrapper": True,
            "force_pointwise_cat": True,
            "allow_buffer_reuse": False,
        }
        choices = [{**plain, **stack_options()}, plain] if stack_options() else [plain]
    return [
        torch.compile(_own_code(loop), fullgraph=True, backend=backend, options=options)
        for options in choices
    ]


def _apart(vectors: list[torch.Tensor], like: Any) -> Any:
    """The tree like ``like`` behind the vectors, each leaf in memory of its own."""
    leaves, rebuild = tree.flatten(like)
    return rebuild(
        [torch.clone(leaf, memory_format=torch.contiguous_format) for leaf in unpack(vectors, leaves)]
    )


def _metrics_like(step: Step, state: TrainState, batches: Any) -> Metrics | None:
    """The metrics of the first step, or None if its new state is no carry."""
    with torch.no_grad():
        new, metrics = step(state, tree.map(lambda leaf: leaf[0], batches))
    tree.check_like(new, state, "new state", "state")
    pairs = zip(tree.leaves(new), tree.leaves(state), strict=True)
    return metrics if all(_signature(a) == _signature(b) for a, b in pairs) else None


def _of_any_length(leaf: torch.Tensor) -> torch.Tensor:
    leaf = leaf.detach()  # the mark is on the tensor, and that of the caller stays without
    mark_dynamic(leaf, 0)
    return leaf


def _own_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function with a code object of its own: torch compiles each of them a few times only."""
    if not isinstance(function, types.FunctionType):
        return function
    return types.FunctionType(
        function.__code__.replace(), function.__globals__, function.__name__, None, function.__closure__
    )


def _loop_operator() -> Any:
    """The loop of torch over stacked tensors, or None: it is a prototype, and this is where it is named."""
    try:
        return importlib.import_module("torch._higher_order_ops.scan").scan
    except (ImportError, AttributeError):
        return None


def _signature(leaf: torch.Tensor) -> Any:
    return leaf.shape, leaf.dtype, leaf.device
