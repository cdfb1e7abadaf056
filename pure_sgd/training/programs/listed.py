"""A function as the graph that a compiler takes, found by calling it once on tensors without values."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch._guards import TracingContext, tracing
from torch._subclasses import FakeTensorMode
from torch.fx import GraphModule

from .recording import record

__all__ = ["Listed", "listed"]

Leaves = Sequence[Any]

#: What says whether something is compiled has no public name.
_compiler: Any = torch.compiler


class Listed(NamedTuple):
    """A graph of tensors, and what it reads besides the leaves, which it takes after them."""

    graph: GraphModule
    constants: list[torch.Tensor]
    fakes: list[torch.Tensor]  # what to compile it for
    mode: FakeTensorMode

    def compiled(self, make: Callable[[GraphModule, Leaves], Callable[..., Leaves]]) -> Callable[..., Leaves]:
        """What ``make(graph, inputs)`` makes of it, with the caches that ``torch.compile`` uses."""
        with tracing(TracingContext(self.mode)), torch.no_grad():
            return make(self.graph, self.fakes)


def listed(function: Callable[..., Leaves], leaves: Leaves) -> Listed | None:
    """The tensor operations of ``function(*leaves)``, or None where it is more than a list of these.

    It runs on tensors without values, as if it were compiled, which takes a tenth of the time that
    ``torch.compile`` takes to read the Python of a step. No list holds what asks for a value, branches on
    one, or draws from torch's global generator; nor has one been tried on an accelerator.

    Example:
        >>> import torch
        >>> from pure_sgd.training.programs.listed import listed
        >>> listed(lambda x: [2 * x], [torch.tensor(3.0)]).graph(torch.tensor(4.0))
        [tensor(8.)]
        >>> listed(lambda x: [2 * x if x > 0 else x], [torch.tensor(3.0)])
    """
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)

    def fake(leaf: torch.Tensor) -> torch.Tensor:
        return mode.from_tensor(leaf.detach(), static_shapes=True)

    if not all(type(leaf) in (torch.Tensor, torch.nn.Parameter) and leaf.is_cpu for leaf in leaves):
        return None
    try:
        fakes = [fake(leaf) for leaf in leaves]
        with mode, torch.no_grad(), _as_under_a_compiler():
            recording, results = record(function, fakes)
        if recording is None or not all(isinstance(result, torch.Tensor) for result in results):
            return None
        fakes += [fake(constant) for constant in recording.constants]
    except Exception:
        # Of any type, also the function's own: it says it again to the compiler.
        return None
    return Listed(GraphModule(torch.nn.Module(), recording.graph), recording.constants, fakes, mode)


@contextmanager
def _as_under_a_compiler() -> Generator[None]:
    """While this lasts, ``torch.compiler.is_compiling()``."""
    before = _compiler._is_compiling_flag
    _compiler._is_compiling_flag = True
    try:
        yield
    finally:
        _compiler._is_compiling_flag = before
