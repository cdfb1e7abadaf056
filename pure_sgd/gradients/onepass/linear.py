"""Linear maps: the gradient of one example is a sum over positions of outer products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ...functorch import readable
from .stack import CPU_ELEMENTS, GPU_ELEMENTS, LeafSums, Stack, Want, along_examples

# Up to this many pairs of positions, matrix products over all examples cost less than forming gradients.
MOST_PAIRS = 10

# The variance of an entry is the difference of two sums. Where it is smaller than this times the square
# of the mean, too many digits have cancelled, and it is formed again in a better way. What stays has
# a relative error of about eps / LEAST_VARIANCE.
LEAST_VARIANCE = {torch.float32: 1e-2, torch.float64: 1e-4}

# How many entries are looked at together for that: few enough for the cache, and for memory that is
# at hand, since fresh pages would cost more than the arithmetic.
ROWS_ELEMENTS = 2**16


class Outer(Stack):
    """``g_i = sum_t outer(left[i, t], right[i, t])``, its axes then ordered as those of the leaf.

    Shapes: left (B, T, M), right (B, T, N), where M counts the entries of the first axes of the
    outer product and N those of the last; T positions within an example.
    """

    def __init__(
        self, left: torch.Tensor, right: torch.Tensor, natural: Sequence[int], order: Sequence[int]
    ) -> None:
        self.left, self.right = left, right
        self.natural, self.order = tuple(natural), tuple(order)
        self.count, self.like = len(left), left
        self.shape = tuple(self.natural[axis] for axis in self.order)

    def _ordered(self, product: torch.Tensor) -> torch.Tensor:
        """(M, N) with or without an axis of examples in front -> (..., *P)."""
        front = product.shape[:-2]
        axes = (*range(len(front)), *(len(front) + axis for axis in self.order))
        return product.reshape(*front, *self.natural).permute(axes)

    def dense(self, start: int, stop: int) -> torch.Tensor:
        """A matrix product for each example."""
        if stop - start == 1:
            return self._ordered(self.left[start].mT @ self.right[start])[None]
        return self._ordered(self.left[start:stop].mT @ self.right[start:stop])

    def scaled(self, weights: torch.Tensor) -> Outer:
        """One of the factors multiplied."""
        return Outer(self.left * along_examples(weights, self.left), self.right, self.natural, self.order)

    def sums(self, want: Want) -> LeafSums:
        """By matrix products over all examples, where they cost less than forming the gradients."""
        positions = self.left.shape[1]
        if want.variance and (self.count == 1 or positions * (positions + 1) // 2 > MOST_PAIRS):
            return self.formed_sums(want)
        if want.norms and not want.variance and not self._gram_is_cheaper():
            return self.formed_sums(want)
        mean = _mean(self.left, self.right) if want.mean or want.variance else None
        variance = _variance(self.left, self.right, mean) if want.variance and mean is not None else None
        return LeafSums(
            None if mean is None else self._ordered(mean),
            None if variance is None else self._ordered(variance),
            self._gram_norms() if want.norms else None,
        )

    def _gram_is_cheaper(self) -> bool:
        positions, rows, columns = *self.left.shape[1:], self.right.shape[2]
        if self.like.device.type == "cpu":
            return positions**2 * (rows + columns) < 10 * rows * columns
        return positions * (rows + columns) < 2 * rows * columns

    def _gram_norms(self) -> torch.Tensor:
        """``|g_i|^2 = sum_tu (left_t . left_u) (right_t . right_u)``, the positions of one example paired."""
        positions = self.left.shape[1]
        if positions == 1:
            return (self.left * self.left).sum((1, 2)) * (self.right * self.right).sum((1, 2))
        elements = CPU_ELEMENTS if self.like.device.type == "cpu" else GPU_ELEMENTS
        step = max(1, elements // positions**2)
        chunks = zip(self.left.split(step), self.right.split(step), strict=True)
        # In double precision, because terms of one example that nearly cancel leave few digits of their sum;
        # what clips by these norms relies on all of them.
        pairs = [(left.double(), right.double()) for left, right in chunks]
        norms = [((left @ left.mT) * (right @ right.mT)).sum((1, 2)) for left, right in pairs]
        return torch.cat(norms).clamp_min_(0).to(self.like.dtype)


def joined(stacks: Sequence[Outer]) -> Outer:
    """Several uses of one leaf: the positions of one after those of the other."""
    first = stacks[0]
    return Outer(
        torch.cat([stack.left for stack in stacks], 1),
        torch.cat([stack.right for stack in stacks], 1),
        first.natural,
        first.order,
    )


def _mean(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return _scaled_product(left.flatten(0, 1), right.flatten(0, 1), len(left))


def _scaled_product(left: torch.Tensor, right: torch.Tensor, divisor: int) -> torch.Tensor:
    """``left.T @ right / divisor``; the smaller factor is divided, before their product can overflow."""
    if left.shape[1] < right.shape[1]:
        return (left / divisor).mT @ right
    return left.mT @ (right / divisor)


def _variance(left: torch.Tensor, right: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """The variance (M, N) as the difference of two sums, or better where too many digits have cancelled."""
    count, least = len(left), LEAST_VARIANCE[left.dtype]
    variance, share = _squares(left, right), count / (count - 1)
    if not readable():
        # The compiler makes one loop of this.
        variance = variance - share * mean * mean
        _REPAIR(variance, (variance - least * mean * mean).amin(), left, right)
        return variance
    rows = max(1, ROWS_ELEMENTS // mean.shape[1])
    lowest: list[torch.Tensor] = []
    for part, of_mean in zip(variance.split(rows), mean.split(rows), strict=True):
        part.addcmul_(of_mean, of_mean, value=-share)
        lowest.append(torch.addcmul(part, of_mean, of_mean, value=-least).amin())
    _repair(variance, torch.stack(lowest).amin(), left, right)
    return variance


def _repair(variance: torch.Tensor, lowest: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Form the variance again, in place, where ``lowest`` is negative, and with it an entry or nearly so."""
    if not lowest.item() < 0:
        return
    if left.dtype == torch.float64:
        formed = Outer(left, right, variance.shape, (0, 1)).formed_sums(Want(False, True, False)).variance
        if formed is not None:
            variance.copy_(formed)
    else:
        left, right = left.double(), right.double()
        mean, share = _mean(left, right), -len(left) / (len(left) - 1)
        variance.copy_(_squares(left, right).addcmul_(mean, mean, value=share).clamp_min_(0))


# What depends on a value is hidden from a compiler in an operator, which it calls without looking inside.
# It waits for the value, so that a CUDA graph cannot hold it.
torch.library.define(
    "pure_sgd::repair_variance_",
    "(Tensor(a!) variance, Tensor lowest, Tensor left, Tensor right) -> ()",
    tags=(torch.Tag.cudagraph_unsafe,),
)
torch.library.impl("pure_sgd::repair_variance_", "default", _repair)
torch.library.register_fake("pure_sgd::repair_variance_", lambda variance, lowest, left, right: None)
_REPAIR: Any = torch.ops.pure_sgd.repair_variance_.default


def _squares(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """``sum_i g_i^2 / (B - 1)``, where ``g_i^2`` is a sum over pairs of positions."""
    count, positions = left.shape[:2]
    if positions == 1:
        left, right = (left * left)[:, 0], (right * right)[:, 0]
    else:
        first, second = torch.triu_indices(positions, positions, device=left.device)
        twice = torch.where(first == second, 1.0, 2.0).to(left.dtype)[:, None]
        left = (left[:, first] * left[:, second] * twice).flatten(0, 1)
        right = (right[:, first] * right[:, second]).flatten(0, 1)
    return _scaled_product(left, right, count - 1)
