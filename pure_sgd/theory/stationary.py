"""What a chain settles down to: how fast it forgets, what noise leaves, and up to which rate it is stable."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

import torch

from .. import tree
from ..arguments import typed
from ..errors import PureSGDError, check_count
from ..transforms import GradientTransformation
from ..transforms.averaging import ParamsAverageState
from .composition import composed, motions, then
from .linear import Linearization, joined, linear_maps
from .problem import NoisyQuadratic

__all__ = ["ConvergenceRate", "SteadyState", "convergence_rate", "steady_state_risk"]

#: What tells how torch.func has wrapped a tensor; there is no public name for it.
_functorch: Any = import_module("torch._C._functorch")

#: Doublings of the number of steps: more than 2**64 steps are for ever.
DOUBLINGS = 64
#: Differences up to which entries of two maps are the same: relative to the entry, and to the largest one.
SAME = 1e-12
ROUNDING = 1e-15


class SteadyState(NamedTuple):
    """What noise leaves after infinitely many steps; of a periodic chain, on average over its period."""

    params: torch.Tensor  # (): the expected risk
    averaged: torch.Tensor  # (): that of what eval_params returns; without an average, the same
    variance: torch.Tensor  # (n,): of each parameter
    averaged_variance: torch.Tensor  # (n,)


class ConvergenceRate(NamedTuple):
    """The factor by which the expected error shrinks at each step, in the long run."""

    worst: torch.Tensor  # (): the largest, over coordinates
    rates: torch.Tensor  # (n,): of each parameter
    averaged: (
        torch.Tensor
    )  # (n,): of what eval_params returns; 1 for a uniform average, which is slower than any


class _Settled(NamedTuple):
    """The maps that a chain repeats for ever, cut to the numbers that the result depends on."""

    transition: torch.Tensor  # (period, n, k, k)
    noise: torch.Tensor  # (period, n, k)
    read: torch.Tensor  # (period, n, k)


@typed
def steady_state_risk(
    tx: GradientTransformation | Linearization,
    problem: NoisyQuadratic,
    average: str | None = None,
    after: int = 1000,
) -> SteadyState:
    """The risk that noise keeps up when the start is forgotten: a discrete Lyapunov equation, solved.

        covariance = A covariance A^T + b b^T variance          risk = sum_i curvature_i / 2 * covariance_i

    A map that changes with the step must have come to rest, or repeat itself (accumulation, lookahead),
    after ``after`` steps: those from there to ``2 * after`` are taken for what it stays. A coordinate whose
    spectral radius is not below 1 has infinite variance. The variance of a uniform average of parameters
    (:func:`polyak_average`, :func:`stochastic_weight_average`) falls without end: its limit is 0. What
    :func:`linearize` or :func:`linearize_at` returned is taken in place of a chain, too.

    Raises:
        PureSGDError: as :func:`linearize`, or a map that still changes after ``after`` steps, as with a rate
            that decays: :func:`risk` tells of every step.

    Example:
        >>> import pure_sgd as ps
        >>> problem = ps.theory.NoisyQuadratic(curvature=1.0, noise=0.5)
        >>> ps.theory.steady_state_risk(ps.sgd(0.5), problem).variance  # rate * noise / (2 - rate)
        tensor([0.1667], dtype=torch.float64)
        >>> ps.theory.steady_state_risk(ps.chain(ps.sgd(0.5), ps.params_ema(0.9)), problem).averaged_variance
        tensor([0.0231], dtype=torch.float64)
        >>> ps.theory.steady_state_risk(ps.sgd(2.0), problem).params
        tensor(inf, dtype=torch.float64)
    """
    params, averaged = _settled("steady_state_risk", tx, problem.curvature, average, after)
    variance = _variance(params, problem.variance)
    averaged_variance = torch.zeros_like(variance)
    if averaged is not None:
        averaged_variance = _variance(averaged, problem.variance)
    half = problem.curvature / 2
    return SteadyState(half @ variance, half @ averaged_variance, variance, averaged_variance)


@typed
def convergence_rate(
    tx: GradientTransformation | Linearization,
    problem: NoisyQuadratic,
    average: str | None = None,
    after: int = 1000,
) -> ConvergenceRate:
    """The factor by which the expected error shrinks at each step, in the long run: a spectral radius.

    It is that of the numbers on which a parameter, or its average, depends, and above 1 where the chain is
    unstable; of a periodic chain the geometric mean over its period. ``average`` and ``after`` are those of
    :func:`steady_state_risk`.

    Raises:
        PureSGDError: as :func:`steady_state_risk`.

    Example:
        >>> import pure_sgd as ps
        >>> problem = ps.theory.NoisyQuadratic(curvature=[1.0, 0.1], noise=1.0)
        >>> ps.theory.convergence_rate(ps.sgd(0.1), problem).rates
        tensor([0.9000, 0.9900], dtype=torch.float64)
        >>> ps.theory.convergence_rate(ps.sgd(0.1, momentum=0.9), problem).worst
        tensor(0.9487, dtype=torch.float64)
    """
    params, averaged = _settled("convergence_rate", tx, problem.curvature, average, after)
    rates = _radius(params)
    slowest = torch.ones_like(rates) if averaged is None else _radius(averaged)
    return ConvergenceRate(rates.max(), rates, slowest)


def _variance(settled: _Settled, variance: torch.Tensor) -> torch.Tensor:
    """The stationary variance of what is read, on average over the period, (n,)."""
    steps = motions(settled.transition, settled.noise, variance)
    whole = composed(steps)
    for _ in range(DOUBLINGS):
        whole = then(whole, whole)
    covariance, variances = whole.spread, []
    for transition, spread, read in zip(*steps, settled.read, strict=True):
        covariance = transition @ covariance @ transition.mT + spread
        variances.append((read[..., None, :] @ covariance @ read[..., None]).reshape(-1))
    radius = _radius(settled).detach()
    mean = torch.stack(variances).mean(0)
    return torch.where(radius.isnan(), radius, torch.where(radius < 1, mean, torch.inf))


def _radius(settled: _Settled) -> torch.Tensor:
    """The spectral radius of a step, (n,); NaN where the map is."""
    nothing = torch.zeros_like(settled.noise[0, :, :1])
    whole = composed(motions(settled.transition, settled.noise, nothing[:, 0])).transition
    radius = torch.linalg.eigvals(torch.nan_to_num(whole)).abs().amax(-1)
    return radius ** (1 / len(settled.transition)) + 0 * whole.sum((-2, -1))


def _settled(
    where: str,
    tx: GradientTransformation | Linearization,
    curvature: torch.Tensor,
    average: str | None,
    after: int,
) -> tuple[_Settled, _Settled | None]:
    """What the parameters and their average settle down to; None for an average that is uniform."""
    check_count(where, "after", after, low=2)
    found, begin = tx, 0
    if not isinstance(found, Linearization):
        found, begin = joined(list(linear_maps(where, found, curvature, 2 * after, average))), after
    maps = _Settled(*(m[begin:] if found.varies else m[:1] for m in found[:3]))
    parameter = torch.zeros_like(maps.read)
    parameter[..., 0] = 1
    params = _repeating(where, maps._replace(read=parameter), after)
    if not isinstance(tx, Linearization) and _is_uniform(tx, curvature, found):
        return params, None
    return params, _repeating(where, maps, after)


def _repeating(where: str, maps: _Settled, after: int) -> _Settled:
    """One period of the maps, cut to the numbers on which what is read depends."""
    depends = (_plain(maps.transition) != 0).flatten(0, -3).any(0).tolist()
    wanted = set((_plain(maps.read) != 0).flatten(0, -2).any(0).nonzero().flatten().tolist())
    for _ in depends:
        wanted |= {index for row in wanted for index, reads in enumerate(depends[row]) if reads}
    chosen = torch.tensor(sorted(wanted), device=maps.read.device)
    transition = maps.transition.index_select(-1, chosen).index_select(-2, chosen)
    maps = _Settled(transition, maps.noise.index_select(-1, chosen), maps.read.index_select(-1, chosen))
    period = _period(torch.cat([_plain(m).movedim(-m.ndim, 0).flatten(1) for m in maps], -1))
    if period is None:
        raise PureSGDError(
            where,
            f"the map of a step still changes after {after} steps, so that there is no steady state to tell",
            "Ask risk(tx, problem, steps), or pass a larger after to a chain that comes to rest",
        )
    return _Settled(*(m[:period] for m in maps))


def _period(rows: torch.Tensor) -> int | None:
    """The number of rows after which they repeat themselves, at most half of them."""
    size = rows.abs().amax(0)
    near = SAME * size + ROUNDING * size.max()

    def holds(period: int, some: torch.Tensor) -> bool:
        expected = some[torch.arange(len(some), device=some.device) % period]
        return bool(((some - expected).abs() <= near).all())

    for period in range(1, max(1, len(rows) // 2) + 1):
        # Two rows tell most numbers from the period.
        if holds(1, rows[::period][:2]) and holds(period, rows):
            return period
    return None


def _is_uniform(tx: GradientTransformation, curvature: torch.Tensor, part: Linearization) -> bool:
    """Whether the average is that of ever more parameters, whose variance falls without end."""
    reads = (_plain(part.average) != 0).flatten(0, -2).any(0).tolist()
    path = part.names[reads.index(True)].removesuffix(".average")
    nodes = dict(tree.walk(tx.init(torch.ones_like(curvature)), "opt_state"))
    return isinstance(nodes.get(path), ParamsAverageState)


def _plain(x: torch.Tensor) -> torch.Tensor:
    """The values of a tensor without wrappers; an axis that is mapped over comes first."""
    while _functorch.is_functorch_wrapped_tensor(x):
        axis = _functorch.maybe_get_bdim(x)
        x = _functorch.get_unwrapped(x)
        x = x if axis < 0 else x.movedim(axis, 0)
    return x.detach()
