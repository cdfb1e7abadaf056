"""Simulation: what theory says of the mean over runs, measured on many of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from .. import functorch, random
from ..arguments import typed
from ..errors import check_count
from ..training import TrainState, init_train_state, make_step, scan
from ..transforms import GradientTransformation, eval_params
from .problem import NoisyQuadratic

__all__ = ["SimulatedRisk", "Simulation", "simulate"]

#: Numbers in the parameters of all runs that go side by side: so few that a core's cache holds them.
AT_ONCE = 2**13


#: Numbers in the parameters of all steps of all runs from which on a compilation costs less than it saves.
WORTH_COMPILING = 4 * 10**7


class SimulatedRisk(NamedTuple):
    """A mean over runs, before the first step and after each."""

    mean: torch.Tensor  # (steps + 1,)
    standard_error: torch.Tensor  # (steps + 1,), of the mean


class Simulation(NamedTuple):
    """The risks that :func:`simulate` measured."""

    params: SimulatedRisk
    averaged: SimulatedRisk  # of what eval_params reads; without an average in the chain that of params


@typed
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
    by side by ``vmap``, some thousand at a time; 100,000 of 200 steps in one coordinate take about 10 s on
    one core. From twice as many on, a :func:`scan` is compiled, in some 10 s, and they take a third of the
    time. Mapped over hyperparameters by :func:`sweep`, all settings see the same noise, which is then drawn
    once, and their runs count as more.

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

    def risks(state: TrainState) -> dict[str, torch.Tensor]:
        averaged = eval_params(state.opt_state, state.params, average)
        return {"params": problem.risk(state.params), "averaged": problem.risk(averaged)}

    def run(replicate: torch.Tensor) -> dict[str, torch.Tensor]:
        own_key = random.fold_in(key, replicate)

        def seen(state: TrainState, k: torch.Tensor) -> tuple[TrainState, dict[str, torch.Tensor]]:
            state, _ = step(state, random.fold_in(own_key, k))
            return state, risks(state)

        counts = torch.arange(steps, device=key.device)
        return scan(seen, init_train_state(start, tx), counts, compile=compile)[1]

    around = math.prod(functorch.mapped_sizes()) if functorch.is_mapped_only() else 1
    compile = around * replicates * steps * len(start) >= WORTH_COMPILING
    before = risks(init_train_state(start, tx))
    parts = _parts(replicates, max(1, AT_ONCE // len(start)))
    after = _moments(torch.func.vmap(run), parts, key.device)

    def risk(name: str) -> SimulatedRisk:
        mean, squares = after[name]
        error = (squares / (replicates - 1) / replicates).sqrt()
        first = before[name][None]
        return SimulatedRisk(torch.cat([first, mean]), torch.cat([torch.zeros_like(first), error]))

    return Simulation(risk("params"), risk("averaged"))


def _parts(replicates: int, most: int) -> list[range]:
    """All replicates in parts of one length, which one program serves; the last may begin a little early."""
    count = -(-replicates // most)
    size = -(-replicates // count)
    return [range(stop - size, stop) for stop in (min(size * (k + 1), replicates) for k in range(count))]


def _moments(
    runs: Callable[[torch.Tensor], dict[str, torch.Tensor]], parts: Sequence[range], device: torch.device
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The mean of all runs, each counted once, and the summed squares of what differs from it."""
    moments = {name: (torch.zeros(()), torch.zeros(())) for name in Simulation._fields}
    before = 0
    for part in parts:
        found = runs(torch.arange(part.start, part.stop, device=device))
        count, total = part.stop - before, part.stop
        for name, (mean, squares) in moments.items():
            variance, own = torch.var_mean(found[name][before - part.start :], 0, correction=0)
            difference = own - mean
            squares = squares + count * variance + difference**2 * (before * count / total)
            moments[name] = mean + difference * (count / total), squares
        before = total
    return moments
