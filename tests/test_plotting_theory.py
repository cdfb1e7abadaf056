"""Pictures of theory: the lines are its numbers, the points and bands what was measured."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import pure_sgd as ps

plotting: Any = ps.plotting
th = ps.theory


def lines(axes: Any) -> dict[str, list[float]]:
    return {line.get_label(): [float(y) for y in line.get_ydata()] for line in axes.lines}


def test_a_risk_is_drawn_with_its_parts_over_the_band_of_simulated_runs():
    tx, problem = ps.chain(ps.sgd(0.5), ps.params_ema(0.5)), th.NoisyQuadratic([1.0, 0.5], noise=1.0)
    risk = th.risk(tx, problem, 6)
    simulation = th.simulate(tx, problem, 6, 100, ps.random.key(0))
    panels = plotting.plot_risk(risk, simulation)
    for axes, parts, runs in zip(panels, risk, simulation, strict=True):
        found = lines(axes)
        assert found["expected"] == parts.total.tolist()
        assert found["from the start"] == parts.from_start.tolist()
        assert math.isnan(found["from noise"][0])  # 0 has no place on a logarithmic axis
        assert found["from noise"][1:] == parts.from_noise[1:].tolist()
        (band,) = axes.collections
        heights = [float(y) for x, y in band.get_paths()[0].vertices if x == 3]
        expected = [float(runs.mean[3] + sign * 2 * runs.standard_error[3]) for sign in (-1, 1)]
        assert [min(heights), max(heights)] == pytest.approx(expected)
    assert [axes.get_title() for axes in panels] == ["parameters", "averaged parameters"]


def test_without_an_average_there_is_one_panel_and_without_runs_no_band():
    (axes,) = plotting.plot_risk(th.risk(ps.sgd(0.5), th.NoisyQuadratic(1.0, 1.0), 3))
    assert not axes.collections
    assert axes.get_yscale() == "log"


def test_predictions_are_lines_and_measurements_points_with_bars():
    grids = {"learning rate": [0.01, 0.1, 1.0], "momentum": [0.0, 0.5]}
    predicted = {"learning rate": [1.0, 2.0, math.inf], "momentum": [1.0, 2.0]}
    measured = {"momentum": plotting.Measured([0.5], [2.1], [0.1])}
    rate, momentum = plotting.plot_predictions(grids, predicted, measured, label="risk")
    drawn = lines(rate)["predicted"]
    assert drawn[:2] == [1.0, 2.0]
    assert math.isnan(drawn[2])
    assert (rate.get_xscale(), momentum.get_xscale()) == ("log", "linear")
    assert (rate.get_xlabel(), momentum.get_xlabel(), rate.get_ylabel()) == (
        "learning rate",
        "momentum",
        "risk",
    )
    assert not rate.containers
    (bars,) = momentum.containers
    points, _, (spans,) = bars
    assert list(points.get_ydata()) == [2.1]
    assert [y for _, y in spans.get_segments()[0]] == pytest.approx([1.9, 2.3])


def found_by_hand() -> Any:
    def numbers(*values: float) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64)

    return th.CriticalBatchSize(
        batch_sizes=numbers(1, 4, 16),
        steps={
            "sgd": numbers(100, 50, 40),
            "momentum": numbers(200, 50, 10),
            "ema": numbers(50, 60, math.inf),
        },
        hyperparameters={},
        fewest={"sgd": numbers(40)[0], "momentum": numbers(5)[0], "ema": numbers(30)[0]},
        critical={"sgd": numbers(2)[0], "momentum": numbers(16)[0], "ema": numbers(math.nan)[0]},
    )


def test_steps_to_the_target_have_a_line_and_a_cross_each():
    axes = plotting.plot_steps_to_target(found_by_hand())
    found = lines(axes)
    assert found["steps ~ 1 / b"] == [100.0, 25.0, 6.25]
    assert found["momentum"] == [200.0, 50.0, 10.0]
    assert math.isnan(found["ema"][2])
    crosses = [
        (float(x), float(y)) for line in axes.lines if line.get_marker() == "x" for x, y in line.get_xydata()
    ]
    assert crosses[:2] == [(2.0, 80.0), (16.0, 10.0)]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_the_method_that_needs_the_fewest_steps_has_its_shade():
    axes = plotting.plot_best_methods(found_by_hand(), beside="momentum")
    assert lines(axes)["sgd"] == [2.0, 1.0, 0.25]
    assert lines(axes)["ema"] == [4.0, 50 / 60, 0.0]
    spans = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in axes.patches]
    torch.testing.assert_close(torch.tensor(spans), torch.tensor([(1.0, 2.0), (2.0, 8.0), (8.0, 16.0)]))
    colours = {line.get_label(): line.get_color() for line in axes.lines}
    shades = [tuple(patch.get_facecolor()[:3]) for patch in axes.patches]
    from matplotlib.colors import to_rgb

    assert shades == [to_rgb(colours[name]) for name in ("ema", "sgd", "momentum")]


def test_what_cannot_be_drawn_is_named():
    risk = th.risk(ps.sgd(0.5), th.NoisyQuadratic(1.0, 1.0), 3)
    runs = th.simulate(ps.sgd(0.5), th.NoisyQuadratic(1.0, 1.0), 2, 2, ps.random.key(0))
    with pytest.raises(ps.PureSGDError, match="simulation has 2 steps and risk 3"):
        plotting.plot_risk(risk, runs)
    with pytest.raises(ps.PureSGDError, match="plot_predictions: grids has"):
        plotting.plot_predictions({"a": [1.0]}, {"b": [1.0]})
    with pytest.raises(ps.PureSGDError, match="the grid a has shape"):
        plotting.plot_predictions({"a": [1.0]}, {"a": [1.0, 2.0]})
    with pytest.raises(ps.PureSGDError, match="beside='adam'"):
        plotting.plot_best_methods(found_by_hand(), beside="adam")
