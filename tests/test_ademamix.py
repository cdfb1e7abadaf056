"""Adam's relatives with another memory, against loops over plain numbers written from their rules."""

from __future__ import annotations

import math

import pytest
import torch
from test_moments import GRADS, outputs

import pure_sgd as ps


def test_ademamix():
    b1, b2, b3, alpha, eps, m1, m2, v, want = 0.8, 0.9, 0.97, 3.0, 1e-3, 0.0, 0.0, 0.0, []
    for t, g in enumerate(GRADS, 1):
        m1, m2 = b1 * m1 + (1 - b1) * g, b3 * m2 + (1 - b3) * g
        v = b2 * v + (1 - b2) * g * g
        want.append((m1 / (1 - b1**t) + alpha * m2) / (math.sqrt(v / (1 - b2**t) + 1e-2) + eps))
    assert outputs(ps.scale_by_ademamix(b1, b2, b3, alpha, eps, 1e-2)) == pytest.approx(want, rel=1e-12)


def test_both_weights_of_the_slow_mean_may_grow_over_the_run():
    b1, b2, m1, m2, v, want = 0.9, 0.999, 0.0, 0.0, 0.0, []
    for t, g in enumerate(GRADS, 1):
        alpha, b3 = 4.0 * min((t - 1) / 10, 1), 0.9 + 0.09 * min((t - 1) / 5, 1)
        m1, m2 = b1 * m1 + (1 - b1) * g, b3 * m2 + (1 - b3) * g
        v = b2 * v + (1 - b2) * g * g
        want.append((m1 / (1 - b1**t) + alpha * m2) / (math.sqrt(v / (1 - b2**t)) + 1e-8))
    b3, alpha = ps.linear_schedule(0.9, 0.99, 5), ps.linear_schedule(0.0, 4.0, 10)
    assert outputs(ps.scale_by_ademamix(b3=b3, alpha=alpha)) == pytest.approx(want, rel=1e-12)
    rate = 0.1
    got = outputs(ps.ademamix(rate, b3=b3, alpha=alpha))
    assert got == pytest.approx([-rate * u for u in want], rel=1e-12)


def test_ademamix_without_its_slow_mean_is_adam():
    assert outputs(ps.scale_by_ademamix(alpha=0.0)) == pytest.approx(outputs(ps.scale_by_adam()), rel=1e-12)


def test_the_second_moment_of_ademamix_is_not_kept_in_the_dtype_of_its_means():
    state = ps.scale_by_ademamix(mu_dtype=torch.bfloat16).init(torch.zeros(2))
    assert (state.m1.dtype, state.m2.dtype, state.nu.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)


def test_simplified_ademamix():
    b1, b2, alpha, eps, m, v, want = 0.8, 0.9, 3.0, 1e-3, 0.0, 0.0, []
    for t, g in enumerate(GRADS, 1):
        m, v = b1 * m + g, b2 * v + (1 - b2) * g * g
        want.append((m + alpha * g) / (math.sqrt(v / (1 - b2**t) + 1e-2) + eps))
    got = outputs(ps.scale_by_simplified_ademamix(b1, b2, alpha, eps, 1e-2))
    assert got == pytest.approx(want, rel=1e-12)


def test_simplified_ademamix_without_alpha_is_adam_with_a_longer_step():
    b1, want = 0.8, []
    for t, u in enumerate(outputs(ps.scale_by_adam(b1, 0.9)), 1):
        want.append(u * (1 - b1**t) / (1 - b1))
    assert outputs(ps.scale_by_simplified_ademamix(b1, 0.9)) == pytest.approx(want, rel=1e-12)


def test_acprop():
    b1, b2, eps, eps_root, m, v, want = 0.8, 0.9, 1e-3, 1e-2, 0.0, 0.0, []
    for t, g in enumerate(GRADS, 1):
        v_hat = 1.0 if t == 1 else v / (1 - b2 ** (t - 1))
        v = b2 * v + (1 - b2) * (g - m) ** 2 + eps_root
        m = b1 * m + (1 - b1) * g
        want.append(g / (math.sqrt(v_hat) + eps))
    assert outputs(ps.scale_by_acprop(b1, b2, eps, eps_root)) == pytest.approx(want, rel=1e-12)


def test_the_first_step_of_acprop_has_a_slope():
    def first(b2: torch.Tensor) -> torch.Tensor:
        tx = ps.scale_by_acprop(0.5, b2)
        return tx.update(torch.tensor(2.0), tx.init(torch.tensor(0.0)))[0]

    assert torch.func.grad(first)(torch.tensor(0.9)).item() == 0.0


@pytest.mark.parametrize(
    "name, settings, words",
    [
        ("scale_by_ademamix", {"b3": 1.0}, r"b3=1.0 lies outside \[0, 1\)"),
        ("scale_by_ademamix", {"alpha": -1.0}, r"alpha=-1.0 lies outside \[0, inf\)"),
        ("scale_by_simplified_ademamix", {"alpha": "2"}, "alpha='2' is of type str"),
        ("scale_by_acprop", {"eps_root": -1.0}, r"eps_root=-1.0 lies outside \[0, inf\)"),
    ],
)
def test_a_number_out_of_range_is_an_error_that_names_it(name: str, settings: dict[str, float], words: str):
    with pytest.raises(ps.PureSGDError, match=f"^{name}: {words}"):
        getattr(ps, name)(**settings)
