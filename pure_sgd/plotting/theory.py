"""Pictures of what theory says, over what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ..arguments import typed
from ..errors import PureSGDError
from ..theory import CriticalBatchSize, Risk, Simulation
from .figures import axes_or_new, ink, positive

if TYPE_CHECKING:
    from .figures import Axes

__all__ = ["Measured", "plot_best_methods", "plot_predictions", "plot_risk", "plot_steps_to_target"]

#: Half the width of a band around a measured mean, in standard errors.
BAND = 2


class Measured(NamedTuple):
    """Means that were measured at some values of what a panel of :func:`plot_predictions` goes over."""

    values: Any  # (m,)
    mean: Any  # (m,)
    standard_error: Any = 0.0  # (m,) or one number


@typed
def plot_risk(
    risk: Risk, simulation: Simulation | None = None, *, ax: Axes | Sequence[Axes] | None = None
) -> list[Axes]:
    """Draw the expected risk after each step with its two parts, over the mean of simulated runs.

    There is one panel for the parameters, and another one for their average where the two differ. The band is
    2 standard errors of that mean to both sides. What is not positive is left out, for the
    axis is logarithmic. Returned are the axes of the panels: those of a new figure, or ``ax``.

    Raises:
        PureSGDError: a simulation of another number of steps, or matplotlib is not installed.

    Example:
        >>> import pure_sgd as ps
        >>> problem = ps.theory.NoisyQuadratic(curvature=[1.0, 0.1], noise=1.0)
        >>> tx = ps.chain(ps.sgd(0.1), ps.params_ema(0.9))
        >>> [axes.get_title() for axes in ps.plotting.plot_risk(ps.theory.risk(tx, problem, steps=50))]
        ['parameters', 'averaged parameters']
    """
    names = ["params", "averaged"]
    if torch.equal(risk.params.total, risk.averaged.total):
        names = names[:1]
    panels = axes_or_new("plot_risk", ax, 1, len(names), (0.8 + 4.6 * len(names), 3.8), sharey=True)
    for axes, name in zip(panels, names, strict=False):
        parts = getattr(risk, name)
        steps = range(len(parts.total))
        if simulation is not None:
            mean, error = getattr(simulation, name)
            if len(mean) != len(steps):
                raise PureSGDError(
                    "plot_risk",
                    f"simulation has {len(mean) - 1} steps and risk {len(steps) - 1}",
                    "Simulate as many",
                )
            low, high = positive(mean - BAND * error), positive(mean + BAND * error)
            axes.plot(steps, positive(mean), color="C3", lw=4, alpha=0.35, label="simulated")
            axes.fill_between(steps, low, high, color="C3", alpha=0.35, linewidth=0)
        axes.plot(steps, positive(parts.total), color=ink(axes), lw=1.2, label="expected")
        axes.plot(steps, positive(parts.from_start), "--", color="C0", lw=1, label="from the start")
        axes.plot(steps, positive(parts.from_noise), ":", color="C1", label="from noise")
        axes.set_yscale("log")
        axes.set_xlabel("step")
        axes.set_title("parameters" if name == "params" else "averaged parameters", fontsize="medium")
    panels[0].set_ylabel("risk")
    panels[0].legend(frameon=False)
    return panels


@typed
def plot_predictions(
    grids: Mapping[str, Any],
    predicted: Mapping[str, Any],
    measured: Mapping[str, Measured] | None = None,
    *,
    label: str = "steady-state risk",
    ax: Axes | Sequence[Axes] | None = None,
) -> list[Axes]:
    """Draw what theory predicts over hyperparameters, each in a panel, and what was measured as points.

    ``predicted[name]`` has one number for each of ``grids[name]``, such as the steady-state risk for each
    learning rate, momentum, decay or batch size; ``measured[name]`` is a :class:`Measured` at values of its
    own, whose bars are 2 standard errors to both sides. An axis of positive values that span more than a
    factor of 10 is logarithmic; what is not finite, as where a chain is unstable, is left out. Returned are
    the axes of the panels: those of a new figure, or ``ax``.

    Raises:
        PureSGDError: no grid, lengths or names that do not fit, or matplotlib is not installed.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> rates = torch.linspace(0.01, 1.9, 50)
        >>> predicted = ps.theory.sgd_variance(rates, 1.0, noise=1.0) / 2
        >>> (axes,) = ps.plotting.plot_predictions({"learning rate": rates}, {"learning rate": predicted})
        >>> axes.get_xlabel(), axes.get_xscale()
        ('learning rate', 'log')
    """
    measured = {} if measured is None else measured
    if not grids or set(predicted) != set(grids) or not set(measured) <= set(grids):
        raise PureSGDError(
            "plot_predictions",
            f"grids has {list(grids)}, predicted {list(predicted)} and measured {list(measured)}",
            "Name each prediction and measurement like its grid",
        )
    size, apart = (0.8 + 3.2 * len(grids), 3.6), {"sharey": True, "sharex": False}
    panels = axes_or_new("plot_predictions", ax, 1, len(grids), size, **apart)
    for axes, (name, grid) in zip(panels, grids.items(), strict=False):
        x, y = (torch.as_tensor(numbers, dtype=torch.float64) for numbers in (grid, predicted[name]))
        if x.ndim != 1 or x.shape != y.shape:
            raise PureSGDError(
                "plot_predictions",
                f"the grid {name} has shape {tuple(x.shape)}, and what is predicted {tuple(y.shape)}",
                "Predict one number for each value",
            )
        axes.plot(x, torch.where(y.isfinite(), y, torch.nan), color=ink(axes), lw=1, label="predicted")
        if name in measured:
            points = (torch.as_tensor(numbers, dtype=torch.float64) for numbers in measured[name])
            values, mean, error = points
            bars = BAND * error.expand(mean.shape)
            axes.errorbar(values, mean, bars, fmt="o", ms=4, color="C3", capsize=2, label="measured")
        if _spans_orders(x):
            axes.set_xscale("log")
        elif (x != x.round()).any():
            axes.locator_params(axis="x", integer=False)
        axes.set_yscale("log")
        axes.set_xlabel(name)
    panels[0].set_ylabel(label)
    panels[0].legend(frameon=False)
    return panels


@typed
def plot_steps_to_target(found: CriticalBatchSize, *, ax: Axes | None = None) -> Axes:
    """Draw the steps that each method needs against the batch size, from :func:`critical_batch_size`.

    Both axes are logarithmic; while twice the batch takes half the steps, a line falls as the grey one. A
    cross marks the critical batch size of a method. What does not reach the target is left out. It draws into
    ``ax``, or the axes of a new figure, and returns them.

    Raises:
        PureSGDError: matplotlib is not installed.

    Example:
        >>> import pure_sgd as ps
        >>> problem = ps.theory.noisy_quadratic_model(20)
        >>> families = {"sgd": ps.theory.classical_families(problem.curvature)["sgd"]}
        >>> found = ps.theory.critical_batch_size(problem, [1, 16, 256], target=0.1, families=families)
        >>> ps.plotting.plot_steps_to_target(found).get_ylabel()
        'steps to the target'
    """
    (axes,) = axes_or_new("plot_steps_to_target", ax, 1, 1, (6.4, 4.4))
    _batch_size_axis(axes)
    first = next(iter(found.steps.values()))
    axes.plot(
        found.batch_sizes,
        first[0] * found.batch_sizes[0] / found.batch_sizes,
        color="0.7",
        label="steps ~ 1 / b",
    )
    for index, (name, steps) in enumerate(found.steps.items()):
        line = torch.where(steps.isfinite(), steps, torch.nan)
        axes.plot(found.batch_sizes, line, ".-", color=f"C{index}", label=name)
        axes.plot(found.critical[name], 2 * found.fewest[name], "x", color=f"C{index}", ms=9, mew=2)
    axes.set_yscale("log")
    axes.set_ylabel("steps to the target")
    axes.legend(frameon=False)
    return axes


@typed
def plot_best_methods(found: CriticalBatchSize, *, beside: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw how many times fewer steps each method needs than ``beside``; the shade tells which needs fewest.

    ``found`` comes from :func:`critical_batch_size`; ``beside`` is by default its first method. It draws into
    ``ax``, or the axes of a new figure, and returns them.

    Raises:
        PureSGDError: a ``beside`` that was not measured, or matplotlib is not installed.

    Example:
        >>> import pure_sgd as ps
        >>> problem = ps.theory.noisy_quadratic_model(20)
        >>> families = ps.theory.classical_families(problem.curvature)
        >>> families = {name: families[name] for name in ("sgd", "preconditioning")}
        >>> found = ps.theory.critical_batch_size(problem, [1, 16, 256], target=0.1, families=families)
        >>> ps.plotting.plot_best_methods(found).get_ylabel()
        'times fewer steps than sgd'
    """
    beside = next(iter(found.steps)) if beside is None else beside
    if beside not in found.steps:
        raise PureSGDError(
            "plot_best_methods", f"beside={beside!r}, and found has {list(found.steps)}", "Name one of these"
        )
    (axes,) = axes_or_new("plot_best_methods", ax, 1, 1, (6.4, 4.0))
    _batch_size_axis(axes)
    for index, (name, steps) in enumerate(found.steps.items()):
        gain = found.steps[beside] / steps
        axes.plot(found.batch_sizes, gain, ".-", color=f"C{index}", label=name)
    best = torch.stack(list(found.steps.values())).argmin(0)
    middles = (found.batch_sizes[1:] * found.batch_sizes[:-1]).sqrt()
    edges = torch.cat([found.batch_sizes[:1], middles, found.batch_sizes[-1:]])
    for index, left, right in zip(best.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        axes.axvspan(left, right, color=f"C{index}", alpha=0.12, linewidth=0)
    axes.set_yscale("log", base=2)
    axes.set_ylabel(f"times fewer steps than {beside}")
    axes.legend(frameon=False)
    return axes


def _batch_size_axis(axes: Axes) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xlabel("batch size")


def _spans_orders(values: torch.Tensor) -> bool:
    return bool((values > 0).all() and values.max() > 10 * values.min())
