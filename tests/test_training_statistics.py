"""Steps that measure the gradient noise on their way."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import pure_sgd as ps

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(48, 5, generator=GENERATOR, dtype=torch.float64)
Y = torch.randn(48, generator=GENERATOR, dtype=torch.float64)
PARAMS = {"w": torch.randn(5, 3, generator=GENERATOR, dtype=torch.float64), "v": torch.ones(3).double()}
NOISE = ("trace_covariance", "grad_sq_norm", "noise_scale")


def example_loss(params: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    shift = params["buffers"]["shift"] if "buffers" in params else 0.0
    return (torch.tanh(x @ params["w"]) @ params["v"] + shift - y) ** 2 / 2


LOSS = ps.empirical_risk(example_loss)
TX = ps.sgd(0.1, momentum=0.9)


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows = slice(12 * (step % 4), 12 * (step % 4) + 12)
    return X[rows], Y[rows]


@pytest.mark.parametrize("compiled", [False, True])
def test_every_few_steps_the_noise_is_measured_and_training_goes_on_as_without(compiled: bool):
    step = ps.make_step(LOSS, TX, statistics=3)
    step = ps.compile_step(step, backend="aot_eager") if compiled else step
    state = plain = ps.init_train_state(PARAMS, TX)
    for index in range(7):
        expected = ps.noise_scale(ps.gradient_moments(example_loss)(state.params, batch(index)))
        state, metrics = step(state, batch(index))
        plain, without = ps.make_step(LOSS, TX)(plain, batch(index))
        torch.testing.assert_close(state, plain)
        for name in ("loss", "grad_norm"):
            torch.testing.assert_close(metrics[name], without[name])
        if index % 3 == 0:
            found = ps.NoiseScale(
                metrics["trace_covariance"], metrics["grad_sq_norm"], metrics["noise_scale"]
            )
            torch.testing.assert_close(found, expected)
        else:
            assert all(math.isnan(metrics[name]) for name in NOISE)


def test_buffers_are_read_and_not_differentiated():
    params = {**PARAMS, "buffers": {"shift": torch.tensor(0.5, dtype=torch.float64)}}
    _, metrics = ps.make_step(LOSS, TX, statistics=1)(ps.init_train_state(params, TX), batch(0))
    shifted = ps.gradient_moments(lambda p, x, y: example_loss({**params, **p}, x, y))(PARAMS, batch(0))
    torch.testing.assert_close(metrics["trace_covariance"], ps.noise_scale(shifted).trace_covariance)


def test_a_record_holds_means_of_what_was_measured_and_their_ratio():
    measured: list[dict[str, torch.Tensor]] = []
    step, state = ps.make_step(LOSS, TX, statistics=2), ps.init_train_state(PARAMS, TX)
    order = [torch.arange(12 * i, 12 * i + 12) for i in range(4)]
    for index in range(8):
        state, metrics = step(state, batch(index))
        measured.append(metrics)
    result = ps.fit(
        LOSS, TX, PARAMS, (X, Y), epochs=2, order=lambda epoch: order, statistics=2, progress=False
    )
    torch.testing.assert_close(result.state, state)
    for epoch in range(2):
        mine = measured[4 * epoch : 4 * epoch + 4 : 2]
        trace, signal = (float(torch.stack([m[name] for m in mine]).mean()) for name in NOISE[:2])
        assert result.history["trace_covariance"][epoch] == pytest.approx(trace)
        assert result.history["noise_scale"][epoch] == pytest.approx(trace / signal)


def test_a_loss_of_batches_has_no_examples_to_measure():
    with pytest.raises(ps.PureSGDError, match="the loss knows none"):
        ps.make_step(lambda params, batch: LOSS(params, batch), TX, statistics=3)
    with pytest.raises(ps.PureSGDError, match="statistics=0 is not at least 1"):
        ps.make_step(LOSS, TX, statistics=0)
