"""Small intermediate results on the stack of a C++ program: to make a tensor costs more than its numbers."""

from __future__ import annotations

import importlib
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

__all__ = ["results_on_the_stack", "stack_options"]

#: Numbers up to which a result lies on the stack, of which a thread has some megabytes.
SMALL = 512


def stack_options() -> dict[str, Any]:
    """The options of Inductor for it; none where this version of torch has no such thing.

    Example:
        >>> from pure_sgd.training.stack_memory import stack_options
        >>> set(stack_options()) <= {"aot_inductor.allow_stack_allocation", "inplace_buffers"}
        True
    """
    if _writer() is None:
        return {}
    # What stays inside must not become what leaves by being written over.
    return {"aot_inductor.allow_stack_allocation": True, "inplace_buffers": False}


@contextmanager
def results_on_the_stack() -> Generator[None, None, None]:
    """While this lasts, only what is small and stays inside is put on the stack.

    Inductor (torch 2.13) would put there what a loop hands to its next round, too, in C++ that no compiler
    takes.

    Example:
        >>> from pure_sgd.training.stack_memory import results_on_the_stack
        >>> with results_on_the_stack():
        ...     pass
    """
    writer = _writer()
    if writer is None:
        yield
        return
    original = writer.can_stack_allocate_buffer

    def stays_inside(self: Any, buffer: Any) -> bool:
        leaves = buffer.get_name() in self.get_codegened_graph().get_output_names()
        return not leaves and original(self, buffer) and int(buffer.get_numel()) <= SMALL

    writer.can_stack_allocate_buffer = stays_inside
    try:
        yield
    finally:
        writer.can_stack_allocate_buffer = original


def _writer() -> Any:
    """What writes such programs, or None."""
    try:
        module = importlib.import_module("torch._inductor.codegen.cpp_wrapper_cpu_array_ref")
        writer = module.CppWrapperCpuArrayRef
    except (ImportError, AttributeError):
        return None
    return writer if hasattr(writer, "can_stack_allocate_buffer") else None
