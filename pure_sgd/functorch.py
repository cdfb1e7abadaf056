"""What torch's transforms, such as ``vmap``, have done to tensors: all that asks torch's private parts.

``tests/test_functorch.py`` holds each function to its word, so that a torch that changes one of them
fails there.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from operator import attrgetter
from types import FunctionType
from typing import Any

import torch

# By its name as a string, because the type checker takes what is private for a mistake.
_functorch: Any = import_module("torch._C._functorch")
_around: Any = import_module("torch._functorch.pyfunctorch")


def level() -> int:
    """How many of torch's transforms (vmap, grad) surround the caller."""
    return _functorch.maybe_current_level() or 0


def within_transform() -> bool:
    """Whether one does; also a compiler may ask this."""
    return level() > 0


# As torch.compiler.assume_constant_result marks it, which first imports the compiler, for a second.
vars(within_transform)["_dynamo_marked_constant"] = True


def readable() -> bool:
    """Whether tensors have values to look at: not while tracing, nor inside another transform."""
    return not torch.compiler.is_compiling() and level() == 0


def is_mapped_only() -> bool:
    """Whether nothing but ``vmap`` surrounds the caller, once or several times."""
    found = _around.retrieve_all_functorch_interpreters()
    return bool(found) and all(isinstance(one, _around.VmapInterpreter) for one in found)


def mapped_sizes() -> list[int]:
    """The number of examples of every transform around the caller, each of them a ``vmap``."""
    return [one.batch_size() for one in _around.retrieve_all_functorch_interpreters()]


def marks() -> list[torch.Tensor]:
    """For every transform around the caller, each of them a ``vmap``, a tensor that it alone maps over."""
    found = _around.retrieve_all_functorch_interpreters()
    return [_functorch._add_batch_dim(torch.empty(one.batch_size()), 0, one.level()) for one in found]


def is_batched(tensor: Any, at: int) -> bool:
    """Whether ``tensor`` holds one value for each example of the ``vmap`` at level ``at``, and no more."""
    return isinstance(tensor, torch.Tensor) and _functorch.is_batchedtensor(tensor) and level_of(tensor) == at


def is_wrapped(tensor: Any) -> bool:
    """Whether some transform has wrapped ``tensor``, as all of them do, one around the other."""
    return _functorch.is_functorch_wrapped_tensor(tensor)


def level_of(tensor: torch.Tensor) -> int:
    """The level of the outermost transform that has wrapped ``tensor``; -1 where none has."""
    return _functorch.maybe_get_level(tensor)


def unwrapped(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor inside the outermost wrapper."""
    return _functorch.get_unwrapped(tensor)


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether no transform has wrapped ``tensor``."""
    return level_of(tensor) == -1


def stacked(tensor: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The values of all examples as one tensor, and its axis of examples."""
    return unwrapped(tensor), _functorch.maybe_get_bdim(tensor)


def opened(function: Callable[..., Any]) -> Callable[..., Any]:
    """A Python function of torch that does its work in the open: without handing itself over whole."""
    if not isinstance(function, FunctionType):
        return function
    names = {**function.__globals__, "has_torch_function": lambda arguments: False}
    copy = FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


#: How often a tensor has been changed in place.
version = attrgetter("_version")

#: The tensor that a view looks into, or None.
base = attrgetter("_base")
