"""What all pictures begin with: a figure of panels, and numbers that an axis can hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import PureSGDError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["new_figure", "panels_of", "positive"]


def new_figure(
    rows: int, columns: int, size: tuple[float, float], sharey: bool = False, sharex: bool = True
) -> tuple[Figure, list[Axes]]:
    """A figure of rows times columns panels, with a common x axis by default, and the panels row by row.

    Raises:
        PureSGDError: matplotlib is not installed.

    Example:
        >>> from pure_sgd.plotting.figures import new_figure
        >>> figure, panels = new_figure(2, 1, (7.0, 5.0))
        >>> len(panels)
        2
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PureSGDError(
            "plotting", "matplotlib is not installed", "Install it: pip install pure_sgd[plot]"
        ) from error
    # A Figure of its own rather than pyplot's: no global state, no window, nothing to close.
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, sharex=sharex, sharey=sharey, squeeze=False).ravel()
    for axes in panels:
        axes.grid(alpha=0.25)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, list(panels)


def panels_of(
    where: str, axes: Axes | Sequence[Axes] | None, rows: int, columns: int, size: tuple[float, float]
) -> tuple[Figure, list[Axes]]:
    """The panels that were given, with their figure, or those of a new one.

    Raises:
        PureSGDError: not as many as there are panels to draw, or matplotlib is not installed.

    Example:
        >>> from pure_sgd.plotting.figures import new_figure, panels_of
        >>> figure, panels = new_figure(2, 1, (7.0, 5.0))
        >>> panels_of("plot_history", panels, 2, 1, (7.0, 5.0))[0] is figure
        True
    """
    if axes is None:
        return new_figure(rows, columns, size)
    panels = list(axes) if isinstance(axes, Iterable) else [axes]
    if len(panels) != rows * columns:
        raise PureSGDError(
            where, f"axes holds {len(panels)} panels, and {rows * columns} are drawn", "Pass one for each"
        )
    figure: Any = panels[0].get_figure()
    return figure, panels


def positive(numbers: Sequence[Any]) -> list[float]:
    """Plain numbers; NaN, which is not drawn, where a logarithmic axis has no place.

    Example:
        >>> from pure_sgd.plotting.figures import positive
        >>> positive([2, 0])
        [2.0, nan]
    """
    return [value if (value := float(number)) > 0 else float("nan") for number in numbers]
