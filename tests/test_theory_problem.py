"""The noisy quadratic as a problem to train on."""

from __future__ import annotations

import pytest
import torch

import pure_sgd as ps
from pure_sgd import theory

PROBLEM = theory.NoisyQuadratic([1.0, 0.25], noise=[4.0, 0.0], batch_size=16)


def test_risk_is_half_of_curvature_times_square():
    assert PROBLEM.risk(torch.tensor([1.0, 2.0])).item() == 1.0
    assert PROBLEM.risk(torch.ones(5, 3, 2)).shape == (5, 3)


def test_gradients_are_those_of_the_risk_with_noise_of_the_variance_told():
    params = torch.tensor([3.0, 2.0])
    keys = ps.random.split(ps.random.key(0), 20_000)
    grads = torch.func.vmap(PROBLEM.gradient, (None, 0))(params, keys)
    assert grads.mean(0).tolist() == pytest.approx([3.0, 0.5], abs=4 * 0.5 / 20_000**0.5)
    assert grads.var(0).tolist() == pytest.approx([0.25, 0.0], rel=4 * (2 / 20_000) ** 0.5)
    assert PROBLEM.variance.tolist() == [0.25, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loss_has_that_gradient_and_the_step_that_dtype(dtype):
    params, key = torch.tensor([3.0, 2.0], dtype=dtype), ps.random.key(1)
    slope = torch.func.grad(PROBLEM.loss)(params, key)
    torch.testing.assert_close(slope, PROBLEM.gradient(params, key))
    tx = ps.sgd(0.1)
    state, _ = ps.make_step(PROBLEM.loss, tx)(ps.init_train_state(params, tx), key)
    torch.testing.assert_close(state.params, params - 0.1 * slope)


def test_the_noisy_quadratic_model_has_the_spectrum_of_its_paper():
    model = theory.noisy_quadratic_model(10_000, batch_size=8)
    assert model.curvature[[0, 1, -1]].tolist() == pytest.approx([1.0, 0.5, 1e-4])
    assert torch.equal(model.noise, model.curvature)
    assert model.batch_size == 8


def test_weight_decay_adds_to_every_curvature():
    assert PROBLEM.with_weight_decay(0.5).curvature.tolist() == [1.5, 0.75]
    assert PROBLEM.with_batch_size(4).variance.tolist() == [1.0, 0.0]
    assert PROBLEM.curvature.tolist() == [1.0, 0.25]


@pytest.mark.parametrize(
    "arguments, told",
    [
        (([1.0, 0.0], 1.0), "curvature has entries that are not positive and finite"),
        (([1.0, float("nan")], 1.0), "curvature has entries that are not positive"),
        ((1.0, -1.0), "noise has entries that are not at least 0"),
        ((1.0, float("inf")), "noise has entries that are not at least 0 and finite"),
        (([[1.0]], 1.0), r"curvature has shape \(1, 1\), expected \(n,\)"),
        (([], 1.0), r"curvature has shape \(0,\)"),
        (([1.0, 2.0], [1.0, 2.0, 3.0]), r"noise has shape \(3,\) where curvature has \(2,\)"),
        ((1.0, 1.0, 0), "batch_size=0 lies outside"),
    ],
)
def test_problems_that_are_none(arguments, told):
    with pytest.raises(ps.PureSGDError, match=told):
        theory.NoisyQuadratic(*arguments)


def test_parameters_are_one_number_a_coordinate():
    with pytest.raises(ps.PureSGDError, match=r"params has shape \(3,\), expected \(2,\)"):
        PROBLEM.gradient(torch.ones(3), ps.random.key(0))
