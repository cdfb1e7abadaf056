"""What a person expects of a library: to look at a state, to draw into a figure of one's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

import pure_sgd as ps
from pure_sgd.plotting import plot_history, plot_noise_scale, plot_schedule, plot_sweep


def test_a_state_is_described_leaf_by_leaf_with_the_sums():
    params = {"w": torch.tensor([[3.0, 4.0]]), "n": torch.ones(2, dtype=torch.bfloat16)}
    lines = ps.describe(ps.init_train_state(params, ps.sgd(0.1, momentum=0.9)), "state").splitlines()
    assert [line.split()[0] for line in lines] == [
        "leaf",
        "state.step",
        "state.params['n']",
        "state.params['w']",
        "state.opt_state[0].step",
        "state.opt_state[0].trace['n']",
        "state.opt_state[0].trace['w']",
        "state.opt_state[1].step",
        "state.opt_state[1].learning_rate",
        "8",
    ]
    assert lines[3].split()[1:] == ["(1,", "2)", "float32", "8", "5"]
    assert lines[-1].split() == ["8", "leaves", "12", "numbers", "60"]
    assert (
        len({line.index(" " + word) for line, word in zip(lines[1:3], ("int64", "bfloat16"), strict=True)})
        == 1
    )


def test_what_is_no_tensor_or_complex_or_empty_is_described_too():
    assert ps.describe(torch.tensor([3 + 4j])).splitlines()[1].split() == [
        "(itself)",
        "(1,)",
        "complex64",
        "8",
        "5",
    ]
    assert ps.describe({"a": 0.5, "b": torch.zeros(0)}).splitlines()[1].split() == ["['a']", "0.5"]
    assert ps.describe({}).splitlines()[1].split() == ["0", "leaves", "0", "numbers", "0"]


def test_a_schedule_is_drawn_and_another_into_the_same_axes():
    axes = plot_schedule(ps.linear_schedule(0.1, 0.0, 4), 4, label="linear")
    plot_schedule(lambda step: 0.05, 4, axes, label="constant")
    first, second = axes.get_lines()
    assert list(first.get_ydata()) == pytest.approx([0.1, 0.075, 0.05, 0.025])
    assert list(second.get_ydata()) == [0.05] * 4
    legend: Any = axes.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["linear", "constant"]


def test_pictures_are_drawn_into_axes_that_are_given():
    figure = Figure()
    upper, lower = figure.subplots(2, 1)
    history = {"epoch": [0, 1], "loss": [2.0, 1.0], "learning_rate": [0.1, 0.05]}
    assert plot_history(history, axes=(upper, lower)) is figure
    assert [len(axes.get_lines()) for axes in (upper, lower)] == [1, 1]
    scales = [ps.noise_scale_from_batch_sizes(5.0, 2.0, 1, 4)] * 2
    assert plot_noise_scale([0, 1], scales, axes=(upper, lower)) is figure
    panel = Figure().subplots()
    assert plot_sweep({"rate": [0.1, 0.2]}, [1.0, 2.0], axes=panel) is panel.get_figure()
    assert len(panel.get_lines()) == 1


def test_a_heat_map_goes_into_axes_beside_others():
    figure = Figure()
    _, right = figure.subplots(1, 2)
    plot_sweep({"rate": [0.1, 0.2, 0.4], "decay": range(8)}, torch.rand(3, 8), axes=right)
    assert len(figure.axes) == 3  # and a bar of its colours


def test_axes_of_another_number_are_refused():
    with pytest.raises(ps.PureSGDError, match="axes holds 1 panels, and 2 are drawn"):
        plot_history({"epoch": [0], "loss": [1.0], "learning_rate": [0.1]}, axes=Figure().subplots())
