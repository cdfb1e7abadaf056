"""The picture of a run: what it recorded, quantity by quantity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..arguments import typed
from ..errors import PureSGDError
from .figures import axes_or_new

if TYPE_CHECKING:
    from .figures import Axes

__all__ = ["plot_history"]

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
    *,
    by: str = "epoch",
    ax: Axes | Sequence[Axes] | None = None,
) -> list[Axes]:
    """Draw what :func:`fit` recorded, one panel above the other; ``history.plot()`` is short for it.

    ``panels`` names the quantities of each panel; those that ``history`` lacks are left out, and so is a
    panel without any. ``by`` is the quantity on the common x axis. Returned are the axes of the panels:
    those of a new figure, or ``ax``, into which as many panels are drawn as it has axes.

    Raises:
        PureSGDError: none of the quantities was recorded, more axes than panels, or matplotlib is not
            installed.

    Example:
        >>> import pure_sgd as ps
        >>> (losses,) = ps.plotting.plot_history({"epoch": [0, 1], "loss": [2.0, 1.0]})
        >>> losses.get_ylabel()
        'loss'
    """
    drawn = [[name for name in names if name in history] for names in panels]
    drawn = [names for names in drawn if names]
    if not drawn or by not in history:
        raise PureSGDError(
            "plot_history",
            f"the history holds {sorted(history)}, and nothing of {list(panels)} by {by!r}",
            "Name what to draw with panels= and by=",
        )
    rows = axes_or_new("plot_history", ax, len(drawn), 1, (7.0, 1.2 + 2.4 * len(drawn)))
    for panel, names in zip(rows, drawn, strict=False):
        for name in names:
            panel.plot(history[by], history[name], label=LABELS.get(name, name))
        panel.set_ylabel("loss" if any("loss" in name for name in names) else LABELS.get(names[0], names[0]))
        if len(names) > 1:
            panel.legend(frameon=False)
        if names == ["learning_rate"]:
            # A share of zero: a constant one is then no digits around itself.
            panel.update_datalim([(at, 0.0) for at in history[by]])
            panel.autoscale_view()
    rows[-1].set_xlabel(by)
    return rows
