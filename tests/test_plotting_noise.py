"""Pictures of gradient noise: what is drawn is what was measured."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import pure_sgd as ps

plotting = ps.plotting


def test_the_variance_of_mini_batches_is_drawn_over_its_law():
    axes: Any = plotting.plot_minibatch_variance(
        [1, 10, 100], [8.1, 0.79, 0.01], 8.0, 100, [0.1, 0.01, 0.001]
    )
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    law, without = axes.lines[:2]
    sizes = torch.as_tensor(law.get_xdata())
    assert (float(sizes[0]), float(sizes[-1])) == (1.0, 100.0)
    torch.testing.assert_close(torch.as_tensor(law.get_ydata()), 8.0 / sizes)
    torch.testing.assert_close(torch.as_tensor(without.get_ydata()), 8.0 / sizes * (1 - sizes / 100))
    points = axes.containers[0].lines[0]
    assert list(points.get_ydata()) == [8.1, 0.79, 0.01]


def test_norms_are_counted_and_the_bound_says_what_it_clips():
    axes: Any = plotting.plot_gradient_norms(torch.tensor([0.1, 0.2, 0.3, 2.0]), max_norm=1.0, bins=5)
    assert sum(patch.get_height() for patch in axes.patches) == 4
    assert [line.get_label() for line in axes.lines] == ["median", "bound: 25% are clipped"]


def test_the_noise_scale_over_training_leaves_out_what_is_not_positive():
    history = {"step": [0, 10, 20], "trace_covariance": [4.0, 4.0, 6.0], "grad_sq_norm": [2.0, -1.0, 1.0]}
    terms, ratio = plotting.plot_noise(history, batch_size=32)
    assert list(terms.lines[0].get_ydata()) == [4.0, 4.0, 6.0]
    drawn = list(ratio.lines[0].get_ydata())
    assert drawn[::2] == [2.0, 6.0]
    assert math.isnan(drawn[1])
    assert list(ratio.lines[1].get_ydata()) == [32, 32]


def test_what_fit_measures_can_be_drawn():
    loss = ps.empirical_risk(lambda params, x: (params - x) ** 2 / 2)
    data = (torch.linspace(-1, 3, 32),)
    _, history = ps.fit(
        loss, ps.sgd(0.1), torch.tensor(0.0), data, epochs=3, batch_size=8, statistics=1, progress=False
    )
    terms, ratio = plotting.plot_noise(history, by="epoch")
    assert list(terms.lines[0].get_ydata()) == history["trace_covariance"]
    assert list(ratio.lines[0].get_ydata()) == history["noise_scale"]
    assert ratio.get_xlabel() == "epoch"


@pytest.mark.parametrize(
    "draw, sentence",
    [
        (lambda: plotting.plot_minibatch_variance([1, 2], [1.0], 1.0), "2 batch sizes and 1 measurements"),
        (lambda: plotting.plot_minibatch_variance([], [], 1.0), "0 batch sizes"),
        (lambda: plotting.plot_gradient_norms(torch.tensor([1.0, math.nan])), "not finite"),
        (lambda: plotting.plot_gradient_norms(torch.zeros(0)), "holds 0 numbers"),
        (lambda: plotting.plot_noise({"step": [1]}), r"holds \['step'\], and not 'step' with"),
    ],
)
def test_what_cannot_be_drawn_is_named(draw: Any, sentence: str):
    with pytest.raises(ps.PureSGDError, match=sentence):
        draw()
