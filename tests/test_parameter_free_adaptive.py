"""Adam and momentum that find their own learning rate, held to the papers' loops over one float64 vector."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_golden import TRAJECTORIES, grads_at, initial_params
from test_parameter_free import START, Rule, assert_follows, late, noisy, value

import pure_sgd as ps


def prodigy(
    b1: float,
    b2: float,
    b3: float,
    eps: float,
    d0: float,
    coefficient: float = 1.0,
    decay: float = 0.0,
    rate: Callable[[int], float] = lambda t: 1.0,
    safeguard: bool = False,
) -> Rule:
    x, d, r, t = START, d0, 0.0, 0
    m = v = s = torch.zeros_like(x)
    while True:
        g = yield x
        t += 1
        now = d * rate(t - 1) * math.sqrt(1 - b2**t) / (1 - b1**t)
        m = b1 * m + (1 - b1) * d * g
        v = b2 * v + (1 - b2) * d * d * g * g
        r = b3 * r + (1 - b3) * now * d * (g @ (START - x)).item()
        s = b3 * s + (1 - b3) * (d if safeguard else now) * d * g
        length = s.abs().sum().item()
        d = max(d, coefficient * r / length) if length else d
        # As in the authors' program, eps comes with the estimate that is new.
        move = m / (v.sqrt() + d * eps)
        x = x - now * (torch.where(m == 0, 0, move) + decay * x)


def test_prodigy():
    assert_follows(ps.prodigy(), prodigy(0.9, 0.999, math.sqrt(0.999), 1e-8, 1e-6), steps=60)
    tx = ps.prodigy(1.0, (0.8, 0.9), 0.7, 1e-3, 0.01, 2.0, 0.1)
    assert_follows(tx, prodigy(0.8, 0.9, 0.7, 1e-3, 0.01, 2.0, 0.1), late)


@pytest.mark.parametrize("safeguard", [True, False])
def test_prodigy_whose_rate_warms_up_from_zero(safeguard: bool):
    tx = ps.prodigy(ps.linear_schedule(0.0, 1.0, 4), estim_lr0=0.01, safeguard_warmup=safeguard)
    want = prodigy(
        0.9, 0.999, math.sqrt(0.999), 1e-8, 0.01, rate=lambda t: min(t / 4, 1), safeguard=safeguard
    )
    assert_follows(tx, want)


def test_prodigy_decays_the_weights_that_its_mask_picks():
    def after(mask: Any) -> dict[str, torch.Tensor]:
        tx = ps.prodigy(weight_decay=0.1, estim_lr0=0.1, weight_decay_mask=mask)
        params = {"b": torch.ones(()), "w": torch.ones(2)}
        return tx.update(ps.tree.map(torch.zeros_like, params), tx.init(params), params)[0]

    rate = 0.1 * math.sqrt(1 - 0.999) / (1 - 0.9)
    torch.testing.assert_close(after(None)["b"].item(), -0.1 * rate, rtol=1e-6, atol=0.0)
    assert after({"b": False, "w": True})["b"] == 0
    torch.testing.assert_close(after({"b": False, "w": True})["w"], torch.full((2,), -0.1 * rate))


def dadapt(
    b1: float,
    b2: float,
    eps: float,
    d0: float,
    decay: float = 0.0,
    rate: Callable[[int], float] = lambda t: 1.0,
) -> Rule:
    x, d, r, t, b3 = START, d0, 0.0, 0, math.sqrt(b2)
    m = v = s = torch.zeros_like(x)
    while True:
        g = yield x
        t += 1
        now = d * rate(t - 1) * math.sqrt(1 - b2**t) / (1 - b1**t)
        r = b3 * r + (1 - b3) * now * (g @ (s / (v.sqrt() + eps))).item()
        m = b1 * m + (1 - b1) * now * g
        v = b2 * v + (1 - b2) * g * g
        s = b3 * s + (1 - b3) * now * g
        length = s.abs().sum().item()
        d = max(d, r / ((1 - b3) * length)) if length else d
        x = x - m / (v.sqrt() + eps) - decay * now * x


def test_adam_with_d_adaptation():
    assert_follows(ps.dadapt_adamw(), dadapt(0.9, 0.999, 1e-8, 1e-6), steps=60)
    tx = ps.dadapt_adamw(ps.linear_schedule(0.0, 1.0, 4), (0.8, 0.9), 1e-3, 0.01, 0.1)
    assert_follows(tx, dadapt(0.8, 0.9, 1e-3, 0.01, 0.1, lambda t: min(t / 4, 1)))
    assert_follows(ps.dadapt_adamw(estim_lr0=0.01), dadapt(0.9, 0.999, 1e-8, 0.01), late)


@pytest.mark.parametrize("rule", [ps.scale_by_prodigy, ps.scale_by_dadapt_adam], ids=lambda f: f.__name__)
def test_the_estimate_grows_to_about_the_distance_to_the_solution(rule: Any):
    tx, params = ps.chain(rule(), ps.scale(-1.0)), START
    state, estimates = tx.init(params), []
    for _ in range(300):
        updates, state = tx.update(params.sign(), state, params)
        params = ps.apply_updates(params, updates)
        estimates.append(state[0].estim_lr.item())
    assert estimates == sorted(estimates)
    assert 0.1 < estimates[-1] / START.abs().max() < 2


def momo(
    adam: bool,
    largest: float,
    b1: float,
    least: float,
    decay: float,
    adapt: bool,
    b2: float = 0.999,
    eps: float = 1e-8,
    rate: Callable[[int], float] = lambda t: 1.0,
) -> Rule:
    x, f, c, bound, t = START, 0.0, 0.0, least, 0
    d = v = torch.zeros_like(x)
    while True:
        g = yield x
        a = largest * rate(t)
        t += 1
        memory = b1 if adam or t > 1 else 0.0
        rho = 1 - b1**t if adam else 1.0
        f = memory * f + (1 - memory) * value(x).item()
        c = memory * c + (1 - memory) * (g @ x).item()
        d = memory * d + (1 - memory) * g
        v = b2 * v + (1 - b2) * g * g
        metric = (v / (1 - b2**t)).sqrt() + eps if adam else torch.ones_like(x)
        square = (d @ (d / metric)).item()
        shrink = 1 + a * decay
        cap = shrink * (f - c) + (d @ x).item()
        if adapt and cap < shrink * rho * bound:
            bound = max(cap / (2 * shrink * rho), least)
        tau = min(a / rho, max(cap - shrink * rho * bound, 0) / square) if square else 0.0
        if adapt:
            bound = max((f + (d @ x).item() - c - tau * square / 2) / rho, least)
        x = (x - tau * d / metric) / shrink


@pytest.mark.parametrize("adapt", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_momo(decay: float, adapt: bool):
    for rate in (0.1, 10.0):
        tx = ps.momo(rate, 0.8, 0.01, decay, adapt)
        assert_follows(tx, momo(False, rate, 0.8, 0.01, decay, adapt))
        if not adapt:  # from zero gradients the estimate takes the value itself, but for round-off
            assert_follows(tx, momo(False, rate, 0.8, 0.01, decay, adapt), late)


@pytest.mark.parametrize("adapt", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_momo_adam(decay: float, adapt: bool):
    for rate in (0.1, 10.0):
        tx = ps.momo_adam(rate, 0.8, 0.9, 1e-3, 0.01, decay, adapt)
        assert_follows(tx, momo(True, rate, 0.8, 0.01, decay, adapt, 0.9, 1e-3))
        if not adapt:
            assert_follows(tx, momo(True, rate, 0.8, 0.01, decay, adapt, 0.9, 1e-3), late)


def test_the_largest_rate_of_momo_may_be_a_schedule():
    warmup = ps.linear_schedule(0.0, 0.5, 6)
    for tx, adam in ((ps.momo(warmup), False), (ps.momo_adam(warmup), True)):
        assert_follows(tx, momo(adam, 0.5, 0.9, 0.0, 0.0, False, rate=lambda t: min(t / 6, 1)))


@pytest.mark.parametrize("name", ["momo", "momo_adam"])
def test_momo_needs_the_value(name: str):
    tx = getattr(ps, name)()
    with pytest.raises(ps.PureSGDError, match=rf"^scale_by_{name}: the extra argument value is missing"):
        tx.update(START, tx.init(START), START)


def mechanic(rate: Callable[[int], float], decay: float, eps: float, first: float, count: int) -> Rule:
    """Around momentum of 0.9."""
    x, t = START, 0
    delta = speed = torch.zeros_like(x)
    betas = [1 - 0.1 ** (i + 1) for i in range(count)]
    m, v, r, s = [0.0] * count, [0.0] * count, [0.0] * count, [first] * count
    while True:
        g = yield x
        pulled = g + decay * sum(s) * g.norm() / (x.norm() + eps) * x
        h = (delta @ pulled).item()
        speed = 0.9 * speed + g
        delta = delta - rate(t) * speed
        for i, beta in enumerate(betas):
            r[i] = beta * r[i] - min(max(h, -m[i]), m[i]) * s[i]
            m[i] = max(beta * m[i], abs(h) + eps)
            v[i] = beta * beta * v[i] + h * h
            s[i] = (first / count * m[i] + max(r[i], 0.0)) / (math.sqrt(v[i]) + eps)
        x = START + sum(s) * delta
        t += 1


def test_mechanic():
    tx = ps.mechanize(ps.sgd(1.0, momentum=0.9))
    assert_follows(tx, mechanic(lambda t: 1.0, 1e-2, 1e-8, 1e-6, 6), steps=60)
    tx = ps.mechanize(ps.sgd(ps.linear_schedule(0.0, 1.0, 4), momentum=0.9), 0.1, 1e-3, 0.01, 3)
    want = mechanic(lambda t: min(t / 4, 1), 0.1, 1e-3, 0.01, 3)
    assert_follows(tx, want)
    assert_follows(tx, mechanic(lambda t: min(t / 4, 1), 0.1, 1e-3, 0.01, 3), late)


def test_with_what_optax_forgets_mechanic_is_that_of_optax():
    tx, params = ps.mechanize(ps.sgd(0.05)), initial_params()
    state, record = tx.init(params), TRAJECTORIES["contrib.mechanize(sgd(0.05))"]
    for step in range(len(record["updates"])):
        scale = state.scales.sum()
        state = state._replace(delta=ps.tree.map(lambda d, s=scale: d * s / (s + 1e-8), state.delta))
        updates, state = tx.update(grads_at(step), state, params)
        params = ps.apply_updates(params, updates)
        want = {name: torch.tensor(u, dtype=torch.float64) for name, u in record["updates"][step].items()}
        torch.testing.assert_close(updates, want, rtol=1e-7, atol=1e-15)


def test_mechanic_learns_in_bfloat16():
    tx, params = ps.mechanize(ps.sgd(1.0)), START.to(torch.bfloat16)
    state = tx.init(params)
    for _ in range(300):
        updates, state = tx.update(params, state, params)
        params = ps.apply_updates(params, updates)
    assert params.norm() < 0.1


def test_mechanic_begins_where_the_first_update_finds_the_parameters():
    tx = ps.mechanize(ps.sgd(1.0))
    here, there = (tx.update(noisy(0, START), tx.init(p), START)[0] for p in (START, torch.zeros_like(START)))
    assert torch.equal(here, there)


def test_mechanic_hands_on_the_extra_arguments_and_the_scale_can_be_seen():
    tx = ps.chain(ps.mechanize(ps.momo(), s_init=0.5, num_betas=1))
    state = tx.init(START)
    _, state = tx.update(START, state, START, value=value(START))
    assert state[0].scales.sum() == pytest.approx(0.5)


BAD = [
    (ps.mechanize, {"base_optimizer": ps.sgd}, "got a function, expected a GradientTransformation"),
    (ps.mechanize, {"base_optimizer": ps.sgd(1.0), "num_betas": 0}, "num_betas=0 is not at least 1"),
    (ps.mechanize, {"base_optimizer": ps.sgd(1.0), "s_init": 0.0}, r"s_init=0.0 lies outside \(0, inf\)"),
    (ps.scale_by_momo, {"beta": 1.0}, r"beta=1.0 lies outside \[0, 1\)"),
    (ps.scale_by_momo_adam, {"learning_rate": -1.0}, r"learning_rate=-1.0 lies outside \[0, inf\)"),
    (ps.scale_by_momo_adam, {"lower_bound": "0"}, r"lower_bound='0' is of type str"),
    (ps.scale_by_dadapt_adam, {"b2": 1.0}, r"b2=1.0 lies outside \[0, 1\)"),
    (ps.scale_by_dadapt_adam, {"weight_decay": -1.0}, r"weight_decay=-1.0 lies outside \[0, inf\)"),
    (ps.scale_by_prodigy, {"b3": 1.0}, r"b3=1.0 lies outside \[0, 1\)"),
    (ps.scale_by_prodigy, {"estim_lr0": 0.0}, r"estim_lr0=0.0 lies outside \(0, inf\)"),
]


@pytest.mark.parametrize(
    ("rule", "settings", "words"), BAD, ids=lambda setting: getattr(setting, "__name__", "")
)
def test_a_number_out_of_range_is_an_error_that_names_it(rule: Any, settings: dict[str, Any], words: str):
    with pytest.raises(ps.PureSGDError, match=f"^{rule.__name__}: {words}"):
        rule(**settings)


@pytest.mark.parametrize(
    "rule",
    [ps.mechanize, ps.scale_by_dadapt_adam, ps.scale_by_momo, ps.scale_by_momo_adam, ps.scale_by_prodigy],
    ids=lambda f: f.__name__,
)
def test_the_parameters_are_needed(rule: Any):
    tx = rule(ps.sgd(1.0)) if rule is ps.mechanize else rule()
    with pytest.raises(ps.PureSGDError, match=f"^{rule.__name__}: params is None"):
        tx.update(START, tx.init(START))
