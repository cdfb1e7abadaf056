"""Values that are written over inputs at the end of a program, read before the first of them is written."""

from __future__ import annotations

import operator

import torch
from torch.fx import GraphModule, Node

__all__ = ["read_first"]

aten = torch.ops.aten

#: What two tensors become in these is in memory of its own.
ARITHMETIC = (
    *(operator.add, operator.sub, operator.mul, operator.truediv),
    *(aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor),
)
#: What may return the tensor itself.
CASTS = ("to", "reshape", aten._to_copy.default, aten.view.default, aten._unsafe_view.default)
COPIES = ("copy_", aten.copy_.default)


def read_first(program: GraphModule) -> GraphModule:
    """The program, with all that its last copies into inputs take as it is before the first of them.

    Inductor of torch 2.13 drops clones, so that a part of an input would be read after something has been
    written over it. ``where`` of a value and itself is not dropped. What arithmetic has made anew needs
    nothing, and that spares most of a step's results an operation.

    Example:
        >>> import torch
        >>> from pure_sgd.training.programs.read_first import read_first
        >>> def swap(a, b):
        ...     a.copy_(b)
        ...     b.copy_(a)
        >>> a, b = torch.zeros(1), torch.ones(1)
        >>> read_first(torch.fx.symbolic_trace(swap))(a, b)
        >>> a, b
        (tensor([1.]), tensor([0.]))
    """
    graph = program.graph
    copies = [node for node in graph.nodes if _is_copy_into_input(node)]
    for copy in copies:
        value = copy.args[1]
        if not _is_new(value):
            with graph.inserting_before(copies[0]):
                same = graph.call_function(operator.eq, (value, value))
                copy.update_arg(1, graph.call_function(torch.where, (same, value, value)))
    program.recompile()
    return program


def _is_copy_into_input(node: Node) -> bool:
    return node.target in COPIES and isinstance(node.args[0], Node) and node.args[0].op == "placeholder"


def _is_new(node: object) -> bool:
    while isinstance(node, Node) and node.target in CASTS:
        node = node.args[0]
    return (
        isinstance(node, Node)
        and node.target in ARITHMETIC
        and all(isinstance(value, Node) for value in node.args)
    )
