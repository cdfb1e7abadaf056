"""What the figures show; nothing here opens a window."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure

import pure_sgd as ps
from pure_sgd.plotting import plot_history, plot_schedules

HISTORY = ps.History(
    epoch=[0.0, 1.0, 2.0],
    step=[10.0, 20.0, 30.0],
    loss=[3.0, 2.0, 1.0],
    val_loss=[3.5, 2.5, 1.5],
    val_loss_averaged=[3.4, 2.4, 1.4],
    learning_rate=[0.1, 0.05, 0.02],
    grad_norm=[5.0, 4.0, 2.0],
    val_error=[0.3, 0.2, 0.1],
)


def lines(axes: Any) -> dict[str, tuple[list[float], list[float]]]:
    """The label of each line, and its points."""
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()}


def legend(axes: Any) -> list[str] | None:
    found = axes.get_legend()
    return found and [text.get_text() for text in found.get_texts()]


def png_size(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", content[16:24])


def sentence_of(call: Callable[[], Any]) -> str:
    with pytest.raises(ps.PureSGDError) as caught:
        call()
    return str(caught.value)


def test_history_is_drawn_in_two_panels_losses_above_the_learning_rate():
    losses, rate = plot_history(HISTORY)
    assert lines(losses) == {
        "training": (HISTORY["epoch"], HISTORY["loss"]),
        "held out": (HISTORY["epoch"], HISTORY["val_loss"]),
        "held out, averaged parameters": (HISTORY["epoch"], HISTORY["val_loss_averaged"]),
    }
    assert legend(losses) == list(lines(losses))
    assert losses.get_ylabel() == "loss"
    assert lines(rate) == {"learning rate": (HISTORY["epoch"], HISTORY["learning_rate"])}
    assert legend(rate) is None
    assert rate.get_ylabel() == "learning rate"
    # Below one another on a common x axis, only the lowest names it.
    assert (losses.get_xlabel(), rate.get_xlabel()) == ("", "epoch")
    assert losses.get_shared_x_axes().joined(losses, rate)
    assert losses.get_position().y0 > rate.get_position().y1


def test_a_constant_learning_rate_is_drawn_over_zero():
    constant = ps.History(epoch=[0.0, 1.0], loss=[3.0, 2.0], learning_rate=[0.1, 0.1])
    losses, rate = plot_history(constant)
    assert rate.get_ylim() == pytest.approx((-0.005, 0.105))
    assert losses.get_ylim()[0] > 1
    # A second run in the same axes is seen as well.
    plot_history(HISTORY | {"learning_rate": [0.4, 0.2, 0.1]}, ax=[losses, rate])
    assert rate.get_ylim()[1] > 0.4


def test_what_was_not_recorded_is_left_out():
    (losses,) = plot_history({"epoch": [0, 1], "loss": [2.0, 1.0]})
    assert list(lines(losses)) == ["training"]
    assert legend(losses) is None
    assert losses.get_xlabel() == "epoch"


def test_panels_and_the_x_axis_can_be_named():
    norm, error = HISTORY.plot(["grad_norm"], ["val_error", "no_such"], by="step")
    assert lines(norm) == {"gradient norm": (HISTORY["step"], HISTORY["grad_norm"])}
    assert norm.get_ylabel() == "gradient norm"
    # A quantity without a readable name goes by its own.
    assert lines(error) == {"val_error": (HISTORY["step"], HISTORY["val_error"])}
    assert (error.get_ylabel(), error.get_xlabel()) == ("val_error", "step")


def test_what_fit_records_can_be_drawn():
    x = torch.linspace(-1, 1, 16)
    loss = ps.empirical_risk(lambda params, x, y: (params * x - y) ** 2)
    tx = ps.chain(ps.sgd(ps.linear_schedule(0.5, 0.1, 8)), ps.params_ema(0.5))
    data, held_out = (x, 2 * x), (x, x)
    _, history = ps.fit(
        loss,
        tx,
        torch.tensor(0.0),
        data,
        epochs=3,
        batch_size=8,
        compile=False,
        progress=False,
        evaluate=lambda params: loss(params, held_out),
    )
    losses, rate = history.plot()
    assert len(lines(losses)) == 3
    assert lines(rate) == {"learning rate": (history["epoch"], history["learning_rate"])}


def test_a_history_without_anything_to_draw_is_refused():
    assert sentence_of(lambda: plot_history({"epoch": [0], "accuracy": [0.5]})) == (
        "plot_history: the history holds ['accuracy', 'epoch'], and nothing of "
        "[('loss', 'val_loss', 'val_loss_averaged'), ('learning_rate',)] by 'epoch'. "
        "Name what to draw with panels= and by=."
    )
    assert sentence_of(lambda: plot_history({"loss": [1.0]}, [["loss"]], by="step")) == (
        "plot_history: the history holds ['loss'], and nothing of [['loss']] by 'step'. "
        "Name what to draw with panels= and by=."
    )


SCHEDULES = {
    "constant": ps.constant_schedule(0.1),
    "step": ps.step_schedule(0.1, 10),
    "cosine": ps.cosine_decay_schedule(0.1, 40, 0.01),
    "1/t": ps.inverse_time_decay_schedule(0.1, 0.3),
    "a plain function": lambda step: 0.1 / (1 + step),
    "a plain number": lambda step: 0.05,
}


def test_every_schedule_has_a_panel_of_its_own_on_common_axes():
    shown = plot_schedules(SCHEDULES, 40)
    figure: Any = shown[0].get_figure()
    assert [axes.get_title() for axes in shown] == list(SCHEDULES)
    assert len({axes.get_ylim() for axes in shown}) == 1
    assert len({axes.get_xlim() for axes in shown}) == 1
    steps = torch.arange(40)
    for axes, schedule in zip(shown, SCHEDULES.values(), strict=True):
        ((x, y),) = lines(axes).values()
        assert x == steps.tolist()
        want = torch.as_tensor(schedule(steps), dtype=torch.float64).expand(40)
        assert y == pytest.approx(want.tolist())
        assert axes.get_yscale() == "linear"
    assert (figure.get_supxlabel(), figure.get_supylabel()) == ("step", "learning rate")


@pytest.mark.parametrize("count, rows", [(1, 1), (3, 1), (4, 1), (5, 2), (6, 2)])
def test_panels_are_laid_out_four_in_a_row(count: int, rows: int):
    few = dict(list(SCHEDULES.items())[:count])
    panels = plot_schedules(few, 5)
    figure: Any = panels[0].get_figure()
    assert figure.axes == panels
    assert len(panels) == count
    grid: Any = panels[0].get_subplotspec()
    assert grid.get_gridspec().get_geometry() == (rows, min(count, 4))


def test_the_lowest_panel_of_each_column_has_numbers_on_its_x_axis():
    for count in (1, 3, 4, 5, 6):
        axes = plot_schedules(dict(list(SCHEDULES.items())[:count]), 5)
        numbered = [panel for panel in axes if panel.xaxis.get_tick_params()["labelbottom"]]
        assert numbered == axes[-4:]


def test_epochs_and_steps_are_counted_in_whole_numbers():
    for axes in plot_history(HISTORY) + plot_schedules(SCHEDULES, 3):
        assert all(tick == round(tick) for tick in axes.get_xticks())


def test_a_logarithmic_axis_on_demand():
    panels = plot_schedules({"step": SCHEDULES["step"]}, 40, log_scale=True)
    assert [axes.get_yscale() for axes in panels] == ["log"]


def test_nothing_to_draw_is_refused():
    assert sentence_of(lambda: plot_schedules({}, 10)) == (
        "plot_schedules: got no schedule. Pass some by name, such as {'step': step_schedule(0.1, 30)}."
    )
    assert sentence_of(lambda: plot_schedules(SCHEDULES, 0)) == (
        "plot_schedule: steps=0 is not at least 1. Pass a steps at least 1."
    )


@pytest.mark.parametrize(
    "draw, inches",
    [
        (lambda: plot_history(HISTORY), (7.0, 6.0)),
        (lambda: plot_history({"epoch": [0, 1], "loss": [2.0, 1.0]}), (7.0, 3.6)),
        (lambda: plot_schedules(SCHEDULES, 40), (11.6, 4.8)),
        (lambda: plot_schedules({"step": SCHEDULES["step"]}, 40), (2.9, 2.7)),
    ],
    ids=["history", "one panel", "schedules", "one schedule"],
)
def test_a_figure_saves_as_a_picture(draw: Callable[[], Any], inches: tuple[float, float], tmp_path: Path):
    path = tmp_path / "figure.png"
    draw()
    pyplot.savefig(path, dpi=100)
    assert png_size(path) == tuple(round(100 * length) for length in inches)
    assert path.stat().st_size > 4000


def test_what_is_drawn_is_the_figure_of_pyplot():
    """So that plt.show and plt.savefig show it, and a notebook does by itself."""
    assert plot_history(HISTORY)[0].get_figure() is pyplot.gcf()
    assert plot_schedules(SCHEDULES, 5)[0].get_figure() is pyplot.gcf()


def test_in_given_axes_nothing_of_pyplot_is_touched():
    plot_history(HISTORY, ax=Figure().subplots(2, 1))
    assert pyplot.get_fignums() == []


def test_lines_in_ink_are_light_on_a_dark_background():
    risk = ps.theory.risk(ps.sgd(0.5), ps.theory.NoisyQuadratic(1.0, 1.0), 3)
    for style, colour in (("default", "black"), ("dark_background", "white")):
        with pyplot.style.context(style):
            (axes,) = ps.plotting.plot_risk(risk)
            assert axes.lines[0].get_color() == colour


def test_without_matplotlib_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    monkeypatch.delattr("matplotlib.pyplot")
    for draw in (lambda: plot_history(HISTORY), lambda: plot_schedules(SCHEDULES, 5)):
        assert sentence_of(draw) == (
            "plotting: matplotlib is not installed. Install it: pip install pure_sgd[plot]."
        )
