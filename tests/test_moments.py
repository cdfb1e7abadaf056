"""Rules that divide by the root of a second moment, against closed forms and loops over plain numbers."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

import pure_sgd as ps

GRADS = [math.sin(1.7 * step + 0.3) * (1 + 0.2 * step) for step in range(12)]


def outputs(tx: ps.GradientTransformation, grads: list[float] = GRADS) -> list[float]:
    """What comes out for one float64 parameter, step by step."""
    param = torch.tensor(0.5, dtype=torch.float64)
    state, out = tx.init(param), []
    for grad in grads:
        update, state = tx.update(torch.tensor(grad, dtype=torch.float64), state, param)
        out.append(update.item())
    return out


@pytest.mark.parametrize("eps_in_sqrt", [True, False])
def test_a_variance_that_is_zero_but_for_round_off_gives_no_nan(eps_in_sqrt: bool):
    # Of a first step the corrected variance is u**2 - u**2, which is negative for some u.
    grads = torch.linspace(0.1, 3, 200)
    tx = ps.scale_by_stddev(eps=1e-8, eps_in_sqrt=eps_in_sqrt, bias_correction=True)
    out, state = tx.update(grads, tx.init(torch.zeros(200)))
    weight = 1 - torch.tensor(0.9, dtype=torch.float64)
    variance = state.nu / weight - (state.mu / weight) ** 2
    assert (variance < -1e-8).any()
    root = (variance.clamp(min=0) + 1e-8).sqrt() if eps_in_sqrt else variance.clamp(min=0).sqrt() + 1e-8
    torch.testing.assert_close(out, grads / root, rtol=1e-5, atol=0.0)


def test_a_standard_deviation_of_zero_has_a_slope():
    def first(decay: torch.Tensor) -> torch.Tensor:
        tx = ps.scale_by_stddev(decay, eps=1e-3, eps_in_sqrt=False)
        return tx.update(torch.tensor(0.0), tx.init(torch.tensor(0.0)))[0]

    assert torch.func.grad(first)(torch.tensor(0.9)).item() == 0.0


@pytest.mark.parametrize("eps_in_sqrt", [True, False])
@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize("centered", [True, False])
def test_rms_and_standard_deviation(centered: bool, corrected: bool, eps_in_sqrt: bool):
    decay, eps, m, v, want = 0.7, 1e-3, 0.0, 0.2, []
    for t, g in enumerate(GRADS, 1):
        m, v = decay * m + (1 - decay) * g, decay * v + (1 - decay) * g * g
        weight = 1 - decay**t if corrected else 1
        square = v / weight - (m / weight) ** 2 if centered else v / weight
        want.append(g / math.sqrt(square + eps) if eps_in_sqrt else g / (math.sqrt(square) + eps))
    rule = ps.scale_by_stddev if centered else ps.scale_by_rms
    assert outputs(rule(decay, eps, 0.2, eps_in_sqrt, corrected)) == pytest.approx(want, rel=1e-12)


def test_rms_corrected_is_adam_without_a_mean():
    got = outputs(ps.scale_by_rms(0.9, 1e-3, eps_in_sqrt=False, bias_correction=True))
    assert got == pytest.approx(outputs(ps.scale_by_adam(0.0, 0.9, 1e-3)), rel=1e-12)


def test_adagrad_falls_as_the_root_of_the_number_of_steps():
    got = outputs(ps.scale_by_rss(0.0, 0.0), [2.0] * 9)
    assert got == pytest.approx([1 / math.sqrt(t) for t in range(1, 10)], rel=1e-12)


def test_adagrad_leaves_alone_what_has_had_no_gradient():
    assert outputs(ps.scale_by_rss(0.0, 0.0), [0.0, 0.0, 3.0]) == [0.0, 0.0, 1.0]


def test_the_rate_enters_the_momentum_of_rmsprop_or_not():
    rates = ps.piecewise_constant_schedule(1.0, {1: 0.1})
    inside = outputs(ps.rmsprop(rates, 0.0, 0.0, momentum=0.5), [1.0, 1.0])
    outside = outputs(ps.rmsprop(rates, 0.0, 0.0, momentum=0.5, lr_in_momentum=False), [1.0, 1.0])
    assert inside == pytest.approx([-1.0, -0.6])
    assert outside == pytest.approx([-1.0, -0.15])


@pytest.mark.parametrize("first", [True, False])
def test_the_second_moment_of_amsgrad_never_falls(first: bool):
    b1, b2, eps, m, v, top, want = 0.8, 0.9, 1e-3, 0.0, 0.0, 0.0, []
    grads = [*GRADS, 0.0, 0.0]
    for t, g in enumerate(grads, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        top = max(top, v if first else v / (1 - b2**t))
        square = top / (1 - b2**t) if first else top
        want.append(m / (1 - b1**t) / (math.sqrt(square) + eps))
    got = outputs(ps.scale_by_amsgrad(b1, b2, eps, max_before_correction=first), grads)
    assert got == pytest.approx(want, rel=1e-12)


def test_the_momentum_of_nadam_warms_up_from_half():
    # For a constant gradient mu is (1 - b1**t) g, and the root |g|.
    b1, gamma, product, want = 0.8, 0.3, 1.0, []
    for t in range(1, 9):
        now, ahead = (b1 * (1 - 0.5 * 0.96 ** (k * gamma)) for k in (t, t + 1))
        product *= now
        want.append(ahead * (1 - b1**t) / (1 - product * ahead) + (1 - now) / (1 - product))
    got = outputs(ps.scale_by_nadam(b1, 0.9, 0.0, momentum_decay=gamma), [2.0] * 8)
    assert got == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("name", ["nadam", "nadamw"])
def test_a_nadam_with_a_warm_up_and_without_nesterov_is_an_error(name: str):
    with pytest.raises(ps.PureSGDError, match=rf"^{name}: momentum_decay=0.1 without nesterov"):
        getattr(ps, name)(0.1, nesterov=False, momentum_decay=0.1)


def test_nesterov_in_rmsprop_needs_momentum():
    with pytest.raises(ps.PureSGDError, match=r"^rmsprop: nesterov=True without momentum"):
        ps.rmsprop(0.1, nesterov=True)


def test_belief():
    b1, b2, eps, eps_root, m, v, want = 0.8, 0.9, 1e-3, 1e-2, 0.0, 0.0, []
    for t, g in enumerate(GRADS, 1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * (g - m) ** 2 + eps_root
        want.append(m / (1 - b1**t) / (math.sqrt(v / (1 - b2**t)) + eps))
    assert outputs(ps.scale_by_belief(b1, b2, eps, eps_root)) == pytest.approx(want, rel=1e-12)


def test_belief_takes_ever_longer_steps_along_a_constant_gradient():
    steps = outputs(ps.scale_by_belief(0.5, 0.5, 0.0, 0.0), [2.0] * 8)
    assert all(after > before for before, after in itertools.pairwise(steps))


def test_yogi():
    b1, b2, eps, m, v, want = 0.8, 0.9, 1e-3, 0.0, 0.3, []
    for t, g in enumerate(GRADS, 1):
        m = b1 * m + (1 - b1) * g
        v = v - (1 - b2) * math.copysign(1, v - g * g) * g * g
        want.append(m / (1 - b1**t) / (math.sqrt(v / (1 - b2**t)) + eps))
    got = outputs(ps.scale_by_yogi(b1, b2, eps, initial_accumulator_value=0.3))
    assert got == pytest.approx(want, rel=1e-12)


def test_yogi_and_its_optimizer_stay_where_the_gradient_is_zero():
    for tx in (ps.scale_by_yogi(), ps.yogi(0.1)):
        assert outputs(tx, [0.0] * 3) == [0.0] * 3


@pytest.mark.parametrize("nesterov", [True, False])
def test_radam_divides_once_its_second_moment_is_certain(nesterov: bool):
    b1, b2, eps, m, v, want, divided = 0.8, 0.9, 1e-3, 0.0, 0.0, [], []
    long = 2 / (1 - b2) - 1
    for t, g in enumerate(GRADS, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        ahead = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        m_hat = ahead if nesterov else m / (1 - b1**t)
        rho = long - 2 * t * b2**t / (1 - b2**t)
        divided.append(rho >= 5)
        if divided[-1]:
            r = math.sqrt((rho - 4) * (rho - 2) * long / ((long - 4) * (long - 2) * rho))
            m_hat *= r / (math.sqrt(v / (1 - b2**t)) + eps)
        want.append(m_hat)
    assert not divided[0]
    assert divided[-1]
    assert outputs(ps.scale_by_radam(b1, b2, eps, nesterov=nesterov)) == pytest.approx(want, rel=1e-12)


def test_radam_with_a_short_memory_is_momentum():
    # rho never exceeds 2 / (1 - b2) - 1 = 3; its slope in b2 is 0, not NaN.
    tx = ps.scale_by_radam(0.0, 0.5)
    assert outputs(tx) == pytest.approx(GRADS, rel=1e-12)

    def first(b2: torch.Tensor) -> torch.Tensor:
        tx = ps.scale_by_radam(0.0, b2)
        return tx.update(torch.tensor(2.0), tx.init(torch.tensor(0.0)))[0]

    assert torch.func.grad(first)(torch.tensor(0.5)).item() == 0.0


def test_radam_divides_at_its_threshold_itself():
    b2, t = 0.9, torch.tensor(8)
    rho = 2 / (1 - b2) - 1 - 2 * t * b2 ** t.double() / (1 - b2 ** t.double())
    at, beyond = (
        outputs(ps.scale_by_radam(0.0, b2, threshold=threshold))
        for threshold in (rho, torch.nextafter(rho, rho + 1))
    )
    assert at[:7] == beyond[:7] == GRADS[:7]
    assert at[7] != GRADS[7]
    assert beyond[7] == GRADS[7]
    assert at[8:] == beyond[8:]


def test_novograd_has_one_second_moment_for_each_leaf():
    params = {"w": torch.tensor([1.0, 2.0]), "b": torch.tensor(3.0)}
    grads = {"w": torch.tensor([3.0, -4.0]), "b": torch.tensor(-7.0)}
    tx = ps.scale_by_novograd(0.5, 0.5, 0.0, weight_decay=0.1)
    state = tx.init(params)
    first, state = tx.update(grads, state, params)
    assert {name: nu.shape for name, nu in state.nu.items()} == {"w": (), "b": ()}
    torch.testing.assert_close(first, {"w": torch.tensor([0.7, -0.6]), "b": torch.tensor(-0.7)})
    second, state = tx.update({name: 2 * g for name, g in grads.items()}, state, params)
    # The mean of 25 and 100 under the root, and half of the first step again.
    share = 10 / math.sqrt(62.5)
    want = torch.tensor([0.35 + 0.6 * share + 0.1, -0.3 - 0.8 * share + 0.2])
    torch.testing.assert_close(second["w"], want)


def test_novograd_reads_the_parameters_only_to_decay_them():
    one = torch.ones(())
    for tx in (ps.scale_by_novograd(), ps.novograd(0.1)):
        assert tx.update(one, tx.init(one))[0].abs() > 0
    tx = ps.scale_by_novograd(weight_decay=0.1)
    with pytest.raises(ps.PureSGDError, match=r"^scale_by_novograd: params is None"):
        tx.update(one, tx.init(one))


def test_adan():
    b1, b2, b3, eps, m, v, n, want = 0.8, 0.7, 0.9, 1e-3, 0.0, 0.0, 0.0, []
    for t, g in enumerate(GRADS, 1):
        change = g - GRADS[t - 2] if t > 1 else 0.0
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * change
        n = b3 * n + (1 - b3) * (g + b2 * change) ** 2
        look = m / (1 - b1**t) + b2 * v / (1 - b2**t)
        want.append(look / (math.sqrt(n / (1 - b3**t)) + eps))
    assert outputs(ps.scale_by_adan(b1, b2, b3, eps)) == pytest.approx(want, rel=1e-12)


def test_adan_sees_a_constant_gradient_as_its_sign():
    assert outputs(ps.scale_by_adan(eps=0.0), [-3.0] * 5) == pytest.approx([-1.0] * 5, rel=1e-12)


BAD = [
    (ps.scale_by_adamax, {"b1": 1.0}, r"b1=1.0 lies outside \[0, 1\)"),
    (ps.scale_by_adan, {"b3": -0.1}, r"b3=-0.1 lies outside \[0, 1\)"),
    (ps.scale_by_amsgrad, {"eps": -1.0}, r"eps=-1.0 lies outside \[0, inf\)"),
    (ps.scale_by_nadam, {"momentum_decay": -1.0}, r"momentum_decay=-1.0 lies outside \[0, inf\)"),
    (ps.scale_by_radam, {"threshold": 3.0}, r"threshold=3.0 lies outside \[4, inf\)"),
    (ps.scale_by_rms, {"decay": 1.0}, r"decay=1.0 lies outside \[0, 1\)"),
    (ps.scale_by_rms, {"initial_scale": -1}, r"initial_scale=-1 lies outside \[0, inf\)"),
    (ps.scale_by_rss, {"initial_accumulator_value": -1}, r"initial_accumulator_value=-1 lies outside"),
    (ps.scale_by_stddev, {"decay": -0.1}, r"decay=-0.1 lies outside \[0, 1\)"),
    (ps.scale_by_stddev, {"eps": -1}, r"eps=-1 lies outside \[0, inf\)"),
    (ps.scale_by_yogi, {"b2": "0.9"}, r"b2='0.9' is of type str"),
]


@pytest.mark.parametrize(("rule", "settings", "words"), BAD, ids=lambda value: getattr(value, "__name__", ""))
def test_a_number_out_of_range_is_an_error_that_names_it(rule: Any, settings: dict[str, Any], words: str):
    with pytest.raises(ps.PureSGDError, match=f"^{rule.__name__}: {words}"):
        rule(**settings)


def test_second_moments_of_complex_parameters_are_real():
    params = torch.zeros(2, dtype=torch.complex64)
    grads = torch.tensor([3 + 4j, -2j])
    for tx in (ps.scale_by_adam(), ps.scale_by_amsgrad(), ps.scale_by_adamax(), ps.scale_by_rss(0.0, 0.0)):
        out, state = tx.update(grads, tx.init(params))
        torch.testing.assert_close(out, grads / grads.abs(), rtol=1e-5, atol=0.0)
        assert not state[-1].is_complex()


def test_init_compiles_for_a_state_that_begins_afresh():
    params = {"w": torch.ones(2), "z": torch.ones(2, dtype=torch.complex64)}
    tx = ps.scale_by_amsgrad()
    init = torch.compile(tx.init, backend="eager", fullgraph=True)
    torch.testing.assert_close(init(params), tx.init(params), rtol=0.0, atol=0.0)
