"""A program of many runs with the runs in the last axes, where a compiler makes vectors of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from ...random.once import once
from .recording import Recording

__all__ = ["runs_first", "runs_last", "turned"]

aten = torch.ops.aten

#: What gives the same in any order of axes, besides what torch calls pointwise.
COPIES = (aten._to_copy.default, aten.clone.default, once)
SUMS = (aten.sum.dim_IntList, aten.mean.dim)
VIEWS = (aten.view.default, aten._unsafe_view.default)
BY_MEMORY = (aten.as_strided.default,)


def runs_last(leaf: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
    """``(runs, P)`` as ``(P, runs)``, the axes of runs in this order.

    Example:
        >>> import torch
        >>> from pure_sgd.training.programs.runs_last import runs_last
        >>> runs_last(torch.zeros(2, 3, 4), [1, 0]).shape
        torch.Size([4, 3, 2])
    """
    return leaf.permute(*range(len(order), leaf.ndim), *order)


def runs_first(leaf: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
    """``(P, runs)`` as ``(runs, P)``: the inverse of :func:`runs_last`.

    Example:
        >>> import torch
        >>> from pure_sgd.training.programs.runs_last import runs_first
        >>> runs_first(torch.zeros(4, 3, 2), [1, 0]).shape
        torch.Size([2, 3, 4])
    """
    return leaf.permute(*_back(leaf.ndim, order))


def turned(recording: Recording, sizes: Sequence[int], order: Sequence[int]) -> Callable[..., Sequence[Any]]:
    """The same program, computed in another order of axes wherever a result begins with the runs.

    Its tensors are as they were, by their axes: elementwise operations and sums permute what they take, and
    what they give back. The compiler sees through that. ``sizes`` is the shape of the runs.

    Raises:
        RuntimeError: an operation asks how a tensor lies in memory, or writes to one.

    Example:
        >>> import torch
        >>> from pure_sgd.training.programs.recording import record
        >>> from pure_sgd.training.programs.runs_last import turned
        >>> recording, _ = record(lambda x: [(2 * x).sum(1)], [torch.ones(3, 4)])
        >>> turned(recording, [3], [0])(torch.ones(3, 4))
        [tensor([8., 8., 8.])]
    """
    graph = Graph()
    graph.output(graph.graph_copy(recording.graph, {}))
    for node in [node for node in graph.nodes if node.op == "call_function"]:
        target: Any = node.target
        if target in BY_MEMORY or getattr(getattr(target, "_schema", None), "is_mutable", False):
            raise RuntimeError(f"{target} depends on how a tensor lies in memory, or writes to it")
        if target in VIEWS:
            node.target = aten.reshape.default  # a permuted tensor has no view of that shape
        shape = node.meta.get("shape")  # of several results there is none
        if shape is not None and tuple(shape[: len(sizes)]) == tuple(sizes):
            with graph.inserting_before(node):
                _turn(graph, node, order)
    return GraphModule(torch.nn.Module(), graph).forward


def _turn(graph: Graph, node: Node, order: Sequence[int]) -> None:
    target: Any = node.target
    if target in SUMS:
        args, kwargs = _sum_arguments(graph, node, order), node.kwargs
    elif target in COPIES or torch.Tag.pointwise in target.tags:
        args, kwargs = _elementwise_arguments(graph, node, order)
    else:
        return
    new = graph.call_function(target, args, kwargs)
    back = graph.call_method("permute", (new, _back(len(node.meta["shape"]), order)))
    back.meta["shape"] = node.meta["shape"]
    node.replace_all_uses_with(back)
    graph.erase_node(node)


def _elementwise_arguments(graph: Graph, node: Node, order: Sequence[int]) -> tuple[Any, Any]:
    axes = _axes(len(node.meta["shape"]), order)

    def permuted(operand: Node) -> Any:
        own = len(operand.meta["shape"])
        if not own:
            return operand
        for _ in range(len(axes) - own):
            operand = graph.call_method("unsqueeze", (operand, 0))
        return graph.call_method("permute", (operand, axes))

    return map_arg(node.args, permuted), map_arg(node.kwargs, permuted)


def _sum_arguments(graph: Graph, node: Node, order: Sequence[int]) -> tuple[Any, ...]:
    args: Any = node.args
    operand, dims, *rest = args
    own = len(operand.meta["shape"])
    axes = _axes(own, order)
    permuted = graph.call_method("permute", (operand, axes))
    return permuted, [axes.index(dim % own) for dim in dims], *rest


def _axes(ndim: int, order: Sequence[int]) -> list[int]:
    return [*range(len(order), ndim), *order]


def _back(ndim: int, order: Sequence[int]) -> list[int]:
    own = ndim - len(order)
    return [own + list(order).index(axis) for axis in range(len(order))] + [*range(own)]
