"""Every rule that Optax has too: the same trajectories, to the last digits of float64.

The file holds what Optax computed on inputs that are formulas. Its keys are calls: one is held as soon as
this package has all the names in it.
"""

from __future__ import annotations

import ast
import builtins
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import pure_sgd as ps

GOLDEN = json.loads((Path(__file__).parent / "golden" / "optax.json").read_text())
TRAJECTORIES: dict[str, Any] = {**GOLDEN["optimizers"], **GOLDEN["transforms"]}
SCHEDULES: dict[str, list[float]] = GOLDEN["schedules_at_0_to_24"]

# Some keys abbreviate what they were made with.
SPELLED_OUT = {"(normalize,": "(normalize(),", "step%2==0": "lambda step: step % 2 == 0"}

# Where Optax is wrong: the key, then why, and which test holds what is right.
DEVIATIONS: dict[str, str] = {
    "adadelta(None)": "forgets the sign and climbs: test_torch_adaptive.py",
    "scale_by_stddev(bias_correction=True,eps_in_sqrt=False)": "the root of a negative variance is NaN: "
    "test_moments.py",
    "rprop(learning_rate=0.05)": "comes one step late; test_signs.py holds torch.optim.Rprop's rule",
    "adan(learning_rate=0.05)": "1 - b2 where the paper has b2: test_moments.py",
    "scale_by_adan()": "1 - b2 where the paper has b2: test_moments.py",
    "contrib.mechanize(sgd(0.05))": "forgets a little at each step: test_parameter_free_adaptive.py",
    "scale_by_distance_over_gradients()": "rounds the first parameters to float32: test_parameter_free.py",
    "scale_by_yogi()": "moves along a gradient of zero: test_moments.py",
    "yogi(learning_rate=0.05)": "moves along a gradient of zero: test_moments.py",
}

# Inside a transform Optax evaluates a schedule in float32, since it counts steps in int32: of these
# trajectories only so many digits are right. All digits of scheduled rates are held in
# test_schedules.py and test_torch_optim.py.
SCHEDULED = 1e-7
# So it does the decay of factored moments, the weights of MADGRAD, the decomposition of GaLore and the
# sums of MultiSteps; test_blocks.py, test_adopt.py, test_galore.py and test_accumulation.py hold all digits.
IN_FLOAT32 = ("MultiSteps(", "_schedule(", "adafactor(", "galore(", "madgrad(", "scale_by_factored_rms(")


def as_call(key: str) -> str:
    """A key of the file as an expression in the flat namespace of this package."""
    call = key.replace("contrib.", "")
    for short, long in SPELLED_OUT.items():
        call = call.replace(short, long)
    return call


def names_in(call: str) -> set[str]:
    """The names that an expression takes from its namespace."""
    nodes = list(ast.walk(ast.parse(call, mode="eval")))
    bound = {node.arg for node in nodes if isinstance(node, ast.arg)}
    read = {node.id for node in nodes if isinstance(node, ast.Name)}
    return read - bound - vars(builtins).keys()


def implemented(keys: Any) -> list[str]:
    return [key for key in keys if names_in(as_call(key)) <= vars(ps).keys()]


def made_by(key: str) -> Any:
    return eval(as_call(key), dict(vars(ps)))


def leaf(shape: tuple[int, ...], a: float, b: float) -> torch.Tensor:
    return torch.sin(a * torch.arange(math.prod(shape), dtype=torch.float64) + b).reshape(shape)


def initial_params() -> dict[str, torch.Tensor]:
    return {"b": leaf((2,), 1.3, 0.4), "w": leaf((3, 2), 0.7, 0.2)}


def grads_at(step: int) -> dict[str, torch.Tensor]:
    return {
        "b": leaf((2,), 0.9, 1.1 + 0.5 * step) * (1 + 0.1 * step),
        "w": leaf((3, 2), 1.7, 0.3 + 0.8 * step) * (1 + 0.2 * step),
    }


def extras_at(step: int, tx: ps.GradientTransformation) -> dict[str, float]:
    value = {"value": 2 + math.cos(0.6 * step)}
    return {name: value[name] for name in ps.transforms.extra_args_of(tx) if name in value}


def recorded(numbers: Any) -> torch.Tensor:
    # JSON has no NaN: the file spells it.
    text = json.dumps(numbers).replace('"nan"', "NaN")
    return torch.tensor(json.loads(text), dtype=torch.float64)


def assert_same(
    got: dict[str, torch.Tensor], want: dict[str, Any], where: str, tolerance: float = 1e-12
) -> None:
    assert got.keys() == want.keys()
    for name, numbers in want.items():
        torch.testing.assert_close(
            got[name],
            recorded(numbers),
            rtol=tolerance,
            atol=tolerance,
            equal_nan=True,
            msg=lambda text, name=name: f"{name} {where}: {text}",
        )


def test_the_recorded_inputs_are_the_formulas():
    assert_same(initial_params(), GOLDEN["params"], "at the start")


@pytest.mark.parametrize("key", [key for key in implemented(TRAJECTORIES) if key not in DEVIATIONS])
def test_a_trajectory_is_the_recorded_one(key: str):
    tx, params = made_by(key), initial_params()
    tolerance = SCHEDULED if any(part in key for part in IN_FLOAT32) else 1e-12
    state = tx.init(params)
    for step, want in enumerate(TRAJECTORIES[key]["updates"]):
        updates, state = tx.update(grads_at(step), state, params, **extras_at(step, tx))
        params = ps.apply_updates(params, updates)
        assert_same(updates, want, f"of the updates at step {step}", tolerance)
    assert_same(params, TRAJECTORIES[key]["final_params"], "of the final parameters", tolerance)


@pytest.mark.parametrize("key", [key for key in implemented(SCHEDULES) if key not in DEVIATIONS])
def test_a_schedule_is_the_recorded_one(key: str):
    steps = torch.arange(len(SCHEDULES[key]))
    assert made_by(key)(steps).tolist() == pytest.approx(SCHEDULES[key], rel=1e-12, abs=1e-12)


def test_the_whole_file_is_held_and_every_deviation_is_in_it():
    recorded_keys = {**TRAJECTORIES, **SCHEDULES}
    assert [len(part) for part in (GOLDEN["optimizers"], GOLDEN["transforms"], SCHEDULES)] == [80, 59, 16]
    assert set(implemented(recorded_keys)) == set(recorded_keys)
    assert set(DEVIATIONS) <= set(recorded_keys)


def test_names_are_found_wherever_they_stand_in_a_key():
    key = "contrib.sam(sgd(0.05),chain(normalize,sgd(0.1)))"
    assert names_in(as_call(key)) == {"sam", "sgd", "chain", "normalize"}
    key = "conditionally_mask(adam(0.05),step%2==0)"
    assert names_in(as_call(key)) == {"conditionally_mask", "adam"}
    assert implemented(["sgd(0.05)", "no_such_optimizer(0.05)"]) == ["sgd(0.05)"]
