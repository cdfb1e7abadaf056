"""Every schedule against its closed form, torch's scheduler and a loop."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.optim import lr_scheduler

import pure_sgd as ps

STEPS = 60

# Every public schedule: constants (numbers or 0-d tensors), then what fixes its form.
CASES: dict[str, tuple[dict[str, float], dict[str, Any]]] = {
    "constant_schedule": ({"value": 0.3}, {}),
    "linear_schedule": (
        {"init_value": 0.2, "end_value": 1.3},
        {"transition_steps": 7, "transition_begin": 2},
    ),
    "polynomial_schedule": (
        {"init_value": 1.2, "end_value": 0.1, "power": 2.5},
        {"transition_steps": 8, "transition_begin": 1},
    ),
    "exponential_decay": (
        {"init_value": 0.7, "decay_rate": 0.8, "end_value": 0.2},
        {"transition_steps": 3, "transition_begin": 2},
    ),
    "step_schedule": ({"init_value": 0.9, "gamma": 0.3}, {"step_size": 4}),
    "inverse_time_decay_schedule": ({"init_value": 0.8, "decay_rate": 0.4}, {}),
    "cosine_decay_schedule": (
        {"init_value": 0.5, "alpha": 0.1, "exponent": 1.5},
        {"decay_steps": 9},
    ),
    "piecewise_constant_schedule": (
        {"init_value": 0.6},
        {"boundaries_and_scales": {3: 0.5, 8: 0.2}},
    ),
    "warmup_constant_schedule": ({"init_value": 0.1, "peak_value": 0.9}, {"warmup_steps": 5}),
    "warmup_cosine_decay_schedule": (
        {"init_value": 0.1, "peak_value": 0.9, "end_value": 0.05, "exponent": 1.5},
        {"warmup_steps": 4, "decay_steps": 11},
    ),
    "warmup_exponential_decay_schedule": (
        {"init_value": 0.1, "peak_value": 0.9, "decay_rate": 0.7, "end_value": 0.3},
        {"warmup_steps": 4, "transition_steps": 2, "transition_begin": 1, "staircase": True},
    ),
    "join_schedules": (
        {},
        {"schedules": [ps.constant_schedule(0.4), ps.linear_schedule(1.0, 0.0, 5)], "boundaries": [6]},
    ),
    "cosine_annealing_schedule": ({"init_value": 0.9, "eta_min": 0.1}, {"T_max": 4}),
    "cosine_annealing_warm_restarts_schedule": (
        {"init_value": 0.9, "eta_min": 0.1},
        {"T_0": 3, "T_mult": 2},
    ),
    "cosine_onecycle_schedule": (
        {"peak_value": 0.9, "div_factor": 5.0, "final_div_factor": 20.0},
        {"transition_steps": 11},
    ),
    "cyclic_schedule": (
        {"base_value": 0.1, "max_value": 0.9, "gamma": 0.95},
        {"step_size_up": 3, "step_size_down": 2, "mode": "exp_range"},
    ),
    "ema_warmup_schedule": ({"decay": 0.35}, {}),
    "inverse_sqrt_schedule": ({"init_value": 0.1, "peak_value": 0.9}, {"warmup_steps": 4}),
    "linear_onecycle_schedule": (
        {"peak_value": 0.9, "div_factor": 5.0, "final_div_factor": 20.0},
        {"transition_steps": 11},
    ),
    "multiplicative_schedule": (
        {"init_value": 0.9},
        {"factor_fn": ps.inverse_time_decay_schedule(1.0, 0.1), "transition_steps": 8},
    ),
    "one_cycle_schedule": (
        {"max_value": 0.9, "div_factor": 5.0, "final_div_factor": 20.0},
        {"total_steps": 12, "three_phase": True},
    ),
    "piecewise_interpolate_schedule": (
        {"init_value": 0.6},
        {"interpolate_type": "cosine", "boundaries_and_scales": {3: 0.5, 8: 0.2}},
    ),
    "power_ema_schedule": ({"gamma": 1.5}, {}),
    "sgdr_schedule": (
        {},
        {
            "cosine_kwargs": [
                {"init_value": 0.1, "peak_value": 0.9, "warmup_steps": 2, "decay_steps": 5},
                {"init_value": 0.0, "peak_value": 0.5, "warmup_steps": 0, "decay_steps": 4, "end_value": 0.1},
            ]
        },
    ),
    "wsd_schedule": (
        {"init_value": 0.1, "peak_value": 0.9, "end_value": 0.05},
        {"warmup_steps": 3, "stable_steps": 2, "decay_steps": 6},
    ),
}


def build(name: str, **constants: Any) -> ps.Schedule:
    numbers, form = CASES[name]
    return getattr(ps, name)(**{**numbers, **form, **constants})


def values(schedule: Callable[[torch.Tensor], Any], steps: int = STEPS) -> list[float]:
    return schedule(torch.arange(steps)).tolist()


def sentence_of(call: Callable[[], Any]) -> str:
    with pytest.raises(ps.PureSGDError) as caught:
        call()
    return str(caught.value)


def test_every_public_schedule_is_in_the_table():
    public = {
        name
        for name, value in vars(ps).items()
        if inspect.isfunction(value) and inspect.signature(value).return_annotation == "Schedule"
    }
    assert public == CASES.keys()
    for name, (constants, _) in CASES.items():
        parameters = inspect.signature(getattr(ps, name)).parameters.values()
        numbers = {p.name for p in parameters if str(p.annotation).startswith("Number")}
        assert numbers == constants.keys()


# Each schedule written out at one step, with math and a step from range().
CLOSED_FORMS: list[tuple[ps.Schedule, Callable[[int], float]]] = [
    (ps.constant_schedule(0.3), lambda s: 0.3),
    (ps.linear_schedule(0.1, 0.9, 20), lambda s: 0.1 + 0.8 * min(s / 20, 1)),
    (ps.linear_schedule(0.1, 0.9, 20, 5), lambda s: 0.1 + 0.8 * min(max(s - 5, 0) / 20, 1)),
    (ps.polynomial_schedule(1.0, 0.2, 3, 10), lambda s: 0.2 + 0.8 * (1 - min(s / 10, 1)) ** 3),
    (ps.polynomial_schedule(1.0, 0.2, 3, 0, 4), lambda s: 1.0 if s < 4 else 0.2),
    (ps.step_schedule(0.1, 30, 0.1), lambda s: 0.1 * 0.1 ** (s // 30)),
    (ps.step_schedule(0.5, 7, 0.3), lambda s: 0.5 * 0.3 ** (s // 7)),
    (ps.exponential_decay(0.1, 1, 0.98), lambda s: 0.1 * 0.98**s),
    (ps.exponential_decay(0.1, 5, 0.5), lambda s: 0.1 * 0.5 ** (s / 5)),
    (ps.exponential_decay(0.1, 5, 0.5, 3), lambda s: 0.1 * 0.5 ** (max(s - 3, 0) / 5)),
    (ps.exponential_decay(0.1, 5, 0.5, 0, True), lambda s: 0.1 * 0.5 ** (s // 5)),
    (
        ps.exponential_decay(0.1, 5, 0.5, end_value=0.01),
        lambda s: max(0.1 * 0.5 ** (s / 5), 0.01),
    ),
    (ps.exponential_decay(0.1, 5, 2.0, end_value=0.5), lambda s: min(0.1 * 2 ** (s / 5), 0.5)),
    (ps.inverse_time_decay_schedule(0.1, 0.05), lambda s: 0.1 / (1 + 0.05 * s)),
    (
        ps.cosine_decay_schedule(0.1, 40, 0.01),
        lambda s: 0.001 + 0.5 * (0.1 - 0.001) * (1 + math.cos(math.pi * min(s, 40) / 40)),
    ),
    (
        ps.cosine_decay_schedule(0.1, 40, 0.2, 2.0),
        lambda s: 0.02 + 0.08 * ((1 + math.cos(math.pi * min(s, 40) / 40)) / 2) ** 2,
    ),
    (
        ps.piecewise_constant_schedule(1.0, {30: 0.5, 10: 3.0}),
        lambda s: 1.0 * (3 if s >= 10 else 1) * (0.5 if s >= 30 else 1),
    ),
    (ps.piecewise_constant_schedule(0.7), lambda s: 0.7),
    (
        ps.join_schedules([lambda s: 0.1 * s, lambda s: 2.0, lambda s: 3.0 - s], [4, 9]),
        lambda s: 0.1 * s if s < 4 else 2.0 if s < 9 else 3.0 - (s - 9),
    ),
    (
        ps.cosine_annealing_schedule(0.3, 13, 0.1),
        lambda s: 0.1 + 0.2 * (1 + math.cos(math.pi * s / 13)) / 2,
    ),
    (ps.ema_warmup_schedule(0.9), lambda s: min(0.9, (1 + s) / (10 + s))),
    (ps.power_ema_schedule(6.94), lambda s: (1 - 1 / (s + 1)) ** 7.94),
    (ps.warmup_constant_schedule(0.2, 1.0, 8), lambda s: 0.2 + 0.8 * min(s / 8, 1)),
    (
        ps.warmup_cosine_decay_schedule(0.2, 1.0, 10, 50, 0.1),
        lambda s: (
            0.2 + 0.8 * s / 10 if s < 10 else 0.1 + 0.9 * (1 + math.cos(math.pi * min((s - 10) / 40, 1))) / 2
        ),
    ),
    (
        ps.warmup_exponential_decay_schedule(0.0, 1.0, 10, 5, 0.5),
        lambda s: s / 10 if s < 10 else 0.5 ** ((s - 10) / 5),
    ),
]


@pytest.mark.parametrize(
    "schedule, closed_form", CLOSED_FORMS, ids=[repr(schedule) for schedule, _ in CLOSED_FORMS]
)
def test_closed_form_at_every_step(schedule: ps.Schedule, closed_form: Callable[[int], float]):
    want = [closed_form(step) for step in range(STEPS)]
    assert values(schedule) == pytest.approx(want, rel=1e-13, abs=1e-15)


# Ours, and torch's on an optimizer whose learning rate is 0.1.
TORCH: dict[str, tuple[ps.Schedule, Callable[[Any], Any]]] = {
    "StepLR": (
        ps.step_schedule(0.1, 7, 0.3),
        lambda opt: lr_scheduler.StepLR(opt, 7, gamma=0.3),
    ),
    "StepLR by default": (ps.step_schedule(0.1, 20), lambda opt: lr_scheduler.StepLR(opt, 20)),
    "MultiStepLR": (
        ps.piecewise_constant_schedule(0.1, {5: 0.4, 17: 0.4, 40: 0.4}),
        lambda opt: lr_scheduler.MultiStepLR(opt, [5, 17, 40], gamma=0.4),
    ),
    "ExponentialLR": (
        ps.exponential_decay(0.1, 1, 0.97),
        lambda opt: lr_scheduler.ExponentialLR(opt, 0.97),
    ),
    "CosineAnnealingLR": (
        ps.cosine_decay_schedule(0.1, STEPS, alpha=0.02),
        lambda opt: lr_scheduler.CosineAnnealingLR(opt, STEPS, eta_min=0.1 * 0.02),
    ),
    "LinearLR": (
        ps.linear_schedule(0.1 * 0.25, 0.1 * 0.75, 13),
        lambda opt: lr_scheduler.LinearLR(opt, 0.25, 0.75, total_iters=13),
    ),
    "PolynomialLR": (
        ps.polynomial_schedule(0.1, 0.0, 2, 33),
        lambda opt: lr_scheduler.PolynomialLR(opt, 33, power=2),
    ),
    "ConstantLR": (
        ps.piecewise_constant_schedule(0.1 * 0.5, {9: 2.0}),
        lambda opt: lr_scheduler.ConstantLR(opt, 0.5, total_iters=9),
    ),
    "LambdaLR": (
        ps.inverse_time_decay_schedule(0.1, 0.3),
        lambda opt: lr_scheduler.LambdaLR(opt, lambda step: 1 / (1 + 0.3 * step)),
    ),
}


@pytest.mark.parametrize("name", TORCH)
def test_torchs_scheduler_gives_the_same_rates(name: str):
    ours, make = TORCH[name]
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    scheduler, rates = make(optimizer), []
    for _ in range(STEPS):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    # torch works out most rates from the one before, and gathers rounding errors.
    assert values(ours) == pytest.approx(rates, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("name", CASES)
def test_a_step_is_an_int_or_a_tensor_of_any_shape(name: str):
    schedule = build(name)
    curve = schedule(torch.arange(12))
    assert curve.dtype == torch.float64
    for dtype in (torch.int32, torch.int64, torch.float32):
        step_TS = torch.arange(12).reshape(3, 2, 2).to(dtype)
        assert torch.equal(schedule(step_TS), curve.reshape(3, 2, 2))
    for step in range(12):
        one = schedule(step)
        assert one.shape == ()
        torch.testing.assert_close(one, curve[step], rtol=1e-14, atol=0.0)
        assert torch.equal(one, schedule(torch.tensor(step)))


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name][0]])
def test_tensor_constants_map_as_a_loop(name: str):
    grid = {
        key: value * torch.tensor([0.7, 1.0, 1.1], dtype=torch.float64)
        for key, value in CASES[name][0].items()
    }
    steps = torch.arange(15)
    mapped = torch.func.vmap(lambda constants: build(name, **constants)(steps))(grid)
    assert mapped.shape == (3, 15)
    for index in range(3):
        alone = build(name, **{key: value[index].item() for key, value in grid.items()})
        torch.testing.assert_close(mapped[index], alone(steps), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name][0]])
def test_slopes_with_respect_to_the_constants_are_those_of_finite_differences(name: str):
    keys = list(CASES[name][0])
    constants = [torch.tensor(CASES[name][0][key], dtype=torch.float64) for key in keys]

    def curve(*constants: torch.Tensor) -> torch.Tensor:
        return build(name, **dict(zip(keys, constants, strict=True)))(torch.arange(15))

    assert torch.autograd.gradcheck(curve, [c.requires_grad_() for c in constants])


def test_the_parts_of_a_joined_schedule_map_and_differentiate():
    def total(first: torch.Tensor) -> torch.Tensor:
        joined = ps.join_schedules([ps.constant_schedule(first), lambda step: 2 * first * step], [3])
        return joined(torch.arange(6)).sum()  # 3 * first, then 0, 2 and 4 times first

    firsts = torch.tensor([1.0, 2.0], dtype=torch.float64)
    assert torch.func.vmap(total)(firsts).tolist() == [9.0, 18.0]
    assert torch.func.vmap(torch.func.grad(total))(firsts).tolist() == [9.0, 9.0]


@pytest.mark.parametrize("warmup_steps", [0, 1, 5])
def test_a_warm_up_reaches_the_peak_after_its_steps(warmup_steps: int):
    for schedule in (
        ps.warmup_constant_schedule(0.1, 0.7, warmup_steps),
        ps.warmup_cosine_decay_schedule(0.1, 0.7, warmup_steps, 20, 0.01),
        ps.warmup_exponential_decay_schedule(0.1, 0.7, warmup_steps, 2, 0.5),
    ):
        assert schedule(warmup_steps).item() == 0.7
        assert schedule(0).item() == pytest.approx(0.1 if warmup_steps else 0.7)


def test_a_peak_of_zero_is_one_to_decay_from():
    schedule = ps.warmup_cosine_decay_schedule(1.0, 0.0, 2, 6, 0.5)
    assert values(schedule, 8) == pytest.approx([1.0, 0.5, 0.0, 0.0732233047, 0.25, 0.4267766953, 0.5, 0.5])


def test_a_schedule_stays_at_its_last_value():
    for schedule, last in [
        (ps.linear_schedule(0.1, 0.9, 20), 0.9),
        (ps.polynomial_schedule(0.1, 0.9, 2, 20), 0.9),
        (ps.cosine_decay_schedule(0.5, 20, 0.1), 0.05),
        (ps.warmup_constant_schedule(0.0, 0.3, 20), 0.3),
        (ps.warmup_cosine_decay_schedule(0.0, 0.3, 10, 20, 0.1), 0.1),
    ]:
        assert schedule(torch.tensor([20, 10**12])).tolist() == pytest.approx([last, last])


def test_a_long_schedule_keeps_its_digits():
    # In float32 every step beyond 2**24 would be even.
    step = 2**24 + 1
    assert ps.linear_schedule(0.0, 1.0, 2**25)(step) == step / 2**25


def test_all_schedules_are_one_program_that_serves_every_step_and_every_constant():
    def all_schedules(
        step: torch.Tensor, constants: dict[str, dict[str, torch.Tensor]]
    ) -> list[torch.Tensor]:
        fixed = [build(name)(step) for name in CASES]
        return fixed + [build(name, **constants[name])(step) for name in CASES]

    def tensors(factor: float) -> dict[str, dict[str, torch.Tensor]]:
        return {
            name: {k: torch.tensor(factor * v, dtype=torch.float64) for k, v in numbers.items()}
            for name, (numbers, _) in CASES.items()
        }

    counter = CompileCounter()
    compiled = torch.compile(all_schedules, backend=counter, fullgraph=True)
    for step in range(7):
        constants = tensors(1 - 0.05 * step)
        got = compiled(torch.tensor(step), constants)
        torch.testing.assert_close(got, all_schedules(torch.tensor(step), constants))
    assert counter.frame_count == 1


# Of a type that no annotation allows.
WRONG: Any = "0.1"


@pytest.mark.parametrize("name, key", [(n, k) for n, (numbers, _) in CASES.items() for k in numbers])
def test_a_constant_is_a_number_or_a_tensor_without_axes(name: str, key: str):
    # A warm-up is made of other schedules, and may leave the complaint to them.
    for wrong, complaint in [
        ("0.1", "='0.1' is of type str, expected a number, a 0-d tensor"),
        (torch.ones(2), " is a tensor of shape (2,), expected a 0-d tensor. Map over its axis"),
        (math.sqrt, "=<built-in function sqrt> is a function, expected a number or a 0-d tensor."),
    ]:
        assert complaint in sentence_of(lambda wrong=wrong: build(name, **{key: wrong}))


@pytest.mark.parametrize(
    "call, sentence",
    [
        (
            lambda: ps.linear_schedule(1.0, 0.0, -1),
            "polynomial_schedule: transition_steps=-1 is not at least 0. Pass a transition_steps at least 0.",
        ),
        (
            lambda: ps.polynomial_schedule(1.0, 0.0, 1, 3, transition_begin=-2),
            "polynomial_schedule: transition_begin=-2 is not at least 0. Pass a transition_begin at least 0.",
        ),
        (
            lambda: ps.polynomial_schedule(1.0, 0.0, 1, WRONG),
            "polynomial_schedule: transition_steps='0.1' is of type str, expected an int. "
            "Pass transition_steps as a whole number.",
        ),
        (
            lambda: ps.exponential_decay(1.0, 0, 0.5),
            "exponential_decay: transition_steps=0 is not at least 1. Pass a transition_steps at least 1.",
        ),
        (
            lambda: ps.exponential_decay(1.0, 1, 0.0),
            "exponential_decay: decay_rate=0.0 lies outside (0, inf). Pass a decay_rate within these bounds.",
        ),
        (
            lambda: ps.exponential_decay(1.0, 1, 0.5, transition_begin=-1),
            "exponential_decay: transition_begin=-1 is not at least 0. Pass a transition_begin at least 0.",
        ),
        (
            lambda: ps.step_schedule(0.1, 0),
            "step_schedule: step_size=0 is not at least 1. Pass a step_size at least 1.",
        ),
        (
            lambda: ps.step_schedule(0.1, 3, -0.5),
            "step_schedule: gamma=-0.5 lies outside (0, inf). Pass a gamma within these bounds.",
        ),
        (
            lambda: ps.cosine_annealing_schedule(0.1, 0),
            "cosine_annealing_schedule: T_max=0 is not at least 1. Pass a T_max at least 1.",
        ),
        (
            lambda: ps.ema_warmup_schedule(1.0),
            "ema_warmup_schedule: decay=1.0 lies outside [0, 1). Pass a decay within these bounds.",
        ),
        (
            lambda: ps.power_ema_schedule(-0.5),
            "power_ema_schedule: gamma=-0.5 lies outside [0, inf). Pass a gamma within these bounds.",
        ),
        (
            lambda: ps.inverse_time_decay_schedule(0.1, -1.0),
            "inverse_time_decay_schedule: decay_rate=-1.0 lies outside [0, inf). "
            "Pass a decay_rate within these bounds.",
        ),
        (
            lambda: ps.cosine_decay_schedule(0.1, 0),
            "cosine_decay_schedule: decay_steps=0 is not at least 1. Pass a decay_steps at least 1.",
        ),
        (
            lambda: ps.piecewise_constant_schedule(0.1, {-1: 0.5}),
            "piecewise_constant_schedule: boundary=-1 is not at least 0. Pass a boundary at least 0.",
        ),
        (
            lambda: ps.piecewise_constant_schedule(0.1, {2: -0.5}),
            "piecewise_constant_schedule: scale=-0.5 lies outside [0, inf). "
            "Pass a scale within these bounds.",
        ),
        (
            lambda: ps.piecewise_constant_schedule(0.1, {2: WRONG}),
            "piecewise_constant_schedule: scale='0.1' is of type str, expected a number, "
            "a 0-d tensor or a schedule. Pass scale as one of these.",
        ),
        (
            lambda: ps.join_schedules([ps.constant_schedule(1.0)], [3]),
            "join_schedules: got 1 boundaries for 1 schedules, expected one fewer. "
            "Pass the steps at which the second and each later schedule begins.",
        ),
        (
            lambda: ps.join_schedules([ps.constant_schedule(1.0)] * 3, [3, 3]),
            "join_schedules: boundaries=[3, 3] do not grow. Sort them, each one once.",
        ),
        (
            lambda: ps.join_schedules([ps.constant_schedule(1.0)] * 3, [5, 3]),
            "join_schedules: boundaries=[5, 3] do not grow. Sort them, each one once.",
        ),
        (
            lambda: ps.join_schedules([ps.constant_schedule(1.0)] * 2, [-3]),
            "join_schedules: boundary=-3 is not at least 0. Pass a boundary at least 0.",
        ),
        (
            lambda: ps.warmup_constant_schedule(0.0, 1.0, -1),
            "polynomial_schedule: transition_steps=-1 is not at least 0. Pass a transition_steps at least 0.",
        ),
        (
            lambda: ps.warmup_cosine_decay_schedule(0.0, 1.0, -1, 5),
            "warmup_cosine_decay_schedule: warmup_steps=-1 is not at least 0. "
            "Pass a warmup_steps at least 0.",
        ),
        (
            lambda: ps.warmup_cosine_decay_schedule(0.0, 1.0, 5, 5),
            "warmup_cosine_decay_schedule: decay_steps=5 is not at least 6. Pass a decay_steps at least 6.",
        ),
        (
            lambda: ps.warmup_exponential_decay_schedule(0.0, 1.0, 2, 0, 0.5),
            "exponential_decay: transition_steps=0 is not at least 1. Pass a transition_steps at least 1.",
        ),
    ],
)
def test_an_argument_out_of_range_is_refused_at_once(call: Callable[[], Any], sentence: str):
    assert sentence_of(call) == sentence


def test_the_value_of_a_tensor_is_never_asked_for():
    negative = torch.tensor(-1.0, device="meta")
    ps.exponential_decay(0.1, 1, negative)
    ps.inverse_time_decay_schedule(0.1, negative)


def trajectory(tx: ps.GradientTransformation, steps: int = 5) -> list[float]:
    params, seen = torch.tensor([1.0], dtype=torch.float64), []
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(params.cos(), state, params)
        params = ps.apply_updates(params, updates)
        seen.append(params.item())
    return seen


@pytest.mark.parametrize(
    "function",
    [
        lambda step: 0.1 / (1 + 0.5 * step),
        lambda step: 0.1 / (1 + 0.5 * step.double()),
        lambda step: ps.inverse_time_decay_schedule(0.1, 0.5)(step),
    ],
    ids=["default dtype", "float64", "wrapped"],
)
def test_a_plain_function_of_the_step_is_a_schedule(function: Callable[[Any], Any]):
    want = trajectory(ps.sgd(ps.inverse_time_decay_schedule(0.1, 0.5)))
    assert trajectory(ps.sgd(function)) == pytest.approx(want, rel=1e-7)


def test_a_plain_function_may_return_a_python_number():
    assert trajectory(ps.sgd(lambda step: 0.1)) == trajectory(ps.sgd(0.1))
    assert trajectory(ps.trace(lambda step: 0)) == trajectory(ps.trace(0.0))


# Where a schedule may stand: the transform, and the name that its complaint goes by.
PLACES: dict[str, tuple[Callable[[Any], ps.GradientTransformation], str]] = {
    "scale_by_learning_rate": (ps.scale_by_learning_rate, "learning_rate"),
    "scale_by_schedule": (ps.scale_by_schedule, "step_size_fn"),
    "trace": (lambda schedule: ps.trace(decay=schedule), "decay"),
    "add_decayed_weights": (ps.add_decayed_weights, "weight_decay"),
}


@pytest.mark.parametrize("where", PLACES)
def test_a_schedule_returns_one_number(where: str):
    make, name = PLACES[where]

    def run(schedule: Callable[[Any], Any]) -> Callable[[], Any]:
        return lambda: trajectory(make(schedule))

    assert sentence_of(run(lambda step: torch.ones(2, 1))) == (
        f"{where}: the schedule of {name} returned a tensor of shape (2, 1) at one step, "
        "expected shape (). Let it return one number; "
        "use a transform of its own for each part of the parameters."
    )
    assert sentence_of(run(lambda step: None)) == (
        f"{where}: the schedule of {name} returned a NoneType, expected a number. "
        "Let it return a number or a 0-d tensor."
    )
