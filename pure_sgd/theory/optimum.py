"""The best hyperparameters for a horizon and a batch size, by the gradient of the exact risk."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from ..arguments import typed
from ..errors import PureSGDError, check_count, check_hyperparameter
from ..optimizers import lbfgs
from ..transforms import GradientTransformation, apply_updates, value_and_grad_from_state
from .problem import NoisyQuadratic
from .risk import final_risk

__all__ = ["Optimum", "optimal"]

Hyperparameters = dict[str, torch.Tensor]

#: Steps of L-BFGS at most, and the slope of log(risk), by the log or logit of a hyperparameter, that ends it.
MOST_STEPS = 100
FLAT = 1e-9


class Optimum(NamedTuple):
    """Where the expected risk after the last step is smallest."""

    hyperparameters: Hyperparameters  # float64, each of shape ()
    risk: torch.Tensor  # (): averaged.total[-1] of risk there
    slope: (
        torch.Tensor
    )  # (): the largest slope of log(risk) that is left, by log or logit of a hyperparameter


@typed
def optimal(
    tx_of: Callable[..., GradientTransformation],
    problem: NoisyQuadratic,
    steps: int,
    start: Mapping[str, float],
    bounds: Mapping[str, tuple[float, float]] | None = None,
    initial: Any = 1.0,
) -> Optimum:
    """The hyperparameters with the smallest expected risk after ``steps`` steps.

        minimise over x:  risk(tx_of(**x), problem, steps, initial).averaged.total[-1]

    ``tx_of`` receives 0-d tensors by the names in ``start``, where the search begins; there the chain should
    be stable. A hyperparameter lies in its ``bounds``, an open interval, or else is any positive number, and
    is sought on a logarithmic scale (a logistic one between two bounds) by L-BFGS, along the exact gradient.
    What is found is a minimum near the start; one at the end of an interval is approached until it is flat.

    Raises:
        PureSGDError: as :func:`risk`; no ``start``, or one outside its bounds; a risk that is not finite.

    Example:
        >>> import pure_sgd as ps
        >>> problem = ps.theory.noisy_quadratic_model(100, batch_size=10)
        >>> best = ps.theory.optimal(ps.sgd, problem, steps=1000, start={"learning_rate": 0.1})
        >>> best.hyperparameters
        {'learning_rate': tensor(0.1576, dtype=torch.float64)}
        >>> def tx_of(learning_rate, decay):
        ...     return ps.chain(ps.sgd(learning_rate), ps.params_ema(decay))
        >>> start = {"learning_rate": 0.1, "decay": 0.9}
        >>> averaged = ps.theory.optimal(tx_of, problem, 1000, start, bounds={"decay": (0, 1)})
        >>> averaged.hyperparameters
        {'learning_rate': tensor(0.4134, dtype=torch.float64), 'decay': tensor(0.9954, dtype=torch.float64)}
        >>> averaged.risk / best.risk
        tensor(0.3271, dtype=torch.float64)
    """
    check_count("optimal", "steps", steps)
    ranges = {name: (0.0, math.inf) for name in start} | dict(bounds or {})
    _check_start(start, ranges)

    def hyperparameters(place: torch.Tensor) -> Hyperparameters:
        return {name: _inside(u, *ranges[name]) for name, u in zip(start, place, strict=True)}

    def objective(place: torch.Tensor) -> torch.Tensor:
        return final_risk(tx_of(**hyperparameters(place)), problem, steps, initial).log()

    tx = lbfgs()
    place = torch.tensor([_outside(x, *ranges[name]) for name, x in start.items()], dtype=torch.float64)
    state, value_and_grad = tx.init(place), value_and_grad_from_state(objective)
    for _ in range(MOST_STEPS):
        value, slope = value_and_grad(place, state=state)
        if not torch.isfinite(value):
            raise PureSGDError(
                "optimal", f"the risk after {steps} steps is not finite", "Start where the chain is stable"
            )
        if slope.abs().max() < FLAT:
            break
        updates, state = tx.update(slope, state, place, value=value, grad=slope, value_fn=objective)
        place = apply_updates(place, updates)
    value, slope = value_and_grad(place, state=state)
    return Optimum(hyperparameters(place), value.exp(), slope.abs().max())


def _inside(u: torch.Tensor, low: float, high: float) -> torch.Tensor:
    return low + u.exp() if high == math.inf else low + (high - low) * u.sigmoid()


def _outside(x: float, low: float, high: float) -> float:
    return math.log(x - low) if high == math.inf else math.log((x - low) / (high - x))


def _check_start(start: Mapping[str, float], ranges: Mapping[str, tuple[float, float]]) -> None:
    if not start or set(ranges) != set(start):
        raise PureSGDError(
            "optimal",
            f"start names {sorted(start)} and bounds {sorted(set(ranges) - set(start))} besides",
            "Give each hyperparameter a number to start from",
        )
    for name, value in start.items():
        low, high = ranges[name]
        check_hyperparameter("optimal", name, value, low=low, high=high, open_low=True, open_high=True)
