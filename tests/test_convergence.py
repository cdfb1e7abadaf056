"""Every rule finds the minimum: of a quadratic with curvatures 1 and 0.1, and of Rosenbrock's function.

Each row of the catalogue runs with nine learning rates at once, which fall to zero along half a cosine; the
best of them must arrive. How fast a rule is, other tests say: here a wrong sign, a missing correction or a
state that goes astray in the long run would show.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from catalogue import CATALOGUE

import pure_sgd as ps

STEPS = 500
RATES = torch.tensor([1e-3, 2e-3, 5e-3, 1e-2, 4e-2, 0.1, 0.3, 1.0, 3.0], dtype=torch.float64)
RATE_NAMES = ("learning_rate", "max_learning_rate", "rate")

#: Rows that do not arrive, and why.
STAYS: dict[str, str] = {
    "sam opaque": "its adversary climbs as far as the gradient is steep",
    "set_to_zero": "stays where it is",
    "freeze": "holds w",
    "hutchinson_estimator_diag_hessian": "measures curvature, and is no direction",
    "selective_transform": "holds w",
    "conditionally_transform": "passes every other gradient on as it is, uphill",
    "sgd scheduled": "its rate is halved every 3 steps",
    "chain inject_hyperparams scheduled": "its rate is halved every 3 steps",
}

#: Hyperparameters that the table has far from where these functions need them: their least value is 0, they
#: bend within a hundredth of the way, noise that stays keeps away from a minimum, and the two examples that
#: are made of one gradient have opposite signs.
OTHERS = {"f_min": 0.0, "l2_norm_clip": 1e3, "noise_multiplier": 0.0, "radius": 1e-3}

#: Rows whose updates go somewhere and come back: nothing may scale them afterwards.
WHOLE = ("sam",)

Params = dict[str, torch.Tensor]


def quadratic(params: Params) -> torch.Tensor:
    curvature = torch.tensor([1.0, 0.1], dtype=torch.float64)
    return 0.5 * (curvature * params["w"] ** 2).sum()


def rosenbrock(params: Params) -> torch.Tensor:
    x, y = params["w"].unbind()
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


#: The function, where the run begins, and what part of the loss there may be left: that is 0 at the minimum,
#: and a fifth to a third for a rule that reaches the bottom of Rosenbrock's valley and does not follow it.
PROBLEMS: dict[str, tuple[Callable[[Params], torch.Tensor], list[float], float]] = {
    "quadratic": (quadratic, [3.0, 3.0], 1e-2),
    "Rosenbrock": (rosenbrock, [-0.5, 0.5], 0.15),
}


def extras_for(tx: ps.GradientTransformation, loss: Any, value: Any, grads: Any) -> dict[str, Any]:
    """What a loop would hand to a rule that asks for it."""
    offered = {
        "value": value,
        "grad": grads,
        "value_fn": loss,
        "grad_fn": lambda params, _: torch.func.grad(loss)(params),
    }
    return {name: offered[name] for name in ps.transforms.extra_args_of(tx)}


def hyperparams_of(row: str) -> dict[str, Any]:
    """Those of the table, but for the few that do not fit."""
    hyperparams: dict[str, Any] = dict(CATALOGUE[row].hyperparams)
    return hyperparams | {name: value for name, value in OTHERS.items() if name in hyperparams}


def descent(row: str, rate: torch.Tensor) -> ps.GradientTransformation:
    """The row with another learning rate, or followed by one where it has none; then the cosine."""
    hyperparams = hyperparams_of(row)
    hyperparams.update({name: rate for name in RATE_NAMES if name in hyperparams})
    if "step_size" in hyperparams:
        hyperparams["step_size"] = -rate
    tx = CATALOGUE[row].build(**hyperparams)
    if row in WHOLE:
        return tx
    if points_uphill(row):
        tx = ps.chain(tx, ps.scale_by_learning_rate(rate))
    return ps.chain(tx, ps.scale_by_schedule(ps.cosine_decay_schedule(1.0, STEPS)))


@functools.cache
def points_uphill(row: str) -> bool:
    """Whether the updates of the table's own transform go along the gradient, as before a learning rate."""
    tx = CATALOGUE[row].build(**hyperparams_of(row))
    params = {"w": torch.tensor([3.0, 3.0], dtype=torch.float64)}
    state, along = tx.init(params), 0.0
    value, grads = quadratic(params), torch.func.grad(quadratic)(params)
    for _ in range(4):  # some give nothing at every other step
        updates, state = tx.update(grads, state, params, **extras_for(tx, quadratic, value, grads))
        along += float((updates["w"] * grads["w"]).sum())
    return along > 0


def left_over(row: str, problem: str) -> torch.Tensor:
    """The part of the first loss that is left after the run, for each learning rate."""
    loss, start, _ = PROBLEMS[problem]
    first = {"w": torch.tensor(start, dtype=torch.float64)}

    def final(rate: torch.Tensor) -> torch.Tensor:
        tx, params = descent(row, rate), first
        state = tx.init(params)
        for _ in range(STEPS):
            grads, value = torch.func.grad_and_value(loss)(params)
            updates, state = tx.update(grads, state, params, **extras_for(tx, loss, value, grads))
            params = ps.apply_updates(params, updates)
        found = params if CATALOGUE[row].keeps_updates else ps.eval_params(state, params)
        return loss(found) / loss(first)

    return torch.func.vmap(final)(RATES)


@pytest.mark.slow
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("row", [row for row in sorted(CATALOGUE) if row not in STAYS])
def test_it_converges(row: str, problem: str):
    left = left_over(row, problem)
    best = left.nan_to_num(nan=torch.inf).min()
    assert best < PROBLEMS[problem][2], f"left of the loss, for each rate: {left.tolist()}"


def test_what_stays_is_in_the_catalogue():
    assert set(STAYS) <= set(CATALOGUE)
