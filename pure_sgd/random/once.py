"""A mark for what a compiled program should compute once."""

from __future__ import annotations

import torch


def once(x: torch.Tensor) -> torch.Tensor:
    """``x`` itself, as a view of all of it, for which Inductor gives it a place of its own.

    Left alone, Inductor writes an expression out again wherever it is used, and one that is nested
    as deep as the rounds of a hash takes it a hundred times as long to compile.
    """
    return x.as_strided(x.shape, x.stride())
