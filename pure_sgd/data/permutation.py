"""One image of a random permutation at a time: an order of any length that nobody has to store."""

from __future__ import annotations

import math
from typing import Any

import torch

from .. import functorch, random
from ..errors import PureSGDError, check_count
from ..random.once import once

__all__ = ["permute_index"]

#: Examples up to which they are sorted by random numbers: the rounds below tell themselves from chance
#: where there are few orders in all (five examples, 12 rounds, 200,000 seeds: 10 standard deviations).
FEW = 4096
ROUNDS = 12
LARGEST = 2**62

# As in order.py: what a program draws from the key of the same seed shares nothing with this.
_PERMUTATION = int.from_bytes(b"permute")
_WORD = 0xFFFFFFFF


def permute_index(i: int | torch.Tensor, n: int, seed: int | torch.Tensor) -> torch.Tensor:
    """The image of ``i`` under a pseudo-random permutation of ``range(n)``, int64 of the shape of ``i``.

        left, right = i % a, i // a                   # a * b >= n, both close to sqrt(n), a even
        left  = (left + hash(right, key[0])) % a      # 12 such rounds, the two sides in turn
        right = (right + hash(left, key[1])) % b
        image = left + a * right                      # where it is not below n: once more from the top

    Up to 4096 examples are sorted by random numbers instead. A function of its arguments alone, in whole
    numbers, so that it is the same on every device and in every version. It takes memory for ``i`` only:
    any part of the order of 10**12 examples can be had by itself. ``i`` is an int or an integer tensor with
    values from 0 to n - 1; ``seed`` is an int of 64 bits or a 0-d integer tensor, which ``vmap`` can map
    over, compiled too.

    Source: Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains", for the generalised Feistel
    network and for walking until the image lies inside.

    Raises:
        PureSGDError: ``n`` is not from 1 to 2**62, or ``i`` is not an integer from 0 to n - 1 (under a
            compiler and under ``vmap`` its values are not looked at).

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.permute_index(torch.arange(10), 10, seed=0)
        tensor([4, 9, 1, 6, 5, 2, 0, 7, 3, 8])
        >>> ps.permute_index(5, 10**12, seed=0)
        tensor(993599762285)
    """
    check_count("permute_index", "n", n, high=LARGEST)
    if not isinstance(seed, torch.Tensor):
        check_count("permute_index", "seed", seed, low=-(2**63), high=2**64 - 1)
    index = _checked(i, n)
    key = random.fold_in(random.key(seed, index.device), _PERMUTATION)
    if n <= FEW:
        return random.permutation(key, n)[index]
    words = random.bits(key, (ROUNDS, 2))
    # Even, because turning rings of odd length reaches the even permutations only.
    a = 2 * (math.isqrt(n - 1) // 2 + 1)
    b = -(-n // a)
    return _walk(_rounds(index, a, b, words), words.reshape(ROUNDS, 2, *[1] * index.ndim), n, a, b)


def _rounds(index: torch.Tensor, a: int, b: int, words: torch.Tensor) -> torch.Tensor:
    """A permutation of ``range(a * b)``."""
    left, right = index % a, index // a
    for number in range(ROUNDS):
        if number % 2 == 0:
            left = once((left + _hash(right, words[number])) % a)
        else:
            right = once((right + _hash(left, words[number])) % b)
    return left + a * right


def _hash(x: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """A number of 63 bits for each x below 2**32."""
    high = _mix(x ^ words[0])
    return (high << 31) ^ _mix(high ^ words[1])


def _mix(x: torch.Tensor) -> torch.Tensor:
    """A permutation of the numbers of 32 bits that spreads each bit over all of them.

    Source: the constants are Wellons's "lowbias32" (2018).
    """
    x = once(((x ^ (x >> 16)) * 0x21F0AAAD) & _WORD)
    x = once(((x ^ (x >> 15)) * 0xD35A2D97) & _WORD)
    return once(x ^ (x >> 15))


@torch.library.custom_op("pure_sgd::walk", mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,))
def _walk(image: torch.Tensor, words: torch.Tensor, n: int, a: int, b: int) -> torch.Tensor:
    """Apply :func:`_rounds` again to each image that does not lie below ``n``, until it does.

    An operator, because few have to go on, and neither a compiler nor ``vmap`` knows how many. ``words``
    have the axes of ``image`` behind their own, of size 1 where they are the same for all.
    """
    inside = image.clone()
    words = words.expand(*words.shape[:2], *image.shape)
    while bool((outside := inside >= n).any()):
        inside[outside] = _rounds(inside[outside], a, b, words[:, :, outside])
    return inside


@_walk.register_fake
def _(image: torch.Tensor, words: torch.Tensor, n: int, a: int, b: int) -> torch.Tensor:
    return torch.empty_like(image)


@_walk.register_vmap
def _(info: Any, in_dims: Any, image: torch.Tensor, words: torch.Tensor, *sizes: int) -> Any:
    of_image, of_words, *_ = in_dims
    if of_image is None:
        image = image.expand(info.batch_size, *image.shape)
    else:
        image = image.movedim(of_image, 0)
    words = words.unsqueeze(2) if of_words is None else words.movedim(of_words, 2)
    return _walk(image, words, *sizes), 0


def _checked(i: int | torch.Tensor, n: int) -> torch.Tensor:
    """The index as an int64 tensor whose values, where they can be read, are those of examples."""
    if not isinstance(i, torch.Tensor):
        check_count("permute_index", "i", i, low=0, high=n - 1)
        return torch.tensor(i)
    if i.is_floating_point() or i.is_complex() or i.dtype == torch.bool:
        raise PureSGDError(
            "permute_index", f"i is {i.dtype}, expected integers", "Pass torch.arange(...), say"
        )
    if functorch.readable() and i.numel() and not 0 <= int(i.min()) <= int(i.max()) < n:
        raise PureSGDError(
            "permute_index",
            f"i goes from {int(i.min())} to {int(i.max())}, expected values from 0 to n - 1 = {n - 1}",
            "Take positions modulo n, and another seed for each epoch",
        )
    return i.long()
