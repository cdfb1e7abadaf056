"""What examples/private.py says that it spent is what can be worked out by hand, where it can."""

from __future__ import annotations

import math
import runpy
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pytest
from dp_accounting import ComposedDpEvent, GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.rdp import RdpAccountant

PRIVATE: dict[str, Any] = runpy.run_path(str(Path(__file__).parent.parent / "examples" / "private.py"))
DELTA: float = PRIVATE["DELTA"]
Curve = Callable[[float], float]


def below(x: float) -> float:
    return NormalDist().cdf(x)


def gaussian(noise_multiplier: float) -> Curve:
    """Delta by epsilon of one Gaussian mechanism (Balle and Wang 2018, arXiv:1805.06530, theorem 8)."""
    a = 1 / (2 * noise_multiplier)
    return lambda epsilon: (
        below(a - epsilon * noise_multiplier) - math.exp(epsilon) * below(-a - epsilon * noise_multiplier)
    )


def subsampled_gaussian(noise_multiplier: float, sampling_rate: float) -> Curve:
    """Delta by epsilon of one step.

    Without the example the result is normal about 0, with it a mixture of that and a normal about 1. Delta
    is the mass by which the mixture exceeds exp(epsilon) times the other, where their ratio does so; the
    other direction gives less.
    """
    sigma, q = noise_multiplier, sampling_rate

    def delta(epsilon: float) -> float:
        edge = 0.5 + sigma**2 * math.log1p(math.expm1(epsilon) / q)
        without = below(-edge / sigma)
        mixture = (1 - q) * without + q * below((1 - edge) / sigma)
        return mixture - math.exp(epsilon) * without

    return delta


def epsilon_at_delta(curve: Curve) -> float:
    low, high = 0.0, 50.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if curve(middle) > DELTA else (low, middle)
    return high


@pytest.mark.parametrize("noise_multiplier, steps", [(4.0, 1), (2.0, 1), (8.0, 25)])
def test_full_batches_are_one_gaussian_mechanism_with_less_noise(noise_multiplier, steps):
    exact = epsilon_at_delta(gaussian(noise_multiplier / math.sqrt(steps)))
    assert exact <= PRIVATE["epsilon"](noise_multiplier, steps, 1.0) <= exact + 2e-3


@pytest.mark.parametrize("noise_multiplier, sampling_rate", [(1.0, 0.01), (1.0, 0.2), (4.0, 0.2)])
def test_one_step_on_a_poisson_sample(noise_multiplier, sampling_rate):
    exact = epsilon_at_delta(subsampled_gaussian(noise_multiplier, sampling_rate))
    assert exact <= PRIVATE["epsilon"](noise_multiplier, 1, sampling_rate) <= exact + 2e-3


def test_the_noisy_count_is_paid_for():
    """A gradient and a count of the same sample spend what one mechanism does, by Renyi divergences."""
    run, count = PRIVATE["Run"](4.0, adaptive=True), PRIVATE["COUNT_NOISE"]
    both = ComposedDpEvent([GaussianDpEvent(run.noise_multiplier), GaussianDpEvent(count)])
    one = GaussianDpEvent(run.effective_multiplier)
    spent = [
        RdpAccountant(range(2, 64)).compose(PoissonSampledDpEvent(0.2, event), 200).get_epsilon(DELTA)
        for event in (both, one)
    ]
    assert spent[0] == pytest.approx(spent[1])
    assert PRIVATE["Run"](4.0).effective_multiplier == pytest.approx(4.0)
