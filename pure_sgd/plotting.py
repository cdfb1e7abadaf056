"""Pictures of runs and schedules. The only file that needs matplotlib, and only when called."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from .errors import PureSGDError, check_count
from .gradients import NoiseScale, minibatch_variance

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "plot_gradient_norms",
    "plot_history",
    "plot_minibatch_variance",
    "plot_noise_scale",
    "plot_schedules",
]

#: Readable names of what fit records; another quantity is labelled by its own name.
LABELS = {
    "loss": "training",
    "val_loss": "held out",
    "val_loss_averaged": "held out, averaged parameters",
    "learning_rate": "learning rate",
    "grad_norm": "gradient norm",
}


def plot_history(
    history: Mapping[str, Sequence[float]],
    panels: Sequence[Sequence[str]] = (("loss", "val_loss", "val_loss_averaged"), ("learning_rate",)),
    by: str = "epoch",
) -> Figure:
    """Draw what :func:`fit` recorded, one panel above the other.

    ``panels`` names the quantities of each panel; those that ``history`` lacks are left out, and so is a
    panel without any. ``by`` is the quantity on the common x axis. Save the figure with
    ``figure.savefig(path)``.

    Raises:
        PureSGDError: none of the quantities was recorded, or matplotlib is not installed.

    Example:
        >>> import pure_sgd as ps
        >>> figure = ps.plotting.plot_history({"epoch": [0, 1], "loss": [2.0, 1.0]})
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['loss']
    """
    drawn = [[name for name in names if name in history] for names in panels]
    drawn = [names for names in drawn if names]
    if not drawn or by not in history:
        raise PureSGDError(
            "plot_history",
            f"the history holds {sorted(history)}, and nothing of {list(panels)} by {by!r}",
            "Name what to draw with panels= and by=",
        )
    figure, rows = _figure(len(drawn), 1, (7.0, 1.2 + 2.4 * len(drawn)))
    for axes, names in zip(rows, drawn, strict=True):
        for name in names:
            axes.plot(history[by], history[name], label=LABELS.get(name, name))
        axes.set_ylabel("loss" if any("loss" in name for name in names) else LABELS.get(names[0], names[0]))
        if len(names) > 1:
            axes.legend(frameon=False)
    rows[-1].set_xlabel(by)
    return figure


def plot_schedules(
    schedules: Mapping[str, Callable[[torch.Tensor], Any]], steps: int, log_scale: bool = False
) -> Figure:
    """Draw schedules over ``steps`` steps, each in a small panel of its own on common axes.

    Raises:
        PureSGDError: no schedule, no step, or matplotlib is not installed.

    Example:
        >>> import pure_sgd as ps
        >>> figure = ps.plotting.plot_schedules({"cosine": ps.cosine_decay_schedule(0.1, 100)}, 100)
        >>> figure.axes[0].get_title()
        'cosine'
    """
    check_count("plot_schedules", "steps", steps)
    if not schedules:
        raise PureSGDError(
            "plot_schedules", "got no schedule", "Pass some by name, such as {'step': step_schedule(0.1, 30)}"
        )
    columns = min(4, len(schedules))
    rows = -(-len(schedules) // columns)
    figure, panels = _figure(rows, columns, (2.9 * columns, 0.6 + 2.1 * rows), sharey=True)
    x = torch.arange(steps)
    for axes, (name, schedule) in zip(panels, schedules.items(), strict=False):
        values = torch.as_tensor(schedule(x), dtype=torch.float64).expand(steps)
        axes.plot(x.numpy(), values.numpy())
        axes.set_title(name, fontsize="medium")
        if log_scale:
            axes.set_yscale("log")
    for above, axes in zip(panels[len(schedules) - columns :], panels[len(schedules) :], strict=False):
        axes.set_visible(False)
        above.tick_params(labelbottom=True)
    figure.supxlabel("step", fontsize="medium")
    figure.supylabel("learning rate", fontsize="medium")
    return figure


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
    figure, (axes,) = _figure(1, 1, (6.0, 4.2))
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
    figure, (axes,) = _figure(1, 1, (6.0, 3.6))
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


def plot_noise_scale(
    steps: Sequence[float], scales: Sequence[NoiseScale], batch_size: float | None = None
) -> Figure:
    """Draw noise and signal of the gradient over training, and below them their ratio, the noise scale.

    ``scales[k]`` was measured at ``steps[k]``; what is not positive is left out, for the axes are
    logarithmic. ``batch_size`` is drawn as a line in the panel of the noise scale.

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
    figure, (terms, ratio) = _figure(2, 1, (7.0, 5.4))
    for name, label in (("trace_covariance", "noise of one example"), ("grad_sq_norm", "signal")):
        terms.plot(steps, _positive([getattr(scale, name) for scale in scales]), label=label)
    ratio.plot(steps, _positive([scale.simple for scale in scales]), label="noise / signal")
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


def _positive(numbers: Sequence[Any]) -> list[float]:
    """Plain numbers; NaN, which is not drawn, where a logarithmic axis has no place."""
    return [value if (value := float(number)) > 0 else float("nan") for number in numbers]


def _figure(
    rows: int, columns: int, size: tuple[float, float], sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PureSGDError(
            "plotting", "matplotlib is not installed", "Install it: pip install pure_sgd[plot]"
        ) from error
    # A Figure of its own rather than pyplot's: no global state, no window, nothing to close.
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=sharey, squeeze=False).ravel()
    for axes in panels:
        axes.grid(alpha=0.25)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, list(panels)
