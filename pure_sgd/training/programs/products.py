"""Small matrix products as sums of products, which a compiler makes part of a kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["products_as_sums"]

#: Multiplications up to which a product is written as a sum; a call of BLAS costs more.
SMALL = 2**15

PRODUCTS = {
    torch.matmul,
    torch.Tensor.matmul,
    torch.Tensor.__matmul__,
    torch.mm,
    torch.Tensor.mm,
    torch.mv,
    torch.Tensor.mv,
    torch.dot,
    torch.Tensor.dot,
}


class products_as_sums(TorchFunctionMode):
    """While this lasts, ``a @ b`` of one or two axes each is ``sum_k a[..., k] * b[k, ...]``.

    Said where a step multiplies, under ``vmap`` and ``grad``, so that the sizes are those of one run, and
    slopes are sums, too.

    Example:
        >>> import torch
        >>> from pure_sgd.training.programs.products import products_as_sums
        >>> with products_as_sums():
        ...     torch.eye(2) @ torch.tensor([1.0, 2.0])
        tensor([1., 2.])
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func not in PRODUCTS or kwargs:
            return func(*args, **(kwargs or {}))
        a, b = args
        columns = b.shape[1] if b.ndim == 2 else 1
        fits = 0 < a.ndim <= 2 and 0 < b.ndim <= 2 and a.shape[-1] == b.shape[0] and a.dtype == b.dtype
        if not fits or a.numel() * columns > SMALL:
            return func(*args)
        if b.ndim == 1:
            return (a * b).sum(-1)
        return (a[:, None] * b).sum(0) if a.ndim == 1 else (a[:, :, None] * b).sum(1)
