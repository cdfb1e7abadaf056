"""What a transform, a schedule or a model prints is the call that makes it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

import pure_sgd as ps

# Calls as one would write them, without arguments left at their default: each is its own repr.
CALLS = [
    "trace(0.9)",
    "trace(0.9, nesterov=True)",
    "trace(0.9, dampening=0.1)",
    "scale(-0.5)",
    "scale_by_adam()",
    "scale_by_adam(0.8, 0.99, eps=1e-06)",
    "scale_by_adam(nesterov=True)",
    "scale_by_learning_rate(0.1, flip_sign=False)",
    "scale_by_learning_rate(warmup_constant_schedule(0.0, 0.1, 5))",
    "scale_by_schedule(linear_schedule(1.0, 0.0, 10))",
    "add_decayed_weights(0.1, mask={'w': True, 'b': False})",
    "add_decayed_weights(cosine_decay_schedule(0.1, 10))",
    "clip_by_global_norm(1.0)",
    "clip_by_global_norm(exponential_decay(1.0, 1, 0.5, end_value=0.1))",
    "params_ema(0.9, debias=True)",
    "reduce_on_plateau()",
    "reduce_on_plateau(0.5, 2, cooldown=1, min_scale=0.01)",
    "identity()",
    "chain(clip_by_global_norm(1.0), chain(trace(0.9), scale_by_learning_rate(0.1)))",
    "named_chain(('momentum', trace(0.9)), ('rate', scale(-0.1)))",
]

SCHEDULES = [
    "constant_schedule(0.1)",
    "linear_schedule(0.0, 1.0, 10)",
    "linear_schedule(0.0, 1.0, 10, 2)",
    "polynomial_schedule(1.0, 0.1, 2, 10, transition_begin=3)",
    "exponential_decay(1.0, 4, 0.5, staircase=True, end_value=0.1)",
    "step_schedule(0.1, 30)",
    "step_schedule(0.1, step_size=30, gamma=0.5)",
    "inverse_time_decay_schedule(1.0, 0.5)",
    "cosine_decay_schedule(1.0, 10, alpha=0.1)",
    "piecewise_constant_schedule(1.0, {3: 0.5, 8: 0.2})",
    "join_schedules([constant_schedule(1.0), linear_schedule(1.0, 0.0, 5)], [6])",
    "warmup_constant_schedule(0.0, 1.0, 5)",
    "warmup_cosine_decay_schedule(0.0, 1.0, 5, 15, end_value=0.1)",
    "warmup_exponential_decay_schedule(0.0, 1.0, 5, 3, 0.5)",
]

MODELS = ["linear(3)", "linear(3, outputs=2)", "logistic(3)", "mlp((3, 4, 1))"]

# What is decorated reads as itself; an optimizer is a chain, and reads as its parts.
OPTIMIZERS = {
    "sgd(0.1)": "chain(scale_by_learning_rate(0.1))",
    "sgd(0.1, momentum=0.9)": "chain(trace(0.9), scale_by_learning_rate(0.1))",
    "sgd(0.1, 0.9, True)": "chain(trace(0.9, True), scale_by_learning_rate(0.1))",
    "sgd(0.1, 0.9, dampening=0.5, weight_decay=0.01)": "chain(add_decayed_weights(0.01), "
    "trace(0.9, dampening=0.5), scale_by_learning_rate(0.1))",
    "adam(0.001)": "chain(scale_by_adam(), scale_by_learning_rate(0.001))",
    "adam(constant_schedule(0.001), b2=0.99)": "chain(scale_by_adam(b2=0.99), "
    "scale_by_learning_rate(constant_schedule(0.001)))",
    "adamw(0.001)": "chain(scale_by_adam(), add_decayed_weights(0.0001), scale_by_learning_rate(0.001))",
}


def made_by(call: str, namespace: Any = ps) -> Any:
    return eval(call, dict(vars(namespace)))


def after_two_steps(tx: ps.GradientTransformation) -> list[torch.Tensor]:
    params = {"w": torch.tensor([1.0, -2.0]), "b": torch.tensor(0.5)}
    state, extra = tx.init(params), {"value": torch.tensor(1.0)}
    read = {name: extra[name] for name in ps.transforms.extra_args_of(tx)}
    for step in range(2):
        grads = ps.tree.map(lambda p, step=step: p + step, params)
        updates, state = tx.update(grads, state, params, **read)
        params = ps.apply_updates(params, updates)
    return ps.tree.leaves((params, state))


@pytest.mark.parametrize("call", CALLS + SCHEDULES)
def test_a_transform_and_a_schedule_read_as_the_call_that_made_them(call: str):
    assert repr(made_by(call)) == call


@pytest.mark.parametrize("call", MODELS)
def test_a_model_reads_as_the_call_that_made_it(call: str):
    model = made_by(call, ps.models)
    assert repr(model) == call
    params = model.init(ps.random.key(1))
    again = made_by(repr(model), ps.models).init(ps.random.key(1))
    assert all(map(torch.equal, ps.tree.leaves(params), ps.tree.leaves(again)))


@pytest.mark.parametrize("call", OPTIMIZERS)
def test_an_optimizer_reads_as_the_chain_it_is(call: str):
    assert repr(made_by(call)) == OPTIMIZERS[call]


@pytest.mark.parametrize("call", [*CALLS, *OPTIMIZERS])
def test_what_a_transform_prints_builds_the_same_again(call: str):
    tx = made_by(call)
    again = made_by(repr(tx))
    assert repr(again) == repr(tx)
    first, second = after_two_steps(tx), after_two_steps(again)
    assert all(map(torch.equal, first, second))


@pytest.mark.parametrize("call", SCHEDULES)
def test_what_a_schedule_prints_builds_the_same_again(call: str):
    schedule, step = made_by(call), torch.arange(20)
    assert torch.equal(made_by(repr(schedule))(step), schedule(step))


@pytest.mark.parametrize(
    "call, shown",
    [
        ("trace(decay=0.9)", "trace(decay=0.9)"),
        ("trace(0.9, False, None)", "trace(0.9)"),
        ("trace(0.9, nesterov=False, dampening=0.0)", "trace(0.9)"),
        # Once one is left out, those behind it are named.
        ("scale_by_adam(0.9, 0.99)", "scale_by_adam(b2=0.99)"),
        ("exponential_decay(1.0, 4, 0.5, 0, True)", "exponential_decay(1.0, 4, 0.5, staircase=True)"),
        # In the order of the definition, whatever that of the call.
        (
            "linear_schedule(transition_steps=3, end_value=1.0, init_value=0.0)",
            "linear_schedule(init_value=0.0, end_value=1.0, transition_steps=3)",
        ),
    ],
)
def test_defaults_are_left_out_and_the_rest_is_named(call: str, shown: str):
    assert repr(made_by(call)) == shown


def halved(step: torch.Tensor) -> torch.Tensor:
    return 0.5**step


def not_a_bias(path: str) -> bool:
    return not path.endswith("['b']")


@pytest.mark.parametrize(
    "make, shown",
    [
        (lambda: ps.trace(torch.tensor(0.5)), "trace(tensor(0.5000))"),
        (lambda: ps.scale_by_learning_rate(halved), "scale_by_learning_rate(halved)"),
        (
            lambda: ps.add_decayed_weights(0.1, mask=not_a_bias),
            "add_decayed_weights(0.1, mask=not_a_bias)",
        ),
        (
            lambda: ps.scale_by_preconditioner(torch.tensor([4.0, 1.0]), 0.5),
            "scale_by_preconditioner(tensor([4., 1.]), 0.5)",
        ),
        (lambda: ps.stateless_with_tree_map(torch.mul), "stateless_with_tree_map(mul)"),
        (
            lambda: ps.project(partial(ps.projection_box, lower=0.0, upper=halved)),
            "project(partial(projection_box, lower=0.0, upper=halved))",
        ),
        (
            lambda: ps.trace(0.9, accumulator_dtype=torch.bfloat16),
            "trace(0.9, accumulator_dtype=torch.bfloat16)",
        ),
        (
            lambda: ps.join_schedules([halved, ps.constant_schedule(1.0)], [3]),
            "join_schedules([halved, constant_schedule(1.0)], [3])",
        ),
        (
            lambda: ps.join_schedules((halved,), ()),
            "join_schedules((halved,), ())",
        ),
    ],
)
def test_tensors_are_shown_and_functions_go_by_their_name(make: Callable[[], Any], shown: str):
    assert repr(make()) == shown


def test_what_was_made_by_hand_shows_its_functions():
    tx = ps.identity()
    by_hand = ps.GradientTransformation(tx.init, tx.update)
    assert repr(by_hand) == f"GradientTransformation(init={tx.init!r}, update={tx.update!r})"
    assert repr(ps.Schedule(halved)) == f"Schedule({halved!r})"
    model = ps.models.linear(2)
    model = ps.models.Model(model.init, model.apply)
    assert repr(model) == f"Model(init={model.init!r}, apply={model.apply!r})"
