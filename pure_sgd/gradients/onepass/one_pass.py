"""The pass itself: one forward and one backward, and from what was noted a stack for every leaf."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from ... import tree
from ..examples import Batch, ExampleLoss, Params, arguments, over_examples
from .combining import Picked, Pulled, combined
from .held import Held
from .stack import Dense, Stack, Zero
from .watching import Watching

# Leaves up to this many elements for all examples together may be held once for each of them, and
# larger ones while that takes no more than all parameters do.
COPIED_ELEMENTS = 2**20


class Passed(NamedTuple):
    """The loss of each example, and for each leaf its gradients, or why the pass does not have them."""

    losses: torch.Tensor  # (B,), without a graph
    stacks: list[Stack | None]  # None: to be computed again by vmap(grad)
    ways: list[str]  # how each leaf was used, or why its stack is None


def one_pass(example_loss: ExampleLoss, params: Params, batch: Batch) -> Passed:
    """Run ``example_loss`` over ``batch`` once, forward and backward."""
    leaves, rebuild = tree.flatten(params)
    count = tree.batch_length(batch)
    guards = [leaf.detach().requires_grad_() for leaf in leaves]
    most = max(COPIED_ELEMENTS, sum(leaf.numel() for leaf in leaves))
    copies = {
        index: leaf.detach().expand(count, *leaf.shape).requires_grad_()
        for index, leaf in enumerate(leaves)
        if count * leaf.numel() <= most and not leaf.is_complex()
    }
    watching = Watching(guards, torch.zeros((), requires_grad=True))
    guarded = rebuild(guards)

    def watched(copied: list[torch.Tensor], example: Batch) -> torch.Tensor:
        with watching.begin(dict(zip(copies, copied, strict=True))):
            return example_loss(guarded, *arguments(example))

    with torch.enable_grad():
        losses = over_examples(watched, (list(copies.values()), batch), "batch")
        grads = _backward(losses, watching, copies, guards)
    return Passed(losses.detach(), *_collected(watching, leaves, copies, grads, count))


class _Grads(NamedTuple):
    edges: Sequence[torch.Tensor | None]
    copies: Sequence[torch.Tensor | None]
    guards: Sequence[torch.Tensor | None]


def _backward(
    losses: torch.Tensor, watching: Watching, copies: dict[int, torch.Tensor], guards: list[torch.Tensor]
) -> _Grads:
    used = [copy for index, copy in copies.items() if index in watching.copied]
    inputs: Any = [*watching.edges, *used, *guards]
    grads: list[torch.Tensor | None] = [None] * len(inputs)
    if losses.requires_grad:
        grads = list(torch.autograd.grad(losses, inputs, torch.ones_like(losses), allow_unused=True))
    edges, rest = grads[: len(watching.edges)], iter(grads[len(watching.edges) :])
    of_copies = [next(rest) if index in watching.copied else None for index in copies]
    return _Grads(edges, of_copies, list(rest))


def _collected(
    watching: Watching, leaves: list[torch.Tensor], copies: dict[int, torch.Tensor], grads: _Grads, count: int
) -> tuple[list[Stack | None], list[str]]:
    parts: list[list[Stack]] = [[] for _ in leaves]
    ways: list[list[str]] = [[] for _ in leaves]
    by_held: dict[int, tuple[Held, list[Stack]]] = {}
    for held, stack in watching.stacks(grads.edges):
        by_held.setdefault(id(held.tensor), (held, []))[1].append(stack)
    for noted in watching.noted:
        for index in noted.held.leaves:
            ways[index].append(noted.by)
    wide = [tree.widened(leaf.detach()) for leaf in leaves]
    for held, stacks in by_held.values():
        for index in held.leaves:
            if held.tensor.is_leaf:
                parts[index] += stacks
            else:
                parts[index].append(_pulled(held, index, combined(stacks), wide))
    for index, grad in zip(copies, grads.copies, strict=True):
        if grad is not None:
            parts[index].append(Dense(tree.widened(grad)))
            ways[index].append(watching.copied[index])
    unseen = "it is used where no function of torch shows it"
    refused = {i: unseen for i, grad in enumerate(grads.guards) if grad is not None} | watching.refused
    refused |= {i: "it is complex" for i, leaf in enumerate(leaves) if leaf.is_complex()}
    result: list[Stack | None] = [
        None if index in refused else combined(found) if found else Zero(count, leaf)
        for index, (found, leaf) in enumerate(zip(parts, wide, strict=True))
    ]
    return result, [refused.get(index) or ", ".join(dict.fromkeys(way)) for index, way in enumerate(ways)]


def _pulled(held: Held, index: int, stack: Stack, leaves: list[torch.Tensor]) -> Stack:
    def build(leaf: torch.Tensor) -> torch.Tensor:
        return held.build({**dict(enumerate(leaves)), index: leaf})

    return (Picked if held.picks else Pulled)(stack, leaves[index], build)
