"""What all pictures begin with: axes, given or new, and numbers that an axis can hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import PureSGDError

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes

__all__ = ["axes_or_new", "ink", "new_axes", "positive"]


def new_axes(
    rows: int, columns: int, size: tuple[float, float], sharey: bool = False, sharex: bool = True
) -> list[Axes]:
    """The panels of a new figure of pyplot, row by row, with a common x axis by default.

    Raises:
        PureSGDError: matplotlib is not installed.

    Example:
        >>> from pure_sgd.plotting.figures import new_axes
        >>> len(new_axes(2, 1, (7.0, 5.0)))
        2
    """
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise PureSGDError(
            "plotting", "matplotlib is not installed", "Install it: pip install pure_sgd[plot]"
        ) from error
    figure = pyplot.figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, sharex=sharex, sharey=sharey, squeeze=False).ravel()
    for axes in panels:
        axes.grid(alpha=0.25)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
    return list(panels)


def axes_or_new(
    where: str,
    ax: Axes | Sequence[Axes] | None,
    rows: int,
    columns: int,
    size: tuple[float, float],
    **new: Any,
) -> list[Axes]:
    """The axes that were given, at most one for each panel, or those of a new figure.

    Raises:
        PureSGDError: more than there are panels, none, or matplotlib is not installed.

    Example:
        >>> from pure_sgd.plotting.figures import axes_or_new, new_axes
        >>> panels = new_axes(2, 1, (7.0, 5.0))
        >>> axes_or_new("plot_history", panels, 2, 1, (7.0, 5.0)) == panels
        True
    """
    if ax is None:
        return new_axes(rows, columns, size, **new)
    given: list[Any] = list(np.ravel(np.asarray(ax, dtype=object)))
    if not 1 <= len(given) <= rows * columns or not all(hasattr(axes, "plot") for axes in given):
        kinds = sorted({type(axes).__name__ for axes in given})
        problem = f"ax holds {len(given)} of {kinds}, and there are {rows * columns} panels to draw"
        raise PureSGDError(where, problem, "Pass the axes of matplotlib, at most one for each panel")
    return given


def ink(axes: Axes) -> Any:
    """The colour in which axes are written: black on paper, light on a dark background.

    Example:
        >>> from pure_sgd.plotting.figures import ink, new_axes
        >>> ink(new_axes(1, 1, (6.0, 4.0))[0])
        'black'
    """
    return axes.xaxis.label.get_color()


def positive(numbers: Sequence[Any]) -> list[float]:
    """Plain numbers; NaN, which is not drawn, where a logarithmic axis has no place.

    Example:
        >>> from pure_sgd.plotting.figures import positive
        >>> positive([2, 0])
        [2.0, nan]
    """
    return [value if (value := float(number)) > 0 else float("nan") for number in numbers]
