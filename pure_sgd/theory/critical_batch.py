"""Steps to a target risk against the batch size: which method scales how far."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from ..arguments import typed
from ..errors import PureSGDError, check_count, check_hyperparameter
from ..optimizers import sgd
from ..transforms import GradientTransformation, chain, params_ema, scale_by_preconditioner
from .composition import Motion, motions, then
from .linear import linearize
from .problem import NoisyQuadratic

__all__ = ["CriticalBatchSize", "Family", "classical_families", "critical_batch_size"]

#: Numbers of steps that are looked at in each doubling, while hyperparameters are compared.
PER_DOUBLING = 8
#: A search goes over the whole grid, and then so often over finer ones around the best point.
ZOOMS = 6
#: Smaller numbers are 0: those near the end of what float64 holds take a processor a hundred times as long.
TINY = 1e-150


class Family(NamedTuple):
    """A kind of optimizer, and the hyperparameters among which the best are sought."""

    tx_of: Callable[..., GradientTransformation]  # tx_of(curvature, **hyperparameters)
    grids: Mapping[str, Sequence[float]]  # by name, in order


class CriticalBatchSize(NamedTuple):
    """How many steps each family needs, with its best hyperparameters for each batch size."""

    batch_sizes: torch.Tensor  # (B,)
    steps: dict[str, torch.Tensor]  # by family, (B,): steps to the target; inf beyond most_steps
    hyperparameters: dict[str, dict[str, torch.Tensor]]  # by family and name, (B,)
    fewest: dict[str, torch.Tensor]  # by family, (): steps without any noise
    critical: dict[str, torch.Tensor]  # by family, (): the batch size that takes twice the fewest steps


class _Coordinates(NamedTuple):
    curvature: torch.Tensor  # (n,)
    noise: torch.Tensor  # (n,): that of all coordinates of about this curvature
    initial: torch.Tensor  # (n,): the root of the sum of their squares


@typed
def critical_batch_size(
    problem: NoisyQuadratic,
    batch_sizes: Sequence[float],
    target: float,
    families: Mapping[str, Family] | None = None,
    *,
    initial: Any = 1.0,
    groups: int = 64,
    most_steps: int = 2**26,
) -> CriticalBatchSize:
    """Steps to a target risk for each batch size, with the best hyperparameters for each.

        steps(b) = min over hyperparameters of the first step whose expected risk is at most ``target``

    where the noise of ``problem``, taken as that of one example, is divided by b, and the risk is that of
    what :func:`eval_params` returns. While b is small, twice the batch takes half the steps; ``critical`` is
    where this ends: the batch size at which steps are twice those that no noise leaves. A family is any set
    of linear chains whose map does not change from step to step, :func:`classical_families` by default. Its
    best member is sought on the product of its ``grids``, and on finer ones around the best point.
    Coordinates are taken together in ``groups`` of nearly equal curvature, evenly spaced in its logarithm.
    Source: Zhang et al. 2019, arXiv:1907.04164.

    Raises:
        PureSGDError: as :func:`linearize`; no batch size, or a negative one; a target that is not positive;
            a family whose map changes with the step.

    Example:
        >>> import pure_sgd as ps
        >>> problem = ps.theory.noisy_quadratic_model(100)
        >>> found = ps.theory.critical_batch_size(problem, [1, 16, 256], target=0.1)
        >>> found.steps["sgd"]
        tensor([1718.,  124.,   35.], dtype=torch.float64)
        >>> found.steps["momentum"]
        tensor([1639.,  103.,   12.], dtype=torch.float64)
    """
    check_count("critical_batch_size", "groups", groups)
    check_hyperparameter("critical_batch_size", "target", target, low=0, open_low=True)
    for size in batch_sizes:
        check_hyperparameter("critical_batch_size", "batch_sizes", size, low=0, open_low=True)
    sizes = torch.tensor([*batch_sizes, math.inf], dtype=torch.float64)
    together = _grouped(problem, torch.as_tensor(initial, dtype=torch.float64), groups)
    families = classical_families(problem.curvature) if families is None else families
    steps: dict[str, torch.Tensor] = {}
    best: dict[str, dict[str, torch.Tensor]] = {}
    for name, family in families.items():
        _check_constant(name, family, together.curvature)
        steps[name], best[name] = _tuned(family, together, sizes, target, most_steps)
    return CriticalBatchSize(
        sizes[:-1],
        {name: found[:-1] for name, found in steps.items()},
        {name: {key: found[:-1] for key, found in values.items()} for name, values in best.items()},
        {name: found[-1] for name, found in steps.items()},
        {name: _crossing(sizes[:-1], found[:-1], 2 * found[-1]) for name, found in steps.items()},
    )


@typed
def classical_families(curvature: torch.Tensor) -> dict[str, Family]:
    """SGD, also with momentum, with an average of the parameters, and preconditioned by ``curvature**-0.5``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> list(ps.theory.classical_families(torch.ones(1)))
        ['sgd', 'momentum', 'ema', 'preconditioning']
    """
    largest = curvature.max().item()
    rates = [4 / largest * 10 ** (-index / 5) for index in range(40)]
    memories = [1 - 10 ** (-index / 2) for index in range(12)]

    def averaged(curvature: torch.Tensor, learning_rate: Any, decay: Any) -> GradientTransformation:
        return chain(sgd(learning_rate), params_ema(decay))

    def preconditioned(curvature: torch.Tensor, learning_rate: Any) -> GradientTransformation:
        return chain(scale_by_preconditioner(curvature, 0.5), sgd(learning_rate))

    return {
        "sgd": Family(lambda curvature, **found: sgd(**found), {"learning_rate": rates}),
        "momentum": Family(
            lambda curvature, **found: sgd(**found), {"learning_rate": rates, "momentum": memories[:8]}
        ),
        "ema": Family(averaged, {"learning_rate": rates[:22], "decay": memories}),
        "preconditioning": Family(
            preconditioned, {"learning_rate": [rate * math.sqrt(largest) for rate in rates]}
        ),
    }


def _grouped(problem: NoisyQuadratic, initial: torch.Tensor, groups: int) -> _Coordinates:
    """Few coordinates with the risk of all: of one curvature, noises add up, and squares of starts do."""
    h, noise = problem.curvature.cpu(), problem.noise.cpu()
    places = h.log()
    spread = (places.max() - places.min()).clamp(min=1e-9)
    group = ((places - places.min()) / spread * groups).long().clamp(max=groups - 1)

    def total(values: torch.Tensor) -> torch.Tensor:
        return torch.zeros(groups, dtype=h.dtype).index_add(0, group, values.expand(h.shape))

    count = total(torch.ones_like(h))
    sums = (total(h) / count, total(noise), total(initial.cpu() ** 2).sqrt())
    return _Coordinates(*(found[count > 0] for found in sums))


def _tuned(
    family: Family, problem: _Coordinates, sizes: torch.Tensor, target: float, most_steps: int
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The fewest steps for each batch size, (B,), and the hyperparameters that take them."""
    axes = [torch.tensor([sorted(grid)], dtype=torch.float64) for grid in family.grids.values()]
    places: list[torch.Tensor] = []
    for _ in range(1 + ZOOMS):
        points = _product(axes)
        index = _soonest(_Runs(family, problem, points), sizes, target, most_steps)
        places = [point.expand(len(sizes), -1).gather(1, index[:, None]) for point in points]
        axes = [_finer(axis.expand(len(sizes), -1), place) for axis, place in zip(axes, places, strict=True)]
    steps = _first_step(_Runs(family, problem, places), sizes, target, most_steps)
    names = family.grids
    known = [torch.where(steps.isfinite(), place[:, 0], torch.nan) for place in places]
    return steps, dict(zip(names, known, strict=True))


def _product(axes: list[torch.Tensor]) -> list[torch.Tensor]:
    """All combinations of axes (R, L), each (R, P)."""
    rows = [torch.meshgrid(*row, indexing="ij") for row in zip(*axes, strict=True)]
    return [torch.stack([row[index].flatten() for row in rows]) for index in range(len(axes))]


def _finer(axis: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """From the left to the right neighbour of ``place`` (B, 1) on ``axis`` (B, L), in halves: (B, 5)."""
    index = (axis == place).long().argmax(1, keepdim=True)
    left = axis.gather(1, (index - 1).clamp(min=0))
    right = axis.gather(1, (index + 1).clamp(max=axis.shape[1] - 1))
    return torch.cat([left, (left + place) / 2, place, (place + right) / 2, right], 1)


class _Runs:
    """Runs with hyperparameters (R, P), all at once: the parts of their risks, (R, P), after any step."""

    def __init__(self, family: Family, problem: _Coordinates, points: list[torch.Tensor]) -> None:
        h, self.shape = problem.curvature, points[0].shape

        def one(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
            found = linearize(family.tx_of(h, **dict(zip(family.grids, values, strict=True))), h)
            return found.transition[0], found.noise[0], found.average[0], found.start

        flat = (point.flatten() for point in points)
        transition, noise, self.read, start = torch.func.vmap(one)(*flat)
        self.half = h / 2
        self.step = motions(transition, noise, problem.noise)
        self.start = (start * problem.initial[:, None])[..., None]

    def after(self, mean: torch.Tensor, covariance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The risk from the start, and that from the noise of batches of 1."""
        row = self.read[..., None, :]
        start = (row @ mean)[..., 0, 0] ** 2 @ self.half
        noise = (row @ covariance @ row.mT)[..., 0, 0] @ self.half
        return start.reshape(self.shape), noise.reshape(self.shape)


def _moved(step: Motion, mean: torch.Tensor, covariance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return _flushed(step.transition @ mean), step.transition @ covariance @ step.transition.mT + step.spread


def _twice(step: Motion) -> Motion:
    return Motion(*(_flushed(x) for x in then(step, step)))


def _flushed(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x.abs() > TINY, x, 0.0)


def _soonest(runs: _Runs, sizes: torch.Tensor, target: float, most_steps: int) -> torch.Tensor:
    """Which of the P runs is the first to reach the target, (B,)."""
    mean, covariance, step = runs.start, torch.zeros_like(runs.step.spread), runs.step
    best = torch.zeros(len(sizes), dtype=torch.int64)
    waiting = torch.ones(len(sizes), dtype=torch.bool)
    before = torch.full((len(sizes), 1), torch.inf, dtype=torch.float64)
    steps, length = 0, 1
    while steps < most_steps and waiting.any():
        for _ in range(PER_DOUBLING if steps else 2 * PER_DOUBLING):
            steps += length
            mean, covariance = _moved(step, mean, covariance)
            start, noise = runs.after(mean, covariance)
            now = torch.nan_to_num((start + noise / sizes[:, None]).log() - math.log(target), torch.inf)
            # The part of this stretch that a run needs, if its risk falls evenly on a logarithmic scale.
            part = torch.where(now <= 0, before / (before - now), torch.inf).nan_to_num(1.0)
            arrived = waiting & (now.amin(1) <= 0)
            best = torch.where(arrived, part.argmin(1), best)
            waiting, before = waiting & ~arrived, now
        step, length = _twice(step), 2 * length
    return best


def _first_step(runs: _Runs, sizes: torch.Tensor, target: float, most_steps: int) -> torch.Tensor:
    """The first step, by bisection, at which each of (B, 1) runs has reached the target, (B,)."""
    powers = [runs.step]
    while 2 ** len(powers) < most_steps:
        powers.append(_twice(powers[-1]))
    mean, covariance = runs.start, torch.zeros_like(runs.step.spread)
    steps = torch.zeros_like(sizes)
    for exponent in reversed(range(len(powers))):
        ahead = _moved(powers[exponent], mean, covariance)
        start, noise = runs.after(*ahead)
        not_yet = ~(start[:, 0] + noise[:, 0] / sizes <= target)
        chosen = not_yet[:, None, None, None]
        mean, covariance = torch.where(chosen, ahead[0], mean), torch.where(chosen, ahead[1], covariance)
        steps = steps + not_yet * 2**exponent
    return torch.where(steps < 2 ** len(powers) - 1, steps + 1, torch.inf)


def _check_constant(name: str, family: Family, curvature: torch.Tensor) -> None:
    values = {
        key: torch.tensor(float(next(iter(grid))), dtype=torch.float64) for key, grid in family.grids.items()
    }
    if linearize(family.tx_of(curvature, **values), curvature).varies:
        raise PureSGDError(
            "critical_batch_size",
            f"the steps of {name} differ from each other",
            "Leave out schedules, and averages that look at their step count",
        )


def _crossing(sizes: torch.Tensor, steps: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """The batch size at which steps fall through a level, shape ``()``; NaN outside of what was looked at."""
    order = sizes.argsort()
    x, y = sizes[order].log(), (steps[order] / level).log()
    for left in range(len(x) - 1):
        if y[left] > 0 >= y[left + 1]:
            return (x[left] + (x[left + 1] - x[left]) * y[left] / (y[left] - y[left + 1])).exp()
    return torch.full((), torch.nan, dtype=torch.float64)
