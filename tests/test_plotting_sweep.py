"""Pictures of sweeps: lines, bands, heat maps, and axes that suit the grid."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import pure_sgd as ps

plot_sweep: Any = ps.plotting.plot_sweep
RATES = [0.01, 0.1, 1.0]


def lines(axes: Any) -> dict[str, list[float]]:
    return {line.get_label(): list(line.get_ydata()) for line in axes.lines}


def test_the_second_axis_is_a_line_each_and_seeds_are_a_mean_in_a_band():
    grids = {"rate": RATES, "seed": [0, 1], "momentum": [0.0, 0.9]}
    risk = torch.tensor([[[3.0, 5.0], [5.0, 9.0]], [[1.0, 2.0], [3.0, 2.0]], [[4.0, 4.0], [4.0, 4.0]]])
    axes = plot_sweep(grids, risk)
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("rate", "final risk")
    assert list(axes.lines[0].get_xdata()) == RATES
    assert lines(axes) == {"momentum = 0": [4.0, 2.0, 4.0], "momentum = 0.9": [7.0, 2.0, 4.0]}
    band = axes.collections[0].get_paths()[0].vertices
    assert sorted({float(y) for x, y in band if x == RATES[0]}) == [3.0, 5.0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(lines(axes))


def test_what_diverged_is_left_out_and_the_rest_decides_the_scale():
    axes = plot_sweep({"rate": RATES}, [100.0, 1.0, math.inf], label="held-out loss")
    (drawn,) = lines(axes).values()
    assert drawn[:2] == [100.0, 1.0]
    assert math.isnan(drawn[2])
    assert (axes.get_yscale(), axes.get_ylabel()) == ("log", "held-out loss")
    assert not axes.collections
    assert axes.get_legend() is None


@pytest.mark.parametrize(
    "grid, scale",
    [
        ([0.1, 0.2, 0.3], "linear"),
        ([1, 2, 4, 8], "log"),
        ([4, 1, 2], "log"),
        ([0.1, 1.0], "linear"),
        ([0.0, 1.0, 10.0], "linear"),
        ([1, 1, 1], "linear"),
    ],
)
def test_only_a_grid_with_a_common_ratio_is_logarithmic(grid: list[float], scale: str):
    axes = plot_sweep({"x": grid}, torch.ones(len(grid)))
    assert axes.get_xscale() == scale
    assert list(axes.lines[0].get_xdata()) == sorted(grid)


def test_fractions_have_ticks_of_their_own():
    axes = plot_sweep({"x": [0.1, 0.2, 0.3]}, torch.ones(3))
    assert len([tick for tick in axes.get_xticks() if 0.1 <= tick <= 0.3]) > 2


def test_two_long_axes_are_a_heat_map():
    rates, decays = torch.logspace(-3, 0, 4), torch.linspace(0, 1, 8)
    risk = rates[:, None] * (1 + decays) + torch.zeros(4, 8)
    risk[3, 7] = math.nan
    panel, bar = plot_sweep({"rate": rates, "decay": decays}, risk).get_figure().axes
    assert (panel.get_xlabel(), panel.get_ylabel(), bar.get_ylabel()) == ("rate", "decay", "final risk")
    assert (panel.get_xscale(), panel.get_yscale()) == ("log", "linear")
    (mesh,) = panel.collections
    shown = torch.as_tensor(mesh.get_array().filled(math.nan))
    torch.testing.assert_close(shown, risk.T.double(), equal_nan=True)
    corners = torch.as_tensor(mesh.get_coordinates())
    # A cell ends halfway between its value and the next: in ratio on one axis, in difference on the other.
    torch.testing.assert_close(corners[0, :, 0], torch.logspace(-3.5, 0.5, 5, dtype=torch.float64))
    torch.testing.assert_close(corners[:, 0, 1], torch.linspace(-0.5, 7.5, 9, dtype=torch.float64) / 7)


def test_a_heat_map_sorts_its_axes():
    x, y, risk = torch.tensor([2.0, 0.0, 1.0]), torch.arange(7.0).flip(0), torch.arange(21.0).reshape(3, 7)
    (mesh,) = plot_sweep({"x": x, "y": y}, risk).collections
    assert torch.equal(torch.as_tensor(mesh.get_array().filled()), risk[[1, 2, 0]].flip(1).T)


def test_a_sweep_goes_in_as_it_comes_out():
    grids, results = ps.sweep(lambda rate, seed: (rate - 0.1) ** 2 + seed, rate=RATES, seed=range(3))
    axes = plot_sweep(grids, results)
    assert list(lines(axes).values()) == [pytest.approx([1 + (rate - 0.1) ** 2 for rate in RATES])]
    grids, results = ps.sweep(lambda rate, seed: rate + seed, rate=RATES, seed=range(3), zipped=True)
    axes = plot_sweep(grids, results)
    assert list(lines(axes).values()) == [pytest.approx([0.01, 1.1, 3.0])]


@pytest.mark.parametrize(
    "grids, shape, sentence",
    [
        ({"a": [1, 2]}, (3,), r"risk has shape \(3,\), and the grids \['a'\] have \(2,\)"),
        ({"a": [1, 2], "b": [1]}, (1, 2), r"risk has shape \(1, 2\)"),
        ({"a": torch.ones(2, 3)}, (2,), "over grids of numbers"),
        ({}, (), "one number of each run"),
        (
            {"a": [1], "b": [1], "c": [1], "seed": [1]},
            (1, 1, 1, 1),
            r"\['a', 'b', 'c'\], and a picture has room",
        ),
    ],
)
def test_what_cannot_be_drawn_is_named(grids: Any, shape: tuple[int, ...], sentence: str):
    with pytest.raises(ps.PureSGDError, match=sentence):
        plot_sweep(grids, torch.ones(shape))
