"""The step as a recorded list of tensor operations: most of a compiler's gain for none of its wait."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_aggregate
from torch.utils._python_dispatch import TorchDispatchMode

from .. import tree
from .state import TrainState
from .step import Metrics, Step

__all__ = ["replay_step"]

#: Recordings kept for batches of different shapes; further shapes run without one.
MAX_RECORDINGS = 4

Result = tuple[TrainState, Metrics]
Leaves = Sequence[Any]

#: What tells how torch.func has wrapped a tensor; there is no public name for it.
_functorch: Any = import_module("torch._C._functorch")


class Recording(NamedTuple):
    """A flat program, and how its results become a state and metrics again."""

    program: Callable[..., Leaves]
    constants: list[torch.Tensor]
    rebuild: Callable[[list[Any]], Result]
    checked: bool

    def replay(self, leaves: Sequence[Any]) -> Leaves:
        return self.program(*leaves, *self.constants)


def replay_step(step: Step) -> Step:
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
    recordings: dict[Any, Recording | None] = {}

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

        def recorded(function: Callable[..., Leaves], axes: tuple[Any, ...], leaves: Leaves) -> Leaves:
            nonlocal rebuild
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
            program, constants, results = _record(function, leaves)
            recordings[signature] = program and Recording(program, constants, rebuild, checked=False)
            return results

        if not _functorch.maybe_current_level():
            results = recorded(flat, (), leaves)
        elif _is_mapped_throughout(leaves):
            results = _Below.apply(_Call(flat, (), recorded), *leaves)
        else:
            return step(state, batch, **arguments[2])
        result: Any = rebuild(list(results))
        return result

    return replayed


@dataclass(frozen=True)
class _Call:
    """A function of leaves, over which axes it is mapped so far, and who calls it in the end."""

    function: Callable[..., Leaves]
    axes: tuple[Any, ...]
    caller: Callable[..., Leaves]


class _Below(torch.autograd.Function):
    """Makes a call inside ``vmap`` a call below it, on all that is mapped at once."""

    @staticmethod
    def forward(call: _Call, *leaves: Any) -> Leaves:
        return tuple(call.caller(call.function, call.axes, leaves))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], call: _Call, *leaves: Any
    ) -> tuple[Leaves, tuple[int, ...]]:
        mapped = torch.func.vmap(call.function, in_dims[1:], randomness=info.randomness)
        axes = (*call.axes, (info.batch_size, in_dims[1:]))
        results = _Below.apply(_Call(mapped, axes, call.caller), *leaves)
        return results, (0,) * len(results)


def _is_mapped_throughout(leaves: list[Any]) -> bool:
    """Whether nothing but ``vmap`` is active, and each one maps over at least one of the leaves.

    Only then is the stack of transforms the same again when the step is called below it, so that what
    the step reads besides its arguments is mapped as before.
    """
    levels = set(range(1, 1 + _functorch.maybe_current_level()))
    for leaf in leaves:
        while isinstance(leaf, torch.Tensor) and _functorch.is_batchedtensor(leaf):
            levels.discard(_functorch.maybe_get_level(leaf))
            leaf = _functorch.get_unwrapped(leaf)
    return not levels


class _CannotRecord(Exception):
    """The step does something that a list of tensor operations cannot repeat."""


class _Recorder(TorchDispatchMode):
    """Writes every operation below autograd and vmap into a graph."""

    def __init__(self, inputs: Leaves) -> None:
        super().__init__()
        self.graph = Graph()
        self.constants: list[torch.Tensor] = []
        self._nodes: dict[int, Node] = {}
        self._alive: list[Any] = []  # an id is only a name for as long as its tensor lives
        for index, tensor in enumerate(inputs):
            self._track(tensor, self.graph.placeholder(f"input_{index}"))
        self._last_input = next(reversed(self.graph.nodes))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        reads_a_value = func is torch.ops.aten._local_scalar_dense.default
        if reads_a_value or torch.Tag.nondeterministic_seeded in func.tags:
            raise _CannotRecord(str(func))
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.detach.default:
            self._track(result, self.node_of(args[0]))  # replayed without autograd, it does nothing
            return result
        if func is torch.ops.aten.lift_fresh.default:
            # A new tensor of Python numbers: kept, and copied anew in each replay, because
            # operations in place may write over it.
            func, args = torch.ops.aten.clone.default, (args[0].clone(),)
        node = self.graph.call_function(
            func, map_aggregate(args, self.node_of), map_aggregate(kwargs or {}, self.node_of)
        )
        if isinstance(result, (tuple, list)):
            for index, item in enumerate(result):
                self._track(item, self.graph.call_function(operator.getitem, (node, index)))
        else:
            self._track(result, node)
        return result

    def node_of(self, value: Any) -> Any:
        """The node of a tensor; one that no operation made is a constant from outside the step."""
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) not in self._nodes:
            with self.graph.inserting_after(self._last_input):
                self._last_input = self.graph.placeholder(f"constant_{len(self.constants)}")
            self.constants.append(value)
            self._track(value, self._last_input)
        return self._nodes[id(value)]

    def _track(self, tensor: Any, node: Node) -> None:
        self._nodes[id(tensor)] = node
        self._alive.append(tensor)


def _record(
    function: Callable[..., Leaves], leaves: Leaves
) -> tuple[Callable[..., Leaves] | None, list[torch.Tensor], Leaves]:
    """The program of a call, or None; the tensors that it read besides; and its results."""
    if not all(isinstance(leaf, torch.Tensor) for leaf in leaves):
        return None, [], function(*leaves)
    recorder = _Recorder(leaves)
    try:
        with recorder:
            results = function(*leaves)
    except _CannotRecord:
        return None, [], function(*leaves)
    recorder.graph.output([recorder.node_of(leaf) for leaf in results])
    recorder.graph.eliminate_dead_code()
    return GraphModule(torch.nn.Module(), recorder.graph).forward, recorder.constants, results


def _signature(leaf: Any) -> Any:
    return (leaf.shape, leaf.dtype, leaf.device) if isinstance(leaf, torch.Tensor) else type(leaf)


def _equal(some: Leaves, others: Leaves) -> bool:
    pairs = zip(some, others, strict=True)
    return all(torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)) for a, b in pairs)
