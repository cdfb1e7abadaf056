"""What a person expects of a library: to look at a state, to draw into a figure of one's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import pure_sgd as ps
from pure_sgd import plotting
from pure_sgd.plotting import plot_schedule, plot_sweep


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
    plot_schedule(lambda step: 0.05, 4, label="constant", ax=axes)
    first, second = axes.get_lines()
    assert list(first.get_ydata()) == pytest.approx([0.1, 0.075, 0.05, 0.025])
    assert list(second.get_ydata()) == [0.05] * 4
    legend: Any = axes.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["linear", "constant"]


RISK = ps.theory.risk(ps.chain(ps.sgd(0.5), ps.params_ema(0.5)), ps.theory.NoisyQuadratic(1.0, 1.0), 3)
FOUND = ps.theory.critical_batch_size(
    problem := ps.theory.noisy_quadratic_model(4),
    [1, 4],
    target=0.3,
    families={"sgd": ps.theory.classical_families(problem.curvature)["sgd"]},
)
HISTORY = ps.History(
    step=[1, 2],
    epoch=[0, 1],
    loss=[2, 1],
    learning_rate=[0.1, 0.05],
    trace_covariance=[4, 3],
    grad_sq_norm=[2, 1],
)
PICTURES = {
    "plot_history": lambda **given: plotting.plot_history(HISTORY, **given),
    "plot_noise": lambda **given: plotting.plot_noise(HISTORY, **given),
    "plot_minibatch_variance": lambda **given: plotting.plot_minibatch_variance([1, 2], [2, 1], 2, **given),
    "plot_gradient_norms": lambda **given: plotting.plot_gradient_norms([1, 2], **given),
    "plot_schedule": lambda **given: plotting.plot_schedule(lambda step: 0.1, **given),
    "plot_schedules": lambda **given: plotting.plot_schedules({"a": lambda step: 0.1}, **given),
    "plot_sweep": lambda **given: plotting.plot_sweep({"rate": [0.1, 0.2]}, [1, 2], **given),
    "plot_risk": lambda **given: plotting.plot_risk(RISK, **given),
    "plot_predictions": lambda **given: plotting.plot_predictions({"rate": [1]}, {"rate": [2]}, **given),
    "plot_steps_to_target": lambda **given: plotting.plot_steps_to_target(FOUND, **given),
    "plot_best_methods": lambda **given: plotting.plot_best_methods(FOUND, **given),
}


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_returns_its_axes_and_draws_into_given_ones(name: str):
    drawn = PICTURES[name]()
    several = isinstance(drawn, list)
    given = list(Figure().subplots(2 if several and len(drawn) == 2 else 1, squeeze=False)[:, 0])
    again = PICTURES[name](ax=given if several else given[0])
    assert again == (given if several else given[0])
    for new, axes in zip(drawn if several else [drawn], given, strict=True):
        assert isinstance(new, Axes)
        assert axes.lines or axes.patches
        assert len(new.lines) == len(axes.lines)
        assert len(new.patches) == len(axes.patches)


def test_every_picture_is_in_the_table():
    assert {*PICTURES} == {name for name in vars(plotting) if name.startswith("plot_")}


def test_the_first_panel_alone_goes_into_a_single_axes():
    axes = Figure().subplots()
    assert HISTORY.plot(ax=axes) == [axes]
    assert [line.get_label() for line in axes.lines] == ["training"]


def test_a_heat_map_goes_into_axes_beside_others():
    figure = Figure()
    _, right = figure.subplots(1, 2)
    plot_sweep({"rate": [0.1, 0.2, 0.4], "decay": range(8)}, torch.rand(3, 8), ax=right)
    assert len(figure.axes) == 3  # and a bar of its colours


def test_what_is_no_axes_is_refused():
    panels = Figure().subplots(3)
    with pytest.raises(
        ps.PureSGDError, match=r"plot_history: ax holds 3 of .'Axes'., and there are 2 panels"
    ):
        HISTORY.plot(ax=panels)
    with pytest.raises(
        ps.PureSGDError, match=r"plot_schedule: ax holds 1 of .'str'., and there are 1 panels"
    ):
        plot_schedule(lambda step: 0.1, ax="here")
