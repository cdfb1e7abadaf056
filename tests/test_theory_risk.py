"""Expected risks: against the chains themselves, closed forms, and finite differences."""

from __future__ import annotations

import pytest
import torch
from theory_chains import CHAINS, CURVATURE, Setting, run, settings

import pure_sgd as ps
from pure_sgd import theory

STEPS = 16
VARIANCE = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
PROBLEM = theory.NoisyQuadratic(CURVATURE, 4 * VARIANCE, batch_size=4)


def responses(build, setting):
    """What is left after each step of a start of 1 without noise, and of each single noise of 1.

    All are run as coordinates of one problem: row 0 is the start, row s the noise of step s.
    """
    runs, n = STEPS + 1, len(CURVATURE)
    start = torch.zeros(runs, n, dtype=torch.float64)
    start[0] = 1
    noise = torch.zeros(STEPS, runs, n, dtype=torch.float64)
    noise[range(STEPS), range(1, runs)] = 1
    h = CURVATURE.repeat(runs)
    found = run(build(setting, h), h, start.flatten(), noise.flatten(1))
    return tuple(part.reshape(STEPS + 1, runs, n) for part in found)


@pytest.mark.parametrize("name", CHAINS)
def test_moments_and_risk_are_those_of_the_chain_that_runs(name):
    """Exactly: the variance is the sum of squares of what each single noise leaves."""
    for setting in settings():
        expected = []
        for left in responses(CHAINS[name], setting):
            expected += [left[:, 0], (left[:, 1:] ** 2).sum(1) * VARIANCE]
        tx = CHAINS[name](setting, CURVATURE)
        found = theory.moments(tx, PROBLEM, STEPS)
        torch.testing.assert_close(tuple(found), tuple(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CHAINS)
def test_risk_is_the_sum_of_moments_and_its_last_one_can_be_had_alone(name):
    tx = CHAINS[name](Setting(0), CURVATURE)
    mean, variance, averaged_mean, averaged_variance = theory.moments(tx, PROBLEM, STEPS)
    found = theory.risk(tx, PROBLEM, STEPS)
    for part, m, v in zip(found, (mean, averaged_mean), (variance, averaged_variance), strict=True):
        start, noise = m**2 @ CURVATURE / 2, v @ CURVATURE / 2
        torch.testing.assert_close(tuple(part), (start + noise, start, noise), rtol=1e-10, atol=1e-12)
    last = theory.final_risk(tx, PROBLEM, STEPS)
    torch.testing.assert_close(last, found.averaged.total[-1], rtol=1e-10, atol=1e-12)


def test_sgd_has_its_closed_form_at_every_step():
    rate, h, c, start = 0.3, 0.7, 2.0, 1.5
    found = theory.risk(ps.sgd(rate), theory.NoisyQuadratic(h, c, 8), 300, initial=start).params
    shrunk = (1 - rate * h) ** torch.arange(301, dtype=torch.float64)
    torch.testing.assert_close(found.from_start, h / 2 * (start * shrunk) ** 2, rtol=1e-10, atol=0)
    variance = rate * c / 8 / (h * (2 - rate * h)) * (1 - shrunk**2)
    torch.testing.assert_close(found.from_noise, h / 2 * variance, rtol=1e-10, atol=0)


def test_the_mean_of_all_iterates_with_rate_one_over_t_is_that_of_the_examples():
    """On one example a step of mean estimation, the rate 1 / t makes the parameter the running mean."""
    problem = theory.NoisyQuadratic(1.0, 2.0)
    found = theory.risk(ps.sgd(lambda step: 1 / (1 + step)), problem, 50).params.total
    torch.testing.assert_close(found[1:], 1 / torch.arange(1, 51, dtype=torch.float64), rtol=1e-12, atol=0)


def test_noise_counts_by_its_variance_and_the_start_by_its_square():
    tx = ps.sgd(0.1, momentum=0.9)
    one = theory.risk(tx, PROBLEM.with_batch_size(1), 9).params
    four = theory.risk(tx, PROBLEM.with_batch_size(4), 9, initial=3).params
    torch.testing.assert_close(four.from_noise, one.from_noise / 4)
    torch.testing.assert_close(four.from_start, one.from_start * 9)
    initial = torch.tensor([1.0, 2.0, -3.0])
    each = theory.moments(tx, PROBLEM, 9, initial=initial)
    torch.testing.assert_close(each.mean, theory.moments(tx, PROBLEM, 9).mean * initial)


FLOATS = {
    "sgd": lambda x: ps.sgd(x[0], x[1], nesterov=True, weight_decay=x[2]),
    "dampened": lambda x: ps.sgd(x[0], x[1], dampening=x[2]),
    "decoupled": lambda x: ps.chain(
        ps.ema(x[1]), ps.add_decayed_weights(x[2]), ps.scale_by_learning_rate(x[0])
    ),
    "preconditioned": lambda x: ps.chain(
        ps.scale_by_preconditioner(CURVATURE, x[2]), ps.sgd(x[0]), ps.params_ema(x[1], debias=True)
    ),
    "scheduled": lambda x: ps.sgd(ps.cosine_decay_schedule(x[0], 15, alpha=x[2]), x[1]),
    "1 / t": lambda x: ps.chain(ps.sgd(lambda t: x[0] / (1 + x[2] * t)), ps.params_ema(x[1])),
    "lookahead": lambda x: ps.lookahead(ps.sgd(x[0], x[1]), 3, x[2]),
    "accumulation": lambda x: ps.multi_steps(ps.sgd(x[0], x[1], weight_decay=x[2]), 3),
    "schedule-free": lambda x: ps.schedule_free_sgd(x[0], b1=x[1]),
    "batch size": lambda x: ps.sgd(x[0], x[1]),
}


@pytest.mark.parametrize("name", FLOATS)
def test_the_slopes_by_every_number_are_those_of_finite_differences(name):
    def last(x, of=theory.final_risk):
        problem = PROBLEM.with_batch_size(1 + x[2]) if name == "batch size" else PROBLEM
        return of(FLOATS[name](x), problem, 20, initial=x[3])

    place = torch.tensor([0.2, 0.7, 0.3, 1.5], dtype=torch.float64)
    slope = torch.func.grad(last)(place)
    width = 1e-5 * torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(
        slope, torch.stack([(last(place + w) - last(place - w)) / 2e-5 for w in width]), rtol=1e-7, atol=1e-9
    )
    of_all = torch.func.grad(lambda x: last(x, theory.risk).averaged.total[-1])(place)
    torch.testing.assert_close(of_all, slope, rtol=1e-9, atol=1e-12)
    leaf = place.clone().requires_grad_()
    (by_backward,) = torch.autograd.grad(last(leaf), leaf)
    torch.testing.assert_close(by_backward, slope, rtol=1e-9, atol=1e-12)


def test_curvature_and_noise_have_slopes_too():
    def last(h, c):
        return theory.final_risk(ps.sgd(0.1), theory.NoisyQuadratic(h, c), 10)

    h, c = CURVATURE, VARIANCE
    by_curvature, by_noise = torch.func.grad(last, argnums=(0, 1))(h, c)
    risk = theory.risk(ps.sgd(0.1), theory.NoisyQuadratic(h, c), 10)
    torch.testing.assert_close(by_noise @ c, risk.params.from_noise[-1])
    step = torch.tensor([1e-6, 0.0, 0.0], dtype=torch.float64)
    assert by_curvature[0].item() == pytest.approx(((last(h + step, c) - last(h - step, c)) / 2e-6).item())


def test_a_sweep_over_rates_is_one_call():
    found = ps.sweep(lambda rate: theory.risk(ps.sgd(rate, 0.9), PROBLEM, 30).params.total, rate=[0.01, 0.1])
    for rate, total in zip((0.01, 0.1), found.results, strict=True):
        torch.testing.assert_close(total, theory.risk(ps.sgd(rate, 0.9), PROBLEM, 30).params.total)


@pytest.mark.parametrize("steps", [0, 1.5])
def test_a_number_of_steps_is_at_least_one(steps):
    for function in (theory.risk, theory.moments, theory.final_risk):
        with pytest.raises(ps.PureSGDError, match=r"steps="):
            function(ps.sgd(0.1), PROBLEM, steps)


def test_a_start_is_one_number_or_one_a_coordinate():
    with pytest.raises(ps.PureSGDError, match=r"initial: has shape \(2,\), expected \(\) or \(3,\)"):
        theory.risk(ps.sgd(0.1), PROBLEM, 3, initial=torch.ones(2))
