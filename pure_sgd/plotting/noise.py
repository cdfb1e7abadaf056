"""Pictures of gradient noise: variances, norms and the noise scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..arguments import typed
from ..errors import PureSGDError
from ..gradients import minibatch_variance
from .figures import axes_or_new, ink, positive

if TYPE_CHECKING:
    from .figures import Axes

__all__ = ["plot_gradient_norms", "plot_minibatch_variance", "plot_noise"]

#: What a run that measures its noise records, and what it is.
TERMS = {"trace_covariance": "noise of one example", "grad_sq_norm": "signal"}


@typed
def plot_minibatch_variance(
    batch_sizes: Sequence[float],
    measured: Sequence[float],
    trace_covariance: Any,
    population: int | None = None,
    standard_errors: Sequence[float] | None = None,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draw measured variances of mini-batch gradients over what :func:`minibatch_variance` says.

    ``measured[k]`` is the summed variance at ``batch_sizes[k]``, ``trace_covariance`` that of one example.
    With ``population`` there is a second line, for batches drawn without replacement. Both axes are
    logarithmic: 1 / b is a straight line. It draws into ``ax``, or the axes of a new figure, and returns
    them.

    Raises:
        PureSGDError: lengths that differ, no measurement, or matplotlib is not installed.

    Example:
        >>> import pure_sgd as ps
        >>> axes = ps.plotting.plot_minibatch_variance([1, 2, 4], [8.2, 3.9, 2.1], 8.0)
        >>> axes.get_xlabel()
        'batch size'
    """
    if not len(batch_sizes) or len(batch_sizes) != len(measured):
        raise PureSGDError(
            "plot_minibatch_variance",
            f"got {len(batch_sizes)} batch sizes and {len(measured)} measurements",
            "Pass one measurement for each size",
        )
    (axes,) = axes_or_new("plot_minibatch_variance", ax, 1, 1, (6.0, 4.2))
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
    return axes


@typed
def plot_gradient_norms(
    norms: Any, *, max_norm: float | None = None, bins: int = 40, ax: Axes | None = None
) -> Axes:
    """Draw the histogram of per-example gradient norms, (B,), with the clipping bound if there is one.

    It draws into ``ax``, or the axes of a new figure, and returns them.

    Raises:
        PureSGDError: no norm, one that is not finite, or matplotlib is not installed.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> axes = ps.plotting.plot_gradient_norms(torch.rand(100), max_norm=0.5)
        >>> axes.get_xlabel()
        'gradient norm of an example'
    """
    values = torch.as_tensor(norms, dtype=torch.float64).flatten()
    if not len(values) or not torch.isfinite(values).all():
        raise PureSGDError(
            "plot_gradient_norms",
            f"norms holds {len(values)} numbers, or one that is not finite",
            "Filter them",
        )
    (axes,) = axes_or_new("plot_gradient_norms", ax, 1, 1, (6.0, 3.6))
    # Norms spread over orders of magnitude, unless some are 0.
    smallest, largest = float(values.min()), float(values.max())
    edges: Any = bins
    if 0 < smallest < largest:
        edges = torch.logspace(math.log10(smallest), math.log10(largest), bins + 1, dtype=torch.float64)
        edges[0], edges[-1] = smallest, largest
        axes.set_xscale("log")
    axes.hist(values.numpy(), bins=edges, color="C0", alpha=0.8)
    axes.axvline(float(values.median()), color=ink(axes), label="median")
    if max_norm is not None:
        share = float((values > max_norm).double().mean())
        axes.axvline(max_norm, color="C3", linestyle="--", label=f"bound: {share:.0%} are clipped")
    axes.set_xlabel("gradient norm of an example")
    axes.set_ylabel("examples")
    axes.legend(frameon=False)
    return axes


@typed
def plot_noise(
    history: Mapping[str, Sequence[Any]],
    *,
    by: str = "step",
    batch_size: float | None = None,
    ax: Axes | Sequence[Axes] | None = None,
) -> list[Axes]:
    """Draw noise and signal of the gradient over training, and below them their ratio, the noise scale.

    ``history`` is that of ``fit(..., statistics=n)``, or any that holds ``trace_covariance`` and
    ``grad_sq_norm``, the terms of :class:`NoiseScale`. What is not positive is left out, for the axes are
    logarithmic. ``batch_size`` is drawn as a line in the panel of the noise scale. Returned are the axes of
    the panels: those of a new figure, or ``ax``, two of them or the upper one alone.

    Raises:
        PureSGDError: a history without these measurements, or matplotlib is not installed.

    Example:
        >>> import pure_sgd as ps
        >>> history = {"step": [0, 1], "trace_covariance": [4.0, 3.0], "grad_sq_norm": [2.0, 1.0]}
        >>> [axes.get_ylabel() for axes in ps.plotting.plot_noise(history, batch_size=32)]
        ['squared norm', 'noise scale (examples)']
    """
    if not {by, *TERMS} <= {*history}:
        raise PureSGDError(
            "plot_noise",
            f"the history holds {sorted(history)}, and not {by!r} with {list(TERMS)}",
            "Measure with fit(..., statistics=10), say",
        )
    panels = axes_or_new("plot_noise", ax, 2, 1, (7.0, 5.4))
    for name, label in TERMS.items():
        panels[0].plot(history[by], positive(history[name]), label=label)
    panels[0].set_ylabel("squared norm")
    panels[0].legend(frameon=False)
    for ratio in panels[1:]:
        noise, signal = (positive(history[name]) for name in TERMS)
        scales = [float(a) / float(b) for a, b in zip(noise, signal, strict=True)]
        ratio.plot(history[by], scales, label="noise / signal")
        if batch_size is not None:
            ratio.axhline(batch_size, color="C3", linestyle="--", label=f"batch size {batch_size:g}")
            ratio.legend(frameon=False)
        ratio.set_ylabel("noise scale (examples)")
    for panel in panels:
        panel.set_yscale("log")
    panels[-1].set_xlabel(by)
    return panels
