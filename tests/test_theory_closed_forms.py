"""The formulas by hand, against what the code of the optimizers itself is found to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import pure_sgd as ps

th = ps.theory
DOUBLE = torch.float64
RATES = torch.tensor([1e-3, 0.03, 0.3, 1.0, 1.9], dtype=DOUBLE)
CURVATURES = torch.tensor([1e-2, 0.5, 1.0], dtype=DOUBLE)
RATE, H = RATES[:, None], CURVATURES
PROBLEM = th.NoisyQuadratic(CURVATURES, noise=1.0)


def same(found: torch.Tensor, expected: Any, rtol: float = 1e-10) -> None:
    torch.testing.assert_close(
        found, torch.as_tensor(expected, dtype=DOUBLE).expand(found.shape), rtol=rtol, atol=0
    )


def exact(
    tx_of: Callable[[Any], ps.GradientTransformation], read: Callable[[Any], torch.Tensor]
) -> torch.Tensor:
    """What is read of the code for each rate and curvature, (rates, curvatures)."""
    return torch.stack([read(tx_of(rate.item())) for rate in RATES])


def moments(tx: ps.GradientTransformation, steps: int) -> Any:
    return th.moments(tx, PROBLEM, steps)


def preconditioned(power: float) -> Callable[[Any], ps.GradientTransformation]:
    return lambda rate: ps.chain(ps.scale_by_preconditioner(CURVATURES, power), ps.sgd(rate))


def variance(tx: ps.GradientTransformation) -> torch.Tensor:
    return th.steady_state_risk(tx, PROBLEM).variance


def averaged_variance(tx: ps.GradientTransformation) -> torch.Tensor:
    return th.steady_state_risk(tx, PROBLEM).averaged_variance


def rates(tx: ps.GradientTransformation) -> torch.Tensor:
    return th.convergence_rate(tx, PROBLEM).rates


def test_sgd():
    same(th.sgd_convergence_rate(RATE, H), exact(ps.sgd, rates))
    same(th.sgd_variance(RATE, H, 1.0), exact(ps.sgd, variance))
    same(th.sgd_variance(RATE, H, 3.0, 40), 3 * exact(ps.sgd, lambda tx: moments(tx, 40).variance[-1]))
    means = exact(ps.sgd, lambda tx: moments(tx, 40).mean[-1].abs())
    torch.testing.assert_close(th.sgd_convergence_rate(RATE, H) ** 40, means, rtol=1e-10, atol=1e-12)
    assert th.sgd_variance(2.0, 1.0, 1.0) == th.sgd_variance(3.0, 1.0, 1.0) == torch.inf
    assert th.sgd_variance(2.0, 1.0, 1.0, 5) == 20  # five times 2**2


def test_momentum():
    for beta in (0.0, 0.5, 0.9):
        heavy = exact(lambda rate, beta=beta: ps.sgd(rate, momentum=beta), variance)
        same(th.momentum_variance_factor(RATE, beta, H) * th.sgd_variance(RATE, H, 1.0), heavy)
        found = exact(lambda rate, beta=beta: ps.sgd(rate, momentum=beta), rates)
        same(th.momentum_convergence_rate(RATE, beta, H), found)
        assert (
            th.momentum_variance_factor(RATE, beta, H) <= th.momentum_variance_bound(beta) / (1 + beta)
        ).all()


def test_the_rule_of_thumb_for_the_variance_of_momentum_is_nearly_twice_too_large():
    exact_factor = th.momentum_variance_factor(0.1, 0.9, 0.01)
    assert round(exact_factor.item(), 3) == 9.998
    same(th.momentum_variance_bound(0.9), 19.0)
    same(th.momentum_variance_factor(1e-9, 0.9, 1.0), 10.0, 1e-6)


def test_overdamped_momentum_has_the_rate_of_a_larger_learning_rate():
    beta = 0.5
    edge = (1 - beta**0.5) ** 2
    for x in torch.tensor([1e-3, 1e-2, 0.5 * edge, 0.99 * edge], dtype=DOUBLE):
        error = th.overdamped_convergence_rate(x, beta, 1.0) - th.momentum_convergence_rate(x, beta, 1.0)
        assert 0 < error < 4 * beta * x**2 / (1 - beta) ** 3
    first = th.overdamped_convergence_rate(1e-5, beta, 1.0) - th.momentum_convergence_rate(1e-5, beta, 1.0)
    same(first, beta * 1e-10 / (1 - beta) ** 3, 1e-3)
    same(th.overdamped_convergence_rate(edge, beta, 1.0), 2 * beta**0.5 / (1 + beta**0.5))
    same(th.momentum_convergence_rate(edge, beta, 1.0), beta**0.5, 1e-6)
    same(th.momentum_convergence_rate(1.5 * edge, beta, 1.0), beta**0.5)


def test_averages():
    for gamma in (0.0, 0.5, 0.99):
        found = exact(lambda rate, g=gamma: ps.chain(ps.sgd(rate), ps.params_ema(g)), averaged_variance)
        same(th.ema_variance_factor(RATE, gamma, H) * th.sgd_variance(RATE, H, 1.0), found)
    found = exact(
        lambda rate: ps.chain(ps.sgd(rate), ps.polyak_average()),
        lambda tx: moments(tx, 40).averaged_variance[-1],
    )
    same(th.polyak_variance(RATE, H, 1.0, 40)[2:], found[2:])
    # Where the rate is small little is left of the formula's differences, and its sum is taken term by term.
    weights = torch.cumsum((1 - RATE * H) ** torch.arange(40)[:, None, None], 0)
    same((RATE / 40) ** 2 * (weights**2).sum(0), found)
    same(th.polyak_variance(RATE, H, 1.0, 40), found, 1e-5)
    same(th.polyak_variance(0.5, 2.0, 3.0, 10**6), 3 / 4 / 10**6, 1e-5)


def test_preconditioning():
    for power in (0.0, 0.5, 1.0):
        tx_of = preconditioned(power)
        same(th.preconditioned_convergence_rate(RATE, power, H), exact(tx_of, rates))
        factor = th.preconditioned_variance_factor(RATE, power, H)
        same(factor * th.sgd_variance(RATE, H, 1.0), exact(tx_of, variance))
    same(th.preconditioned_variance_factor(1e-9, 0.5, 0.01), 10.0, 1e-6)
    assert th.preconditioned_variance_factor(1.9, 0.5, 2.0).isnan()


def test_weight_decay():
    h, decay, optimum = torch.tensor([2.0, 0.02], dtype=DOUBLE), 0.1, 3.0
    same(th.weight_decay_condition_number(h, decay), 2.1 / 0.12)
    penalised = th.NoisyQuadratic(h, 1.0).with_weight_decay(decay).curvature
    same(penalised.max() / penalised.min(), th.weight_decay_condition_number(h, decay))
    w = th.weight_decay_optimum(h, decay, optimum)
    slope = torch.func.grad(lambda w: (h / 2 * (w - optimum) ** 2 + decay / 2 * w**2).sum())(w)
    torch.testing.assert_close(slope, torch.zeros(2, dtype=DOUBLE), atol=1e-12, rtol=0)


def test_the_noise_ball_grows_as_the_root_of_learning_rate_over_batch_size():
    radius = th.noise_ball_radius(1e-6, 1.0, 1.0)
    same(th.noise_ball_radius(4e-6, 1.0, 1.0, batch_size=16) / radius, 0.5, 1e-5)
    problem = th.NoisyQuadratic(0.5, noise=3.0, batch_size=4)
    found = th.steady_state_risk(ps.sgd(0.1), problem).variance.sqrt()
    same(th.noise_ball_radius(0.1, 0.5, noise=3.0, batch_size=4)[None], found)


@pytest.mark.parametrize("a", [0.75, 1.0, 2.0])
def test_1_over_t_decay_falls_as_1_over_steps(a: float):
    rate, h, steps = 0.5, 0.8, 4000
    decay = rate * h / a
    tx = ps.sgd(ps.inverse_time_decay_schedule(rate, decay))
    found = th.final_risk(tx, th.NoisyQuadratic(h, noise=3.0), steps, initial=0.0) * 2 / h
    # What is left of the next order falls as steps**(1 - 2 a), or 1 / steps, relatively.
    same(th.inverse_time_decay_variance(rate, decay, h, 3.0, steps), found, 0.05)
    best = th.inverse_time_decay_variance(rate, rate * h, h, 3.0, steps)
    same(best, 3 / (h**2 * steps))
    assert th.inverse_time_decay_variance(rate, decay, h, 3.0, steps) >= best


def test_1_over_t_decay_that_is_too_fast_is_slower_than_1_over_steps():
    problem = th.NoisyQuadratic(1.0, noise=1.0)
    tx = ps.sgd(ps.inverse_time_decay_schedule(0.5, 0.5 / 0.25))
    early, late = (th.final_risk(tx, problem, steps) * steps for steps in (500, 2000))
    assert late > 1.9 * early  # as steps**(-1/2)
    assert th.inverse_time_decay_variance(0.5, 0.5 / 0.25, 1.0, 1.0, 2000) == torch.inf


def test_mean_estimation():
    problem, k, start = th.NoisyQuadratic(1.0, noise=2.0), 30, 3.0
    risk = th.mean_estimation_risk(0.3, variance=2.0, steps=k, start=start)
    constant = th.risk(ps.chain(ps.sgd(0.3), ps.polyak_average()), problem, k, initial=start)
    decaying = th.risk(ps.sgd(ps.inverse_time_decay_schedule(1.0, 1.0)), problem, k, initial=start)
    same(risk.constant, constant.params.total[-1])
    same(risk.averaged, constant.averaged.total[-1])
    same(risk.decaying, decaying.params.total[-1])


def test_the_rate_1_over_k_is_the_mean_of_the_samples():
    x = ps.random.normal(ps.random.key(0), (20, 1), torch.float64)
    loss = ps.empirical_risk(lambda w, x: (w - x) ** 2 / 2)
    tx = ps.sgd(ps.inverse_time_decay_schedule(1.0, 1.0))
    state = ps.init_train_state(torch.tensor(5.0, dtype=torch.float64), tx)
    state, _ = ps.scan(ps.make_step(loss, tx), state, (x,), compile=False)
    torch.testing.assert_close(state.params, x.mean())


SLOPES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sgd_convergence_rate": lambda v: th.sgd_convergence_rate(v, 0.5),
    "sgd_variance": lambda v: th.sgd_variance(v, 0.5, 1.0),
    "sgd_variance_after_steps": lambda v: th.sgd_variance(v, 0.5, 1.0, 10),
    "noise_ball_radius": lambda v: th.noise_ball_radius(v, 0.5, 1.0),
    "momentum_underdamped": lambda v: th.momentum_convergence_rate(0.5, v, 0.5),
    "momentum_overdamped": lambda v: th.momentum_convergence_rate(0.01, v, 0.5),
    "momentum_variance_factor": lambda v: th.momentum_variance_factor(0.1, v, 0.5),
    "ema_variance_factor": lambda v: th.ema_variance_factor(0.1, v, 0.5),
    "polyak_variance": lambda v: th.polyak_variance(v, 0.5, 1.0, 10),
    "preconditioned_variance_factor": lambda v: th.preconditioned_variance_factor(0.1, v, 0.5),
    "inverse_time_decay_variance": lambda v: th.inverse_time_decay_variance(1.0, v, 0.5, 1.0, 10),
}


@pytest.mark.parametrize("name", SLOPES)
def test_formulas_can_be_differentiated(name: str):
    point = torch.tensor(0.4, dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(SLOPES[name], (point,))


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: th.sgd_variance(0.1, 0.0, 1.0), r"sgd_variance: curvature=0.0 lies outside \(0, inf\)"),
        (lambda: th.sgd_variance(0.1, 1.0, -1.0), r"noise=-1.0 lies outside \[0, inf\)"),
        (lambda: th.momentum_variance_factor(0.1, 1.0, 1.0), r"momentum=1.0 lies outside \[0, 1\)"),
        (lambda: th.ema_variance_factor(-0.1, 0.5, 1.0), r"learning_rate=-0.1 lies outside \(0, inf\)"),
        (lambda: th.preconditioned_convergence_rate(0.1, 1.5, 1.0), r"power=1.5 lies outside \[0, 1\]"),
        (lambda: th.mean_estimation_risk(0.1, 1.0, 0), r"mean_estimation_risk: steps=0 lies outside"),
    ],
)
def test_bad_numbers_are_named(call: Callable[[], Any], sentence: str):
    with pytest.raises(ps.PureSGDError, match=sentence):
        call()
