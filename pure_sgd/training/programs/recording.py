"""A call as the list of tensor operations that it came to."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_aggregate
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from ...random.once import once

__all__ = ["Recording", "record"]

Leaves = Sequence[Any]


class Recording(NamedTuple):
    """What a call did, below autograd and vmap, and what it read besides its leaves.

    The graph takes the leaves and then the constants; the shape of what a node gives is in its ``meta``.
    """

    graph: Graph
    constants: list[torch.Tensor]

    def program(self) -> Callable[..., Leaves]:
        """The same operations as a function of the leaves and the constants."""
        return GraphModule(torch.nn.Module(), self.graph).forward


def record(function: Callable[..., Leaves], leaves: Leaves) -> tuple[Recording | None, Leaves]:
    """Call ``function``, and write down what it does: the recording and the results.

    There is none of what a list of tensor operations cannot repeat: it reads the value of a tensor in Python,
    draws from torch's global generator, or takes something other than tensors.

    Example:
        >>> import torch
        >>> from pure_sgd.training.programs.recording import record
        >>> recording, results = record(lambda x: [2 * x + 1], [torch.tensor(3.0)])
        >>> recording.program()(torch.tensor(4.0))
        [tensor(9.)]
    """
    if not all(isinstance(leaf, torch.Tensor) for leaf in leaves):
        return None, function(*leaves)
    recorder = _Recorder(leaves)
    try:
        with recorder:
            results = function(*leaves)
    except _CannotRecord:
        return None, function(*leaves)
    recorder.graph.output([recorder.node_of(leaf) for leaf in results])
    recorder.graph.eliminate_dead_code()
    return Recording(recorder.graph, recorder.constants), results


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
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
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
            with no_dispatch():  # a number has its value also among tensors without
                func, args = torch.ops.aten.clone.default, (args[0].clone(),)
        if func is torch.ops.aten.as_strided.default and _lies_like(result, args[0]):
            func, args = once, args[:1]
        node = self.graph.call_function(
            func,
            map_aggregate(args, self.node_of),
            map_aggregate(kwargs or {}, self.node_of),
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
        node.meta["shape"] = tensor.shape if isinstance(tensor, torch.Tensor) else None
        self._nodes.setdefault(id(tensor), node)  # what an operation writes over keeps its node
        self._alive.append(tensor)


def _lies_like(view: torch.Tensor, whole: torch.Tensor) -> bool:
    one, other = ((leaf.shape, leaf.stride(), leaf.storage_offset()) for leaf in (view, whole))
    return one == other
