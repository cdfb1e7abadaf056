"""Slow gradients amplified, which makes a network generalize sooner after it has memorized: Grokfast."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from .. import tree
from ..errors import PureSGDError, check_count
from .contract import GradientTransformation, Hyperparameter, Params, Updates, step_zero, transformation
from .running import check_decays, check_offsets, mean

__all__ = ["GrokfastEmaState", "GrokfastMaState", "grokfast_ema", "grokfast_ma"]


class GrokfastEmaState(NamedTuple):
    """The exponential moving average of the updates."""

    step: torch.Tensor  # int64, shape ()
    ema: Updates  # like params, in at least float32


@transformation
def grokfast_ema(alpha: Hyperparameter = 0.98, lamb: Hyperparameter = 2.0) -> GradientTransformation:
    """Add the moving average of the updates to them, ``lamb`` times: a low-pass filter.

        ema = alpha * ema + (1 - alpha) * u        u at the first step
        u   = u + lamb * ema

    Put it first in a chain. The rule of the authors' code. The average has at least float32.
    Source: Lee et al. 2024, arXiv:2405.20233.

    Raises:
        PureSGDError: ``alpha`` outside [0, 1), or a negative ``lamb``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.grokfast_ema(alpha=0.5)
        >>> first, state = tx.update(torch.ones(1), tx.init(torch.zeros(1)))
        >>> first, tx.update(-torch.ones(1), state)[0]
        (tensor([3.]), tensor([-1.]))
    """
    check_decays("grokfast_ema", alpha=alpha)
    check_offsets("grokfast_ema", lamb=lamb)

    def init(params: Params) -> GrokfastEmaState:
        return GrokfastEmaState(step_zero(params), tree.zeros_like(params))

    def update(
        updates: Updates, state: GrokfastEmaState, params: Params = None, **extra: Any
    ) -> tuple[Updates, GrokfastEmaState]:
        before = tree.map(lambda m, u: torch.where(state.step > 0, m, tree.widened(u)), state.ema, updates)
        ema = mean(alpha, before, updates)
        out = tree.map(lambda u, m: (tree.widened(u) + lamb * m).to(u.dtype), updates, ema)
        return out, GrokfastEmaState(state.step + 1, ema)

    return GradientTransformation(init, update)


class GrokfastMaState(NamedTuple):
    """The last updates, the oldest of them overwritten by the next."""

    step: torch.Tensor  # int64, shape ()
    window: Updates  # like params with a leading axis of window_size, in at least float32


@transformation
def grokfast_ma(
    window_size: int = 100, lamb: Hyperparameter = 5.0, filter_type: str = "mean", warmup: bool = True
) -> GradientTransformation:
    """Add the mean of the last ``window_size`` updates to each, ``lamb`` times.

        u = u + lamb * mean(the last window_size updates, this one among them)

    ``filter_type="sum"`` adds their sum. With ``warmup`` the updates pass unchanged until the window is full;
    without it the mean is over those there are. Put it first in a chain. The rule of the authors' code. The
    state holds ``window_size`` copies of the parameters, in at least float32: :func:`grokfast_ema` needs one.
    Source: Lee et al. 2024, arXiv:2405.20233.

    Raises:
        PureSGDError: a ``window_size`` that is no int of at least 1, a negative ``lamb``, or another
            ``filter_type``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.grokfast_ma(window_size=2, lamb=1.0)
        >>> first, state = tx.update(torch.ones(1), tx.init(torch.zeros(1)))
        >>> first, tx.update(torch.full((1,), 3.0), state)[0]
        (tensor([1.]), tensor([5.]))
    """
    check_count("grokfast_ma", "window_size", window_size)
    check_offsets("grokfast_ma", lamb=lamb)
    if filter_type not in ("mean", "sum"):
        raise PureSGDError("grokfast_ma", f"filter_type={filter_type!r} is unknown", "Pass 'mean' or 'sum'")

    def init(params: Params) -> GrokfastMaState:
        zeros = tree.zeros_like(params)
        window = tree.map(lambda zero: zero.new_zeros((window_size, *zero.shape)), zeros)
        return GrokfastMaState(step_zero(params), window)

    def update(
        updates: Updates, state: GrokfastMaState, params: Params = None, **extra: Any
    ) -> tuple[Updates, GrokfastMaState]:
        count = (state.step + 1).clamp(max=window_size)
        places = torch.arange(window_size, device=state.step.device)
        here = places == state.step % window_size

        def remembered(window: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
            return torch.where(here.reshape(-1, *[1] * u.ndim), tree.widened(u), window)

        def amplified(u: torch.Tensor, window: torch.Tensor) -> torch.Tensor:
            slow = window.sum(0) / count if filter_type == "mean" else window.sum(0)
            filtered = tree.widened(u) + lamb * slow
            if warmup:
                filtered = torch.where(count == window_size, filtered, tree.widened(u))
            return filtered.to(u.dtype)

        window = tree.map(remembered, state.window, updates)
        return tree.map(amplified, updates, window), GrokfastMaState(state.step + 1, window)

    return GradientTransformation(init, update)
