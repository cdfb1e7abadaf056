"""Streams of random updates, and what a transform makes of them."""

from __future__ import annotations

from typing import Any

import torch

import pure_sgd as ps


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """Standard normal numbers in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def stream_of(*shape: int, steps: int = 8) -> list[torch.Tensor]:
    """As many updates, each of its own seed."""
    return [normal(*shape, seed=seed) for seed in range(steps)]


def outputs(tx: ps.GradientTransformation, stream: list[Any], params: Any = None) -> list[Any]:
    """What ``tx`` gives for each update in turn."""
    state, out = tx.init(stream[0] if params is None else params), []
    for u in stream:
        new, state = tx.update(u, state, params)
        out.append(new)
    return out
