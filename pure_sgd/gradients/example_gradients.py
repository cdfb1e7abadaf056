"""The gradients of all examples of a batch, in a form that is summed without holding them all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from .. import functorch, tree
from ..errors import PureSGDError, check_count
from .examples import Batch, ExampleLoss, Params, checked, over_examples
from .onepass.one_pass import one_pass
from .onepass.stack import LeafSums, Stack, Want, along_examples, squared
from .value_and_grad import check_differentiable, value_and_grad

METHODS = ("auto", "fast", "vmap")

# How many elements of gradients vmap(grad) forms at once.
CPU_ELEMENTS = 2**22
GPU_ELEMENTS = 2**26


class Sums(NamedTuple):
    """Sums over the examples of a batch."""

    losses: torch.Tensor  # (B,)
    leaves: list[LeafSums]  # for each leaf of params, in traversal order


@dataclass(frozen=True)
class ExampleGradients:
    """The gradients ``g_1 ... g_B`` of ``example_loss`` at ``params``, one for each example of ``batch``.

    This is the seam between the ways to differentiate and the quantities on top. ``stacks[k]`` holds the
    gradients of leaf k in factored form, from the one pass that is behind us; where it is None they are
    formed by ``vmap(grad)`` when sums are asked for, a chunk at a time, for those leaves alone. All is
    exact either way. Where one pass was not possible (``stacks`` are all None) the sums are made of
    operations that compile, map and differentiate.
    """

    example_loss: ExampleLoss
    params: Params
    batch: Batch
    losses: torch.Tensor | None  # (B,), once there has been a pass
    stacks: Sequence[Stack | None]  # one for each leaf of params, in traversal order
    ways: Sequence[str]  # for each leaf the calls that use it, or why it has no stack
    weights: Sequence[torch.Tensor] | None = None  # (B,) for each leaf: what its gradients are multiplied by

    def scaled(self, weights: Sequence[torch.Tensor]) -> ExampleGradients:
        """The gradients of leaf k times ``weights[k]``, (B,). No pass is repeated for it."""
        pairs = zip(self.stacks, weights, strict=True)
        stacks = [None if stack is None else stack.scaled(weight) for stack, weight in pairs]
        both = [w * own for w, own in zip(weights, self.weights, strict=True)] if self.weights else weights
        return replace(self, stacks=stacks, weights=both)

    def sums(self, want: Want) -> Sums:
        """For each leaf the sums that are wanted: mean (*P), variance (*P), square norms (B,).

        All are in at least float32. One call for all that is wanted costs least.
        """
        missing = [index for index, stack in enumerate(self.stacks) if stack is None]
        losses = self.losses
        formed: dict[int, LeafSums] = {}
        if missing:
            again, leaves = self._formed(missing, want)
            losses, formed = again if losses is None else losses, dict(zip(missing, leaves, strict=True))
        if losses is None:
            raise PureSGDError("params", "holds no tensor", "Pass a tree with at least one tensor")
        there = [stack for stack in self.stacks if stack is not None]
        if not there:
            return Sums(losses, list(formed.values()))
        # Sums keep the precision of the gradients also where the loss is computed in a lower one.
        with torch.autocast(losses.device.type, enabled=False):
            of_stacks = iter([stack.sums(want) for stack in there])
        return Sums(losses, [formed.get(k) or next(of_stacks) for k in range(len(self.stacks))])

    def _formed(self, leaves: list[int], want: Want) -> Sums:
        """The sums for some leaves by forming their gradients; nothing is changed in place."""
        losses: list[torch.Tensor] = []
        totals: list[LeafSums] = []
        for start, stop, chunk_losses, grads in self._chunks(leaves):
            if self.weights is not None:
                weights = [self.weights[index][start:stop] for index in leaves]
                grads = [g * along_examples(w, g) for g, w in zip(grads, weights, strict=True)]
            sums = [_chunk_sums(grad, want) for grad in grads]
            totals = merged_leaves(totals, start, sums, stop - start)
            losses.append(chunk_losses)
        return Sums(torch.cat(losses), totals)

    def _chunks(self, leaves: list[int]) -> Iterator[tuple[int, int, torch.Tensor, list[torch.Tensor]]]:
        """Start, stop, losses and gradients (stop - start, *P) of some examples after the other."""
        found, rebuild = tree.flatten(self.params)
        some = [found[index] for index in leaves]

        def loss(some: list[torch.Tensor], *example: Any) -> torch.Tensor:
            values = list(found)
            for index, value in zip(leaves, some, strict=True):
                values[index] = value
            return self.example_loss(rebuild(values), *example)

        count = tree.batch_length(self.batch)
        gradient = value_and_grad(loss)
        step = _at_once(some, count)
        for start in range(0, count, step):
            stop = min(start + step, count)
            losses, grads = over_examples(
                lambda *example: gradient(some, *example), sliced(self.batch, start, stop), "batch"
            )
            check_depends_on_example(losses)
            yield start, stop, losses, [tree.widened(grad) for grad in grads]


def example_gradients(
    example_loss: ExampleLoss, params: Params, batch: Batch, method: str = "auto"
) -> ExampleGradients:
    """The gradients of each example of ``batch``: by one pass where that is possible.

    ``method`` is ``"auto"``, ``"fast"`` (an error where one pass is not possible) or ``"vmap"``. Where a
    compiler reads it (see :func:`compilable`), inside another transform, and where ``params`` or ``batch``
    require grad, one pass is not possible: what comes out then compiles, maps and differentiates, which
    the pass cannot.

    Raises:
        PureSGDError: a leaf that cannot be differentiated, or a batch without examples.
    """
    check_differentiable(params)
    tree.batch_length(batch)
    leaves = tree.leaves(params)
    if not leaves:
        raise PureSGDError("params", "holds no tensor", "Pass a tree with at least one tensor")
    loss = checked(example_loss)
    reason = "it was asked for" if method == "vmap" else _one_pass_impossible(params, batch)
    if reason is None:
        try:
            passed = one_pass(loss, params, batch)
        except (PureSGDError, RuntimeError) as error:
            # Some calls can be mapped over examples, but not over copies of their parameters.
            if method == "fast" or (isinstance(error, PureSGDError) and error.__cause__ is None):
                raise
            reason = f"one pass failed: {error}"
        else:
            check_depends_on_example(passed.losses)
            return ExampleGradients(loss, params, batch, *passed)
    if method == "fast":
        raise PureSGDError("method='fast'", f"is not possible, because {reason}", "Pass method='auto'")
    return ExampleGradients(loss, params, batch, None, [None for _ in leaves], [reason for _ in leaves])


def check_depends_on_example(losses: torch.Tensor) -> None:
    """Check that the loss is not one number for all examples; ``losses`` (B,) as ``vmap`` returns them.

    Raises:
        PureSGDError: it is.
    """
    # What does not depend on the example is repeated by vmap without a copy.
    if functorch.readable() and len(losses) > 1 and losses.stride(0) == 0:
        raise PureSGDError(
            "example_loss",
            "does not depend on the example: it returns one number for all of them",
            "Let it use its arguments after params, and return the loss of that one example",
        )


def check_method(where: str, method: str, chunk_size: int | None) -> None:
    """Check the arguments that choose how to differentiate.

    Raises:
        PureSGDError: an unknown method, or a chunk size that is not a positive int.
    """
    if method not in METHODS:
        known = ", ".join(map(repr, METHODS))
        raise PureSGDError(where, f"method={method!r} is unknown", f"Pass one of {known}")
    if chunk_size is not None:
        check_count(where, "chunk_size", chunk_size)


def sliced(batch: Batch, start: int, stop: int) -> Batch:
    """The examples from ``start`` to ``stop``."""
    return tree.map(lambda leaf: leaf[start:stop], batch)


def merged_leaves(a: list[LeafSums], count_a: int, b: list[LeafSums], count_b: int) -> list[LeafSums]:
    """The sums of two sets of examples together, leaf by leaf; nothing and ``b`` are ``b``."""
    if not count_a:
        return b
    return [merged(of_a, count_a, of_b, count_b) for of_a, of_b in zip(a, b, strict=True)]


def merged(a: LeafSums, count_a: int, b: LeafSums, count_b: int) -> LeafSums:
    """The sums of two sets of examples together (Chan, Golub and LeVeque 1979)."""
    mean, variance, norms = None, None, None
    if a.mean is not None and b.mean is not None:
        count, delta = count_a + count_b, b.mean - a.mean
        mean = a.mean + delta * (count_b / count)
        if a.variance is not None and b.variance is not None:
            squares = (count_a - 1) * a.variance + (count_b - 1) * b.variance
            variance = (squares + squared(delta) * (count_a * count_b / count)) / (count - 1)
    if a.norms is not None and b.norms is not None:
        norms = torch.cat([a.norms, b.norms])
    return LeafSums(mean, variance, norms)


def _chunk_sums(grads: torch.Tensor, want: Want) -> LeafSums:
    mean = grads.mean(0) if want.mean or want.variance else None
    freedom = max(len(grads) - 1, 1)
    return LeafSums(
        mean,
        squared(grads - mean).sum(0) / freedom if want.variance and mean is not None else None,
        squared(grads).reshape(len(grads), -1).sum(1) if want.norms else None,
    )


def _one_pass_impossible(params: Params, batch: Batch) -> str | None:
    # The compiler is asked first: it cannot trace the other questions.
    if torch.compiler.is_dynamo_compiling():
        return "it is being compiled"
    if functorch.level():
        return "it runs inside vmap or grad"
    if torch.is_grad_enabled() and any(leaf.requires_grad for leaf in tree.leaves((params, batch))):
        return "params or batch require grad, so that the result is to be differentiable"
    return None


def _at_once(leaves: list[torch.Tensor], count: int) -> int:
    # What is traced should be one piece, in which the compiler keeps no gradients at all.
    if not functorch.readable():
        return count
    elements = CPU_ELEMENTS if leaves[0].device.type == "cpu" else GPU_ELEMENTS
    return max(1, elements // max(1, sum(math.prod(leaf.shape) for leaf in leaves)))
