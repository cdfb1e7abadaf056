"""Pictures of many runs: a risk over the grid of their hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from ..arguments import typed
from ..errors import PureSGDError
from .figures import axes_or_new

if TYPE_CHECKING:
    from .figures import Axes

__all__ = ["plot_sweep"]

#: Values of the second axis up to which each is a line of its own.
MOST_LINES = 6
#: A risk is drawn on a logarithmic axis where its largest value is more times its smallest than this.
WIDE_RANGE = 10.0


@typed
def plot_sweep(
    grids: Mapping[str, Any],
    risk: Any,
    *,
    over: str = "seed",
    label: str = "final risk",
    ax: Axes | None = None,
) -> Axes:
    """Draw what a :func:`sweep` found: one number of each run over the grid.

    ``risk`` has one axis for each of ``grids``, in their order. Along the axis ``over``, if there is one of
    that name, the mean is taken, and the band around a line is what lies between the smallest and the
    largest. Of the other axes the first is x; each value of the second is a line, or above 6 values a row of
    a heat map. A grid whose values have a common ratio has a logarithmic axis, and so has a risk that spans
    more than a factor of 10. What is not finite, as where a run diverged, is left out. The risk of a
    zipped sweep, which has one axis, is drawn over the first grid. It draws into ``ax``, or the axes of a new
    figure, and returns them.

    Raises:
        PureSGDError: axes that do not fit, more than two besides ``over``, or matplotlib is not
            installed.

    Example:
        >>> import pure_sgd as ps
        >>> grids, risk = ps.sweep(
        ...     lambda rate, seed: (rate - 0.1) ** 2 + seed, rate=[0.01, 0.1, 1], seed=range(3)
        ... )
        >>> axes = ps.plotting.plot_sweep(grids, risk)
        >>> axes.get_xlabel(), axes.get_xscale()
        ('rate', 'log')
    """
    risk = torch.as_tensor(risk, dtype=torch.float64)
    axes_of_grid = {name: torch.as_tensor(grid, dtype=torch.float64) for name, grid in grids.items()}
    if risk.ndim == 1 and axes_of_grid:
        axes_of_grid = dict(list(axes_of_grid.items())[:1])
    expected = tuple(len(grid) if grid.ndim == 1 else -1 for grid in axes_of_grid.values())
    if not expected or risk.shape != expected:
        raise PureSGDError(
            "plot_sweep",
            f"risk has shape {tuple(risk.shape)}, and the grids {list(grids)} have {expected}",
            "Pass one number of each run, such as results['loss'], over grids of numbers",
        )
    if over not in axes_of_grid or len(axes_of_grid) == 1:
        low = mean = high = risk
    else:
        axis = list(axes_of_grid).index(over)
        del axes_of_grid[over]
        low, mean, high = risk.amin(axis), risk.mean(axis), risk.amax(axis)
    if len(axes_of_grid) > 2:
        raise PureSGDError(
            "plot_sweep",
            f"risk has the axes {list(axes_of_grid)}, and a picture has room for two",
            "Choose one value of the others, or take their minimum",
        )
    (panel,) = axes_or_new("plot_sweep", ax, 1, 1, (6.4, 4.2))
    (name, x), *second = axes_of_grid.items()
    _scale(panel, "x", x)
    panel.set_xlabel(name)
    if second and len(second[0][1]) > MOST_LINES:
        _heat_map(panel, x, *second[0], mean, label)
        return panel
    if not second:
        low, mean, high = low[:, None], mean[:, None], high[:, None]
    for column in range(mean.shape[1]):
        line = f"{second[0][0]} = {second[0][1][column]:g}" if second else None
        _line(panel, x, low[:, column], mean[:, column], high[:, column], line)
    if _is_wide(mean):
        panel.set_yscale("log")
    if second:
        panel.legend(frameon=False)
    panel.set_ylabel(label)
    return panel


def _line(
    panel: Axes, x: torch.Tensor, low: torch.Tensor, mean: torch.Tensor, high: torch.Tensor, label: str | None
) -> None:
    order = x.argsort()
    x, low, mean, high = (torch.where(t.isfinite(), t, torch.nan)[order] for t in (x, low, mean, high))
    panel.plot(x, mean, ".-", label=label)
    if not torch.equal(low.nan_to_num(), high.nan_to_num()):
        panel.fill_between(x, low, high, alpha=0.2, linewidth=0)


def _heat_map(
    panel: Axes, x: torch.Tensor, name: str, y: torch.Tensor, risk: torch.Tensor, label: str
) -> None:
    columns, rows = x.argsort(), y.argsort()
    risk = risk[columns][:, rows].T
    # matplotlib leaves out what is masked, not what is infinite.
    shown = torch.where(risk.isfinite(), risk, torch.nan)
    norm = "log" if _is_wide(risk) else "linear"
    cells = (_edges(x[columns]), _edges(y[rows]), shown)
    mesh = panel.pcolormesh(*(part.numpy() for part in cells), norm=norm, cmap="viridis_r")
    panel.grid(False)
    _scale(panel, "y", y)
    panel.set_ylabel(name)
    figure: Any = panel.get_figure()
    figure.colorbar(mesh, ax=panel, label=label)


def _scale(panel: Axes, axis: str, grid: torch.Tensor) -> None:
    if _is_geometric(grid):
        panel.set(**{f"{axis}scale": "log"})
    elif axis == "x" and (grid != grid.round()).any():
        panel.locator_params(axis="x", integer=False)


def _is_geometric(grid: torch.Tensor) -> bool:
    """Whether the values of a grid, at least three, have a common ratio."""
    if len(grid) < 3 or not (grid > 0).all():
        return False
    steps = grid.sort().values.log().diff()
    return bool((steps > 0).all() and (steps.max() - steps.min() < 0.01 * steps.max()))


def _edges(grid: torch.Tensor) -> torch.Tensor:
    """Where the cells of a heat map end: halfway between neighbours, as its axis measures it."""
    if _is_geometric(grid):
        return 10 ** _halfway(grid.log10())
    return _halfway(grid)


def _halfway(grid: torch.Tensor) -> torch.Tensor:
    middles = (grid[1:] + grid[:-1]) / 2
    if not len(middles):
        return torch.cat([grid - 0.5, grid + 0.5])
    return torch.cat([2 * grid[:1] - middles[:1], middles, 2 * grid[-1:] - middles[-1:]])


def _is_wide(risk: torch.Tensor) -> bool:
    finite = risk[risk.isfinite()]
    return len(finite) > 0 and bool((finite > 0).all() and finite.max() > WIDE_RANGE * finite.min())
