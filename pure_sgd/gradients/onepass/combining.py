"""The gradients of a leaf that is used more than once, or through a view or another function of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ...functorch import readable
from .linear import Outer, joined
from .stack import LeafSums, Stack, Want

Build = Callable[[torch.Tensor], torch.Tensor]


class Pulled(Stack):
    """What the gradients of ``output = build(leaf)`` are for the leaf.

    ``picks`` says that ``build`` does nothing but place entries of the leaf elsewhere, each once or
    never: then what holds for the output entry by entry holds for the leaf.
    """

    def __init__(self, inner: Stack, leaf: torch.Tensor, build: Build) -> None:
        self.inner, self.leaf, self.build = inner, leaf, build
        self.count, self.shape, self.like = inner.count, tuple(leaf.shape), leaf
        with_pull: Any = torch.func.vjp(build, leaf)
        output, pull = with_pull
        self._dtype = output.dtype
        self._pull: Build = lambda grad: pull(grad)[0]

    def pull(self, of_output: torch.Tensor) -> torch.Tensor:
        """From the shape of the output to that of the leaf."""
        return self._pull(of_output.to(self._dtype))

    def dense(self, start: int, stop: int) -> torch.Tensor:
        """Those of the output, pulled back."""
        return torch.func.vmap(self._pull)(self.inner.dense(start, stop).to(self._dtype)).clone()

    def sums(self, want: Want) -> LeafSums:
        """The mean is that of the output, pulled back; what is squared has to be formed."""
        if want.variance or want.norms:
            return self.formed_sums(want)
        mean = self.inner.sums(want).mean
        return LeafSums(None if mean is None else self.pull(mean), None, None)

    def scaled(self, weights: torch.Tensor) -> Pulled:
        """Those of the output, multiplied."""
        return Pulled(self.inner.scaled(weights), self.leaf, self.build)

    def coverage(self) -> torch.Tensor:
        """How often each entry of the leaf is placed."""
        return self.pull(self.like.new_ones(self.inner.shape))


class Picked(Pulled):
    """As :class:`Pulled`, where ``build`` only places entries of the leaf elsewhere (transposes, slices)."""

    def scaled(self, weights: torch.Tensor) -> Picked:
        """Those of the output, multiplied."""
        return Picked(self.inner.scaled(weights), self.leaf, self.build)


class Together(Stack):
    """The gradients of a leaf that is used several times: the sums, example by example, of all uses."""

    def __init__(self, parts: Sequence[Stack]) -> None:
        self.parts = parts
        self.count, self.shape, self.like = parts[0].count, parts[0].shape, parts[0].like

    def dense(self, start: int, stop: int) -> torch.Tensor:
        """The sum."""
        first, *rest = self.parts
        total = first.dense(start, stop)
        for part in rest:
            total = total.add_(part.dense(start, stop))
        return total

    def sums(self, want: Want) -> LeafSums:
        """The mean is the sum of means; what is squared has to be formed."""
        if want.variance or want.norms:
            return self.formed_sums(want)
        return LeafSums(_added([part.sums(want).mean for part in self.parts]), None, None)

    def at_once(self) -> int:
        """As the most careful part."""
        return min(part.at_once() for part in self.parts)

    def scaled(self, weights: torch.Tensor) -> Together:
        """Every part multiplied."""
        return Together([part.scaled(weights) for part in self.parts])


class Disjoint(Together):
    """Uses of different entries of a leaf, as those of the three parts of an attention's first weight."""

    def scaled(self, weights: torch.Tensor) -> Disjoint:
        """Every part multiplied."""
        return Disjoint([part.scaled(weights) for part in self.parts])

    def sums(self, want: Want) -> LeafSums:
        """The sums of every part, each in its place."""
        mean, variance, norms = [], [], []
        for part in self.parts:
            if isinstance(part, Picked):
                sums = part.inner.sums(want)
                mean.append(None if sums.mean is None else part.pull(sums.mean))
                variance.append(None if sums.variance is None else part.pull(sums.variance))
                norms.append(sums.norms)
        return LeafSums(_added(mean), _added(variance), _added(norms))


def combined(parts: Sequence[Stack]) -> Stack:
    """One stack for all uses of one leaf: their sums example by example."""
    outer = [part for part in parts if isinstance(part, Outer)]
    if len(outer) > 1:
        alike = [part for part in outer if (part.natural, part.order) == (outer[0].natural, outer[0].order)]
        parts = [*(part for part in parts if part not in alike), joined(alike)]
    if all(isinstance(part, Picked) for part in parts):
        placed = sum(part.coverage() for part in parts if isinstance(part, Picked))
        if isinstance(placed, torch.Tensor) and readable() and bool((placed <= 1).all()):
            return Disjoint(parts)
    return parts[0] if len(parts) == 1 else Together(parts)


def _added(terms: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    there = [term for term in terms if term is not None]
    return sum(there[1:], there[0]) if there else None
