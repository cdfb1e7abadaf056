"""The schedules of ``torch.optim.lr_scheduler`` and their relatives: torch, a loop and closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

import pure_sgd as ps

STEPS = 300
BASE = 0.1


def values(schedule: Callable[[torch.Tensor], torch.Tensor], steps: int = STEPS) -> list[float]:
    return schedule(torch.arange(steps)).tolist()


def sentence_of(call: Callable[[], Any]) -> str:
    with pytest.raises(ps.PureSGDError) as caught:
        call()
    return str(caught.value)


def torchs(make: Callable[[Any], Any], steps: int) -> list[float]:
    """The rates of a torch scheduler whose optimizer was made with the learning rate ``BASE``."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=BASE)
    scheduler, rates = make(optimizer), []
    for step in range(steps):
        rates.append(float(scheduler.get_last_lr()[0]))
        optimizer.step()
        if step < steps - 1:
            scheduler.step()
    return rates


def cyclic(**settings: Any) -> tuple[ps.Schedule, Callable[[Any], Any]]:
    return (
        ps.cyclic_schedule(0.02, 0.3, **settings),
        lambda opt: lr_scheduler.CyclicLR(opt, 0.02, 0.3, cycle_momentum=False, **settings),
    )


def one_cycle(**settings: Any) -> tuple[ps.Schedule, Callable[[Any], Any]]:
    return (
        ps.one_cycle_schedule(0.7, **{"total_steps": STEPS, **settings}),
        lambda opt: lr_scheduler.OneCycleLR(
            opt, 0.7, cycle_momentum=False, **{"total_steps": STEPS, **settings}
        ),
    )


def restarts(**settings: Any) -> tuple[ps.Schedule, Callable[[Any], Any]]:
    return (
        ps.cosine_annealing_warm_restarts_schedule(BASE, **settings),
        lambda opt: lr_scheduler.CosineAnnealingWarmRestarts(opt, **settings),
    )


def annealing(**settings: Any) -> tuple[ps.Schedule, Callable[[Any], Any]]:
    return (
        ps.cosine_annealing_schedule(BASE, **settings),
        lambda opt: lr_scheduler.CosineAnnealingLR(opt, **settings),
    )


TORCH: dict[str, tuple[ps.Schedule, Callable[[Any], Any]]] = {
    # Three periods and more: torch goes up again past T_max.
    "CosineAnnealingLR": annealing(T_max=50),
    "CosineAnnealingLR to a floor": annealing(T_max=37, eta_min=0.03),
    "CosineAnnealingLR of one step": annealing(T_max=1, eta_min=0.01),
    "CosineAnnealingWarmRestarts": restarts(T_0=13),
    "CosineAnnealingWarmRestarts of one step": restarts(T_0=1),
    "CosineAnnealingWarmRestarts doubled": restarts(T_0=1, T_mult=2, eta_min=0.03),
    "CosineAnnealingWarmRestarts tripled": restarts(T_0=5, T_mult=3, eta_min=0.01),
    "CyclicLR": cyclic(step_size_up=7),
    "CyclicLR by default": cyclic(),
    "CyclicLR uneven": cyclic(step_size_up=3, step_size_down=11),
    "CyclicLR triangular2": cyclic(step_size_up=9, step_size_down=4, mode="triangular2"),
    "CyclicLR exp_range": cyclic(step_size_up=6, mode="exp_range", gamma=0.98),
    "OneCycleLR": one_cycle(),
    "OneCycleLR linear": one_cycle(anneal_strategy="linear", div_factor=10.0, final_div_factor=50.0),
    "OneCycleLR in three phases": one_cycle(three_phase=True, pct_start=0.37),
    "OneCycleLR without a first phase": one_cycle(pct_start=0.0),
    "OneCycleLR whose first phase is under a step": one_cycle(total_steps=9, pct_start=0.07),
    "OneCycleLR of one phase": one_cycle(pct_start=1.0, anneal_strategy="linear"),
    "OneCycleLR of one step": one_cycle(total_steps=1),
    "MultiplicativeLR": (
        ps.multiplicative_schedule(BASE, lambda step: 1 - 1 / (step + 3), STEPS),
        lambda opt: lr_scheduler.MultiplicativeLR(opt, lambda step: 1 - 1 / (step + 3)),
    ),
    "ConstantLR": (
        ps.piecewise_constant_schedule(BASE / 3, {40: 3.0}),
        lambda opt: lr_scheduler.ConstantLR(opt, 1 / 3, total_iters=40),
    ),
    "SequentialLR": (
        ps.wsd_schedule(0.2 * BASE, BASE, warmup_steps=20, stable_steps=50, decay_steps=80, end_value=0.01),
        lambda opt: lr_scheduler.SequentialLR(
            opt,
            [
                lr_scheduler.LinearLR(opt, 0.2, 1.0, total_iters=20),
                lr_scheduler.ConstantLR(opt, 1.0, total_iters=50),
                lr_scheduler.LinearLR(opt, 1.0, 0.1, total_iters=80),
            ],
            [20, 70],
        ),
    ),
    "ChainedScheduler": (
        ps.Schedule(lambda s: ps.exponential_decay(BASE, 1, 0.99)(s) * ps.linear_schedule(0.5, 1.0, 30)(s)),
        lambda opt: lr_scheduler.ChainedScheduler(
            [
                lr_scheduler.LinearLR(opt, 0.5, 1.0, total_iters=30),
                lr_scheduler.ExponentialLR(opt, 0.99),
            ]
        ),
    ),
    "LambdaLR": (
        ps.inverse_sqrt_schedule(0.0, BASE, 25),
        lambda opt: lr_scheduler.LambdaLR(opt, lambda s: s / 25 if s < 25 else math.sqrt(25 / s)),
    ),
}

# OneCycleLR has an end. With one phase that is both the peak and the end: torch stays, we fall.
FEWER_STEPS = {
    "OneCycleLR of one phase": STEPS - 1,
    "OneCycleLR of one step": 1,
    "OneCycleLR whose first phase is under a step": 9,
}


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")
@pytest.mark.parametrize("name", TORCH)
def test_torchs_scheduler_gives_the_same_rates(name: str):
    ours, make = TORCH[name]
    steps = FEWER_STEPS.get(name, STEPS)
    assert values(ours, steps) == pytest.approx(torchs(make, steps), rel=1e-12, abs=1e-14)


def test_a_cycle_moves_the_momentum_the_other_way_with_a_schedule_of_its_own():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1, momentum=0.9)
    scheduler, seen = lr_scheduler.CyclicLR(optimizer, 0.1, 1.0, step_size_up=5, step_size_down=3), []
    for _ in range(40):
        seen.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        scheduler.step()
    # 0.9 and 0.8 are CyclicLR's max_momentum and base_momentum.
    assert values(ps.cyclic_schedule(0.9, 0.8, 5, 3), 40) == pytest.approx(seen, rel=1e-12)


@pytest.mark.parametrize("T_0, T_mult", [(1, 2), (7, 2), (10, 3), (3, 10), (1, 7)])
def test_every_restart_falls_on_its_step(T_0: int, T_mult: int):
    schedule = ps.cosine_annealing_warm_restarts_schedule(1.0, T_0, T_mult)
    start, length = 0, T_0
    while start < 10**12:
        assert schedule(start) == 1.0
        # One step before a restart the cosine is at its lowest.
        assert schedule(start + length - 1).item() == pytest.approx(
            (1 + math.cos(math.pi * (length - 1) / length)) / 2, abs=1e-12
        )
        start, length = start + length, length * T_mult


def test_interpolated_points_are_met_exactly_and_the_last_one_stays():
    for kind in ("linear", "cosine"):
        schedule = ps.piecewise_interpolate_schedule(kind, 0.3, {9: 0.1, 4: 3.0})
        want = [0.3, 0.3 * 3.0, 0.3 * 3.0 * 0.1, 0.3 * 3.0 * 0.1]
        assert schedule(torch.tensor([0, 4, 9, 10**9])).tolist() == want
        assert values(ps.piecewise_interpolate_schedule(kind, 0.3), 3) == [0.3, 0.3, 0.3]
        assert values(ps.piecewise_interpolate_schedule(kind, 0.3, {0: 2.0}), 3) == [0.6, 0.6, 0.6]


def test_a_one_cycle_ends_at_its_first_value_over_the_final_factor():
    for make in (ps.linear_onecycle_schedule, ps.cosine_onecycle_schedule):
        schedule = make(40, 2.0, div_factor=10.0, final_div_factor=100.0)
        assert schedule(0).item() == pytest.approx(0.2)
        assert schedule(12).item() == pytest.approx(2.0)
        assert schedule(torch.tensor([40, 99])).tolist() == pytest.approx([0.002, 0.002])


def test_a_short_one_cycle_keeps_its_peak():
    # The first phase has no step: Optax forgets the peak, because two boundaries are the same key.
    assert values(ps.linear_onecycle_schedule(2, 1.0, 0.3, 0.4, 4.0, 10.0), 4) == [0.25, 0.1375, 0.025, 0.025]
    assert values(ps.linear_onecycle_schedule(3, 1.0, 0.0, 0.7, 4.0, 10.0), 3) == [1.0, 0.625, 0.25]


def test_sgdr_is_one_warm_up_and_cosine_after_the_other():
    cycle = {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 3, "decay_steps": 10, "end_value": 0.1}
    later = {**cycle, "peak_value": 0.5, "decay_steps": 20}
    got = values(ps.sgdr_schedule([cycle, later, cycle]), 45)
    one, two = (values(ps.warmup_cosine_decay_schedule(**kwargs), 20) for kwargs in (cycle, later))
    assert got == [*one[:10], *two, *one[:15]]


def test_a_product_of_factors_stops_after_its_last_step():
    schedule = ps.multiplicative_schedule(2.0, lambda step: 0.5, 3)
    assert values(schedule, 6) == [2.0, 1.0, 0.5, 0.25, 0.25, 0.25]
    rate = torch.tensor([0.5, 0.9], dtype=torch.float64)

    def last(rate: torch.Tensor) -> torch.Tensor:
        return ps.multiplicative_schedule(1.0, ps.constant_schedule(rate), 3)(torch.tensor(7))

    assert torch.func.vmap(last)(rate).tolist() == pytest.approx([0.125, 0.729])
    assert torch.func.vmap(torch.func.grad(last))(rate).tolist() == pytest.approx([0.75, 2.43])


def test_wsd_without_a_part_is_the_others():
    no_warmup = ps.wsd_schedule(0.0, 1.0, 0, 2, 4)
    assert values(no_warmup, 8) == [1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert values(ps.wsd_schedule(0.0, 1.0, 2, 0, 2, 0.5), 6) == [0.0, 0.5, 1.0, 0.75, 0.5, 0.5]
    # Without a decay it jumps down, at the step at which the decay would have begun.
    assert values(ps.wsd_schedule(0.0, 1.0, 1, 2, 0, 0.5), 5) == [0.0, 1.0, 1.0, 0.5, 0.5]


# Of types that no annotation allows.
WRONG: Any = "0.1"
A_TENSOR: Any = torch.tensor(0.3)


@pytest.mark.parametrize(
    "call, sentence",
    [
        (
            lambda: ps.cosine_annealing_warm_restarts_schedule(0.1, 0),
            "cosine_annealing_warm_restarts_schedule: T_0=0 is not at least 1. Pass a T_0 at least 1.",
        ),
        (
            lambda: ps.cosine_annealing_warm_restarts_schedule(0.1, 5, T_mult=0),
            "cosine_annealing_warm_restarts_schedule: T_mult=0 is not at least 1. Pass a T_mult at least 1.",
        ),
        (
            lambda: ps.cyclic_schedule(0.1, 1.0, 0),
            "cyclic_schedule: step_size_up=0 is not at least 1. Pass a step_size_up at least 1.",
        ),
        (
            lambda: ps.cyclic_schedule(0.1, 1.0, 5, 0),
            "cyclic_schedule: step_size_down=0 is not at least 1. Pass a step_size_down at least 1.",
        ),
        (
            lambda: ps.cyclic_schedule(0.1, 1.0, 5, mode="square"),
            "cyclic_schedule: mode='square' is unknown. Pass triangular, triangular2 or exp_range.",
        ),
        (
            lambda: ps.cyclic_schedule(0.1, 1.0, 5, mode="exp_range", gamma=0.0),
            "cyclic_schedule: gamma=0.0 lies outside (0, inf). Pass a gamma within these bounds.",
        ),
        (
            lambda: ps.sgdr_schedule([]),
            "sgdr_schedule: got no cycle. Pass the arguments of at least one.",
        ),
        (
            lambda: ps.piecewise_interpolate_schedule("cubic", 1.0),
            "piecewise_interpolate_schedule: interpolate_type='cubic' is unknown. Pass 'linear' or 'cosine'.",
        ),
        (
            lambda: ps.piecewise_interpolate_schedule("linear", 1.0, {-1: 0.5}),
            "piecewise_interpolate_schedule: boundary=-1 is not at least 0. Pass a boundary at least 0.",
        ),
        (
            lambda: ps.piecewise_interpolate_schedule("linear", 1.0, {3: -0.5}),
            "piecewise_interpolate_schedule: scale=-0.5 lies outside [0, inf). "
            "Pass a scale within these bounds.",
        ),
        (
            lambda: ps.linear_onecycle_schedule(10, 1.0, 0.5, 0.4),
            "linear_onecycle_schedule: pct_start=0.5 lies outside [0, 0.4]. "
            "Pass a pct_start within these bounds.",
        ),
        (
            lambda: ps.linear_onecycle_schedule(0, 1.0),
            "linear_onecycle_schedule: transition_steps=0 is not at least 1. "
            "Pass a transition_steps at least 1.",
        ),
        (
            lambda: ps.cosine_onecycle_schedule(10, 1.0, A_TENSOR),
            "cosine_onecycle_schedule: pct_start is a Tensor, expected a number. "
            "It fixes the steps at which the phases end: pass a Python float.",
        ),
        (
            lambda: ps.cosine_onecycle_schedule(10, 1.0, div_factor=0.0),
            "cosine_onecycle_schedule: div_factor=0.0 lies outside (0, inf). "
            "Pass a div_factor within these bounds.",
        ),
        (
            lambda: ps.one_cycle_schedule(1.0, 10, 0.6, three_phase=True),
            "one_cycle_schedule: pct_start=0.6 lies outside [0, 0.5]. Pass a pct_start within these bounds.",
        ),
        (
            lambda: ps.one_cycle_schedule(1.0, 10, anneal_strategy="exp"),
            "one_cycle_schedule: anneal_strategy='exp' is unknown. Pass 'cos' or 'linear'.",
        ),
        (
            lambda: ps.multiplicative_schedule(1.0, WRONG, 10),
            "multiplicative_schedule: factor_fn='0.1' is not a function of the step. "
            "Pass a schedule, or use exponential_decay for a constant factor.",
        ),
        (
            lambda: ps.multiplicative_schedule(1.0, lambda step: 1.0, 0),
            "multiplicative_schedule: transition_steps=0 is not at least 1. "
            "Pass a transition_steps at least 1.",
        ),
        (
            lambda: ps.inverse_sqrt_schedule(0.0, 1.0, 0),
            "inverse_sqrt_schedule: warmup_steps=0 is not at least 1. Pass a warmup_steps at least 1.",
        ),
        (
            lambda: ps.wsd_schedule(0.0, 1.0, 1, -1, 5),
            "wsd_schedule: stable_steps=-1 is not at least 0. Pass a stable_steps at least 0.",
        ),
    ],
)
def test_an_argument_out_of_range_is_refused_at_once(call: Callable[[], Any], sentence: str):
    assert sentence_of(call) == sentence
