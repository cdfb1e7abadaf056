"""The adaptive rules that torch.optim has too, over its flags, on a small nonlinear problem in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from test_torch_optim import RATES, assert_same, ours, torchs

import pure_sgd as ps


def grid(**choices: tuple[Any, ...]) -> list[dict[str, Any]]:
    """Every combination of torch's settings."""
    return [dict(zip(choices, point, strict=True)) for point in itertools.product(*choices.values())]


def names(settings: dict[str, Any]) -> str:
    return "-".join(map(str, settings.values()))


def check(
    tx: ps.GradientTransformation,
    make: Callable[..., torch.optim.Optimizer],
    schedule: Any,
    settings: dict[str, Any],
) -> None:
    """``maximize`` is a gradient that was turned round before anything else."""
    if settings.get("maximize"):
        tx = ps.chain(ps.scale(-1), tx)
    assert_same(ours(tx), torchs(make, schedule, lr=0.05, **settings))


def penalized(tx: ps.GradientTransformation, settings: dict[str, Any]) -> ps.GradientTransformation:
    """Weight decay where it is not decoupled: the gradient of a penalty."""
    return ps.chain(ps.add_decayed_weights(settings["weight_decay"]), tx)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(
    "settings",
    grid(
        alpha=(0.9, 0.99),
        eps=(1e-8, 1e-2),
        momentum=(0, 0.9),
        centered=(False, True),
        weight_decay=(0, 0.1),
        maximize=(False, True),
    ),
    ids=names,
)
def test_rmsprop(settings: dict[str, Any], rate: str):
    learning_rate, schedule = RATES[rate]
    tx = ps.rmsprop(
        learning_rate,
        settings["alpha"],
        settings["eps"],
        eps_in_sqrt=False,
        centered=settings["centered"],
        momentum=settings["momentum"] or None,
        lr_in_momentum=False,
        weight_decay=settings["weight_decay"],
    )
    check(tx, torch.optim.RMSprop, schedule, settings)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(
    "settings",
    grid(
        lr_decay=(0, 0.3),
        initial_accumulator_value=(0, 0.1),
        eps=(1e-10, 1e-2),
        weight_decay=(0, 0.1),
        maximize=(False, True),
    ),
    ids=names,
)
def test_adagrad(settings: dict[str, Any], rate: str):
    learning_rate, schedule = RATES[rate]
    options = {name: value for name, value in settings.items() if name != "maximize"}
    check(ps.adagrad(learning_rate, eps_in_sqrt=False, **options), torch.optim.Adagrad, schedule, settings)


@pytest.mark.parametrize("scheduled", [False, True])
def test_the_learning_rate_of_adagrad_is_the_decayed_one(scheduled: bool):
    def given(step: int) -> float:
        return 0.5 - 0.05 * step if scheduled else 0.5

    rate = ps.linear_schedule(0.5, 0.0, 10) if scheduled else 0.5
    tx, params = ps.adagrad(rate, 0.0, 0.0, lr_decay=0.3), torch.ones(1, dtype=torch.float64)
    state = tx.init(params)
    assert ps.learning_rate(state) == 0.5
    for step in range(4):
        updates, state = tx.update(torch.ones_like(params), state, params)
        used = ps.learning_rate(state)
        assert used is not None
        assert used.item() == pytest.approx(given(step) / (1 + 0.3 * step), rel=1e-14)
        assert updates.item() == pytest.approx(-used.item() / (step + 1) ** 0.5)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(
    "settings",
    grid(rho=(0.5, 0.9), eps=(1e-6, 1e-2), weight_decay=(0, 0.1), maximize=(False, True)),
    ids=names,
)
def test_adadelta(settings: dict[str, Any], rate: str):
    learning_rate, schedule = RATES[rate]
    options = {name: value for name, value in settings.items() if name != "maximize"}
    check(ps.adadelta(learning_rate, **options), torch.optim.Adadelta, schedule, settings)


def test_adadelta_without_a_learning_rate_has_one_of_1_as_in_torch():
    assert_same(ours(ps.adadelta()), torchs(torch.optim.Adadelta))


MOMENTS = {
    "betas": ((0.9, 0.999), (0.5, 0.9)),
    "eps": (1e-8, 1e-2),
    "weight_decay": (0, 0.1),
    "maximize": (False, True),
}


def moments(settings: dict[str, Any]) -> dict[str, float]:
    b1, b2 = settings["betas"]
    return {"b1": b1, "b2": b2, "eps": settings["eps"]}


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("settings", grid(**MOMENTS), ids=names)
def test_adamax(settings: dict[str, Any], rate: str):
    learning_rate, schedule = RATES[rate]
    tx = penalized(ps.adamax(learning_rate, **moments(settings)), settings)
    check(tx, torch.optim.Adamax, schedule, settings)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("settings", grid(**MOMENTS, amsgrad=(True,)), ids=names)
def test_amsgrad(settings: dict[str, Any], rate: str):
    learning_rate, schedule = RATES[rate]
    tx = ps.amsgrad(learning_rate, **moments(settings), max_before_correction=True)
    check(penalized(tx, settings), torch.optim.Adam, schedule, settings)


@pytest.mark.parametrize("settings", grid(**MOMENTS, amsgrad=(True,)), ids=names)
def test_amsgrad_with_decoupled_weight_decay(settings: dict[str, Any]):
    tx = ps.chain(
        ps.scale_by_amsgrad(**moments(settings), max_before_correction=True),
        ps.add_decayed_weights(settings["weight_decay"]),
        ps.scale_by_learning_rate(0.05),
    )
    check(tx, torch.optim.AdamW, None, settings)


@pytest.fixture
def float64_scalars() -> Iterator[None]:
    """Let torch keep NAdam's product in float64: it does so in the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("float64_scalars")
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(
    "settings",
    grid(**MOMENTS, momentum_decay=(0, 4e-3, 0.3), decoupled_weight_decay=(False, True)),
    ids=names,
)
def test_nadam(settings: dict[str, Any], rate: str):
    learning_rate, schedule = RATES[rate]
    options = {**moments(settings), "momentum_decay": settings["momentum_decay"]}
    if settings["decoupled_weight_decay"]:
        tx = ps.nadamw(learning_rate, **options, weight_decay=settings["weight_decay"])
    else:
        tx = penalized(ps.nadam(learning_rate, **options), settings)
    check(tx, torch.optim.NAdam, schedule, settings)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("settings", grid(**MOMENTS, decoupled_weight_decay=(False, True)), ids=names)
def test_radam(settings: dict[str, Any], rate: str):
    learning_rate, schedule = RATES[rate]
    tx = ps.radam(
        learning_rate,
        **moments(settings),
        eps_before_correction=True,
        weight_decay=settings["weight_decay"],
        decoupled_weight_decay=settings["decoupled_weight_decay"],
    )
    check(tx, torch.optim.RAdam, schedule, settings)
