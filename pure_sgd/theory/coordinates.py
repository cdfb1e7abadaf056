"""A chain on a quadratic as a function of few numbers a coordinate, and of a clock that all share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from .. import tree
from ..transforms import GradientTransformation, apply_updates, eval_params

__all__ = ["Clock", "Coordinates", "coordinates"]

#: What all coordinates share and no gradient moves: step counts, and the rates and weights that follow them.
Clock = tuple[Any, ...]


class Coordinates(NamedTuple):
    """A chain, taken apart. A coordinate carries k numbers: its parameter first, then its state."""

    names: tuple[str, ...]  # what the k numbers are
    start: torch.Tensor  # (k, n): they, before the first step, for parameters of 1
    clock: Clock  # before the first step
    advance: Callable[[torch.Tensor, torch.Tensor, Clock], tuple[torch.Tensor, Clock]]  # z (k, n), xi (n,)
    average: Callable[[torch.Tensor, Clock], torch.Tensor]  # (n,): the parameters to evaluate with
    take_apart: Callable[[Any, Any], tuple[torch.Tensor, Clock]]  # of params (n,) and an optimizer state


def coordinates(
    tx: GradientTransformation, curvature: torch.Tensor, average: str | None = None
) -> Coordinates:
    """Take a chain apart; ``average`` tells the one of several, as in :func:`eval_params`.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> from pure_sgd.theory.coordinates import coordinates
        >>> found = coordinates(ps.sgd(0.1, momentum=0.9), torch.ones(1, dtype=torch.float64))
        >>> found.names
        ('params', 'opt_state[0].trace')
        >>> z, clock = found.advance(found.start, torch.zeros(1), found.clock)
        >>> z
        tensor([[0.9000],
                [1.0000]], dtype=torch.float64)
    """
    ones = torch.ones_like(curvature)
    n = len(curvature)
    state = tx.init(ones)
    leaves, rebuild = tree.flatten(state)
    moves = [_is_per_coordinate(leaf, n) for leaf in leaves]
    rows = [leaf.numel() // n if moving else 0 for leaf, moving in zip(leaves, moves, strict=True)]
    names = ["params"]
    for (path, _), count in zip(tree.named_leaves(state, "opt_state"), rows, strict=True):
        names += [path] if count == 1 else [f"{path}[{row}]" for row in range(count)]

    def take_apart(params: torch.Tensor, state: Any) -> tuple[torch.Tensor, Clock]:
        found = list(zip(tree.leaves(state), moves, strict=True))
        numbers = [leaf.reshape(-1, n).to(params.dtype) for leaf, moving in found if moving]
        return torch.cat([params[None], *numbers]), tuple(leaf for leaf, moving in found if not moving)

    def put_together(z: torch.Tensor, clock: Clock) -> tuple[torch.Tensor, Any]:
        params, *numbers = torch.split(z, [1, *filter(None, rows)])
        parts, ticks = iter(numbers), iter(clock)
        filled = [
            next(parts).reshape(leaf.shape).to(leaf.dtype) if moving else next(ticks)
            for leaf, moving in zip(leaves, moves, strict=True)
        ]
        return params[0], rebuild(filled)

    def advance(z: torch.Tensor, xi: torch.Tensor, clock: Clock) -> tuple[torch.Tensor, Clock]:
        params, state = put_together(z, clock)
        updates, state = tx.update(curvature * params + xi, state, params)
        return take_apart(apply_updates(params, updates), state)

    def averaged(z: torch.Tensor, clock: Clock) -> torch.Tensor:
        params, state = put_together(z, clock)
        return eval_params(state, params, average)

    start, clock = take_apart(ones, state)
    return Coordinates(tuple(names), start, clock, advance, averaged, take_apart)


def _is_per_coordinate(leaf: Any, n: int) -> bool:
    return (
        isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and leaf.ndim > 0 and leaf.shape[-1] == n
    )
