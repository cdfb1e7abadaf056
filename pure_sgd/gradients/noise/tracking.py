"""The noise scale followed over training: running averages of noise and signal, kept beside a chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from ... import tree
from ...errors import check_hyperparameter
from ..moments import GradientMoments
from .scale import NoiseScale, noise_scale

__all__ = ["GradientStatistics", "GradientStatisticsState", "gradient_statistics"]


class GradientStatisticsState(NamedTuple):
    """Running averages of the two terms of the noise scale; each of shape ``()``."""

    step: torch.Tensor  # int64: measurements so far
    trace_covariance: torch.Tensor  # at least float32
    grad_sq_norm: torch.Tensor  # at least float32


class GradientStatistics(NamedTuple):
    """A pure pair: ``init(params) -> state`` and ``update(moments, state) -> (NoiseScale, state)``."""

    init: Callable[[Any], GradientStatisticsState]
    update: Callable[[GradientMoments, GradientStatisticsState], tuple[NoiseScale, GradientStatisticsState]]


def gradient_statistics(decay: float | torch.Tensor = 0.95) -> GradientStatistics:
    """Follow the noise scale over training by exponential moving averages of its two terms.

        trace_covariance = decay * trace_covariance + (1 - decay) * that of the moments
        grad_sq_norm     = decay * grad_sq_norm     + (1 - decay) * that of the moments
        simple           = trace_covariance / grad_sq_norm

    ``update`` returns them debiased, divided by ``1 - decay**step``. Averaged first and divided last, the
    ratio is far steadier than that of one batch, and lags behind by about ``1 / (1 - decay)`` measurements.
    Source: McCandlish et al. 2018, arXiv:1812.06162, appendix A.1.

    Raises:
        PureSGDError: ``decay`` outside [0, 1).

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tracker = ps.gradient_statistics(decay=0.5)
        >>> state = tracker.init(torch.zeros(2))
        >>> for size in (1.0, 2.0):
        ...     mean, variance = torch.full((2,), size), torch.ones(2)
        ...     moments = ps.GradientMoments(torch.tensor(2), torch.tensor(0.0), mean, variance)
        ...     scale, state = tracker.update(moments, state)
        >>> scale
        NoiseScale(trace_covariance=tensor(2.), grad_sq_norm=tensor(5.), simple=tensor(0.4000))
    """
    check_hyperparameter("gradient_statistics", "decay", decay, low=0, high=1, open_high=True)

    def init(params: Any) -> GradientStatisticsState:
        zero = tree.sum(tree.map(torch.zeros_like, params)).detach()
        return GradientStatisticsState(zero.to(torch.int64), zero, zero.clone())

    def update(
        moments: GradientMoments, state: GradientStatisticsState
    ) -> tuple[NoiseScale, GradientStatisticsState]:
        now = noise_scale(moments)
        step = state.step + 1
        trace = state.trace_covariance
        trace = (decay * trace + (1 - decay) * now.trace_covariance).to(trace.dtype)
        signal = state.grad_sq_norm
        signal = (decay * signal + (1 - decay) * now.grad_sq_norm).to(signal.dtype)
        weight = (1 - decay ** step.to(trace.dtype)).to(trace.dtype)
        scale = NoiseScale(trace / weight, signal / weight, trace / signal)
        return scale, GradientStatisticsState(step, trace, signal)

    return GradientStatistics(init, update)
