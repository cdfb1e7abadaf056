"""The gradient noise scale: how large a batch has to be before its gradient is mostly signal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from ... import tree
from ...arguments import typed
from ...errors import PureSGDError
from ..moments import GradientMoments

__all__ = ["NoiseScale", "critical_batch_size", "noise_scale", "noise_scale_from_batch_sizes"]


class NoiseScale(NamedTuple):
    """Noise and signal of the gradient, and their ratio; each of shape ``()``."""

    trace_covariance: torch.Tensor  # of the gradient of one example: the sum of all variances
    grad_sq_norm: torch.Tensor  # of the true gradient; its unbiased estimate can be negative
    simple: torch.Tensor  # their ratio, in examples


@typed
def noise_scale(moments: GradientMoments) -> NoiseScale:
    """The simple noise scale of one batch, from the spread of its per-example gradients.

        trace_covariance = sum of variance                     over all parameters
        grad_sq_norm     = |mean|**2 - trace_covariance / B
        simple           = trace_covariance / grad_sq_norm

    The first two are unbiased, the ratio is not: measure on several batches and divide their averages, as
    :func:`critical_batch_size` does. In a small batch ``grad_sq_norm``, and so the ratio, can be negative:
    then the batch says nothing of the signal. Results have at least float32.
    Source: McCandlish et al. 2018, arXiv:1812.06162, appendix A.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> moments = ps.GradientMoments(torch.tensor(4), torch.tensor(0.0), torch.ones(2), torch.ones(2))
        >>> ps.noise_scale(moments)
        NoiseScale(trace_covariance=tensor(2.), grad_sq_norm=tensor(1.5000), simple=tensor(1.3333))
    """
    trace = tree.sum(moments.variance)
    signal = tree.vdot(moments.mean, moments.mean) - trace / moments.count
    return NoiseScale(trace, signal, trace / signal)


@typed
def noise_scale_from_batch_sizes(
    small_sq_norm: Any, large_sq_norm: Any, small_batch_size: Any, large_batch_size: Any
) -> NoiseScale:
    """The simple noise scale from the squared norms of mean gradients over two batch sizes.

        grad_sq_norm     = (B * |G_B|**2 - b * |G_b|**2) / (B - b)
        trace_covariance = (|G_b|**2 - |G_B|**2) / (1 / b - 1 / B)

    ``b`` is the small and ``B`` the large size. Where data are split over processes the norms before and
    after the gradients are averaged cost nothing. One pair is very noisy: pass means over many steps.
    Source: McCandlish et al. 2018, arXiv:1812.06162, equations A.2 and A.3.

    Raises:
        PureSGDError: sizes that are not positive, or not in order.

    Example:
        >>> import pure_sgd as ps
        >>> ps.noise_scale_from_batch_sizes(5.0, 2.0, 1, 4)
        NoiseScale(trace_covariance=tensor(4.), grad_sq_norm=tensor(1.), simple=tensor(4.))
    """
    where = "noise_scale_from_batch_sizes"
    plain = not any(isinstance(size, torch.Tensor) for size in (small_batch_size, large_batch_size))
    if plain and not 0 < small_batch_size < large_batch_size:
        raise PureSGDError(
            where,
            f"the batch sizes are {small_batch_size} and {large_batch_size}, expected 0 < small < large",
            "Pass the smaller one first",
        )
    small, large = torch.as_tensor(small_sq_norm), torch.as_tensor(large_sq_norm)
    signal = (large_batch_size * large - small_batch_size * small) / (large_batch_size - small_batch_size)
    trace = (small - large) / (1 / small_batch_size - 1 / large_batch_size)
    return NoiseScale(trace, signal, trace / signal)


@typed
def critical_batch_size(scales: Sequence[NoiseScale] | NoiseScale) -> torch.Tensor:
    """The batch size at which noise and signal are equal, from noise scales measured on several batches.

        critical_batch_size = mean(trace_covariance) / mean(grad_sq_norm)       shape (), in examples

    Averages are taken before the division, since the ratio of one batch is biased and can be negative.
    Far below this size twice the batch is worth nearly two steps; far above it, nearly nothing: at the
    size itself training takes twice the fewest steps and twice the fewest examples. ``scales`` is a
    sequence of measurements, or one whose fields have leading axes. NaN where no signal is left.
    Source: McCandlish et al. 2018, arXiv:1812.06162, section 2.2.

    Raises:
        PureSGDError: no measurement.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> one = ps.NoiseScale(torch.tensor(8.0), torch.tensor(-0.5), torch.tensor(-16.0))
        >>> other = ps.NoiseScale(torch.tensor(4.0), torch.tensor(2.5), torch.tensor(1.6))
        >>> ps.critical_batch_size([one, other])
        tensor(6.)
    """
    several = [scales] if isinstance(scales, NoiseScale) else list(scales)
    if not several:
        raise PureSGDError("critical_batch_size", "scales is empty", "Measure the noise scale at least once")
    trace = torch.stack([scale.trace_covariance for scale in several]).mean()
    signal = torch.stack([scale.grad_sq_norm for scale in several]).mean()
    return torch.where(signal > 0, trace / signal, torch.nan)
