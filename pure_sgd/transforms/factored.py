"""Second moments in little memory: one number for a row and one for a column in place of a matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from .. import tree
from ..errors import check_count, check_hyperparameter
from ..schedules import as_real
from .contract import (
    GradientTransformation,
    Hyperparameter,
    Params,
    Updates,
    step_zero,
    transformation,
)
from .running import real_zeros, squared

__all__ = ["ScaleByFactoredRmsState", "ScaleBySm3State", "scale_by_factored_rms", "scale_by_sm3"]


class ScaleByFactoredRmsState(NamedTuple):
    """The mean squares, factored where a leaf is large: real, in at least float32."""

    step: torch.Tensor  # int64, shape ()
    moments: Updates  # for each leaf (row, column), their axes of length 1 kept, or (full,)


class ScaleBySm3State(NamedTuple):
    """A bound on the sums of squares for every slice of a leaf, and the momentum."""

    slices: Updates  # for each leaf one vector per axis, of that axis' length, real, in at least float32
    mu: Updates  # like params, in at least float32


@transformation
def scale_by_factored_rms(
    factored: bool = True,
    decay_rate: Hyperparameter = 0.8,
    step_offset: int = 0,
    min_dim_size_to_factor: int = 128,
    epsilon: Hyperparameter = 1e-30,
    decay_rate_fn: Callable[[torch.Tensor, Any], Any] | None = None,
) -> GradientTransformation:
    """Divide the updates by their root mean square, kept as a row and a column: Adafactor's rule.

        d = 1 - (step - step_offset + 1)**-decay_rate       step counts from 0
        v = d * v + (1 - d) * (u**2 + epsilon)
        u = u / sqrt(v)

    Of a leaf whose two longest axes are at least ``min_dim_size_to_factor`` long, only the means of ``v``
    over one and over the other are kept, and ``v = row * column / mean(row)``: n + m numbers for an (n, m)
    matrix. ``decay_rate_fn(step - step_offset, decay_rate)`` replaces the first line. Moments have at least
    float32. Optax computes ``d`` in float32, which its trajectories in float64 show from the eighth
    digit on. Source: Shazeer and Stern 2018, arXiv:1804.04235.

    Raises:
        PureSGDError: a negative ``decay_rate`` or ``step_offset``, ``min_dim_size_to_factor`` under 1, or an
            ``epsilon`` that is not positive.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.scale_by_factored_rms(min_dim_size_to_factor=2)
        >>> state = tx.init(torch.zeros(3, 2))
        >>> [tuple(moment.shape) for moment in state.moments]
        [(1, 2), (3, 1)]
        >>> tx.update(torch.tensor([[2.0, 4.0], [1.0, 2.0], [-3.0, -6.0]]), state)[0]
        tensor([[ 1.,  1.],
                [ 1.,  1.],
                [-1., -1.]])
    """
    where = "scale_by_factored_rms"
    check_hyperparameter(where, "decay_rate", decay_rate, low=0)
    check_count(where, "step_offset", step_offset, low=0)
    check_count(where, "min_dim_size_to_factor", min_dim_size_to_factor)
    check_hyperparameter(where, "epsilon", epsilon, low=0, open_low=True)
    decay_at = decay_rate_fn or (lambda step, rate: 1 - as_real(step + 1) ** (-rate))

    def longest_axes(shape: torch.Size) -> tuple[int, ...]:
        """The longest axis and the next, or none where the leaf is not factored."""
        *_, second, first = (-1, -1, *sorted(range(len(shape)), key=lambda axis: shape[axis]))
        return (first, second) if factored and second >= 0 and shape[second] >= min_dim_size_to_factor else ()

    def init(params: Params) -> ScaleByFactoredRmsState:
        def zeros(full: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(full.sum(axis, keepdim=True) for axis in longest_axes(full.shape)) or (full,)

        return ScaleByFactoredRmsState(step_zero(params), tree.map(zeros, real_zeros(params)))

    def update(
        updates: Updates, state: ScaleByFactoredRmsState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleByFactoredRmsState]:
        decay = decay_at((state.step - step_offset).clamp(min=0), decay_rate)

        def averaged(u: torch.Tensor, moments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            square = squared(u) + epsilon
            means = tuple(square.mean(axis, keepdim=True) for axis in longest_axes(u.shape)) or (square,)
            return tuple(
                (decay * v + (1 - decay) * new).to(v.dtype) for v, new in zip(moments, means, strict=True)
            )

        def scaled(u: torch.Tensor, moments: tuple[torch.Tensor, ...]) -> torch.Tensor:
            if len(moments) == 1:
                return (tree.widened(u) * moments[0].rsqrt()).to(u.dtype)
            row, column = moments
            relative = row / row.mean(longest_axes(u.shape)[1], keepdim=True)
            return (tree.widened(u) * relative.rsqrt() * column.rsqrt()).to(u.dtype)

        moments = tree.map(averaged, updates, state.moments)
        return tree.map(scaled, updates, moments), ScaleByFactoredRmsState(state.step + 1, moments)

    return GradientTransformation(init, update)


@transformation
def scale_by_sm3(
    b1: Hyperparameter = 0.9, b2: Hyperparameter = 1.0, eps: Hyperparameter = 1e-8
) -> GradientTransformation:
    """Adagrad with one number for each slice of a leaf along each axis, and momentum: SM3.

        v      = b2 * (the least of the numbers of the slices that hold the entry) + w * u**2
        slices = the largest v in each of them
        mu     = b1 * mu + (1 - b1) * u / sqrt(v + eps)        0 in place of the quotient where v = 0
        u      = mu

    ``w`` is 1 for ``b2 = 1`` (the paper's sums) and ``1 - b2`` otherwise. A matrix (n, m) needs n + m numbers
    besides its momentum. State has at least float32. Source: Anil et al. 2019, arXiv:1901.11150.

    Raises:
        PureSGDError: ``b1`` outside [0, 1), ``b2`` outside [0, 1], or a negative ``eps``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.scale_by_sm3(b1=0.0)
        >>> updates, state = tx.update(torch.tensor([[3.0, -4.0]]), tx.init(torch.zeros(1, 2)))
        >>> updates, state.slices
        (tensor([[ 1., -1.]]), (tensor([16.]), tensor([ 9., 16.])))
    """
    check_hyperparameter("scale_by_sm3", "b1", b1, low=0, high=1, open_high=True)
    check_hyperparameter("scale_by_sm3", "b2", b2, low=0, high=1)
    check_hyperparameter("scale_by_sm3", "eps", eps, low=0)
    if isinstance(b2, torch.Tensor):
        weight = torch.where(b2 == 1, 1.0, 1 - b2)
    else:
        weight = 1.0 if b2 == 1 else 1 - b2

    def init(params: Params) -> ScaleBySm3State:
        def zeros(p: torch.Tensor) -> tuple[torch.Tensor, ...]:
            # A number without axes is its own slice.
            return tuple(p.new_zeros(size) for size in p.shape or ((),))

        return ScaleBySm3State(tree.map(zeros, real_zeros(params)), tree.zeros_like(params))

    def update(
        updates: Updates, state: ScaleBySm3State, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleBySm3State]:
        def bounded(u: torch.Tensor, slices: tuple[torch.Tensor, ...]) -> torch.Tensor:
            least = slices[0].reshape(_along(0, u.ndim))
            for axis, one in enumerate(slices[1:], start=1):
                least = torch.minimum(least, one.reshape(_along(axis, u.ndim)))
            return (b2 * least + weight * squared(u)).to(least.dtype)

        def largest(v: torch.Tensor, slices: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            if v.ndim < 2:
                return (v,)
            if not v.numel():  # nothing is the largest of no numbers
                return tuple(one.clone() for one in slices)
            others = ([other for other in range(v.ndim) if other != axis] for axis in range(v.ndim))
            return tuple(v.amax(axes) for axes in others)

        def averaged(m: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            root = torch.where(v > 0, v + eps, 1.0).rsqrt()
            return (b1 * m + (1 - b1) * torch.where(v > 0, tree.widened(u) * root, 0.0)).to(m.dtype)

        bounds = tree.map(bounded, updates, state.slices)
        mu = tree.map(averaged, state.mu, updates, bounds)
        return tree.cast_like(mu, updates), ScaleBySm3State(tree.map(largest, bounds, state.slices), mu)

    return GradientTransformation(init, update)


def _along(axis: int, ndim: int) -> list[int]:
    """The shape that lays a vector along ``axis`` of ``ndim`` axes."""
    return [-1 if other == axis else 1 for other in range(ndim)]
