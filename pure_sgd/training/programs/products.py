"""Small matrix products as sums of products, which a compiler makes part of a kernel."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from ... import functorch

__all__ = ["SMALL", "products_as_sums"]

#: Multiplications up to which a product is better a sum; a call of BLAS costs more, and would end a loop.
SMALL = 2**15

Factors = tuple[torch.Tensor, torch.Tensor]


class products_as_sums(TorchFunctionMode):
    """While this lasts, ``a @ b`` of up to ``most`` multiplications is ``sum_k a[..., k] * b[k, ...]``.

    So are ``F.linear`` and ``einsum`` of two tensors. Said where a step multiplies, under the ``vmap`` and
    ``grad`` that it enters, so that slopes are sums, too; what an axis of ``vmap`` repeats counts, unless it
    is around all of this.

    Example:
        >>> import torch
        >>> from pure_sgd.training.programs.products import products_as_sums
        >>> with products_as_sums():
        ...     torch.eye(2) @ torch.tensor([1.0, 2.0])
        tensor([1., 2.])
    """

    def __init__(self, most: int = SMALL) -> None:
        super().__init__()
        self.most, self.level = most, functorch.level()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        factors = SPREAD.get(func)
        found = None if factors is None or kwargs else factors(*args)
        if found is not None:
            (a, b), summed, bias = found
            count = math.prod(torch.broadcast_shapes(a.shape, b.shape)) * self._repeats(a, b)
            if a.dtype == b.dtype != torch.bool and count <= self.most:
                total = (a * b).sum(summed, dtype=a.dtype) if summed else a * b
                return total if bias is None else total + bias
        return func(*args, **(kwargs or {}))

    def _repeats(self, *factors: torch.Tensor) -> int:
        """How often a product is taken by what was entered since."""
        sizes: dict[int, int] = {}
        for factor in factors:
            while functorch.level_of(factor) > self.level:
                inner, axis = functorch.stacked(factor)
                if axis >= 0:
                    sizes[functorch.level_of(factor)] = inner.shape[axis]
                factor = inner
        return math.prod(sizes.values())


Spread = tuple[Factors, tuple[int, ...], torch.Tensor | None]


def _matmul(a: torch.Tensor, b: torch.Tensor) -> Spread | None:
    if not a.ndim or not b.ndim or a.shape[-1] != b.shape[max(b.ndim - 2, 0)]:
        return None
    if b.ndim == 1:
        return (a, b), (-1,), None
    return (a.unsqueeze(-1), b if a.ndim == 1 else b.unsqueeze(-3)), (-2,), None


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Spread | None:
    if x.shape[-1:] != weight.shape[-1:]:
        return None
    return (x if weight.ndim == 1 else x.unsqueeze(-2), weight), (-1,), bias


def _einsum(equation: Any, *operands: Any) -> Spread | None:
    terms, arrow, output = str(equation).replace(" ", "").partition("->")
    words = terms.split(",")
    if not arrow or "." in equation or not len(words) == len(operands) == 2:
        return None
    if any(len({*word}) < len(word) for word in words):
        return None
    summed = sorted({*words[0], *words[1]} - {*output})
    letters = [*output, *summed]

    def spread(word: str, leaf: torch.Tensor) -> torch.Tensor:
        leaf = leaf.permute([word.index(letter) for letter in letters if letter in word])
        for axis, letter in enumerate(letters):
            leaf = leaf if letter in word else leaf.unsqueeze(axis)
        return leaf

    a, b = (spread(word, leaf) for word, leaf in zip(words, operands, strict=True))
    return (a, b), tuple(range(-len(summed), 0)), None


SPREAD: dict[Any, Callable[..., Spread | None]] = {
    **dict.fromkeys([torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__], _matmul),
    **dict.fromkeys([torch.mm, torch.Tensor.mm, torch.mv, torch.Tensor.mv], _matmul),
    **dict.fromkeys([torch.bmm, torch.Tensor.bmm, torch.dot, torch.Tensor.dot], _matmul),
    F.linear: _linear,
    torch.einsum: _einsum,
}
