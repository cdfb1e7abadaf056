"""The multilayer perceptron: dense layers with a nonlinearity between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch

from .. import random
from ..errors import PureSGDError, check_count
from ..recipe import recorded
from .contract import Model, Params, check_example, sentenced
from .initial import he_dense

__all__ = ["mlp"]


@recorded
@sentenced
def mlp(sizes: Sequence[int], activation: Callable[[torch.Tensor], torch.Tensor] = torch.relu) -> Model:
    """A multilayer perceptron with one layer between each two neighbouring ``sizes``.

    ``h <- activation(h @ w + b)`` layer after layer from ``h = x``, the last without activation.
    ``w`` is normal of variance ``2 / inputs`` (He et al. 2015, arXiv:1502.01852), ``b`` zero.

    Shapes: x (sizes[0],), the output (sizes[-1],); the parameters
    ``{"layers": [{"w": (inputs, outputs), "b": (outputs,)}, ...]}``.

    Raises:
        PureSGDError: fewer than two sizes, or one that is not a positive int; in ``apply``, an
            ``x`` of another shape or dtype.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> model = ps.models.mlp((64, 32, 10))
        >>> params = model.init(ps.random.key(0))
        >>> [tuple(layer["w"].shape) for layer in params["layers"]]
        [(64, 32), (32, 10)]
        >>> model.apply(params, torch.ones(64)).shape
        torch.Size([10])
    """
    widths = tuple(sizes)
    if len(widths) < 2:
        raise PureSGDError(
            "mlp",
            f"sizes={sizes!r} names {len(widths)} width{'s' * (not widths)}, expected at least 2",
            "Pass input and output widths, such as (64, 10)",
        )
    for index, width in enumerate(widths):
        check_count("mlp", f"sizes[{index}]", width)

    def init(key: torch.Tensor, dtype: torch.dtype = torch.float32) -> Params:
        keys = random.split(key, len(widths) - 1)
        pairs = zip(keys, pairwise(widths), strict=True)
        return {"layers": [he_dense(k, inputs, outputs, dtype) for k, (inputs, outputs) in pairs]}

    def apply(params: Params, x: torch.Tensor) -> torch.Tensor:
        *hidden, last = params["layers"]
        check_example("mlp", x, widths[:1], last["w"])
        for layer in hidden:
            x = activation(x @ layer["w"] + layer["b"])
        return x @ last["w"] + last["b"]

    return Model(init, apply)
