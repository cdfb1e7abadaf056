"""Convolutions: the gradients of several examples are those of one convolution with more groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn import grad as formulas

from ...functorch import readable
from .stack import Dense, LeafSums, Stack, Want, along_examples
from .uses import Rule, Use, Watch, rule

# Convolutions with more groups than this many examples are slower on a CPU.
EXAMPLES_AT_ONCE = 16

# They take a number for each axis, too, which their annotations do not say.
WEIGHT_GRAD: dict[int, Callable[..., torch.Tensor]] = {
    1: formulas.conv1d_weight,
    2: formulas.conv2d_weight,
    3: formulas.conv3d_weight,
}


Settings = tuple[list[int], list[int], list[int], int]
"""Stride, padding, dilation, and the number of groups."""


class Correlation(Stack):
    """The gradients by the weight of a convolution of ``input`` whose output has the gradient ``grad``.

    Shapes: input (B, N, C, *space), grad (B, N, O, *space), the weight (O, C // groups, *window); N is
    an axis of images within an example.
    """

    def __init__(
        self,
        input: torch.Tensor,
        grad: torch.Tensor,
        shape: tuple[int, ...],
        settings: Settings,
    ) -> None:
        self.input, self.grad, self.shape, self.settings = input, grad, shape, settings
        self.count, self.like = len(input), grad

    def dense(self, start: int, stop: int) -> torch.Tensor:
        """The examples become groups of channels."""
        examples = stop - start
        input = self.input[start:stop].transpose(0, 1).flatten(1, 2)
        grad = self.grad[start:stop].transpose(0, 1).flatten(1, 2)
        return self._formula(input, grad, examples).view(examples, *self.shape)

    def sums(self, want: Want) -> LeafSums:
        """The mean alone is the gradient of one convolution of all images."""
        if want.variance or want.norms:
            return self.formed_sums(want)
        total = self._formula(self.input.flatten(0, 1), self.grad.flatten(0, 1), 1)
        return LeafSums(total.div_(self.count), None, None)

    def _formula(self, input: torch.Tensor, grad: torch.Tensor, times: int) -> torch.Tensor:
        """The gradient by a weight with ``times`` as many groups, and so as many outputs."""
        stride, padding, dilation, groups = self.settings
        shape = (times * self.shape[0], *self.shape[1:])
        formula = WEIGHT_GRAD[len(shape) - 2]
        return formula(input, shape, grad, stride, padding, dilation, times * groups)

    def at_once(self) -> int:
        """Not many on a CPU."""
        many = max(super().at_once(), EXAMPLES_AT_ONCE)
        few = self.like.device.type == "cpu" and readable()
        return min(many, EXAMPLES_AT_ONCE) if few else many

    def scaled(self, weights: torch.Tensor) -> Correlation:
        """The gradients of the output multiplied."""
        grad = self.grad * along_examples(weights, self.grad)
        return Correlation(self.input, grad, self.shape, self.settings)


def _convolution(axes: int) -> Rule:
    def found(
        watch: Watch,
        input: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> list[Use] | None:
        if not watch.batched(input):
            return None
        uses: list[Use] = []
        if watch.holds(weight):
            shape = tuple(weight.shape)
            steps = _each(dilation, axes)
            around, before = _paddings(padding, shape[2:], steps)
            settings = (_each(stride, axes), around, steps, groups)

            def stack(input: torch.Tensor, grad: torch.Tensor) -> Stack:
                if before is not None:
                    input = F.pad(input, before)
                return Correlation(_images(input, axes), _images(grad, axes), shape, settings)

            uses.append(Use(weight, input, stack))
        return uses + _bias_use(watch, bias, axes)

    return found


def _transposed_convolution(axes: int) -> Rule:
    def found(
        watch: Watch,
        input: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> list[Use] | None:
        if not watch.batched(input):
            return None
        uses: list[Use] = []
        if watch.holds(weight):
            shape = tuple(weight.shape)
            settings = (_each(stride, axes), _each(padding, axes), _each(dilation, axes), groups)

            # It is the derivative of a convolution, whose input has the shape of this one's output.
            def stack(input: torch.Tensor, grad: torch.Tensor) -> Stack:
                return Correlation(_images(grad, axes), _images(input, axes), shape, settings)

            uses.append(Use(weight, input, stack))
        return uses + _bias_use(watch, bias, axes)

    return found


for _axes, _ordinary, _transposed in (
    (1, F.conv1d, F.conv_transpose1d),
    (2, F.conv2d, F.conv_transpose2d),
    (3, F.conv3d, F.conv_transpose3d),
):
    rule(_ordinary)(_convolution(_axes))
    rule(_transposed)(_transposed_convolution(_axes))


def _bias_use(watch: Watch, bias: Any, axes: int) -> list[Use]:
    if not watch.holds(bias):
        return []
    return [Use(bias, None, lambda _, grad: Dense(_images(grad, axes).movedim(2, 1).flatten(2).sum(2)))]


def _images(tensor: torch.Tensor, axes: int) -> torch.Tensor:
    """(B, C, *space) or (B, N, C, *space) -> (B, N, C, *space)."""
    return tensor if tensor.ndim == axes + 3 else tensor[:, None]


def _each(value: int | Sequence[int], axes: int) -> list[int]:
    if isinstance(value, int):
        return [value] * axes
    return list(value) * (axes if len(value) == 1 else 1)


def _paddings(
    padding: str | int | Sequence[int], window: Sequence[int], dilation: Sequence[int]
) -> tuple[list[int], list[int] | None]:
    """What to pad by on both sides, and what to pad by beforehand where the sides differ."""
    axes = len(window)
    if padding == "valid":
        return [0] * axes, None
    if padding == "same":
        total = [step * (size - 1) for step, size in zip(dilation, window, strict=True)]
        if all(both % 2 == 0 for both in total):
            return [both // 2 for both in total], None
        return [0] * axes, [side for both in reversed(total) for side in (both // 2, both - both // 2)]
    return ([0] * axes if isinstance(padding, str) else _each(padding, axes)), None
