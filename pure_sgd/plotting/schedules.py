"""Pictures of schedules: one, or several side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..arguments import typed
from ..errors import PureSGDError, check_count
from .figures import axes_or_new

if TYPE_CHECKING:
    from .figures import Axes

__all__ = ["plot_schedule", "plot_schedules"]


@typed
def plot_schedule(
    schedule: Callable[[torch.Tensor], Any],
    steps: int = 1000,
    *,
    label: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a schedule over ``steps`` steps into ``ax``, or the axes of a new figure, and return them.

    Several schedules in the same axes are told apart by ``label``.

    Raises:
        PureSGDError: no step, or matplotlib is not installed.

    Example:
        >>> import pure_sgd as ps
        >>> axes = ps.plotting.plot_schedule(ps.cosine_decay_schedule(0.1, 100), 100)
        >>> ps.plotting.plot_schedule(ps.linear_schedule(0.1, 0.0, 100), 100, ax=axes) is axes
        True
    """
    check_count("plot_schedule", "steps", steps)
    (panel,) = axes_or_new("plot_schedule", ax, 1, 1, (6.0, 3.6))
    x = torch.arange(steps)
    values = torch.as_tensor(schedule(x), dtype=torch.float64).expand(steps)
    panel.plot(x.numpy(), values.numpy(), label=label)
    if ax is None:
        panel.set_xlabel("step")
        panel.set_ylabel("learning rate")
    if label is not None:
        panel.legend(frameon=False)
    return panel


@typed
def plot_schedules(
    schedules: Mapping[str, Callable[[torch.Tensor], Any]],
    steps: int = 1000,
    *,
    log_scale: bool = False,
    ax: Axes | Sequence[Axes] | None = None,
) -> list[Axes]:
    """Draw schedules over ``steps`` steps, each in a small panel of its own on common axes.

    Returned are the axes of the panels: those of a new figure, or ``ax``, one for each schedule.

    Raises:
        PureSGDError: no schedule, no step, or matplotlib is not installed.

    Example:
        >>> import pure_sgd as ps
        >>> (axes,) = ps.plotting.plot_schedules({"cosine": ps.cosine_decay_schedule(0.1, 100)}, 100)
        >>> axes.get_title()
        'cosine'
    """
    if not schedules:
        raise PureSGDError(
            "plot_schedules", "got no schedule", "Pass some by name, such as {'step': step_schedule(0.1, 30)}"
        )
    columns = min(4, len(schedules))
    rows = -(-len(schedules) // columns)
    size = (2.9 * columns, 0.6 + 2.1 * rows)
    panels = axes_or_new("plot_schedules", ax, rows, columns, size, sharey=True)
    for panel, (name, schedule) in zip(panels, schedules.items(), strict=False):
        plot_schedule(schedule, steps, ax=panel)
        panel.set_title(name, fontsize="medium")
        if log_scale:
            panel.set_yscale("log")
    if ax is None:
        for above, empty in zip(panels[len(schedules) - columns :], panels[len(schedules) :], strict=False):
            empty.remove()
            above.tick_params(labelbottom=True)
        figure: Any = panels[0].get_figure()
        figure.supxlabel("step", fontsize="medium")
        figure.supylabel("learning rate", fontsize="medium")
    return panels[: len(schedules)]
