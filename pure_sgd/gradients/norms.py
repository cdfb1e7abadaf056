"""The size of each example's gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .. import tree
from ..arguments import typed
from ..errors import PureSGDError
from ..functorch import readable
from ..models.buffers import without_buffers
from .compilable import compilable
from .example_gradients import check_method, example_gradients, sliced
from .examples import Batch, ExampleLoss, Params
from .onepass.stack import Want

__all__ = ["per_example_grad_norms"]

NORMS = Want(mean=False, variance=False, norms=True)


@typed
def per_example_grad_norms(
    example_loss: ExampleLoss, method: str = "auto", chunk_size: int | None = None
) -> Callable[[Params, Batch], torch.Tensor]:
    """The L2 norm of each example's gradient over all parameters: ``f(params, batch)``, (B,).

        norms[i] = |gradient of example_loss(params, *batch[i])|

    The norm of the gradient of a linear map with T positions comes from inner products of its inputs
    and of its outputs' gradients alone, where T is small (the Gram matrix of Goodfellow 2015,
    arXiv:1510.01799); else as in :func:`gradient_moments`, whose ``method`` and ``chunk_size`` these
    are. In at least float32. A gradient that is not finite has a norm that is not finite.

    Raises:
        PureSGDError: a batch without examples; leaves of different lengths; parameters that are not
            floating-point; a loss that is not a scalar, or not the same function for every example.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> norms = ps.per_example_grad_norms(lambda params, x: (x * params).sum())
        >>> norms(torch.zeros(2), (torch.tensor([[3.0, 4.0], [0.0, 1.0]]),))
        tensor([5., 1.])
    """
    check_method("per_example_grad_norms", method, chunk_size)

    def norms(params: Params, batch: Batch) -> torch.Tensor:
        loss, params = without_buffers(example_loss, params)
        count = tree.batch_length(batch)
        found: list[torch.Tensor] = []
        for start in range(0, count, chunk_size or count):
            stop = min(start + (chunk_size or count), count)
            part = batch if stop - start == count else sliced(batch, start, stop)
            _, leaves = example_gradients(loss, params, part, method).sums(NORMS)
            squares = [leaf.norms for leaf in leaves if leaf.norms is not None]
            found.append(sum(squares[1:], squares[0]))
        return _root(torch.cat(found))

    return compilable(norms)


def _root(squares: torch.Tensor) -> torch.Tensor:
    """The square root, with the slope 0 at 0, where it has none."""
    positive = squares > 0
    return torch.where(positive, torch.where(positive, squares, 1.0).sqrt(), squares)


def check_finite(where: str, norms: torch.Tensor, start: int = 0) -> None:
    """See that the norms (B,) of the gradients of examples are finite, where there are values to see.

    Raises:
        PureSGDError: some are not; it names their examples, which are counted from ``start`` on.

    Example:
        >>> import torch
        >>> from pure_sgd.gradients.norms import check_finite
        >>> check_finite("clipped_mean_grads", torch.tensor([1.0, 2.0]))
    """
    if readable() and not bool(torch.isfinite(norms).all()):
        found = [start + i for i in torch.nonzero(~torch.isfinite(norms)).flatten().tolist()]
        shown = ", ".join(map(str, found[:5])) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
        raise PureSGDError(
            where,
            f"the gradient is not finite for {len(found)} of the examples: {shown}",
            "Look at the losses of these examples, or leave them out",
        )
