"""The rules that torch.optim has too, side by side on a small nonlinear problem in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

import pure_sgd as ps

Params = dict[str, torch.Tensor]

STEPS = 8
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(12, 3, generator=GENERATOR, dtype=torch.float64)
Y = torch.randn(12, generator=GENERATOR, dtype=torch.float64)


def initial_params() -> Params:
    generator = torch.Generator().manual_seed(1)
    shapes = {"w1": (3, 4), "b1": (4,), "w2": (4,), "b2": ()}
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()
    }


def loss(params: Params) -> torch.Tensor:
    hidden = torch.tanh(X @ params["w1"] + params["b1"])
    return ((hidden @ params["w2"] + params["b2"] - Y) ** 2).mean()


def ours(tx: ps.GradientTransformation, steps: int = STEPS) -> Iterator[tuple[Params, Any]]:
    """The parameters and the state after each step."""
    params = initial_params()
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(torch.func.grad(loss)(params), state, params)
        params = ps.apply_updates(params, updates)
        yield params, state


def torchs(
    make: Callable[..., torch.optim.Optimizer],
    schedule: Callable[[torch.optim.Optimizer], Any] | None = None,
    steps: int = STEPS,
    **settings: Any,
) -> Iterator[Params]:
    """The parameters after each step of a torch optimizer and its scheduler."""
    params = {name: p.requires_grad_() for name, p in initial_params().items()}
    optimizer = make(params.values(), **settings)
    scheduler = schedule(optimizer) if schedule else None
    for _ in range(steps):
        optimizer.zero_grad()
        loss(params).backward()
        optimizer.step()
        if scheduler:
            scheduler.step()
        yield {name: p.detach().clone() for name, p in params.items()}


def assert_same(got: Iterator[tuple[Params, Any]], want: Iterator[Params]) -> None:
    count = 0
    for (a, _), b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
        count += 1
    assert count == STEPS


RATES: dict[str, tuple[Any, Any]] = {
    "constant": (0.05, None),
    "scheduled": (
        ps.inverse_time_decay_schedule(0.05, 0.5),
        lambda opt: lr_scheduler.LambdaLR(opt, lambda step: 1 / (1 + 0.5 * step)),
    ),
}


def sgd_settings() -> list[dict[str, Any]]:
    names = ("momentum", "dampening", "nesterov", "weight_decay")
    grid = itertools.product((0, 0.9), (0, 0.3), (False, True), (0, 0.1))
    # torch refuses Nesterov with dampening, and both of them mean nothing without momentum.
    return [
        dict(zip(names, point, strict=True))
        for point in grid
        if not (point[1] and point[2]) and (point[0] or not (point[1] or point[2]))
    ]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("settings", sgd_settings(), ids=lambda s: "-".join(map(str, s.values())))
def test_sgd(settings: dict[str, Any], rate: str):
    learning_rate, schedule = RATES[rate]
    # To torch 0 momentum is none.
    tx = ps.sgd(learning_rate, **{**settings, "momentum": settings["momentum"] or None})
    assert_same(ours(tx), torchs(torch.optim.SGD, schedule, lr=0.05, **settings))


def test_sgd_without_weight_decay_or_dampening_is_sgd_with_them_at_zero():
    bare = [params for params, _ in ours(ps.sgd(0.05, 0.9))]
    zeros = [params for params, _ in ours(ps.sgd(0.05, 0.9, dampening=0.0, weight_decay=0.0))]
    torch.testing.assert_close(bare, zeros, rtol=0.0, atol=0.0)


ADAM = [
    {},
    {"betas": (0.8, 0.9)},
    {"betas": (0.0, 0.99), "eps": 1e-3},
    {"betas": (0.9, 0.0)},
    {"betas": (0.5, 0.999), "eps": 1e-2, "weight_decay": 0.1},
]


def adam_settings(settings: dict[str, Any]) -> dict[str, Any]:
    b1, b2 = settings.get("betas", (0.9, 0.999))
    return {"b1": b1, "b2": b2, "eps": settings.get("eps", 1e-8)}


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("settings", ADAM, ids=str)
def test_adam(settings: dict[str, Any], rate: str):
    learning_rate, schedule = RATES[rate]
    tx = ps.adam(learning_rate, **adam_settings(settings))
    if "weight_decay" in settings:  # torch's Adam adds it to the gradients
        tx = ps.chain(ps.add_decayed_weights(settings["weight_decay"]), tx)
    assert_same(ours(tx), torchs(torch.optim.Adam, schedule, lr=0.05, **settings))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("settings", ADAM, ids=str)
def test_adamw(settings: dict[str, Any], rate: str):
    learning_rate, schedule = RATES[rate]
    decay = settings.get("weight_decay", 0.01)
    tx = ps.adamw(learning_rate, **adam_settings(settings), weight_decay=decay)
    assert_same(ours(tx), torchs(torch.optim.AdamW, schedule, lr=0.05, **settings))


class Module(torch.nn.Module):
    """Parameters that something else moves."""

    def __init__(self) -> None:
        super().__init__()
        self.values = torch.nn.ParameterDict(initial_params())

    def set(self, params: Params) -> None:
        with torch.no_grad():
            for name, value in params.items():
                self.values[name].copy_(value)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_params_ema_is_the_averaged_model(decay: float):
    module = Module()
    # torch begins at the first parameters it is shown: those before the first step, here as there.
    averaged = AveragedModel(module, avg_fn=get_ema_avg_fn(decay))
    averaged.update_parameters(module)
    for params, state in ours(ps.chain(ps.adam(0.05), ps.params_ema(decay))):
        module.set(params)
        averaged.update_parameters(module)
        got = ps.eval_params(state, params)
        for name, want in averaged.module.get_submodule("values").named_parameters():
            torch.testing.assert_close(got[name], want.detach(), rtol=1e-10, atol=1e-12)


PLATEAU: list[dict[str, Any]] = [
    {"patience": 0},
    {"patience": 2, "factor": 0.5},
    {"patience": 1, "cooldown": 2, "factor": 0.7},
    {"patience": 0, "cooldown": 1, "factor": 0.3, "min_lr": 0.002},
    {"patience": 1, "threshold": 0.05, "factor": 0.5},
    {"patience": 1, "threshold": 0.1, "threshold_mode": "abs", "factor": 0.5},
]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("settings", PLATEAU, ids=str)
def test_reduce_on_plateau(settings: dict[str, Any], seed: int):
    rate, optimizer = 0.1, torch.optim.SGD([torch.zeros(1)], lr=0.1)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, **{"eps": 0.0, **settings})
    threshold = settings.get("threshold", 1e-4)
    relative = settings.get("threshold_mode", "rel") == "rel"
    tx = ps.chain(
        ps.sgd(rate),
        ps.reduce_on_plateau(
            settings.get("factor", 0.1),
            settings["patience"] + 1,
            rtol=threshold if relative else 0.0,
            atol=0.0 if relative else threshold,
            cooldown=settings.get("cooldown", 0),
            min_scale=settings.get("min_lr", 0.0) / rate,
        ),
    )
    one = torch.ones((), dtype=torch.float64)
    state = tx.init(one)
    generator = torch.Generator().manual_seed(seed)
    falling = 2 / torch.arange(1, 41) ** 0.5
    values = (falling + 0.2 * torch.randn(40, generator=generator)).clamp(min=0.01).tolist()
    for value in values:
        optimizer.step()
        scheduler.step(value)
        # torch lowers the rate of the step that follows a value, we that of the step it comes with.
        updates, state = tx.update(one, state, value=value)
        assert -updates.item() == pytest.approx(scheduler.get_last_lr()[0], rel=1e-10)
    assert optimizer.param_groups[0]["lr"] < rate


@pytest.mark.parametrize("max_norm", [0.1, 1.0, 100.0])
def test_clip_by_global_norm(max_norm: float):
    params = {name: p.requires_grad_() for name, p in initial_params().items()}
    loss(params).backward()
    grads = {name: p.grad.clone() for name, p in params.items() if p.grad is not None}
    norm = torch.nn.utils.clip_grad_norm_(params.values(), max_norm)
    torch.testing.assert_close(ps.tree.norm(grads), norm, rtol=1e-12, atol=0.0)
    clipped, _ = ps.clip_by_global_norm(max_norm).update(grads, ps.EmptyState())
    # torch divides by norm + 1e-6.
    for name, p in params.items():
        torch.testing.assert_close(clipped[name], p.grad, rtol=1e-6 / norm.item() * 1.01, atol=0.0)
