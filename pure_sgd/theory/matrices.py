"""The matrices of a step that claims to be linear, and whether it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from .. import random
from .coordinates import Clock

__all__ = ["Matrices", "matrices"]

#: The magnitudes at which a step must act as its matrix does.
SCALES = (1e-8, 1e-3, 1.0, 1e3, 1e8)
#: The error that rounding may leave: relative to the terms of a sum, and to the largest number before it.
ROUNDING, CANCELLED = 1e-12, 1e-14


class Matrices(NamedTuple):
    """What a step does to the numbers of each coordinate."""

    transition: torch.Tensor  # (n, k, k)
    noise: torch.Tensor  # (n, k)
    average: torch.Tensor  # (n, k)
    is_linear: torch.Tensor  # bool, shape ()


def matrices(
    step: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, Clock]],
    average: Callable[[torch.Tensor, Clock], torch.Tensor],
    h: torch.Tensor,
    k: int,
) -> Matrices:
    """What a linear step does to the k numbers of every coordinate: k unit vectors, then xi, tell.

    ``step(z, xi)`` and ``average(z, clock)`` are those of :class:`Coordinates`, at one clock; ``h`` (n,) is
    there for its dtype and device.

    Example:
        >>> import torch
        >>> from pure_sgd.theory.matrices import matrices
        >>> h = torch.ones(1, dtype=torch.float64)
        >>> found = matrices(lambda z, xi: (0.9 * z - 0.1 * xi, ()), lambda z, clock: z[0], h, 1)
        >>> found.transition, found.is_linear
        (tensor([[[0.9000]]], dtype=torch.float64), tensor(True))
        >>> matrices(lambda z, xi: (z**2 + xi, ()), lambda z, clock: z[0], h, 1).is_linear
        tensor(False)
    """
    n, tests = len(h), len(SCALES)
    units = torch.eye(k, dtype=h.dtype, device=h.device)[:, :, None].expand(k, k, n)
    drawn = random.normal(random.key(0, h.device), (tests, k + 1, n), h.dtype)
    drawn = drawn * torch.tensor(SCALES, dtype=h.dtype, device=h.device)[:, None, None]
    none = torch.zeros_like(units[0])[None]
    z = torch.cat([units, none, none, drawn[:, 1:]])
    xi = torch.cat([none.new_zeros(k, n), none.new_ones(1, n), none.new_zeros(1, n), drawn[:, 0]])
    moved, ticks = torch.func.vmap(step)(z, xi)
    transition, noise = moved[:k].permute(2, 1, 0), moved[k].T

    z, xi, moved = (x.movedim(-1, 1) for x in (z[k + 1 :], xi[k + 1 :], moved[k + 1 :]))
    terms = torch.cat([transition * z[..., None, :], (noise * xi[..., None])[..., None]], -1)
    size = torch.maximum(z.abs().amax(-1), xi.abs())[..., None]
    gain = torch.maximum(transition.abs().amax((-2, -1)), noise.abs().amax(-1)).clamp(min=1)[:, None]
    error = (moved - terms.sum(-1)).abs()
    is_linear = (error <= ROUNDING * terms.abs().sum(-1) + CANCELLED * gain * size).all()
    for tick in ticks:
        is_linear = is_linear & ((tick == tick[0]) | (tick != tick)).all()
    clock = tuple(tick[0] for tick in ticks)
    read = torch.func.vmap(lambda z: average(z, clock))(units)
    return Matrices(transition, noise, read.T, is_linear)
