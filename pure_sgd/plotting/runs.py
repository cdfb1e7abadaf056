"""Pictures of one run: what it recorded, and its schedules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..arguments import typed
from ..errors import PureSGDError, check_count
from .figures import new_figure, panels_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_history", "plot_schedule", "plot_schedules"]

#: Readable names of what fit records; another quantity is labelled by its own name.
LABELS = {
    "loss": "training",
    "val_loss": "held out",
    "val_loss_averaged": "held out, averaged parameters",
    "learning_rate": "learning rate",
    "grad_norm": "gradient norm",
}


@typed
def plot_history(
    history: Mapping[str, Sequence[float]],
    panels: Sequence[Sequence[str]] = (("loss", "val_loss", "val_loss_averaged"), ("learning_rate",)),
    by: str = "epoch",
    axes: Axes | Sequence[Axes] | None = None,
) -> Figure:
    """Draw what :func:`fit` recorded, one panel above the other.

    ``panels`` names the quantities of each panel; those that ``history`` lacks are left out, and so is a
    panel without any. ``by`` is the quantity on the common x axis. Save the figure with
    ``figure.savefig(path)``; ``figure.axes`` are its panels. With ``axes`` it draws into these, one for each
    panel.

    Raises:
        PureSGDError: none of the quantities was recorded, ``axes`` of another number, or matplotlib is not
            installed.

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
    figure, rows = panels_of("plot_history", axes, len(drawn), 1, (7.0, 1.2 + 2.4 * len(drawn)))
    for panel, names in zip(rows, drawn, strict=True):
        for name in names:
            panel.plot(history[by], history[name], label=LABELS.get(name, name))
        panel.set_ylabel("loss" if any("loss" in name for name in names) else LABELS.get(names[0], names[0]))
        if len(names) > 1:
            panel.legend(frameon=False)
    rows[-1].set_xlabel(by)
    return figure


@typed
def plot_schedule(
    schedule: Callable[[torch.Tensor], Any], steps: int, axes: Axes | None = None, label: str | None = None
) -> Axes:
    """Draw a schedule over ``steps`` steps into ``axes``, or those of a new figure, and return them.

    Several schedules into the same axes are told apart by ``label``.

    Raises:
        PureSGDError: no step, or matplotlib is not installed.

    Example:
        >>> import pure_sgd as ps
        >>> axes = ps.plotting.plot_schedule(ps.cosine_decay_schedule(0.1, 100), 100)
        >>> ps.plotting.plot_schedule(ps.linear_schedule(0.1, 0.0, 100), 100, axes) is axes
        True
    """
    check_count("plot_schedule", "steps", steps)
    _, (panel,) = panels_of("plot_schedule", axes, 1, 1, (6.0, 3.6))
    x = torch.arange(steps)
    values = torch.as_tensor(schedule(x), dtype=torch.float64).expand(steps)
    panel.plot(x.numpy(), values.numpy(), label=label)
    if axes is None:
        panel.set_xlabel("step")
        panel.set_ylabel("learning rate")
    if label is not None:
        panel.legend(frameon=False)
    return panel


@typed
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
    figure, panels = new_figure(rows, columns, (2.9 * columns, 0.6 + 2.1 * rows), sharey=True)
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
