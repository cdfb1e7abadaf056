"""Keys, new keys from old ones, and the hash that both and all draws come from."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import PureSGDError, check_count, shown
from .once import once

__all__ = ["fold_in", "key", "split"]

_WORD = 0xFFFFFFFF
_PARITY = 0x1BD11BDA
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def key(seed: int | torch.Tensor, device: torch.device | str | None = None) -> torch.Tensor:
    """The key of a seed: its high and its low 32 bits, an int64 tensor of shape (2,).

    The seed is an int of 64 bits, signed or not, or a 0-d integer tensor, which ``vmap`` can map
    over. JAX without ``jax_enable_x64`` drops the high word, so that there only the seeds from 0 to
    2**32 - 1 have the key that they have here.

    Raises:
        PureSGDError: the seed is not an integer, has axes, or needs more than 64 bits.

    Example:
        >>> import pure_sgd as ps
        >>> ps.random.key(42)
        tensor([ 0, 42])
    """
    words = _words("random.key", "seed", seed)
    if isinstance(seed, torch.Tensor):
        made = torch.stack(words)
        return made if device is None else made.to(_device(device))
    return torch.tensor(words, dtype=torch.int64, device=_device(device))


def split(key: torch.Tensor, num: int = 2) -> torch.Tensor:
    """``num`` new keys, int64 (num, 2), independent of each other and of ``key``.

    Child ``i`` is ``fold_in(key, i)``, as in JAX: of one key use either the one or the other.

    Raises:
        PureSGDError: ``key`` is not a key, or ``num`` is not an int of at least 1.

    Example:
        >>> import pure_sgd as ps
        >>> key_w, key_b = ps.random.split(ps.random.key(0))
        >>> key_w
        tensor([1797259609, 2579123966])
    """
    check_count("random.split", "num", num)
    check_key("random.split", key)
    return torch.stack(threefry(key, 0, torch.arange(num, device=key.device)), dim=-1)


def fold_in(key: torch.Tensor, data: int | torch.Tensor) -> torch.Tensor:
    """A new key, int64 (2,), for an int or a 0-d integer tensor such as a step count.

    All 64 bits of ``data`` count. JAX refuses or drops what lies outside 0 to 2**32 - 1; inside
    both agree.

    Raises:
        PureSGDError: ``key`` is not a key; ``data`` is not an integer, has axes, or needs more than
            64 bits.

    Example:
        >>> import pure_sgd as ps
        >>> ps.random.fold_in(ps.random.key(0), 1)
        tensor([ 928981903, 3453687069])
    """
    check_key("random.fold_in", key)
    return torch.stack(threefry(key, *_words("random.fold_in", "data", data)))


def threefry(key: torch.Tensor, high: Any, low: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Two random words for each counter (high, low); a word is an int64 from 0 to 2**32 - 1."""
    keys = (key[0], key[1], key[0] ^ key[1] ^ _PARITY)
    a, b = high + keys[0], (low + keys[1]) & _WORD
    for group in range(5):
        for distance in _ROTATIONS[group % 2]:
            # What `a` carries above its word can wait: int64 holds it, and `b` is masked.
            a = a + b
            b = once(((b << distance | b >> 32 - distance) ^ a) & _WORD)
        a = a + keys[(group + 1) % 3]
        b = (b + (keys[(group + 2) % 3] + (group + 1))) & _WORD
    return a & _WORD, b


def check_key(where: str, key: Any) -> None:
    """Check that ``key`` is a key.

    Raises:
        PureSGDError: it is not an int64 tensor of shape (2,).
    """
    if isinstance(key, torch.Tensor) and key.dtype == torch.int64 and key.shape == (2,):
        return
    got = f"{key.dtype} {tuple(key.shape)}" if isinstance(key, torch.Tensor) else shown(key)
    raise PureSGDError(
        where,
        f"key is {got}, expected a key, which is torch.int64 (2,)",
        "Make one with random.key(seed), or map over an axis of keys with torch.func.vmap",
    )


def _device(device: Any) -> torch.device | None:
    """The device of that name, after a check that torch knows it and finds it here."""
    if device is None or isinstance(device, torch.device):
        return device
    try:
        if not isinstance(device, str):
            raise TypeError(f"is a {type(device).__name__}, expected its name")
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise PureSGDError("device", f"{shown(device)} cannot be used: {error}", "Pass 'cpu', say") from None


def _words(where: str, name: str, value: Any) -> tuple[Any, Any]:
    """The high and the low 32 bits of an int or of a 0-d integer tensor."""
    if not isinstance(value, torch.Tensor):
        check_count(where, name, value, low=-(2**63), high=2**64 - 1)
        return value >> 32 & _WORD, value & _WORD
    is_integer = not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)
    if value.ndim or not is_integer:
        raise PureSGDError(
            where,
            f"{name} is {value.dtype} {tuple(value.shape)}, expected an integer without axes",
            "Pass an int or such a tensor, or map over an axis with torch.func.vmap",
        )
    wide = value.to(torch.int64)
    return wide >> 32 & _WORD, wide & _WORD
