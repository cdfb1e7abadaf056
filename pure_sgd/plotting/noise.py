"""Pictures of gradient noise: variances, norms and the noise scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..arguments import typed
from ..errors import PureSGDError
from ..gradients import NoiseScale, minibatch_variance
from .figures import new_figure, panels_of, positive

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_gradient_norms", "plot_minibatch_variance", "plot_noise_scale"]


@typed
def plot_minibatch_variance(
    batch_sizes: Sequence[float],
    measured: Sequence[float],
    trace_covariance: Any,
    population: int | None = None,
    standard_errors: Sequence[float] | None = None,
) -> Figure:
    """Draw measured variances of mini-batch gradients over what :func:`minibatch_variance` says.

    ``measured[k]`` is the summed variance at ``batch_sizes[k]``, ``trace_covariance`` that of one example.
    With ``population`` there is a second line, for batches drawn without replacement. Both axes are
    logarithmic: 1 / b is a straight line.

    Raises:
        PureSGDError: lengths that differ, no measurement, or matplotlib is not installed.

    Example:
        >>> import pure_sgd as ps
        >>> figure = ps.plotting.plot_minibatch_variance([1, 2, 4], [8.2, 3.9, 2.1], 8.0)
        >>> figure.axes[0].get_xlabel()
        'batch size'
    """
    if not len(batch_sizes) or len(batch_sizes) != len(measured):
        raise PureSGDError(
            "plot_minibatch_variance",
            f"got {len(batch_sizes)} batch sizes and {len(measured)} measurements",
            "Pass one measurement for each size",
        )
    figure, (axes,) = new_figure(1, 1, (6.0, 4.2))
    smallest, largest = min(batch_sizes), max(batch_sizes)
    sizes = torch.logspace(math.log10(smallest), math.log10(largest), 100, dtype=torch.float64)
    sizes = sizes.clamp(smallest, largest)
    trace = torch.as_tensor(trace_covariance, dtype=torch.float64)
    axes.plot(sizes, minibatch_variance(trace, sizes), color="0.5", label="variance / b")
    if population is not None:
        without = minibatch_variance(trace, sizes, population)
        axes.plot(sizes, without, "--", color="0.5", label=f"variance / b · (1 - b / {population})")
    errors = None if standard_errors is None else list(standard_errors)
    axes.errorbar(batch_sizes, measured, errors, fmt="o", capsize=3, label="measured")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("batch size")
    axes.set_ylabel("variance of the mean gradient")
    axes.legend(frameon=False)
    return figure


@typed
def plot_gradient_norms(norms: Any, max_norm: float | None = None, bins: int = 40) -> Figure:
    """Draw the histogram of per-example gradient norms, (B,), with the clipping bound if there is one.

    Raises:
        PureSGDError: no norm, one that is not finite, or matplotlib is not installed.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> figure = ps.plotting.plot_gradient_norms(torch.rand(100), max_norm=0.5)
        >>> figure.axes[0].get_xlabel()
        'gradient norm of an example'
    """
    values = torch.as_tensor(norms, dtype=torch.float64).flatten()
    if not len(values) or not torch.isfinite(values).all():
        raise PureSGDError(
            "plot_gradient_norms",
            f"norms holds {len(values)} numbers, or one that is not finite",
            "Filter them",
        )
    figure, (axes,) = new_figure(1, 1, (6.0, 3.6))
    # Norms spread over orders of magnitude, unless some are 0.
    smallest, largest = float(values.min()), float(values.max())
    edges: Any = bins
    if 0 < smallest < largest:
        edges = torch.logspace(math.log10(smallest), math.log10(largest), bins + 1, dtype=torch.float64)
        edges[0], edges[-1] = smallest, largest
        axes.set_xscale("log")
    axes.hist(values.numpy(), bins=edges, color="C0", alpha=0.8)
    axes.axvline(float(values.median()), color="0.3", label="median")
    if max_norm is not None:
        share = float((values > max_norm).double().mean())
        axes.axvline(max_norm, color="C3", linestyle="--", label=f"bound: {share:.0%} are clipped")
    axes.set_xlabel("gradient norm of an example")
    axes.set_ylabel("examples")
    axes.legend(frameon=False)
    return figure


@typed
def plot_noise_scale(
    steps: Sequence[float],
    scales: Sequence[NoiseScale],
    batch_size: float | None = None,
    axes: Sequence[Axes] | None = None,
) -> Figure:
    """Draw noise and signal of the gradient over training, and below them their ratio, the noise scale.

    ``scales[k]`` was measured at ``steps[k]``; what is not positive is left out, for the axes are
    logarithmic. ``batch_size`` is drawn as a line in the panel of the noise scale. With ``axes``, two, it
    draws into these.

    Raises:
        PureSGDError: lengths that differ, no measurement, or matplotlib is not installed.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> scales = [ps.noise_scale_from_batch_sizes(5.0, 2.0, 1, 4)] * 3
        >>> figure = ps.plotting.plot_noise_scale([0, 1, 2], scales, batch_size=32)
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['squared norm', 'noise scale (examples)']
    """
    if not len(steps) or len(steps) != len(scales):
        raise PureSGDError(
            "plot_noise_scale",
            f"got {len(steps)} steps and {len(scales)} measurements",
            "Pass one measurement for each step",
        )
    figure, (terms, ratio) = panels_of("plot_noise_scale", axes, 2, 1, (7.0, 5.4))
    for name, label in (("trace_covariance", "noise of one example"), ("grad_sq_norm", "signal")):
        terms.plot(steps, positive([getattr(scale, name) for scale in scales]), label=label)
    ratio.plot(steps, positive([scale.simple for scale in scales]), label="noise / signal")
    if batch_size is not None:
        ratio.axhline(batch_size, color="C3", linestyle="--", label=f"batch size {batch_size:g}")
        ratio.legend(frameon=False)
    terms.legend(frameon=False)
    terms.set_yscale("log")
    ratio.set_yscale("log")
    terms.set_ylabel("squared norm")
    ratio.set_ylabel("noise scale (examples)")
    ratio.set_xlabel("step")
    return figure
