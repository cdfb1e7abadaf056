"""Draws: ``shape`` random numbers from one key, which is used up by them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..errors import PureSGDError, check_count, check_hyperparameter, shown
from .erfinv import erfinv
from .floats import FORMATS, Format
from .keys import check_key, threefry

__all__ = ["bernoulli", "bits", "normal", "permutation", "uniform"]

_LARGEST_DRAW = 2**32
_CACHED_COUNT = 2**15


def bits(key: torch.Tensor, shape: Sequence[int] = ()) -> torch.Tensor:
    """Whole numbers from 0 to 2**32 - 1, all equally likely: an int64 tensor of ``shape``.

    Raises:
        PureSGDError: ``key`` is not a key, or ``shape`` is not one of at most 2**32 numbers.

    Example:
        >>> import pure_sgd as ps
        >>> ps.random.bits(ps.random.key(0), (2,))
        tensor([4070199207, 4202968722])
    """
    check_key("random.bits", key)
    return _draw("random.bits", key, shape, torch.bitwise_xor)


def uniform(
    key: torch.Tensor,
    shape: Sequence[int] = (),
    dtype: torch.dtype = torch.float32,
    minval: float | torch.Tensor = 0.0,
    maxval: float | torch.Tensor = 1.0,
) -> torch.Tensor:
    """Uniform draws from [minval, maxval): a tensor of ``shape`` and ``dtype``.

    ``minval + (maxval - minval) * k / 2**d`` rounded once, where ``k`` has d = 23 random bits in
    float32 and 52 in float64. The bounds are numbers or 0-d tensors.

    Raises:
        PureSGDError: ``key`` is not a key; ``shape`` is not one of at most 2**32 numbers; ``dtype``
            is neither float32 nor float64; a bound is no scalar, or ``minval`` is above ``maxval``.

    Example:
        >>> import pure_sgd as ps
        >>> ps.random.uniform(ps.random.key(0), (3,))
        tensor([0.9477, 0.9786, 0.3323])
    """
    where = "random.uniform"
    check_key(where, key)
    form = _format(where, dtype)
    low = _scalar(where, "minval", minval, dtype, key.device)
    high = _scalar(where, "maxval", maxval, dtype, key.device)
    if not isinstance(minval, torch.Tensor) and not isinstance(maxval, torch.Tensor):
        check_hyperparameter(where, "minval", minval, high=maxval)
    return _draw(where, key, shape, lambda a, b: form.spread((a, b), low, high).to(dtype))


def normal(key: torch.Tensor, shape: Sequence[int] = (), dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Standard normal draws, ``sqrt(2) * erfinv(u)`` for u uniform in (-1, 1).

    A tensor of ``shape`` and ``dtype``. Operations are rounded as XLA rounds them on a CPU: in
    float32 all of 10**7 draws are those of JAX to the last bit; in float64 98.2 % are, and the
    others lie within 3 units in the last place.

    Raises:
        PureSGDError: ``key`` is not a key; ``shape`` is not one of at most 2**32 numbers; ``dtype``
            is neither float32 nor float64.

    Example:
        >>> import pure_sgd as ps
        >>> ps.random.normal(ps.random.key(0), (3,))
        tensor([ 1.6226,  2.0253, -0.4336])
    """
    where = "random.normal"
    check_key(where, key)
    form = _format(where, dtype)
    numbers = torch.tensor([2.0 ** -(form.digits + 1) - 1, 1, 2**0.5], dtype=dtype)
    low, high, root_two = numbers.to(key.device)

    def finish(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (erfinv(form.spread((a, b), low, high), dtype) * root_two.double()).to(dtype)

    return _draw(where, key, shape, finish)


def bernoulli(key: torch.Tensor, p: float | torch.Tensor = 0.5, shape: Sequence[int] = ()) -> torch.Tensor:
    """``uniform(key, shape) < p``: a bool tensor of ``shape``, true with probability ``p``.

    ``p`` is a number, a 0-d tensor or a tensor of ``shape``, and is rounded to float32.

    Raises:
        PureSGDError: ``key`` is not a key; ``shape`` is not one of at most 2**32 numbers; ``p`` is
            a number outside [0, 1], or a tensor of another shape.

    Example:
        >>> import pure_sgd as ps
        >>> ps.random.bernoulli(ps.random.key(0), 0.5, (3,))
        tensor([False, False,  True])
    """
    where = "random.bernoulli"
    check_key(where, key)
    draws = _draw(where, key, shape, lambda a, b: (a ^ b) >> 9) * 2.0**-23
    if isinstance(p, torch.Tensor) and p.shape == draws.shape:
        return draws < p.float()
    if isinstance(p, torch.Tensor) and p.ndim:
        raise PureSGDError(
            where,
            f"p has shape {tuple(p.shape)}, expected () or that of the draws, {tuple(shape)}",
            "Pass shape=p.shape",
        )
    check_hyperparameter(where, "p", p, low=0, high=1)
    return draws < _scalar(where, "p", p, torch.float32, key.device)


def permutation(key: torch.Tensor, n: int) -> torch.Tensor:
    """``range(n)`` in random order, int64 (n,): the order that sorts ``n`` draws of 64 bits.

    It is not the order that JAX gives for this key.

    Raises:
        PureSGDError: ``key`` is not a key, or ``n`` is not an int from 0 to 2**32.

    Example:
        >>> import pure_sgd as ps
        >>> ps.random.permutation(ps.random.key(42), 5)
        tensor([2, 4, 3, 1, 0])
    """
    where = "random.permutation"
    check_count(where, "n", n, low=0, high=_LARGEST_DRAW)
    check_key(where, key)
    return torch.argsort(_draw(where, key, (n,), lambda a, b: a << 32 | b), stable=True)


def _draw(
    where: str,
    key: torch.Tensor,
    shape: Sequence[int],
    finish: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """``finish`` of the two random words of each element, counted in row-major order."""
    count = _count(where, shape)

    def block(start: int, stop: int) -> torch.Tensor:
        return finish(*threefry(key, 0, torch.arange(start, stop, device=key.device)))

    # Eager operations on a CPU take half the time where their operands stay in its cache.
    in_blocks = key.device.type == "cpu" and not torch.compiler.is_compiling()
    size = _CACHED_COUNT * torch.get_num_threads() if in_blocks else count
    if count <= size:
        return block(0, count).reshape(shape)
    blocks = [block(start, min(start + size, count)) for start in range(0, count, size)]
    return torch.cat(blocks).reshape(shape)


def _count(where: str, shape: Any) -> int:
    """How many numbers ``shape`` asks for."""
    sizes = shape if isinstance(shape, Sequence) else (-1,)
    if not all(isinstance(size, int) and size >= 0 for size in sizes):
        raise PureSGDError(
            where, f"shape={shown(shape)} is not a tuple of sizes", "Pass a tuple of ints, such as (3,)"
        )
    count = math.prod(sizes)
    if count > _LARGEST_DRAW:
        raise PureSGDError(
            where,
            f"shape={tuple(sizes)} asks for {count} numbers, and one key gives at most 2**32",
            "Split the key and draw in parts",
        )
    return count


def _format(where: str, dtype: torch.dtype) -> Format:
    if not isinstance(dtype, torch.dtype) or dtype not in FORMATS:
        raise PureSGDError(
            where,
            f"dtype={shown(dtype)} is neither torch.float32 nor torch.float64",
            "Draw in float32 and cast the result",
        )
    return FORMATS[dtype]


def _scalar(where: str, name: str, value: Any, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    check_hyperparameter(where, name, value)
    if callable(value):
        raise PureSGDError(where, f"{name} is a function", "Call it, and pass the number it gives")
    return torch.as_tensor(value, dtype=dtype, device=device)
