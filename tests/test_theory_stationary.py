"""What chains settle down to: closed forms, long runs, and limits of stability."""

from __future__ import annotations

import pytest
import torch
from theory_chains import CHAINS, Setting

import pure_sgd as ps
from pure_sgd import theory

H, C, RATE, B = 0.3, 2.0, 0.4, 8
ONE = theory.NoisyQuadratic(H, C, B)
SGD = RATE * C / B / (H * (2 - RATE * H))  # the stationary variance
THREE = theory.NoisyQuadratic([1.0, 0.6, 0.3], [0.5, 1.0, 2.0])
SETTLE = [
    "momentum",
    "nesterov",
    "dampening",
    "weight decay",
    "debiased ema of gradients",
    "momentum and average",
    "averaged without bias",
    "lookahead",
    "lookahead that forgets",
    "accumulation, then an average",
    "apply every",
    "cyclic",
    "optimistic",
    "filtered",
]


def variance(tx):
    return theory.steady_state_risk(tx, ONE).variance.item()


def test_sgd():
    assert variance(ps.sgd(RATE)) == pytest.approx(SGD, rel=1e-12)
    assert theory.steady_state_risk(ps.sgd(RATE), ONE).params.item() == pytest.approx(H / 2 * SGD, rel=1e-12)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.99])
def test_momentum(beta):
    x = RATE * H
    factor = (1 + beta) * (2 - x) / ((1 - beta) * (2 * (1 + beta) - x))
    assert variance(ps.sgd(RATE, beta)) == pytest.approx(factor * SGD, rel=1e-10)


def test_the_factor_of_momentum_is_ten_and_not_nineteen():
    small = theory.NoisyQuadratic(0.01, 1.0)
    with_it, without = (theory.steady_state_risk(ps.sgd(0.1, beta), small).params for beta in (0.9, 0.0))
    assert (with_it / without).item() == pytest.approx(9.998, abs=1e-3)


@pytest.mark.parametrize("gamma", [0.1, 0.9, 0.999])
def test_average(gamma):
    left = (1 - RATE * H) * gamma
    factor = (1 - gamma) * (1 + left) / ((1 + gamma) * (1 - left))
    found = theory.steady_state_risk(ps.chain(ps.sgd(RATE), ps.params_ema(gamma)), ONE)
    assert found.averaged_variance.item() == pytest.approx(factor * SGD, rel=1e-10)
    assert found.variance.item() == pytest.approx(SGD, rel=1e-12)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_preconditioning(power):
    tx = ps.chain(ps.scale_by_preconditioner(torch.tensor([H]).double(), power), ps.sgd(RATE))
    rate = RATE * torch.tensor(H).double().item() ** -power
    assert variance(tx) == pytest.approx(rate * C / B / (H * (2 - rate * H)), rel=1e-6)
    assert theory.convergence_rate(tx, ONE).worst.item() == pytest.approx(1 - RATE * H ** (1 - power))


def test_weight_decay_is_more_curvature():
    in_chain = theory.steady_state_risk(ps.sgd(RATE, weight_decay=0.2), ONE).variance
    in_problem = theory.steady_state_risk(ps.sgd(RATE), ONE.with_weight_decay(0.2)).variance
    torch.testing.assert_close(in_chain, in_problem, rtol=1e-12, atol=0)


def test_accumulation_is_a_larger_batch():
    alone = theory.steady_state_risk(ps.sgd(RATE), ONE.with_batch_size(4 * B)).variance
    four = ps.multi_steps(ps.sgd(RATE), 4)
    torch.testing.assert_close(theory.steady_state_risk(four, ONE, after=20).variance, alone)
    rate = theory.convergence_rate(four, ONE, after=20).worst
    assert rate.item() == pytest.approx((1 - RATE * H) ** (1 / 4))


@pytest.mark.parametrize("name", SETTLE)
def test_the_steady_state_is_where_long_runs_end(name):
    """The variance is that of the last steps; the error shrinks by the rate, through oscillations."""
    setting = Setting(4)
    setting.rate, setting.decay = 0.5, 0.9
    tx = CHAINS[name](setting, THREE.curvature)
    found = theory.moments(tx, THREE, 900)
    steady = theory.steady_state_risk(tx, THREE, after=300)
    rates = theory.convergence_rate(tx, THREE, after=300)
    for mean, late, end, rate in (
        (found.mean, found.variance, steady.variance, rates.rates),
        (found.averaged_mean, found.averaged_variance, steady.averaged_variance, rates.averaged),
    ):
        # 120 steps are a whole number of every period in the table.
        torch.testing.assert_close(late[-120:].mean(0), end, rtol=1e-6, atol=0)
        size = mean[1:361].abs().reshape(3, 120, 3).amax(1)
        seen = size[2] > 1e-100
        measured = (size[2] / size[1]) ** (1 / 120)
        torch.testing.assert_close(measured[seen], rate[seen], rtol=2e-2, atol=0)


def test_a_uniform_average_forgets_all_noise_slower_than_any_power():
    for average in (ps.polyak_average(), ps.stochastic_weight_average(5, 3)):
        tx = ps.chain(ps.sgd(RATE), average)
        steady, rate = theory.steady_state_risk(tx, ONE, after=50), theory.convergence_rate(tx, ONE, after=50)
        assert steady.averaged.item() == 0
        assert steady.variance.item() == pytest.approx(SGD)
        assert rate.worst.item() == pytest.approx(1 - RATE * H)
        assert rate.averaged.item() == 1


def test_a_rate_that_rests_after_a_while_counts_from_there():
    warm = ps.sgd(ps.warmup_constant_schedule(0.0, RATE, 100))
    assert theory.steady_state_risk(warm, ONE, after=100).variance.item() == pytest.approx(SGD)
    with pytest.raises(ps.PureSGDError, match="still changes after 40 steps"):
        theory.steady_state_risk(warm, ONE, after=40)


@pytest.mark.parametrize(
    "tx",
    [
        ps.sgd(ps.cosine_decay_schedule(0.1, 10**7)),
        ps.sgd(ps.inverse_time_decay_schedule(0.1, 0.1)),
        ps.schedule_free_sgd(0.1),
        ps.chain(ps.sgd(0.1), ps.params_ema(ps.power_ema_schedule(2.0))),
        ps.chain(ps.ema(0.9999), ps.sgd(0.1)),
    ],
)
def test_what_never_rests_has_no_steady_state(tx):
    for function in (theory.steady_state_risk, theory.convergence_rate):
        with pytest.raises(ps.PureSGDError, match=f"{function.__name__}: the map of a step still changes"):
            function(tx, ONE, after=300)


def test_unstable_is_infinite():
    two = theory.NoisyQuadratic([1.0, 0.1], 1.0)
    steady = theory.steady_state_risk(ps.chain(ps.sgd(2.5), ps.params_ema(0.9)), two)
    assert steady.params.isinf()
    assert steady.averaged.isinf()
    assert steady.variance.isinf().tolist() == [True, False]
    assert theory.convergence_rate(ps.sgd(2.5), two).rates.tolist() == pytest.approx([1.5, 0.75])


def test_steady_states_are_differentiable_and_can_be_mapped_over():
    def of(x):
        tx = ps.chain(ps.sgd(x[0], x[1]), ps.params_ema(x[2]))
        return theory.steady_state_risk(tx, THREE).averaged

    place = torch.tensor([0.2, 0.7, 0.9], dtype=torch.float64)
    slope = torch.func.grad(of)(place)
    width = 1e-5 * torch.eye(3, dtype=torch.float64)
    expected = torch.stack([(of(place + w) - of(place - w)) / 2e-5 for w in width])
    torch.testing.assert_close(slope, expected, rtol=1e-6, atol=0)
    both = torch.stack([place, place / 2])
    torch.testing.assert_close(torch.func.vmap(of)(both), torch.stack([of(place), of(place / 2)]))

    def rate(rate):
        tx = ps.chain(ps.multi_steps(ps.sgd(rate), 3), ps.params_ema(0.99))
        return theory.convergence_rate(tx, THREE, after=30).rates

    rates = torch.tensor([0.1, 0.3], dtype=torch.float64)
    torch.testing.assert_close(torch.func.vmap(rate)(rates), torch.stack([rate(r) for r in rates]))


@pytest.mark.parametrize(
    "tx_of, limit",
    [
        (ps.sgd, 2.0),
        (lambda rate: ps.sgd(rate, 0.9), 2 * 1.9),
        (lambda rate: ps.sgd(rate, 0.9, nesterov=True), 2 * 1.9 / 2.8),
        (lambda rate: ps.sgd(rate, weight_decay=0.5), 2 / 1.5),
        (lambda rate: ps.chain(ps.ema(0.9, debias=False), ps.sgd(rate)), 2 * 1.9 / 0.1),
        (lambda rate: ps.chain(ps.sgd(rate), ps.params_ema(0.999)), 2.0),
    ],
)
def test_the_stability_limit(tx_of, limit):
    found = theory.stability_limit(tx_of, theory.NoisyQuadratic([1.0, 0.01], 1.0))
    assert found.item() == pytest.approx(limit, rel=1e-9)


def test_what_has_no_stability_limit():
    with pytest.raises(ps.PureSGDError, match="stability_limit: the chain is stable at every"):
        theory.stability_limit(lambda rate: ps.sgd(0.1), ONE)
    with pytest.raises(ps.PureSGDError, match="stability_limit: the chain is unstable at every"):
        theory.stability_limit(lambda rate: ps.scale(rate), ONE)
