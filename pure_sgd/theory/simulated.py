"""Simulation: what theory says of the mean over runs, measured on many of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from .. import random
from ..errors import check_count
from ..training import init_train_state, make_step
from ..transforms import GradientTransformation, eval_params
from .problem import NoisyQuadratic

__all__ = ["SimulatedRisk", "Simulation", "simulate"]

#: Numbers in the parameters of all runs that go side by side: so few that a core's cache holds them.
AT_ONCE = 2**15


class SimulatedRisk(NamedTuple):
    """A mean over runs, before the first step and after each."""

    mean: torch.Tensor  # (steps + 1,)
    standard_error: torch.Tensor  # (steps + 1,), of the mean


class Simulation(NamedTuple):
    """The risks that :func:`simulate` measured."""

    params: SimulatedRisk
    averaged: SimulatedRisk  # of what eval_params reads; without an average in the chain that of params


def simulate(
    tx: GradientTransformation,
    problem: NoisyQuadratic,
    steps: int,
    replicates: int,
    key: torch.Tensor,
    initial: Any = 1.0,
    average: str | None = None,
) -> Simulation:
    """Run any chain on a noisy quadratic many times; the mean risk after each step is what ``risk`` computes.

        risk_k = mean over replicates of problem.risk(w_k)              with its standard error

    Every replicate is a run of its own, with :func:`make_step`, in float64, from ``initial``, a number or
    (n,), with normal noise from a key of its own, ``fold_in(key, replicate)``. The chain may be of any kind,
    linear or not. ``average`` is the name of one of several averages, as in :func:`eval_params`. Runs go side
    by side by ``vmap``, some ten thousand at a time; 100,000 of 200 steps in one coordinate take about
    10 s on one core. Mapped over hyperparameters by :func:`sweep`, all settings see the same noise, which
    is then drawn once.

    Raises:
        PureSGDError: ``steps`` under 1, ``replicates`` under 2, or ``key`` is not a key.

    Example:
        >>> import pure_sgd as ps
        >>> problem = ps.theory.NoisyQuadratic(1.0, noise=1.0)
        >>> found = ps.theory.simulate(ps.sgd(0.5), problem, 10, 1000, ps.random.key(0)).params
        >>> found.mean[-1], found.standard_error[-1]  # theory: 1 / 6
        (tensor(0.1789, dtype=torch.float64), tensor(0.0079, dtype=torch.float64))
    """
    check_count("simulate", "steps", steps)
    check_count("simulate", "replicates", replicates, low=2)
    start = torch.zeros_like(problem.curvature) + initial
    step = make_step(problem.loss, tx)

    def run(replicate: torch.Tensor) -> torch.Tensor:
        own_key, state = random.fold_in(key, replicate), init_train_state(start, tx)
        seen = [state]
        for k in range(steps):
            state, _ = step(state, random.fold_in(own_key, k))
            seen.append(state)
        params = torch.stack([state.params for state in seen])
        averaged = torch.stack([eval_params(state.opt_state, state.params, average) for state in seen])
        return problem.risk(torch.stack([params, averaged]))

    parts = torch.arange(replicates, device=key.device).split(max(1, AT_ONCE // len(start)))
    mean, squares = _moments(torch.func.vmap(run), parts)
    error = (squares / (replicates - 1) / replicates).sqrt()
    return Simulation(*(SimulatedRisk(m, e) for m, e in zip(mean, error, strict=True)))


def _moments(
    runs: Callable[[torch.Tensor], torch.Tensor], parts: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean of all runs, and the summed squares of what differs from it."""
    mean = squares = torch.zeros(())
    before = 0
    for part in parts:
        found, count = runs(part), len(part)
        own, total = found.mean(0), before + count
        difference = own - mean
        squares = squares + (found - own).square().sum(0) + difference**2 * (before * count / total)
        mean, before = mean + difference * (count / total), total
    return mean, squares
