"""Projections onto the simplex, and onto balls and spheres of a norm over all leaves together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .. import tree as trees
from ..arguments import typed
from ..schedules import as_real
from .checks import Tree, check_leaves, check_size

__all__ = [
    "projection_l1_ball",
    "projection_l1_sphere",
    "projection_l2_ball",
    "projection_l2_sphere",
    "projection_simplex",
]


@typed
def projection_simplex(tree: Tree, scale: Any = 1) -> Tree:
    """The nearest tree without negative entries whose entries add up to ``scale``.

        y = max(x - tau, 0)        with the tau for which sum(y) = scale

    over the entries of all leaves together. They are sorted: O(n log n) for n of them.
    Source: Duchi et al. 2008, doi:10.1145/1390156.1390191.

    Raises:
        PureSGDError: a leaf that holds no real numbers, or a ``scale`` that is negative, infinite or NaN.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.projection_simplex({"w": torch.tensor([0.9, 0.5]), "b": torch.tensor(-2.0)})
        {'w': tensor([0.7000, 0.3000]), 'b': tensor(0.)}
    """
    check_leaves("projection_simplex", tree)
    check_size("projection_simplex", "scale", scale)
    entries, rebuild = _joined(tree)
    return rebuild(_onto_simplex(entries, scale))


@typed
def projection_l1_sphere(tree: Tree, scale: Any = 1) -> Tree:
    """The nearest tree whose absolute entries add up to ``scale``, over all leaves together.

        y = sign(x) * projection_simplex(|x|, scale)

    An entry of 0 counts as positive. Optax takes its sign for 0, and then the entries of ``(0.5, 0)`` add up
    to 0.75.

    Raises:
        PureSGDError: a leaf that holds no real numbers, or a ``scale`` that is negative, infinite or NaN.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.projection_l1_sphere(torch.tensor([-0.5, 0.0]))
        tensor([-0.7500,  0.2500])
    """
    check_leaves("projection_l1_sphere", tree)
    check_size("projection_l1_sphere", "scale", scale)
    entries, rebuild = _joined(tree)
    return rebuild(_onto_l1_sphere(entries, scale))


@typed
def projection_l1_ball(tree: Tree, scale: Any = 1) -> Tree:
    """The nearest tree whose absolute entries add up to at most ``scale``, over all leaves together.

    A tree that is in the ball stays as it is; any other goes to :func:`projection_l1_sphere`.
    Source: Duchi et al. 2008, doi:10.1145/1390156.1390191.

    Raises:
        PureSGDError: a leaf that holds no real numbers, or a ``scale`` that is negative, infinite or NaN.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.projection_l1_ball({"w": torch.tensor([-2.0, 0.5]), "b": torch.tensor(1.5)})
        {'w': tensor([-0.7500,  0.0000]), 'b': tensor(0.2500)}
    """
    check_leaves("projection_l1_ball", tree)
    check_size("projection_l1_ball", "scale", scale)
    entries, rebuild = _joined(tree)
    within = entries.abs().sum() <= scale
    return rebuild(torch.where(within, entries, _onto_l1_sphere(entries, scale)))


@typed
def projection_l2_sphere(tree: Tree, scale: Any = 1) -> Tree:
    """The nearest tree whose norm over all leaves together is ``scale``.

        y = scale * x / |x|

    All points of the sphere are as near to 0: of them the one with equal entries is returned, where Optax
    returns NaN. Entries may be complex.

    Raises:
        PureSGDError: a leaf that holds no numbers in floating point, or a ``scale`` that is negative,
            infinite or NaN.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.projection_l2_sphere({"w": torch.tensor([3.0]), "b": torch.tensor(4.0)})
        {'w': tensor([0.6000]), 'b': tensor(0.8000)}
    """
    check_leaves("projection_l2_sphere", tree, complex_too=True)
    check_size("projection_l2_sphere", "scale", scale)
    direction, _ = _polar(tree)
    return trees.map(lambda d, x: (scale * d).to(x.dtype), direction, tree)


@typed
def projection_l2_ball(tree: Tree, scale: Any = 1) -> Tree:
    """The nearest tree whose norm over all leaves together is at most ``scale``.

        y = x * min(1, scale / |x|)

    A tree that is in the ball stays as it is. Entries may be complex.

    Raises:
        PureSGDError: a leaf that holds no numbers in floating point, or a ``scale`` that is negative,
            infinite or NaN.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.projection_l2_ball({"w": torch.tensor([3.0]), "b": torch.tensor(4.0)}, 2.5)
        {'w': tensor([1.5000]), 'b': tensor(2.)}
    """
    check_leaves("projection_l2_ball", tree, complex_too=True)
    check_size("projection_l2_ball", "scale", scale)
    direction, norm = _polar(tree)
    return trees.map(lambda d, x: torch.where(norm <= scale, x, (scale * d).to(x.dtype)), direction, tree)


def _onto_simplex(entries: torch.Tensor, scale: Any) -> torch.Tensor:
    if not entries.numel():
        return entries
    # A common shift changes nothing, and this one keeps the sums small.
    entries = entries - entries.detach().amax()
    sums = entries.sort(descending=True).values.cumsum(0)
    counts = torch.arange(1, entries.numel() + 1, device=entries.device)
    # The k largest add up to scale after the k-th of these; the true threshold is the largest of all.
    threshold = ((sums - scale) / counts).amax()
    return (entries - threshold).clamp(min=0)


def _onto_l1_sphere(entries: torch.Tensor, scale: Any) -> torch.Tensor:
    sign = torch.where(entries < 0, -1.0, 1.0)
    return sign * _onto_simplex(sign * entries, scale)


def _joined(tree: Tree) -> tuple[torch.Tensor, Callable[[torch.Tensor], Tree]]:
    """All entries in one vector, in float64, and the way back."""
    found, rebuild = trees.flatten(tree)
    # In float64, because a threshold is shared by all entries: its error would add up over them.
    parts = [as_real(leaf).reshape(-1) for leaf in found]

    def restored(entries: torch.Tensor) -> Tree:
        split = torch.split(entries, [leaf.numel() for leaf in found])
        return rebuild(
            [part.reshape(leaf.shape).to(leaf.dtype) for part, leaf in zip(split, found, strict=True)]
        )

    return torch.cat(parts) if parts else torch.zeros(0), restored


def _polar(tree: Tree) -> tuple[Tree, torch.Tensor]:
    """A tree of norm 1 in at least float32, and the norm; the direction of 0 has equal entries."""
    sizes = [leaf.detach().abs().amax() for leaf in trees.leaves(tree) if leaf.numel()]
    largest = torch.stack([trees.widened(size) for size in sizes]).amax() if sizes else torch.zeros(())
    # Divided by the largest entry first: squares of small or large ones leave the range of the dtype.
    none = largest == 0
    unit = trees.map(
        lambda x: torch.where(none, 1.0, trees.widened(x) / torch.where(none, 1.0, largest)), tree
    )
    norm = trees.norm(unit)
    return trees.map(lambda u: u / norm, unit), torch.where(none, 0.0, largest * norm)
