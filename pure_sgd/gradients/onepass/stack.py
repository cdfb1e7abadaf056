"""The gradients of one leaf for all examples, in whatever form is small, and what can be summed of them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch

from ...functorch import readable

# How many elements of gradients are formed at once. On a CPU they should stay in its cache, and for
# a large leaf the gradient of one example alone fills it; a GPU wants few large kernels.
CPU_ELEMENTS = 2**20
CPU_ONE_BY_ONE = 2**17
GPU_ELEMENTS = 2**26


class Want(NamedTuple):
    """Which sums to form."""

    mean: bool = True
    variance: bool = True
    norms: bool = True


class LeafSums(NamedTuple):
    """Sums over the gradients ``g_1 ... g_B`` of one leaf, in at least float32; None where not wanted."""

    mean: torch.Tensor | None  # (*P): sum_i g_i / B
    variance: torch.Tensor | None  # (*P): sum_i (g_i - mean)^2 / (B - 1); 0 where B = 1
    norms: torch.Tensor | None  # (B,): |g_i|^2


class Stack(ABC):
    """The gradients of one leaf, (B, *P), that may never exist as one tensor.

    A kind of stack says how to form a few of them (``dense``) and how to multiply each by a number
    (``scaled``). It overrides ``sums`` where a closed form is cheaper than forming them all.
    """

    count: int  # B
    shape: tuple[int, ...]  # P
    like: torch.Tensor  # of the device and dtype of the gradients, which is at least float32

    @abstractmethod
    def dense(self, start: int, stop: int) -> torch.Tensor:
        """The gradients of the examples from ``start`` to ``stop``: (stop - start, *P), the caller's own."""

    @abstractmethod
    def scaled(self, weights: torch.Tensor) -> Stack:
        """The stack of ``weights[i] * g_i``; ``weights`` (B,)."""

    def sums(self, want: Want) -> LeafSums:
        """The sums that are wanted."""
        return self.formed_sums(want)

    def at_once(self) -> int:
        """How many examples' gradients to form at once."""
        if not readable():
            return self.count  # in a program that is traced, a loop would be written out
        numel = max(math.prod(self.shape), 1)
        if self.like.device.type != "cpu":
            return max(GPU_ELEMENTS // numel, 1)
        return 1 if numel >= CPU_ONE_BY_ONE else max(CPU_ELEMENTS // numel, 1)

    def formed_sums(self, want: Want) -> LeafSums:
        """The sums by forming the gradients, a few at a time (Chan et al. 1979)."""
        mean, squares = self.like.new_zeros(self.shape), self.like.new_zeros(self.shape)
        norms: list[torch.Tensor] = []
        for start in range(0, self.count, self.at_once()):
            stop = min(start + self.at_once(), self.count)
            grads = self.dense(start, stop)
            if want.norms:
                norms.append(square_norms(grads))
            if not want.mean and not want.variance:
                continue
            if stop - start == 1:
                delta = grads[0].sub_(mean)
            else:
                chunk_mean = grads.mean(0)
                if want.variance:
                    squares.add_(grads.sub_(chunk_mean).square_().sum(0))
                delta = chunk_mean.sub_(mean)
            mean.add_(delta, alpha=(stop - start) / stop)
            if want.variance:
                squares.addcmul_(delta, delta, value=start * (stop - start) / stop)
        return LeafSums(
            mean if want.mean else None,
            squares.div_(max(self.count - 1, 1)) if want.variance else None,
            torch.cat(norms) if want.norms else None,
        )


class Dense(Stack):
    """Gradients that are there already: those of a bias, a scale, or any small leaf."""

    def __init__(self, grads: torch.Tensor) -> None:
        self.grads = self.like = grads
        self.count, self.shape = len(grads), tuple(grads.shape[1:])

    def dense(self, start: int, stop: int) -> torch.Tensor:
        """A copy of these."""
        return self.grads[start:stop].clone()

    def scaled(self, weights: torch.Tensor) -> Dense:
        """Each multiplied."""
        return Dense(self.grads * along_examples(weights, self.grads))

    def sums(self, want: Want) -> LeafSums:
        """All at once."""
        if not want.mean and not want.variance:
            return LeafSums(None, None, square_norms(self.grads))
        mean = self.grads.mean(0)
        return LeafSums(
            mean,
            (self.grads - mean).square_().sum(0).div_(max(self.count - 1, 1)) if want.variance else None,
            square_norms(self.grads) if want.norms else None,
        )


class Zero(Stack):
    """The gradients of a leaf that the loss does not depend on."""

    def __init__(self, count: int, leaf: torch.Tensor) -> None:
        self.count, self.shape, self.like = count, tuple(leaf.shape), leaf

    def dense(self, start: int, stop: int) -> torch.Tensor:
        """Zeros."""
        return self.like.new_zeros(stop - start, *self.shape)

    def scaled(self, weights: torch.Tensor) -> Zero:
        """Zeros still."""
        return self

    def sums(self, want: Want) -> LeafSums:
        """Zeros."""
        zeros = self.like.new_zeros
        return LeafSums(zeros(self.shape), zeros(self.shape), zeros(self.count))


def square_norms(grads: torch.Tensor) -> torch.Tensor:
    """``|g_i|^2``: (B, *P) -> (B,)."""
    rows = grads.reshape(len(grads), -1)
    return torch.linalg.vecdot(rows, rows)


def squared(tensor: torch.Tensor) -> torch.Tensor:
    """``|x|^2`` entry by entry: real, also of a complex tensor."""
    return (tensor * tensor.conj()).real if tensor.is_complex() else tensor * tensor


def along_examples(weights: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """``weights`` (B,) with the axes that let it multiply ``like`` (B, ...)."""
    return weights.to(like.dtype).reshape(-1, *(1 for _ in like.shape[1:]))
