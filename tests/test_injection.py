"""Hyperparameters in the state: which, in what precision, how they are read and changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import pure_sgd as ps

PARAMS = {"w": torch.tensor([1.0, -2.0]), "b": torch.tensor(0.5)}
GRADS = {"w": torch.tensor([0.3, 0.4]), "b": torch.tensor(-1.0)}


def sentence_of(call: Callable[[], Any]) -> str:
    with pytest.raises(ps.PureSGDError) as caught:
        call()
    return str(caught.value)


def steps(
    tx: ps.GradientTransformation, count: int, params: Any = PARAMS, state: Any = None
) -> tuple[Any, Any]:
    """The parameters and the state after ``count`` steps with one gradient."""
    state = tx.init(params) if state is None else state
    for _ in range(count):
        updates, state = tx.update(GRADS, state, params)
        params = ps.apply_updates(params, updates)
    return params, state


def numbers(values: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in values.items()}


def test_an_injected_transform_is_the_transform():
    got, state = steps(ps.inject_hyperparams(ps.adamw)(0.1, b1=0.8, weight_decay=0.1), 5)
    want, _ = steps(ps.adamw(0.1, b1=0.8, weight_decay=0.1), 5)
    torch.testing.assert_close(got, want)
    assert numbers(state.hyperparams) == {"learning_rate": 0.1, "b1": 0.8, "weight_decay": 0.1}


def test_it_reads_as_the_calls_that_made_it():
    tx = ps.inject_hyperparams(ps.sgd)(ps.linear_schedule(1, 0, 10), momentum=0.9)
    assert repr(tx) == "inject_hyperparams(sgd)(linear_schedule(1, 0, 10), momentum=0.9)"


def test_a_value_changes_from_one_step_to_the_next():
    tx = ps.inject_hyperparams(ps.sgd)(learning_rate=0.1, momentum=0.5)
    params, state = steps(tx, 1)
    before = numbers(state.hyperparams)
    changed = ps.set_hyperparams(state, learning_rate=1.0)
    assert numbers(state.hyperparams) == before
    assert numbers(changed.hyperparams) == {"learning_rate": 1.0, "momentum": 0.5}
    got, after = steps(tx, 1, params, changed)
    # The momentum buffer is 1.5 gradients.
    torch.testing.assert_close(got, ps.tree.map(lambda p, g: p - 1.5 * g, params, GRADS))
    assert ps.learning_rate(after) == 1.0


def test_a_change_recompiles_nothing():
    tx = ps.inject_hyperparams(ps.adam)(learning_rate=0.1, b1=0.9)
    compiled = tx._replace(update=torch.compile(tx.update, backend="aot_eager", fullgraph=True))
    params, state = steps(compiled, 1)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for rate, b1 in ((0.2, 0.9), (0.0, 0.5), (1, torch.tensor(0.25))):
            state = ps.set_hyperparams(state, learning_rate=rate, b1=b1)
            want, _ = steps(tx, 1, params, state)
            params, state = steps(compiled, 1, params, state)
            torch.testing.assert_close(params, want)


def test_schedules_are_evaluated_at_the_number_of_updates():
    tx = ps.inject_hyperparams(ps.scale)(step_size=ps.piecewise_constant_schedule(3.0, {1: 5, 2: 0.5}))
    assert tx.init(PARAMS).hyperparams["step_size"] == 3.0
    state, seen = tx.init(PARAMS), []
    for _ in range(4):
        updates, state = tx.update(GRADS, state)
        seen.append((updates["b"].item(), state.hyperparams["step_size"].item()))
    assert seen == [(-x, x) for x in (3.0, 15.0, 7.5, 7.5)]
    assert state.schedule_steps["step_size"] == 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_values_keep_their_digits_whatever_the_parameters(dtype: torch.dtype):
    params = torch.ones(3, dtype=dtype)
    tx = ps.inject_hyperparams(ps.adam)(learning_rate=0.1, b2=0.999, b1=torch.tensor(0.9, dtype=dtype))
    updates, state = tx.update(params, tx.init(params), params)
    assert updates.isfinite().all()
    assert state.hyperparams["b2"].item() == 0.999
    assert {value.dtype for value in state.hyperparams.values()} == {torch.float32, torch.float64}


def test_only_hyperparameters_that_are_passed_are_injected():
    def injected(factory: Any, *args: Any, **kwargs: Any) -> set[str]:
        return set(ps.inject_hyperparams(factory)(*args, **kwargs).init(PARAMS).hyperparams)

    assert injected(ps.adamw, 1, mask=lambda path: True, nesterov=True) == {"learning_rate"}
    assert injected(ps.sgd, 0.1, None, False) == {"learning_rate"}
    assert injected(ps.scale_by_learning_rate, ps.linear_schedule(1, 0, 3)) == {"learning_rate"}
    assert injected(ps.reduce_on_plateau, 0.5, 3, cooldown=2) == {"factor"}
    assert injected(lambda rate, k=2: ps.scale(rate * k), lambda step: 0.1, 3) == {"rate", "k"}


def test_static_arguments_stay_what_they_are():
    def factory(rate: Any, power: Any) -> ps.GradientTransformation:
        assert isinstance(power, float)
        return ps.scale(rate**power)

    for static in ("power", ["power"]):
        tx = ps.inject_hyperparams(factory, static_args=static)(rate=3.0, power=2.0)
        assert steps(tx, 1)[1].hyperparams == {"rate": torch.tensor(3.0)}
    assert sentence_of(lambda: ps.inject_hyperparams(factory, ["pwoer"])) == (
        "inject_hyperparams: static_args names 'pwoer', which is no argument of factory. "
        "Name some of rate, power."
    )


def test_a_range_is_checked_when_the_transform_is_made():
    assert sentence_of(lambda: ps.inject_hyperparams(ps.adam)(0.1, b1=1.5)).startswith(
        "scale_by_adam: b1=1.5 lies outside [0, 1)"
    )
    no_transform: Any = float
    assert sentence_of(lambda: ps.inject_hyperparams(no_transform)(0.1)).startswith(
        "inject_hyperparams: got a float, expected a GradientTransformation"
    )


def test_extra_arguments_reach_the_injected_transform():
    tx = ps.chain(ps.inject_hyperparams(ps.reduce_on_plateau)(0.5, patience=1))
    state, one = tx.init(torch.ones(1)), torch.ones(1)
    updates = one
    for _ in range(2):
        updates, state = tx.update(one, state, value=1.0)
    assert updates.item() == 0.5


def test_a_number_written_into_the_dict_of_a_state_counts():
    tx = ps.inject_hyperparams(ps.scale)(step_size=1.0)
    state = tx.init(PARAMS)
    state.hyperparams["step_size"] = 3.0
    updates, state = tx.update(GRADS, state)
    assert updates["b"].item() == -3.0
    assert state.hyperparams["step_size"].dtype == torch.float64


# Reading and changing, wherever they are


def test_hyperparameters_are_found_wherever_they_are():
    tx = ps.chain(
        ps.add_decayed_weights(ps.linear_schedule(0.1, 0.0, 10)),
        ps.masked(ps.multi_steps(ps.inject_hyperparams(ps.trace)(decay=0.9), 2), True),
        ps.scale_by_learning_rate(0.5),
    )
    state = tx.init(PARAMS)
    assert numbers(ps.get_hyperparams(state)) == {"weight_decay": 0.1, "decay": 0.9, "learning_rate": 0.5}
    changed = ps.set_hyperparams(state, decay=0.25)
    assert numbers(ps.get_hyperparams(changed))["decay"] == 0.25
    assert ps.tree.structure(changed) == ps.tree.structure(state)
    assert ps.get_hyperparams(ps.trace(0.9).init(PARAMS)) == {}


def test_what_an_injection_names_is_found_once():
    state = ps.inject_hyperparams(ps.adam)(learning_rate=0.1).init(PARAMS)
    assert numbers(ps.get_hyperparams(state)) == {"learning_rate": 0.1}


def test_several_of_one_name_go_by_their_paths():
    inject = ps.inject_hyperparams(ps.sgd)
    tx = ps.partition({"w": inject(0.1, momentum=0.9), "b": inject(0.2)}, {"w": "w", "b": "b"})
    state = tx.init(PARAMS)
    slow, fast = (f".inner_states[{label!r}].hyperparams['learning_rate']" for label in "wb")
    assert numbers(ps.get_hyperparams(state)) == {slow: 0.1, fast: 0.2, "momentum": 0.9}
    changed = ps.set_hyperparams(state, **{fast: 0.4})
    assert numbers(ps.get_hyperparams(changed)) == {slow: 0.1, fast: 0.4, "momentum": 0.9}
    updates, _ = tx.update(GRADS, changed, PARAMS)
    torch.testing.assert_close(updates, {"w": -0.1 * GRADS["w"], "b": -0.4 * GRADS["b"]})
    part = ps.set_hyperparams(state.inner_states["b"], learning_rate=0.3)
    assert numbers(part.hyperparams) == {"learning_rate": 0.3}


def test_a_state_of_many_runs_takes_one_value_or_one_for_each():
    def init(rate: torch.Tensor) -> Any:
        return ps.inject_hyperparams(ps.sgd)(rate).init(PARAMS)

    states = torch.func.vmap(init)(torch.tensor([0.1, 0.2, 0.3]))
    one = ps.set_hyperparams(states, learning_rate=0.5)
    assert one.hyperparams["learning_rate"].tolist() == [0.5, 0.5, 0.5]
    each = ps.set_hyperparams(states, learning_rate=torch.tensor([1.0, 2.0, 3.0]))
    assert each.hyperparams["learning_rate"].tolist() == [1.0, 2.0, 3.0]


def test_the_value_that_is_set_differentiates():
    tx = ps.inject_hyperparams(ps.sgd)(learning_rate=0.1)
    state = tx.init(PARAMS)

    def end(rate: torch.Tensor) -> torch.Tensor:
        return steps(tx, 3, PARAMS, ps.set_hyperparams(state, learning_rate=rate))[0]["b"]

    assert torch.func.grad(end)(torch.tensor(0.2)).item() == pytest.approx(3.0)


def remedy(name: str, factory: str = "factory") -> str:
    return f"make the transform as inject_hyperparams({factory})({name}=0.1), with your factory and number."


ANY: Any = "0.1"


@pytest.mark.parametrize(
    "tx, values, sentence",
    [
        (
            ps.inject_hyperparams(ps.sgd)(ps.linear_schedule(1, 0, 10)),
            {"learning_rate": 0.1},
            "set_hyperparams: 'learning_rate' follows a schedule. Let the state hold it: "
            + remedy("learning_rate", "sgd"),
        ),
        (
            ps.trace(ps.linear_schedule(0.5, 0.9, 10)),
            {"decay": 0.1},
            "set_hyperparams: 'decay' follows a schedule. Let the state hold it: " + remedy("decay"),
        ),
        (
            ps.sgd(0.1),
            {"learning_rate": 0.1},
            "set_hyperparams: 'learning_rate' is fixed where the transform is made, "
            "by a number or a schedule. Let the state hold it: " + remedy("learning_rate", "sgd"),
        ),
        (
            ps.inject_hyperparams(ps.adam)(0.1, b1=0.9),
            {"lr": 0.1},
            "set_hyperparams: 'lr' is not in the state, which holds 'learning_rate', 'b1'. "
            "Use one of these, or put it there: " + remedy("lr"),
        ),
        (
            ps.trace(0.9),
            {"decay": 0.1},
            "set_hyperparams: 'decay' is not in the state, which holds none. "
            "Use one of these, or put it there: " + remedy("decay"),
        ),
        (
            ps.inject_hyperparams(ps.sgd)(0.1),
            {"learning_rate": torch.ones(2)},
            "set_hyperparams: learning_rate has shape (2,), where the state holds shape (). "
            "Pass one number, or one for each run of the state.",
        ),
        (
            ps.inject_hyperparams(ps.sgd)(0.1),
            {"learning_rate": ps.linear_schedule(1, 0, 10)},
            "set_hyperparams: learning_rate is a function, expected a number or a tensor. "
            "Pass a schedule to inject_hyperparams, where the transform is made.",
        ),
        (
            ps.inject_hyperparams(ps.sgd)(0.1),
            {"learning_rate": ANY},
            "set_hyperparams: learning_rate='0.1' is of type str, expected a number, a 0-d tensor "
            "or a schedule. Pass learning_rate as one of these.",
        ),
    ],
)
def test_what_cannot_be_set_says_why(tx: ps.GradientTransformation, values: dict[str, Any], sentence: str):
    assert sentence_of(lambda: ps.set_hyperparams(tx.init(PARAMS), **values)) == sentence
