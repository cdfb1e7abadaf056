"""ADOPT, MADGRAD and optimistic Adam, against loops over plain numbers written from their papers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from test_moments import GRADS, outputs

import pure_sgd as ps


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("clipping", [True, False])
def test_adopt(clipping: bool, nesterov: bool):
    b1, b2, eps, m, want, clipped = 0.8, 0.7, 0.5, 0.0, [0.0], 0
    v = GRADS[0] ** 2
    for t, g in enumerate(GRADS[1:], 1):
        n = g / max(math.sqrt(v), eps)
        if clipping:
            clipped += abs(n) > t**0.25
            n = max(-(t**0.25), min(n, t**0.25))
        m = b1 * m + (1 - b1) * n
        v = b2 * v + (1 - b2) * g * g
        want.append(b1 * m + (1 - b1) * n if nesterov else m)
    assert clipped > 0 or not clipping
    got = outputs(ps.scale_by_adopt(b1, b2, eps, nesterov=nesterov, use_clipping=clipping))
    assert got == pytest.approx(want, rel=1e-12)


def test_adopt_clips_to_the_value_of_a_function_of_the_step():
    got = outputs(ps.scale_by_adopt(0.0, 0.5, clip_value_fn=lambda step: 0.1 * step), [1.0, -9.0, 9.0, 0.01])
    assert got[:3] == pytest.approx([0.0, -0.1, 0.2])
    assert 0 < got[3] < 0.01


def test_adopt_clips_complex_entries_in_magnitude():
    params, tx = torch.zeros(2, dtype=torch.complex64), ps.scale_by_adopt(0.0)
    _, state = tx.update(torch.tensor([1 + 0j, 1j]), tx.init(params))
    out, state = tx.update(torch.tensor([30 + 40j, 0.3 - 0.4j]), state)
    torch.testing.assert_close(out, torch.tensor([0.6 + 0.8j, 0.3 - 0.4j]))
    assert not state.nu.is_complex()


def test_a_gradient_of_zero_at_first_does_not_harm_adopt():
    assert outputs(ps.scale_by_adopt(0.0, eps=0.0, use_clipping=False), [0.0])[0] == 0.0
    assert all(map(math.isfinite, outputs(ps.adopt(0.1), [0.0, 0.0, 1.0, 2.0])))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_madgrad(momentum: float):
    rate, eps, decay, total, squares = 0.05, 1e-3, 0.1, 0.0, 0.0
    start = x = 0.5
    param = torch.tensor(start, dtype=torch.float64)
    tx = ps.madgrad(rate, momentum, decay, eps)
    state = tx.init(param)
    for k, g in enumerate(GRADS):
        updates, state = tx.update(torch.tensor(g, dtype=torch.float64), state, param)
        param = ps.apply_updates(param, updates)
        g = g + decay * x
        weight = (rate + eps) * math.sqrt(k + 1)
        total, squares = total + weight * g, squares + weight * g * g
        z = start - total / (squares ** (1 / 3) + eps)
        x = (1 - momentum) * z + momentum * x
        assert param.item() == pytest.approx(x, rel=1e-12)


def test_old_updates_of_madgrad_keep_the_rate_they_came_with():
    rates, total, squares = [0.1, 0.01, 0.01], 0.0, 0.0
    param = torch.zeros((), dtype=torch.float64)
    tx = ps.scale_by_madgrad(ps.piecewise_constant_schedule(0.1, {1: 0.1}), 0.0, 0.0)
    state = tx.init(param)
    for k, rate in enumerate(rates):
        updates, state = tx.update(torch.ones_like(param), state, param)
        param = ps.apply_updates(param, updates)
        total, squares = total + rate * math.sqrt(k + 1), squares + rate * math.sqrt(k + 1)
        assert param.item() == pytest.approx(-total / squares ** (1 / 3), rel=1e-12)


def test_madgrad_begins_at_a_copy_and_stays_where_the_gradient_is_zero():
    params, tx = torch.ones(2), ps.scale_by_madgrad(0.1, eps=0.0)
    state = tx.init(params)
    assert state.x0.data_ptr() != params.data_ptr()
    updates, after = tx.update(torch.zeros(2), state, params)
    assert updates.tolist() == [0.0, 0.0]
    assert after.x0.data_ptr() != state.x0.data_ptr()


def test_madgrad_reads_the_parameters():
    tx = ps.scale_by_madgrad(0.1)
    with pytest.raises(ps.PureSGDError, match=r"^scale_by_madgrad: params is None"):
        tx.update(torch.ones(1), tx.init(torch.ones(1)))


@pytest.mark.parametrize("optimism", [None, 0.3])
def test_optimistic_adam(optimism: float | None):
    rate, before, want = 0.05, None, []
    for u in outputs(ps.scale_by_adam(nesterov=True)):
        change = 0.0 if before is None else u - before
        want.append(-rate * u - (rate if optimism is None else optimism) * change)
        before = u
    assert outputs(ps.optimistic_adam(rate, optimism)) == pytest.approx(want, rel=1e-12)


def test_optimistic_adam_is_the_second_version_with_a_share_of_the_rate():
    old, new = ps.optimistic_adam(0.05, 0.02), ps.optimistic_adam_v2(0.05, alpha=1.0, beta=0.4)
    assert outputs(old) == pytest.approx(outputs(new), rel=1e-12)


def test_both_rates_of_optimistic_adam_may_be_schedules():
    rates = ps.piecewise_constant_schedule(0.1, {1: 0.5})
    first, second = outputs(ps.optimistic_adam(rates, b1=0.0, nesterov=False), [2.0, -2.0])
    assert (first, second) == pytest.approx((-0.1, 0.05 + 0.05 * 2), rel=1e-6)


@pytest.mark.parametrize(
    "name, settings, words",
    [
        ("scale_by_adopt", {"b1": 1.0}, r"b1=1.0 lies outside \[0, 1\)"),
        ("scale_by_adopt", {"clip_value_fn": 2.0}, "clip_value_fn=2.0 is not a function"),
        ("scale_by_madgrad", {"learning_rate": -1.0}, r"learning_rate=-1.0 lies outside \[0, inf\)"),
        ("scale_by_madgrad", {"learning_rate": 0.1, "momentum": 1.0}, r"momentum=1.0 lies outside \[0, 1\)"),
        ("optimistic_adam", {"learning_rate": -1.0}, r"learning_rate=-1.0 lies outside \[0, inf\)"),
    ],
)
def test_a_number_out_of_range_is_an_error_that_names_it(name: str, settings: dict[str, Any], words: str):
    with pytest.raises(ps.PureSGDError, match=f"^{name}: {words}"):
        getattr(ps, name)(**settings)
