"""Matrix products in every spelling, as the sums over letters that ``einsum`` writes."""

from __future__ import annotations

import math
import string
from typing import Any

import torch
import torch.nn.functional as F

from .linear import Outer
from .stack import Dense, Stack, along_examples
from .uses import Use, Watch, rule

# The letter of the axis of examples; an equation of the user's that has it goes without a rule.
EXAMPLES = "Z"


class Contraction(Stack):
    """Any product of two tensors that einsum can write: the gradients are products of the same kind."""

    def __init__(
        self, equation: str, input: torch.Tensor, grad: torch.Tensor, shape: tuple[int, ...]
    ) -> None:
        self.equation, self.input, self.grad = equation, input, grad
        self.count, self.shape, self.like = len(grad), shape, grad

    def dense(self, start: int, stop: int) -> torch.Tensor:
        """The gradient of a product by one factor is a product with the other."""
        return torch.einsum(self.equation, self.grad[start:stop], self.input[start:stop])

    def scaled(self, weights: torch.Tensor) -> Contraction:
        """One factor multiplied."""
        grad = self.grad * along_examples(weights, self.grad)
        return Contraction(self.equation, self.input, grad, self.shape)


def contraction(of_input: str, of_weight: str, of_output: str, weight: torch.Tensor) -> Any:
    """The maker of the stack of ``output = einsum("of_input,of_weight->of_output", input, weight)``.

    A letter that the weight shares with the input alone is summed over, one that it shares with the
    output alone is free, and a letter of input and output that the weight lacks counts positions: then
    every gradient is a sum of outer products.
    """
    shape = tuple(weight.shape)
    summed = [c for c in of_weight if c in of_input and c not in of_output]
    free = [c for c in of_weight if c in of_output and c not in of_input]
    positions = [c for c in of_output if c in of_input and c not in of_weight]
    if set(of_weight) != {*summed, *free} or set(of_input) != {*summed, *positions}:
        equation = f"{EXAMPLES}{of_output},{EXAMPLES}{of_input}->{EXAMPLES}{of_weight}"
        return lambda input, grad: Contraction(equation, input, grad, shape)

    sizes = dict(zip(of_weight, shape, strict=True))

    def stack(input: torch.Tensor, grad: torch.Tensor) -> Stack:
        from_input = _rows(input, of_input, positions, summed)
        from_output = _rows(grad, of_output, positions, free)
        # Whichever comes first in the leaf goes to the left, so that nothing is transposed.
        if of_weight[:1] in free:
            left, right, letters = from_output, from_input, [*free, *summed]
        else:
            left, right, letters = from_input, from_output, [*summed, *free]
        return Outer(left, right, [sizes[c] for c in letters], [letters.index(c) for c in of_weight])

    return stack


def _rows(tensor: torch.Tensor, letters: str, positions: list[str], rest: list[str]) -> torch.Tensor:
    """(B, *letters) -> (B, T, M): the positions as one axis, the rest as another."""
    axes = [1 + letters.index(c) for c in (*positions, *rest)]
    moved = tensor.permute(0, *axes)
    split = 1 + len(positions)
    return moved.reshape(len(tensor), math.prod(moved.shape[1:split]), math.prod(moved.shape[split:]))


def product(watch: Watch, left: Any, right: Any, letters: tuple[str, str, str]) -> list[Use] | None:
    """The use of whichever factor of ``einsum("0,1->2", left, right)`` is a parameter."""
    if watch.holds(left) and watch.batched(right):
        weight, input, (of_weight, of_input, of_output) = left, right, letters
    elif watch.holds(right) and watch.batched(left):
        weight, input, (of_input, of_weight, of_output) = right, left, letters
    else:
        return None
    if any(len(set(word)) < len(word) for word in letters) or (len(of_input), len(of_weight)) != (
        input.ndim,
        weight.ndim,
    ):
        return None
    if not set(of_weight) <= {*of_input, *of_output}:
        return None
    known = dict(zip(of_weight, weight.shape, strict=True))
    # An axis of length 1 that is repeated to the length of the other's.
    if any(known.get(c, size) != size for c, size in zip(of_input, input.shape, strict=True)):
        return None
    return [Use(weight, input, contraction(of_input, of_weight, of_output, weight))]


@rule(torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.Tensor.__rmatmul__)
@rule(torch.mm, torch.Tensor.mm, torch.mv, torch.Tensor.mv, torch.bmm, torch.Tensor.bmm)
@rule(torch.dot, torch.Tensor.dot)
def _matmul(watch: Watch, left: Any, right: Any) -> list[Use] | None:
    if not isinstance(left, torch.Tensor) or not isinstance(right, torch.Tensor):
        return None
    if not left.ndim or not right.ndim:
        return None
    batch = string.ascii_lowercase[: max(left.ndim, right.ndim, 2) - 2]
    of_left = batch[len(batch) - max(left.ndim - 2, 0) :] + "X" * (left.ndim > 1) + "Y"
    of_right = batch[len(batch) - max(right.ndim - 2, 0) :] + "Y" + "W" * (right.ndim > 1)
    return product(
        watch, left, right, (of_left, of_right, batch + "X" * (left.ndim > 1) + "W" * (right.ndim > 1))
    )


@rule(F.linear)
def _linear(watch: Watch, input: Any, weight: Any, bias: Any = None) -> list[Use] | None:
    uses: list[Use] = []
    if watch.holds(weight):
        rows = string.ascii_lowercase[: input.ndim - 1]
        found = product(
            watch, input, weight, (rows + "Y", "WY"[2 - weight.ndim :], rows + "W" * (weight.ndim - 1))
        )
        if found is None:
            return None
        uses += found
    if watch.holds(bias):
        if not watch.batched(input):
            return None
        uses.append(Use(bias, None, _bias_stack))
    return uses


def _bias_stack(_: torch.Tensor, grad: torch.Tensor) -> Stack:
    return Dense(grad.flatten(1, -2).sum(1) if grad.ndim > 2 else grad)


@rule(torch.einsum)
def _einsum(watch: Watch, equation: Any, *operands: Any) -> list[Use] | None:
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    if not isinstance(equation, str) or len(operands) != 2 or "->" not in equation:
        return None
    if "." in equation or EXAMPLES in equation:
        return None
    inputs, output = equation.replace(" ", "").split("->")
    left, right = inputs.split(",")
    return product(watch, *operands, (left, right, output))
