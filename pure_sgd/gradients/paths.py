"""Which parameters' gradients come from one pass over the batch, and which have to be formed."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .. import tree
from ..arguments import typed
from ..models.buffers import without_buffers
from .example_gradients import check_method, example_gradients
from .examples import Batch, ExampleLoss, Params

__all__ = ["GradientPath", "GradientPaths", "gradient_paths"]


class GradientPath(NamedTuple):
    """How the gradients of one leaf are found."""

    leaf: str  # the leaf, as in params['w']
    method: str  # "one pass" or "vmap(grad)"
    reason: str  # the calls that use it, or why one pass does not do


class GradientPaths(tuple[GradientPath, ...]):
    """One :class:`GradientPath` for each leaf, in traversal order; prints as a table.

    Example:
        >>> from pure_sgd.gradients.paths import GradientPath, GradientPaths
        >>> GradientPaths([GradientPath("params['w']", "one pass", "matmul")])
        params['w']  one pass  matmul
    """

    __slots__ = ()

    def __repr__(self) -> str:
        leaf, method = (max((len(path[k]) for path in self), default=0) for k in range(2))
        return "\n".join(
            f"{path.leaf:{leaf}}  {path.method:{method}}  {path.reason}".rstrip() for path in self
        )


@typed
def gradient_paths(
    example_loss: ExampleLoss, method: str = "auto"
) -> Callable[[Params, Batch], GradientPaths]:
    """Tell how :func:`gradient_moments` would differentiate: ``f(params, batch) -> GradientPaths``.

    For every leaf either ``one pass`` and the calls of torch that use it, or ``vmap(grad)`` and why. The
    result is the same either way; one pass is faster and takes less memory. This runs the pass.

    Raises:
        PureSGDError: as :func:`gradient_moments`.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> def loss(params, x):
        ...     return (x @ params["w"] + params["b"]).cumsum(0).sum()
        >>> params = {"w": torch.zeros(3, 2), "b": torch.zeros(2)}
        >>> ps.gradient_paths(loss)(params, (torch.ones(8, 3),))
        params['b']  one pass  add
        params['w']  one pass  matmul
    """
    check_method("gradient_paths", method, None)

    def paths(params: Params, batch: Batch) -> GradientPaths:
        loss, params = without_buffers(example_loss, params)
        found = example_gradients(loss, params, batch, method)
        named = tree.named_leaves(params, "params")
        return GradientPaths(
            GradientPath(leaf, "vmap(grad)" if stack is None else "one pass", way or "not used")
            for (leaf, _), stack, way in zip(named, found.stacks, found.ways, strict=True)
        )

    return paths
