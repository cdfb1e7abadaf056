"""Arithmetic that rounds as XLA does on a CPU, where a product and a sum are fused into one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch


class Format(NamedTuple):
    """One float format, all of whose values are held in float64."""

    digits: int  # random bits in a uniform draw
    mantissa: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # two words -> those bits
    round: Callable[[torch.Tensor], torch.Tensor]  # float64 -> the nearest value of the format
    fma: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]  # a * b + c

    def spread(
        self, words: tuple[torch.Tensor, torch.Tensor], low: torch.Tensor, high: torch.Tensor
    ) -> torch.Tensor:
        """The uniform draw from [low, high) that two random words stand for."""
        fraction = self.mantissa(*words).double() * 2.0**-self.digits
        width = (high - low).double()
        return torch.maximum(low.double(), self.fma(fraction, width, low.double()))


def _to_float32(x: torch.Tensor) -> torch.Tensor:
    return x.float().double()


def _fma_float32(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    # The product of two float32 numbers is exact in float64.
    return _to_float32(a * b + c)


def _fma_float64(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """Add what the product and the sum round off, both found without error (Dekker 1971)."""
    product = a * b
    (a_top, a_rest), (b_top, b_rest) = _halves(a), _halves(b)
    lost = ((a_top * b_top - product) + a_top * b_rest + a_rest * b_top) + a_rest * b_rest
    total = product + c
    part = total - product
    return total + (lost + ((product - (total - part)) + (c - part)))


def _halves(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``x`` as a sum of two numbers of 26 bits, whose products are exact."""
    scaled = (2.0**27 + 1) * x
    top = scaled - (scaled - x)
    return top, x - top


FORMATS = {
    torch.float32: Format(23, lambda a, b: (a ^ b) >> 9, _to_float32, _fma_float32),
    torch.float64: Format(52, lambda a, b: a << 20 | b >> 12, lambda x: x, _fma_float64),
}
