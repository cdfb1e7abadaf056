"""A call as the list of tensor operations that it came to."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_aggregate
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from ...random.once import once

__all__ = ["Recording", "record"]

Leaves = Sequence[Any]


class _Place:
    """Stands for a tensor: the input, constant or result of such a number."""

    def __init__(self, index: int) -> None:
        self.index = index

    def __repr__(self) -> str:
        return f"%{self.index}"


#: With its shape, unless it is no tensor.
_Shaped = tuple[_Place, torch.Size | None]


class _Call(NamedTuple):
    """An operation: tensors are places."""

    func: Callable[..., Any]
    args: Any
    kwargs: Any
    results: list[_Shaped]
    several: bool  # results, in a tuple


@dataclass
class Recording:
    """What a call did, below autograd and vmap, and what it read besides its leaves.

    Example:
        >>> import torch
        >>> from pure_sgd.training.programs.recording import record
        >>> recording, _ = record(lambda x: [2 * x + 1], [torch.tensor(3.0)])
        >>> [str(call.func) for call in recording.calls]
        ['aten.mul.Tensor', 'aten.add.Tensor']
    """

    inputs: list[_Shaped]  # the leaves
    constants: list[torch.Tensor]
    places: list[_Shaped]  # of the constants
    calls: list[_Call]
    outputs: list[Any]

    @property
    def text(self) -> str:
        """Two recordings of leaves and constants alike do the same where this is the same."""
        return f"{self.inputs} {self.places} {self.calls} {self.outputs}"

    @cached_property
    def graph(self) -> Graph:
        """Takes the leaves and then the constants; the shape of what a node gives is in its ``meta``."""
        graph, nodes = Graph(), dict[int, Node]()

        def node_of(value: Any) -> Any:
            return nodes[value.index] if isinstance(value, _Place) else value

        for kind, places in (("input", self.inputs), ("constant", self.places)):
            for index, (place, shape) in enumerate(places):
                nodes[place.index] = graph.placeholder(f"{kind}_{index}")
                nodes[place.index].meta["shape"] = shape
        for func, args, kwargs, results, several in self.calls:
            node = graph.call_function(func, map_aggregate(args, node_of), map_aggregate(kwargs, node_of))
            for index, (place, shape) in enumerate(results):
                one = graph.call_function(operator.getitem, (node, index)) if several else node
                one.meta["shape"] = shape
                nodes.setdefault(place.index, one)
        graph.output([node_of(value) for value in self.outputs])
        graph.eliminate_dead_code()
        return graph

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
    return recorder.recording(results), results


class _CannotRecord(Exception):
    """The step does something that a list of tensor operations cannot repeat."""


class _Recorder(TorchDispatchMode):
    """Writes down every operation below autograd and vmap."""

    def __init__(self, inputs: Leaves) -> None:
        super().__init__()
        self._places: dict[int, _Place] = {}
        self._alive: list[Any] = []  # an id is only a name for as long as its tensor lives
        self._calls: list[_Call] = []
        self._constants: list[torch.Tensor] = []
        self._inputs = [self._made(tensor) for tensor in inputs]

    def recording(self, results: Leaves) -> Recording:
        outputs = [self._place_of(leaf) for leaf in results]
        places: list[_Shaped] = [(self._place_of(value), value.shape) for value in self._constants]
        return Recording(self._inputs, self._constants, places, self._calls, outputs)

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
            self._track(result, self._place_of(args[0]))  # replayed without autograd, it does nothing
            return result
        if func is torch.ops.aten.lift_fresh.default:
            # A new tensor of Python numbers: kept, and copied anew in each replay, because
            # operations in place may write over it.
            with no_dispatch():  # a number has its value also among tensors without
                func, args = torch.ops.aten.clone.default, (args[0].clone(),)
        if func is torch.ops.aten.as_strided.default and _lies_like(result, args[0]):
            func, args = once, args[:1]
        taken = map_aggregate(args, self._place_of), map_aggregate(kwargs or {}, self._place_of)
        several = isinstance(result, (tuple, list))
        made = [self._made(item) for item in (result if several else [result])]
        self._calls.append(_Call(func, *taken, made, several))
        return result

    def _place_of(self, value: Any) -> Any:
        """The place of a tensor; one that no operation made is a constant from outside the step."""
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) not in self._places:
            self._constants.append(value)
            return self._made(value)[0]
        return self._places[id(value)]

    def _made(self, tensor: Any) -> _Shaped:
        return self._track(tensor, _Place(len(self._alive))), getattr(tensor, "shape", None)

    def _track(self, tensor: Any, place: _Place) -> _Place:
        self._alive.append(tensor)
        return self._places.setdefault(id(tensor), place)  # what an operation writes over keeps its place


def _lies_like(view: torch.Tensor, whole: torch.Tensor) -> bool:
    one, other = ((leaf.shape, leaf.stride(), leaf.storage_offset()) for leaf in (view, whole))
    return one == other
