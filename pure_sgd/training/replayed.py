"""The step as a recorded list of tensor operations: most of a compiler's gain for none of its wait."""

from __future__ import annotations

import operator
from collections.abc import Callable
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


class Recording(NamedTuple):
    """A flat program, and how its results become a state and metrics again."""

    program: Callable[..., list[torch.Tensor]]
    constants: list[torch.Tensor]
    rebuild: Callable[[list[Any]], Result]
    checked: bool

    def replay(self, leaves: list[Any]) -> Result:
        return self.rebuild(self.program(*leaves, *self.constants))


def replay_step(step: Step) -> Step:
    """The same step, recorded on the first call and replayed from then on.

    The first call runs ``step`` and writes down its tensor operations, those of ``grad`` and ``vmap``
    included; later calls run that list without the Python around it. Recording takes about as long as
    ten calls, and a small step becomes about four times as fast; a large one, whose time is
    arithmetic, stays as it is (:func:`compile_step` is for those). The operations are those of the step, so
    the numbers are too.

    The second call runs both and keeps the recording only if they agree bit for bit. A step that reads the
    value of a tensor in Python or draws from torch's global generator is never recorded and runs as it
    is; so do batches of a fifth shape. As under any tracing compiler, what ``step`` reads besides its
    arguments is read once. Runs without autograd: for gradients through a run use the step itself.

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
        extra = tree.map(torch.as_tensor, extra)
        arguments = (state, batch, extra)
        leaves = tree.leaves(arguments)
        signature = (tree.structure(arguments), *[_signature(leaf) for leaf in leaves])
        recording = recordings.get(signature)
        if recording is not None and recording.checked:
            return recording.replay(leaves)
        if recording is not None:
            result = step(state, batch, **extra)
            agrees = _equal(recording.replay(leaves), result)
            recordings[signature] = recording._replace(checked=True) if agrees else None
            return result
        if signature in recordings or len(recordings) == MAX_RECORDINGS:
            return step(state, batch, **extra)
        recordings[signature], result = _record(step, arguments)
        return result

    return replayed


class _CannotRecord(Exception):
    """The step does something that a list of tensor operations cannot repeat."""


class _Recorder(TorchDispatchMode):
    """Writes every operation below autograd and vmap into a graph."""

    def __init__(self, inputs: list[Any]) -> None:
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


def _record(step: Step, arguments: tuple[TrainState, Any, dict[str, Any]]) -> tuple[Recording | None, Result]:
    state, batch, extra = arguments
    leaves = tree.leaves(arguments)
    if not all(isinstance(leaf, torch.Tensor) for leaf in leaves):
        return None, step(state, batch, **extra)
    recorder = _Recorder(leaves)
    try:
        with recorder:
            result = step(state, batch, **extra)
    except _CannotRecord:
        return None, step(state, batch, **extra)
    results, rebuild_result = tree.flatten(result)
    recorder.graph.output([recorder.node_of(leaf) for leaf in results])
    recorder.graph.eliminate_dead_code()
    program = GraphModule(torch.nn.Module(), recorder.graph).forward
    return Recording(program, recorder.constants, rebuild_result, checked=False), result


def _signature(leaf: Any) -> Any:
    return (leaf.shape, leaf.dtype, leaf.device) if isinstance(leaf, torch.Tensor) else type(leaf)


def _equal(one: Result, other: Result) -> bool:
    pairs = zip(tree.leaves(one), tree.leaves(other), strict=True)
    return all(torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)) for a, b in pairs)
