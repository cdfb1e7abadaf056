"""Normalizations: the gradient of the scale is a sum over positions, and so is that of the shift."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ...errors import PureSGDError
from ..mapping_errors import BATCH_NORM
from .stack import Dense, Stack
from .uses import Use, Watch, rule

Normalize = Callable[[torch.Tensor], torch.Tensor]
Reduce = Callable[[torch.Tensor], torch.Tensor]


def _scale_and_shift(
    watch: Watch, input: Any, weight: Any, bias: Any, normalize: Normalize, reduce: Reduce
) -> list[Use] | None:
    """The uses in ``normalize(input) * weight + bias``; ``reduce`` sums a gradient over positions."""
    if not watch.batched(input):
        return None
    uses: list[Use] = []
    if watch.holds(weight):

        def stack(input: torch.Tensor, grad: torch.Tensor) -> Stack:
            return Dense(reduce(grad * normalize(input)))

        uses.append(Use(weight, input, stack))
    if watch.holds(bias):
        uses.append(Use(bias, None, lambda _, grad: Dense(reduce(grad))))
    return uses


@rule(F.layer_norm)
def _layer_norm(
    watch: Watch,
    input: Any,
    normalized_shape: Sequence[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> list[Use] | None:
    shape = tuple(normalized_shape)
    return _scale_and_shift(
        watch, input, weight, bias, lambda h: F.layer_norm(h, shape, eps=eps), _over_leading(len(shape))
    )


@rule(F.rms_norm)
def _rms_norm(
    watch: Watch, input: Any, normalized_shape: Sequence[int], weight: Any = None, eps: float | None = None
) -> list[Use] | None:
    shape = tuple(normalized_shape)
    # The default eps is that of the input's dtype, which may not be the one that sums are formed in.
    small = torch.finfo(input.dtype).eps if eps is None and isinstance(input, torch.Tensor) else eps
    return _scale_and_shift(
        watch, input, weight, None, lambda h: F.rms_norm(h, shape, eps=small), _over_leading(len(shape))
    )


@rule(F.group_norm)
def _group_norm(
    watch: Watch, input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> list[Use] | None:
    def normalize(h: torch.Tensor) -> torch.Tensor:
        return F.group_norm(h.flatten(0, 1), num_groups, eps=eps).view_as(h)

    return _scale_and_shift(watch, input, weight, bias, normalize, _over_all_but_channels)


@rule(F.batch_norm)
def _batch_norm(
    watch: Watch,
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> list[Use] | None:
    if training:
        raise PureSGDError("example_loss", *BATCH_NORM)
    if any(watch.holds(buffer) or watch.batched(buffer) for buffer in (running_mean, running_var)):
        return None

    def normalize(h: torch.Tensor) -> torch.Tensor:
        mean, var = running_mean.to(h.dtype), running_var.to(h.dtype)
        return F.batch_norm(h.flatten(0, 1), mean, var, eps=eps).view_as(h)

    return _scale_and_shift(watch, input, weight, bias, normalize, _over_all_but_channels)


def _over_leading(axes: int) -> Reduce:
    """Sum over all axes between that of the examples and the last ``axes``."""
    return lambda grad: grad.flatten(1, -axes - 1).sum(1) if grad.ndim > axes + 1 else grad


def _over_all_but_channels(grad: torch.Tensor) -> torch.Tensor:
    """(B, N, C, ...) -> (B, C)."""
    return grad.movedim(2, 1).flatten(2).sum(2)
