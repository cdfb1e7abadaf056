"""A compiled function, its program called directly: what torch does around it costs more than a step."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import torch

from ... import tree
from ...tree.traversal import outline
from .listed import listed
from .read_first import read_first

__all__ = ["compile_directly"]

#: Checks dtypes, devices, shapes, strides and kinds of many tensors at once; it has no public name.
_Guards: Any = import_module("torch._C._dynamo.guards").TensorGuards

#: Inductor need not check again what was checked.
CHECKED = {"size_asserts": False, "alignment_asserts": False}


Shortcut = Callable[[list[Any]], Any]


class _Call(NamedTuple):
    """A program that torch ran, on what, and what came out."""

    program: Callable[..., Sequence[Any]]
    arguments: tuple[Any, ...]
    results: Sequence[Any]


def compile_directly(
    function: Callable[..., Any],
    backend: Any = "inductor",
    mode: str | None = None,
    options: dict[str, Any] | None = None,
    dynamic: bool | None = None,
) -> Callable[..., Any]:
    """``function(memory, *trees)`` compiled with ``fullgraph=True``, without autograd.

    ``memory`` is a list of tensors that the function may write over, with ``copy_`` and last of all; leaves
    of ``trees`` that lie in it are cloned first. Of the first call the tensor operations are listed, and the
    list is compiled. What is no such list, lies on an accelerator, or comes in further shapes, goes through
    ``torch.compile``; which leaves reached the program, and where its results went, is noted. Later calls
    with such trees check just that and call the program: what the function reads besides its arguments is
    read once. Where the notes are no full account, as with shapes that vary, each call goes through
    ``torch.compile``.

    Example:
        >>> import torch
        >>> from pure_sgd.training.programs.direct import compile_directly
        >>> double = compile_directly(lambda memory, tree: {"twice": 2 * tree["once"]}, backend="eager")
        >>> for number in (3, 4):
        ...     doubled = double([], {"once": torch.tensor(number)})
        >>> doubled
        {'twice': tensor(8)}
    """
    from torch._dynamo import config

    calls: list[_Call] = []
    make = _compiler(backend, mode, options)

    def watched(graph: Any, inputs: Any) -> Callable[..., Sequence[Any]]:
        program = make(read_first(graph), inputs)

        def call(*arguments: Any) -> Sequence[Any]:
            results = program(*arguments)
            calls.append(_Call(program, arguments, results))
            return results

        return call

    compiled = torch.compile(_own_code(function), fullgraph=True, backend=watched, dynamic=dynamic)
    known: dict[Any, list[tuple[Any, Shortcut]]] = {}
    seen: set[Any] = set()
    may_be_listed = not dynamic
    held: list[torch.Tensor] = []
    written: set[int] = set()

    def direct(memory: list[torch.Tensor], *trees: Any) -> Any:
        nonlocal held, written, may_be_listed
        leaves, structure = outline(trees)
        if memory is not held:
            held, written = memory, {_address(leaf) for leaf in memory}
        if written:
            _keep_apart(leaves, written)
        everything = memory + leaves
        for guards, shortcut in known.get(structure, ()):
            if guards.check(*everything):
                return shortcut(everything)
        if may_be_listed and structure not in known:
            shortcut = _listed_shortcut(function, make, memory, trees, everything)
            may_be_listed = shortcut is not None
            if shortcut is not None:
                known[structure] = [(_guards(everything), shortcut)]
                return shortcut(everything)
        signature = (structure, *[getattr(leaf, "shape", None) for leaf in everything])
        # Python floats are constants: dynamo would turn one that was another in an earlier program into an
        # input, and Inductor then fails to compile what torch.cond does with it.
        constants = nullcontext() if signature in seen else config.patch(specialize_float=True)
        seen.add(signature)
        try:
            with constants, torch.no_grad():
                result = compiled(memory, *tree.flatten(trees)[1](leaves))
            shortcut = _shortcut(calls, everything, result)
        finally:
            calls.clear()
        if shortcut is not None:
            known.setdefault(structure, []).insert(0, (_guards(everything), shortcut))
        return result

    return direct


def _keep_apart(leaves: list[Any], written: set[int]) -> None:
    """Clone in the list what lies in memory that is ``written``."""
    for index, leaf in enumerate(leaves):
        if isinstance(leaf, torch.Tensor) and _address(leaf) in written:
            leaves[index] = leaf.clone()


def _address(leaf: torch.Tensor) -> int:
    return leaf.untyped_storage().data_ptr()


def _guards(leaves: list[Any]) -> Any:
    return _Guards(*leaves, dynamic_dims_sizes=None, dynamic_dims_strides=None)


def _listed_shortcut(
    function: Callable[..., Any], make: Any, memory: list[torch.Tensor], trees: Any, leaves: list[Any]
) -> Shortcut | None:
    """The way from leaves to the result through the operations that are listed, or None if they are not."""
    restore = tree.flatten(trees)[1]  # before a compiler seems at work
    result: Any = None

    def flat(*leaves: torch.Tensor) -> list[Any]:
        nonlocal result
        result = function(list(leaves[: len(memory)]), *restore(list(leaves[len(memory) :])))
        return tree.leaves(result)

    found = listed(flat, leaves)
    if found is None:
        return None
    try:
        program = found.compiled(make)
    except Exception:
        return None  # of any type: torch.compile says it in its own
    constants, rebuild = found.constants, tree.flatten(result)[1]

    def shortcut(leaves: list[Any]) -> Any:
        return rebuild(list(program(*leaves, *constants)))

    return torch.no_grad()(shortcut) if any(leaf.requires_grad for leaf in leaves) else shortcut


def _shortcut(calls: list[_Call], leaves: list[Any], result: Any) -> Shortcut | None:
    """The way from leaves to the result through the program of the only call, or None if it is not known."""
    places = {id(leaf): index for index, leaf in enumerate(leaves)}
    if len(calls) != 1 or len(places) != len(leaves) or not _are_tensors(leaves):
        return None
    program, arguments, results = calls[0]
    found, rebuild = tree.flatten(result)
    # An argument that is no leaf is a tensor that the function reads besides.
    besides = [value for value in arguments if id(value) not in places]
    places.update({id(value): len(leaves) + index for index, value in enumerate(besides)})
    made = {id(value): index for index, value in enumerate(results)}
    if not _are_tensors(arguments) or not all(id(value) in made for value in found):
        return None
    inputs, outputs = [places[id(value)] for value in arguments], [made[id(value)] for value in found]

    def shortcut(leaves: list[Any]) -> Any:
        pool = leaves + besides
        was_enabled = torch.is_grad_enabled()
        results = program(*[pool[index] for index in inputs])
        # A graph that is run as it stands leaves it as the function has it where it ends.
        if torch.is_grad_enabled() is not was_enabled:
            torch.set_grad_enabled(was_enabled)
        return rebuild([results[index] for index in outputs])

    # To switch autograd off takes longer than to look here, once, whether it would do anything.
    return torch.no_grad()(shortcut) if any(value.requires_grad for value in leaves + besides) else shortcut


def _compiler(backend: Any, mode: str | None, options: dict[str, Any] | None) -> Callable[..., Any]:
    """What makes a program of a graph, as ``torch.compile`` would choose it."""
    from torch._dynamo.backends.registry import lookup_backend
    from torch._inductor import compile as inductor
    from torch._inductor import list_mode_options

    if backend == "inductor":
        chosen = {**CHECKED, **list_mode_options(mode or "default"), **(options or {})}
        make: Callable[..., Any] = partial(inductor, options=chosen)
    else:
        named: Callable[..., Any] = lookup_backend(backend)
        make = partial(named, options=options) if options else named
    return lambda graph, inputs: make(read_first(graph), inputs)


def _own_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function with a code object of its own: torch compiles each of them a few times only."""

    def own(*arguments: Any) -> Any:
        return function(*arguments)

    return types.FunctionType(own.__code__.replace(), own.__globals__, own.__name__, None, own.__closure__)


def _are_tensors(values: Sequence[Any]) -> bool:
    return all(isinstance(value, torch.Tensor) for value in values)
