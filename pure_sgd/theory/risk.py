"""The exact expected risk after each step of a chain, and the part of it that noise has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from ..arguments import typed
from ..errors import PureSGDError, check_count
from ..transforms import GradientTransformation
from .composition import Motion, composed, motions, repeated
from .linear import HELD, Linearization, linear_maps
from .problem import NoisyQuadratic

__all__ = ["Moments", "Risk", "RiskParts", "final_risk", "moments", "risk"]


class RiskParts(NamedTuple):
    """An expected risk and where it comes from; index t of each is after t steps."""

    total: torch.Tensor  # (steps + 1,)
    from_start: torch.Tensor  # (steps + 1,): what is left of the initial error
    from_noise: torch.Tensor  # (steps + 1,): what the noise of the gradients has added


class Risk(NamedTuple):
    """The expected risk of a chain, of its parameters and of their average."""

    params: RiskParts
    averaged: RiskParts  # of what eval_params returns: without an average, the parameters


class Moments(NamedTuple):
    """Mean and variance of every coordinate; row t of each is after t steps."""

    mean: torch.Tensor  # (steps + 1, n)
    variance: torch.Tensor  # (steps + 1, n)
    averaged_mean: torch.Tensor  # (steps + 1, n), of what eval_params returns
    averaged_variance: torch.Tensor  # (steps + 1, n)


@typed
def risk(
    tx: GradientTransformation,
    problem: NoisyQuadratic,
    steps: int,
    initial: Any = 1.0,
    average: str | None = None,
) -> Risk:
    """The exact expected risk of a linear chain after each step: no simulation, and no formula by hand.

        z = A z + b xi:     mean = A mean,     covariance = A covariance A^T + b b^T variance
        risk = sum_i curvature_i / 2 * (mean_i**2 + covariance_i)

    with the maps A, b of :func:`linearize`. Every parameter begins at ``initial``, a number or (n,); one
    drawn at random of mean 0 counts by its root mean square. Of several averages in ``tx``, ``average``
    tells the one, as in :func:`eval_params`. Everything is float64 and differentiable in the hyperparameters.

    Raises:
        PureSGDError: as :func:`linearize`, or a number of steps under 1.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> problem = ps.theory.NoisyQuadratic(curvature=1.0, noise=0.5)
        >>> ps.theory.risk(ps.sgd(0.5), problem, steps=2).params
        RiskParts(total=tensor([0.5000, 0.1875, 0.1094], dtype=torch.float64), \
from_start=tensor([0.5000, 0.1250, 0.0312], dtype=torch.float64), \
from_noise=tensor([0.0000, 0.0625, 0.0781], dtype=torch.float64))
        >>> def final_risk(rate):
        ...     return ps.theory.risk(ps.sgd(rate), problem, 2).params.total[-1]
        >>> torch.func.grad(final_risk)(torch.tensor(0.4, dtype=torch.float64))
        tensor(-0.2080, dtype=torch.float64)
    """
    half = problem.curvature / 2
    rows: list[list[torch.Tensor]] = []
    for mean, variance, averaged_mean, averaged_variance in _moments(
        "risk", tx, problem, steps, initial, average
    ):
        terms = mean**2, variance, averaged_mean**2, averaged_variance
        rows.append([term @ half for term in terms])
    start, noise, averaged_start, averaged_noise = (torch.cat(row) for row in zip(*rows, strict=True))
    return Risk(
        RiskParts(start + noise, start, noise),
        RiskParts(averaged_start + averaged_noise, averaged_start, averaged_noise),
    )


@typed
def moments(
    tx: GradientTransformation,
    problem: NoisyQuadratic,
    steps: int,
    initial: Any = 1.0,
    average: str | None = None,
) -> Moments:
    """Mean and variance of every coordinate after each step, as in :func:`risk`.

    Raises:
        PureSGDError: as :func:`risk`.

    Example:
        >>> import pure_sgd as ps
        >>> problem = ps.theory.NoisyQuadratic(curvature=[1.0, 0.1], noise=[0.5, 0.0])
        >>> ps.theory.moments(ps.sgd(0.5), problem, steps=1).mean
        tensor([[1.0000, 1.0000],
                [0.5000, 0.9500]], dtype=torch.float64)
    """
    parts = list(_moments("moments", tx, problem, steps, initial, average))
    return Moments(*(torch.cat(part) for part in zip(*parts, strict=True)))


@typed
def final_risk(
    tx: GradientTransformation,
    problem: NoisyQuadratic,
    steps: int,
    initial: Any = 1.0,
    average: str | None = None,
) -> torch.Tensor:
    """The last ``averaged.total`` of :func:`risk`, shape ``()``, by composing steps in pairs: much faster.

    Raises:
        PureSGDError: as :func:`risk`.

    Example:
        >>> import pure_sgd as ps
        >>> problem = ps.theory.NoisyQuadratic(curvature=1.0, noise=0.5)
        >>> ps.theory.final_risk(ps.sgd(0.5), problem, steps=2)
        tensor(0.1094, dtype=torch.float64)
    """
    check_count("final_risk", "steps", steps)
    parts = list(linear_maps("final_risk", tx, problem.curvature, steps, average))
    together = [_composed(part, problem.variance) for part in parts]
    transition, covariance = composed(Motion(*map(torch.stack, zip(*together, strict=True))))
    mean = _times(transition, _start(parts[0], initial))
    read = parts[-1].average[-1]
    return (problem.curvature / 2) @ ((read * mean).sum(-1) ** 2 + _quadratic(covariance, read))


def _composed(part: Linearization, variance: torch.Tensor) -> Motion:
    if part.varies:
        return composed(motions(part.transition, part.noise, variance))
    return repeated(motions(part.transition[0], part.noise[0], variance), len(part.noise))


def _moments(
    where: str,
    tx: GradientTransformation,
    problem: NoisyQuadratic,
    steps: int,
    initial: Any,
    average: str | None,
) -> Iterator[Moments]:
    check_count(where, "steps", steps)
    mean = covariance = None
    for part in linear_maps(where, tx, problem.curvature, steps, average):
        if mean is None or covariance is None:
            mean = _start(part, initial)
            covariance = torch.zeros_like(part.transition[0])
            yield _read(mean[None], covariance[None], part.average[:1])
        at_once = max(1, HELD // covariance.numel())
        chunks = zip(*(x.split(at_once) for x in part[:3]), strict=True)
        for transitions, noises, reads in chunks:
            means: list[torch.Tensor] = []
            covariances: list[torch.Tensor] = []
            for transition, noise in zip(transitions, noises, strict=True):
                step = motions(transition, noise, problem.variance)
                mean = _times(transition, mean)
                covariance = transition @ covariance @ transition.mT + step.spread
                means.append(mean)
                covariances.append(covariance)
            yield _read(torch.stack(means), torch.stack(covariances), reads)


def _start(part: Linearization, initial: Any) -> torch.Tensor:
    n, _ = part.start.shape
    value = torch.as_tensor(initial, dtype=part.start.dtype, device=part.start.device)
    if value.shape not in ((), (n,)):
        raise PureSGDError(
            "initial",
            f"has shape {tuple(value.shape)}, expected () or ({n},)",
            "Pass a number or one a coordinate",
        )
    return part.start * value.reshape(-1, 1)


def _read(mean: torch.Tensor, covariance: torch.Tensor, average: torch.Tensor) -> Moments:
    return Moments(
        mean[..., 0], covariance[..., 0, 0], (average * mean).sum(-1), _quadratic(covariance, average)
    )


def _times(matrix: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    return (matrix @ vector[..., None])[..., 0]


def _quadratic(matrix: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    return (vector * _times(matrix, vector)).sum(-1)
