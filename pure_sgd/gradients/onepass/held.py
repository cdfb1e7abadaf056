"""The parameters as the loss holds them during the pass, and all that it makes of them alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

Tensors = Mapping[int, torch.Tensor]


class Held(NamedTuple):
    """A parameter, or a function of parameters alone, such as ``w.T`` or ``w / w.norm()``."""

    tensor: torch.Tensor  # what the loss holds: it requires grad, so that a use nobody saw leaves a trace
    leaves: frozenset[int]  # which parameters it is made of
    build: Callable[[Tensors], torch.Tensor]  # the same from other values of these
    picks: bool  # whether it only places entries of one parameter elsewhere


def held_leaf(index: int, tensor: torch.Tensor) -> Held:
    """A parameter itself."""
    return Held(tensor, frozenset([index]), lambda values: values[index], True)


class Holding:
    """Every held tensor, known by identity."""

    def __init__(self, leaves: Sequence[torch.Tensor]) -> None:
        # The tensors stay in here, so no other can come to have the identity of one of them.
        self._held = {id(leaf): held_leaf(index, leaf) for index, leaf in enumerate(leaves)}

    def get(self, tensor: Any) -> Held | None:
        """What is held as ``tensor``."""
        return self._held.get(id(tensor))

    def any_in(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether an argument, or an entry of a list of arguments, is held."""
        held = self._held
        for arg in args:
            if id(arg) in held or (isinstance(arg, (tuple, list)) and any(id(part) in held for part in arg)):
                return True
        return bool(kwargs) and any(id(arg) in held for arg in kwargs.values())

    def within(self, arguments: Any) -> list[Held]:
        """The held tensors among ``arguments``."""
        found: list[Held] = []
        replaced(arguments, lambda tensor: found.extend(filter(None, [self.get(tensor)])))
        return found

    def swapped(self, arguments: Any, choose: Callable[[Held], torch.Tensor]) -> Any:
        """``arguments`` with ``choose(held)`` in the place of each held tensor."""

        def swap(tensor: torch.Tensor) -> torch.Tensor:
            held = self.get(tensor)
            return tensor if held is None else choose(held)

        return replaced(arguments, swap)

    def add(self, function: Callable[..., Any], args: Any, kwargs: Any, picks: bool, outputs: Any) -> None:
        """Hold those tensors of ``outputs = function(*args, **kwargs)`` through which gradients flow."""
        parents = self.within((args, kwargs))
        leaves = frozenset[int]().union(*(parent.leaves for parent in parents))
        picks = picks and len(parents) == 1 and parents[0].picks

        def build_all(values: Tensors) -> list[torch.Tensor]:
            new_args, new_kwargs = self.swapped((args, kwargs), lambda parent: parent.build(values))
            return tensors_in(function(*new_args, **new_kwargs))

        for place, output in enumerate(tensors_in(outputs)):
            # What returns its argument, as contiguous() may, has added nothing.
            if output.requires_grad and self.get(output) is None:

                def build(values: Tensors, place: int = place) -> torch.Tensor:
                    return build_all(values)[place]

                self._held[id(output)] = Held(output, leaves, build, picks)


def replaced(arguments: Any, function: Callable[[torch.Tensor], Any]) -> Any:
    """``arguments`` with ``function`` applied to every tensor in its tuples, lists, dicts and slices."""
    if isinstance(arguments, torch.Tensor):
        return function(arguments)
    if type(arguments) in (tuple, list):
        return type(arguments)(replaced(part, function) for part in arguments)
    if type(arguments) is dict:
        return {key: replaced(part, function) for key, part in arguments.items()}
    return arguments


def tensors_in(arguments: Any) -> list[torch.Tensor]:
    """Every tensor in ``arguments``, a NamedTuple of results such as that of ``max`` included."""
    if isinstance(arguments, torch.Tensor):
        return [arguments]
    if isinstance(arguments, dict):
        arguments = list(arguments.values())
    if isinstance(arguments, (tuple, list)):
        return [tensor for part in arguments for tensor in tensors_in(part)]
    return []
