"""What every projection asks of its arguments."""

from __future__ import annotations

import math
from typing import Any

import torch

from .. import tree
from ..errors import PureSGDError, check_hyperparameter

__all__ = ["Tree", "check_leaves", "check_size"]

#: A leaf, or a dict, list, tuple or NamedTuple of trees.
Tree = Any


def check_leaves(where: str, given: Tree, *, complex_too: bool = False) -> None:
    """Check that the leaves are tensors of real numbers, or of complex ones where these have a meaning.

    Raises:
        PureSGDError: names the first leaf that is not.

    Example:
        >>> import torch
        >>> from pure_sgd.projections.checks import check_leaves
        >>> check_leaves("projection_simplex", {"w": torch.ones(2)})
    """
    for path, leaf in tree.named_leaves(given, "tree"):
        if not isinstance(leaf, torch.Tensor):
            raise PureSGDError(
                where, f"{path} is a {type(leaf).__name__}, expected a tensor", "Use torch.as_tensor"
            )
        if not (leaf.is_floating_point() or (complex_too and leaf.is_complex())):
            raise PureSGDError(
                where,
                f"{path} holds {leaf.dtype}, expected real numbers in floating point",
                "Project only the part of the tree that holds such numbers",
            )


def check_size(where: str, name: str, size: Any, low: float = 0.0, *, finite: bool = True) -> None:
    """Check that the size of a set is a number of at least ``low``, or a 0-d tensor.

    Raises:
        PureSGDError: a number below ``low``, NaN or infinite, a schedule, or another type.

    Example:
        >>> from pure_sgd.projections.checks import check_size
        >>> check_size("projection_l2_ball", "scale", 2.0)
    """
    if callable(size):
        raise PureSGDError(
            where, f"{name}={size!r} is a function, expected a number or a 0-d tensor", "Pass its value"
        )
    check_hyperparameter(where, name, size, low=low, open_low=finite and low == -math.inf, open_high=finite)
