"""What a rule says of a call: which leaves it uses, and what their gradients are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch

from .stack import Stack


class Use(NamedTuple):
    """One use of one parameter in a call that gives ``output``.

    The call is made with the parameter as a constant. ``stack(input, grad)`` gets the call's input,
    (B, ...), and the gradient of the losses by its output, (B, ...), both in at least float32.
    """

    weight: torch.Tensor  # as the loss holds it
    input: torch.Tensor | None  # with one value for each example; None if the stack needs none
    stack: Callable[[torch.Tensor, torch.Tensor], Stack]


class Watch(Protocol):
    """What a rule may ask of the pass."""

    def holds(self, tensor: Any) -> bool:
        """Whether it is a parameter, or a function of parameters alone."""
        ...

    def batched(self, tensor: Any) -> bool:
        """Whether it is a tensor with one value for each example."""
        ...


#: Takes the watch and the arguments of the call; None for a call that it does not recognise.
Rule = Callable[..., "list[Use] | None"]

RULES: dict[Callable[..., Any], Rule] = {}


def rule(*functions: Callable[..., Any]) -> Callable[[Rule], Rule]:
    """Register a rule for calls of ``functions``."""

    def register(found: Rule) -> Rule:
        for function in functions:
            RULES[function] = found
        return found

    return register
