"""Gradients of every example of a batch by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arguments import typed
from ..errors import check_count
from ..hints import T
from .examples import Batch, ExampleLoss, Params, checked, over_examples
from .value_and_grad import value_and_grad

__all__ = ["per_example_grads"]


@typed
def per_example_grads(example_loss: ExampleLoss, chunk_size: int | None = None) -> Callable[[T, Batch], T]:
    """The gradient of each example: ``f(params, batch)``, a tree like ``params`` of leaves (B, *P).

        grads[i] = gradient of example_loss(params, *batch[i])

    Their mean over B is the gradient of :func:`empirical_risk`; their spread is the noise of SGD.
    ``chunk_size`` examples are handled at a time (the result still holds all B).

    Raises:
        PureSGDError: leaves of different lengths, an empty batch, or a loss that is not a scalar.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> grads = ps.per_example_grads(lambda params, x, y: (x @ params["w"] - y) ** 2 / 2)
        >>> grads({"w": torch.zeros(2)}, (torch.eye(2), torch.tensor([1.0, 2.0])))
        {'w': tensor([[-1., -0.],
                [-0., -2.]])}
    """
    if chunk_size is not None:
        check_count("per_example_grads", "chunk_size", chunk_size)
    gradient = value_and_grad(checked(example_loss))

    def grads(params: Params, batch: Batch) -> Any:
        return over_examples(lambda *example: gradient(params, *example)[1], batch, "batch", chunk_size)

    return grads
