"""Rules that follow signs, and what updates keep of earlier ones, by closed form and by torch.optim."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

import pure_sgd as ps

STREAM = [
    torch.tensor(row, dtype=torch.float64)
    for row in ([1.0, -2.0, 0.3], [0.5, 0.25, -0.1], [-3.0, 1.0, 0.0], [0.1, 0.2, 0.4], [2.0, -0.7, 0.4])
]


def outputs(tx: ps.GradientTransformation, updates: list[Any]) -> list[Any]:
    """What ``tx`` makes of each of ``updates`` in turn."""
    state, out = tx.init(updates[0]), []
    for u in updates:
        new, state = tx.update(u, state)
        out.append(new)
    return out


def assert_close(got: Any, want: Any) -> None:
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-15)


# Signs


def test_the_sign_of_a_complex_update_has_length_one():
    (got,) = outputs(ps.scale_by_sign(), [torch.tensor([3 - 4j, 0j], dtype=torch.complex128)])
    assert_close(got, torch.tensor([0.6 - 0.8j, 0j], dtype=torch.complex128))


def test_sign_descent_is_blind_to_the_size_of_gradients():
    small = outputs(ps.sign_sgd(0.1), [1e-30 * u for u in STREAM])
    assert_close(small, [-0.1 * u.sign() for u in STREAM])


def averages(decay: float) -> list[torch.Tensor]:
    """The plain exponential moving average of ``STREAM`` from 0 on."""
    sums = [sum((1 - decay) * decay ** (n - k) * STREAM[k] for k in range(n + 1)) for n in range(5)]
    return [torch.as_tensor(s) for s in sums]


def test_signum_follows_the_sign_of_the_average():
    assert_close(outputs(ps.signum(0.1, 0.8), STREAM), [-0.1 * m.sign() for m in averages(0.8)])


LION = {
    "hard": torch.sign,
    "smooth": lambda x: torch.tanh(2.5 * x),
    "refined": lambda x: torch.where(x.abs() < 1, x, x.sign()),
}


@pytest.mark.parametrize("mode", LION)
def test_lion_mixes_the_update_with_the_average_before_it(mode: str):
    tx = ps.scale_by_lion(0.6, 0.9, mode=mode, smooth_beta=2.5)
    before = [torch.zeros(3, dtype=torch.float64), *averages(0.9)]
    want = [LION[mode](0.4 * u + 0.6 * m) for u, m in zip(STREAM, before, strict=False)]
    assert_close(outputs(tx, STREAM), want)


def test_lion_keeps_its_average_in_the_dtype_that_was_asked_for():
    assert ps.scale_by_lion(mu_dtype=torch.bfloat16).init(STREAM[0]).mu.dtype == torch.bfloat16


def test_lion_decays_weights_beside_the_sign():
    tx, params = ps.lion(0.1, weight_decay=0.5), torch.tensor([4.0, -2.0, 1.0], dtype=torch.float64)
    updates, _ = tx.update(STREAM[0], tx.init(params), params)
    assert_close(updates, -0.1 * (STREAM[0].sign() + 0.5 * params))


# Rprop


def test_rprop_moves_from_the_first_step_on_as_by_hand():
    gradients = [torch.tensor(g, dtype=torch.float64) for g in (1.0, 1.0, 1.0, -1.0, 1.0)]
    got = outputs(ps.scale_by_rprop(0.1), gradients)
    assert_close(torch.stack(got), torch.tensor([0.1, 0.12, 0.144, 0.0, 0.072], dtype=torch.float64))


RPROP = [
    {},
    {"etas": (0.3, 1.7)},
    {"step_sizes": (0.02, 0.06)},
    {"lr": 1e-9, "step_sizes": (1e-3, 50)},
    {"lr": 5.0, "step_sizes": (1e-6, 0.5)},
]


@pytest.mark.parametrize("settings", RPROP, ids=str)
def test_rprop_is_that_of_torch(settings: dict[str, Any]):
    lr, (eta_minus, eta_plus) = settings.get("lr", 0.05), settings.get("etas", (0.5, 1.2))
    low, high = settings.get("step_sizes", (1e-6, 50.0))
    tx = ps.rprop(lr, eta_minus, eta_plus, low, high)
    ours = torch.linspace(-2, 2, 9, dtype=torch.float64)
    theirs = ours.clone().requires_grad_()
    optimizer = torch.optim.Rprop([theirs], **{"lr": lr, **settings})
    state = tx.init(ours)
    for step in range(30):
        # One coordinate has no slope at all at every third step.
        bend = torch.ones(9, dtype=torch.float64)
        bend[4] = float(step % 3 > 0)
        updates, state = tx.update(bend * (ours**3 - ours.cos() / 3), state, ours)
        ours = ps.apply_updates(ours, updates)
        theirs.grad = bend * (theirs**3 - theirs.cos() / 3).detach()
        optimizer.step()
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=1e-14)


def test_rprop_tells_signs_of_gradients_whose_product_is_no_number():
    tiny = torch.tensor([1e-30])
    got = outputs(ps.scale_by_rprop(0.1), [tiny, tiny, -tiny])
    torch.testing.assert_close(torch.cat(got), torch.tensor([0.1, 0.12, 0.0]))


def test_a_scheduled_rprop_begins_where_its_schedule_does():
    scheduled = outputs(ps.rprop(ps.linear_schedule(0.1, 5.0, 3)), STREAM)
    assert_close(scheduled, outputs(ps.rprop(0.1), STREAM))


# The moving average


def test_ema_is_a_weighted_mean_and_debiased_its_weights_add_up_to_one():
    plain = averages(0.8)
    assert_close(outputs(ps.ema(0.8, debias=False), STREAM), plain)
    assert_close(outputs(ps.ema(0.8), STREAM), [m / (1 - 0.8 ** (n + 1)) for n, m in enumerate(plain)])
    constant = torch.tensor([2.0, -1.0], dtype=torch.float64)
    assert_close(outputs(ps.ema(0.97), [constant] * 5), [constant] * 5)


def test_the_state_of_ema_is_not_debiased():
    tx = ps.ema(0.8)
    _, state = tx.update(STREAM[0], tx.init(STREAM[0]))
    assert_close(state.ema, 0.2 * STREAM[0])


# Optimism


def test_the_optimistic_gradient_extrapolates_and_does_not_at_first():
    got = outputs(ps.scale_by_optimistic_gradient(0.7, 0.4), STREAM)
    later = [1.1 * now - 0.4 * before for before, now in itertools.pairwise(STREAM)]
    assert_close(got, [0.7 * STREAM[0], *later])


def test_optimism_does_not_keep_the_callers_gradient():
    tx, gradient = ps.scale_by_optimistic_gradient(), torch.ones(2)
    _, state = tx.update(gradient, tx.init(gradient))
    assert state.previous.data_ptr() != gradient.data_ptr()


# Every k-th step


def test_apply_every_lets_sums_through():
    got = outputs(ps.apply_every(2), STREAM)
    zero = torch.zeros(3, dtype=torch.float64)
    assert_close(got, [zero, STREAM[0] + STREAM[1], zero, STREAM[2] + STREAM[3], zero])
    assert_close(outputs(ps.apply_every(), STREAM), STREAM)


def test_apply_every_forgets_a_nan_with_its_sum():
    stream = [STREAM[0], torch.full((3,), torch.nan, dtype=torch.float64), *STREAM[2:4]]
    first, second, third, fourth = outputs(ps.apply_every(2), stream)
    assert second.isnan().all()
    assert_close([first, third], [torch.zeros(3, dtype=torch.float64)] * 2)
    assert_close(fourth, STREAM[2] + STREAM[3])


# Bad arguments


@pytest.mark.parametrize(
    "call, sentence",
    [
        (
            lambda: ps.scale_by_lion(mode="soft"),
            "scale_by_lion: mode='soft' is unknown. Pass one of 'hard', 'smooth' and 'refined'.",
        ),
        (lambda: ps.lion(0.1, b1=1.0), "scale_by_lion: b1=1.0 lies outside [0, 1)."),
        (lambda: ps.lion(0.1, b2=-0.1), "scale_by_lion: b2=-0.1 lies outside [0, 1)."),
        (lambda: ps.scale_by_lion(smooth_beta=-1), "scale_by_lion: smooth_beta=-1 lies outside [0, inf)."),
        (lambda: ps.rprop(-0.1), "scale_by_rprop: learning_rate=-0.1 lies outside [0, inf)."),
        (lambda: ps.rprop(0.1, 0.0), "scale_by_rprop: eta_minus=0.0 lies outside (0, 1)."),
        (lambda: ps.rprop(0.1, 1.0), "scale_by_rprop: eta_minus=1.0 lies outside (0, 1)."),
        (lambda: ps.rprop(0.1, 0.5, 1.0), "scale_by_rprop: eta_plus=1.0 lies outside (1, inf)."),
        (lambda: ps.rprop(0.1, min_step_size=-1), "scale_by_rprop: min_step_size=-1 lies outside"),
        (lambda: ps.rprop(0.1, max_step_size=-1), "scale_by_rprop: max_step_size=-1 lies outside"),
        (lambda: ps.signum(0.1, 1.0), "ema: decay=1.0 lies outside [0, 1)."),
        (lambda: ps.sign_sgd(-1.0), "scale_by_learning_rate: learning_rate=-1.0 lies outside [0, inf)."),
        (lambda: ps.apply_every(0), "apply_every: k=0 is not at least 1."),
        (lambda: ps.apply_every(True), "apply_every: k=True is of type bool, expected an int."),
    ],
)
def test_a_number_out_of_range_is_refused(call: Any, sentence: str):
    with pytest.raises(ps.PureSGDError) as caught:
        call()
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize("mode", ["hard", "smooth", "refined"])
def test_lion_keeps_the_angle_of_complex_numbers(mode: str):
    sizes, angle = torch.tensor([0.3, 2.0]), torch.tensor([0.6 + 0.8j])
    tx = ps.scale_by_lion(0.0, mode=mode)
    want = tx.update(sizes, tx.init(sizes))[0]
    got = tx.update(angle * sizes, tx.init(angle * sizes))[0]
    torch.testing.assert_close(got, angle * want)
