"""Rates that are a distance over gradients: DoG, DoWG, and DoG for every leaf by itself."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from ... import tree
from ...errors import PureSGDError, check_hyperparameter
from ...schedules import as_real
from ..averaging import wide_copy
from ..contract import (
    GradientTransformation,
    Hyperparameter,
    Params,
    Updates,
    missing_params,
    step_zero,
    transformation,
)
from ..running import check_offsets, root
from ..scaling import multiply
from .measuring import difference, inner, quotient

__all__ = [
    "ScaleByDistanceOverGradientsState",
    "ScaleByDogState",
    "ScaleByDowgState",
    "scale_by_distance_over_gradients",
    "scale_by_dog",
    "scale_by_dowg",
]


class ScaleByDogState(NamedTuple):
    """How far the parameters have been from where they began, and how long the gradients were."""

    max_dist: torch.Tensor  # float64, shape ()
    sum_sq_norm_grads: torch.Tensor  # float64, shape ()
    learning_rate: torch.Tensor  # float64, shape (): that of the last update, 0 before the first
    init_params: Params  # like params, in at least float32


@transformation
def scale_by_dog(
    init_step: tuple[str, float | torch.Tensor] = ("heuristic", 1e-6), eps: Hyperparameter = 1e-8
) -> GradientTransformation:
    """Scale the updates by the distance gone so far over the root of the sum of their squares.

        max_dist = max(max_dist, |params - init_params|)
        sum_sq_norm_grads = sum_sq_norm_grads + |u|**2              norms over all leaves
        u = max_dist / sqrt(sum_sq_norm_grads + eps) * u

    ``init_step`` says how the first steps are taken: ``("distance", r)`` begins with ``max_dist = r``;
    ``("heuristic", a)`` with ``a * (1 + |init_params|)``, ``a`` being 1e-6, or 1e-4 with batch normalisation;
    ``("learning_rate", rate)`` takes ``rate`` until the parameters have moved, where Optax does so
    only at the first step and never moves if that gradient is zero. The authors recommend to evaluate an
    average of the parameters (:func:`polyak_average`). Source: Ivgi et al. 2023, arXiv:2302.12022.

    Raises:
        PureSGDError: an ``init_step`` that is no such pair, a negative ``eps``, or no ``params`` in
            ``update``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx, params = ps.scale_by_dog(("distance", 0.1)), torch.zeros(2)
        >>> tx.update(torch.tensor([3.0, 4.0]), tx.init(params), params)[0]
        tensor([0.0600, 0.0800])
    """
    where = "scale_by_dog"
    kind, first = _checked_init_step(where, init_step)
    check_offsets(where, eps=eps)

    def init(params: Params) -> ScaleByDogState:
        zero = as_real(step_zero(params))
        distance = 0.0 if kind == "learning_rate" else first
        if kind == "heuristic":
            distance = first * (1 + as_real(tree.norm(params)))
        return ScaleByDogState(zero + distance, zero.clone(), zero, wide_copy(params))

    def update(
        updates: Updates, state: ScaleByDogState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleByDogState]:
        if params is None:
            raise missing_params(where)
        gone = as_real(tree.norm(difference(params, state.init_params)))
        max_dist = torch.maximum(state.max_dist, gone)
        squares = state.sum_sq_norm_grads + inner(updates, updates)
        rate = quotient(max_dist, root(squares + eps))
        if kind == "learning_rate":
            rate = torch.where(max_dist == 0, first, rate)
        return multiply(updates, rate), ScaleByDogState(max_dist, squares, rate, state.init_params)

    return GradientTransformation(init, update)


class ScaleByDowgState(NamedTuple):
    """How far the parameters have been from where they began, and the gradients weighted by that."""

    estim_sq_dist: torch.Tensor  # float64, shape ()
    weighted_sq_norm_grads: torch.Tensor  # float64, shape ()
    learning_rate: torch.Tensor  # float64, shape (): that of the last update, 0 before the first
    init_params: Params  # like params, in at least float32


@transformation
def scale_by_dowg(
    init_estim_sq_dist: Hyperparameter = None, eps: Hyperparameter = 1e-4
) -> GradientTransformation:
    """Scale the updates by the squared distance gone so far over the root of their weighted squares.

        estim_sq_dist = max(estim_sq_dist, |params - init_params|**2)
        weighted_sq_norm_grads = weighted_sq_norm_grads + estim_sq_dist * |u|**2        norms over all leaves
        u = estim_sq_dist / (sqrt(weighted_sq_norm_grads) + eps) * u

    ``estim_sq_dist`` begins at ``init_estim_sq_dist``, or at ``eps`` if that is None.
    Source: Khaled et al. 2023, arXiv:2305.16284.

    Raises:
        PureSGDError: a negative ``init_estim_sq_dist`` or ``eps``, or no ``params`` in ``update``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx, params = ps.scale_by_dowg(0.01, eps=0.0), torch.zeros(2)
        >>> tx.update(torch.tensor([3.0, 4.0]), tx.init(params), params)[0]
        tensor([0.0600, 0.0800])
    """
    where = "scale_by_dowg"
    check_offsets(where, eps=eps)
    start = eps if init_estim_sq_dist is None else init_estim_sq_dist
    check_offsets(where, init_estim_sq_dist=start)

    def init(params: Params) -> ScaleByDowgState:
        zero = as_real(step_zero(params))
        return ScaleByDowgState(zero + start, zero.clone(), zero, wide_copy(params))

    def update(
        updates: Updates, state: ScaleByDowgState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleByDowgState]:
        if params is None:
            raise missing_params(where)
        gone = difference(params, state.init_params)
        square = torch.maximum(state.estim_sq_dist, inner(gone, gone))
        weighted = state.weighted_sq_norm_grads + square * inner(updates, updates)
        rate = quotient(square, root(weighted) + eps)
        return multiply(updates, rate), ScaleByDowgState(square, weighted, rate, state.init_params)

    return GradientTransformation(init, update)


class ScaleByDistanceOverGradientsState(NamedTuple):
    """As :class:`ScaleByDogState`, for every leaf by itself."""

    max_dist: Updates  # float64 of shape () for every leaf
    grad_sum_of_squares: Updates  # float64 of shape () for every leaf
    init_params: Params  # like params, in at least float32, or in param_dtype


@transformation
def scale_by_distance_over_gradients(
    reps_rel: Hyperparameter = 1e-6,
    eps: Hyperparameter = 1e-8,
    param_dtype: torch.dtype | None = None,
    global_scale: Hyperparameter = 1.0,
) -> GradientTransformation:
    """Layer-wise DoG: scale each leaf by the distance it has gone over the root of its sum of squares.

        max_dist = max(max_dist, |p - init_p|)              reps_rel * (1 + |init_p|) at first
        grad_sum_of_squares = grad_sum_of_squares + |u|**2              norms over the leaf
        u = global_scale * max_dist / sqrt(grad_sum_of_squares + eps) * u

    The parameters of the beginning are kept in ``param_dtype``, or in at least float32: Optax
    rounds those in float64 to float32, and gives a leaf of shape ``()`` the shape ``(1,)``. ``reps_rel`` is
    better 1e-4 with batch normalisation. The authors recommend to evaluate an average of the parameters
    (:func:`polyak_average`). Source: Ivgi et al. 2023, arXiv:2302.12022.

    Raises:
        PureSGDError: a negative ``reps_rel`` or ``eps``, a ``global_scale`` that is no number, or no
            ``params`` in ``update``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx, params = ps.scale_by_distance_over_gradients(0.1), torch.zeros(2)
        >>> tx.update(torch.tensor([3.0, 4.0]), tx.init(params), params)[0]
        tensor([0.0600, 0.0800])
    """
    where = "scale_by_distance_over_gradients"
    check_offsets(where, reps_rel=reps_rel, eps=eps)
    check_hyperparameter(where, "global_scale", global_scale)

    def init(params: Params) -> ScaleByDistanceOverGradientsState:
        return ScaleByDistanceOverGradientsState(
            tree.map(lambda p: as_real(reps_rel * (1 + as_real(tree.norm(p)))), params),
            tree.map(lambda p: as_real(step_zero(p)), params),
            tree.map(lambda p: p.to(param_dtype or tree.wide(p.dtype), copy=True), params),
        )

    def update(
        updates: Updates, state: ScaleByDistanceOverGradientsState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleByDistanceOverGradientsState]:
        if params is None:
            raise missing_params(where)
        gone = tree.map(
            lambda p, p0: as_real(tree.norm(tree.widened(p) - tree.widened(p0))), params, state.init_params
        )
        max_dist = tree.map(torch.maximum, state.max_dist, gone)
        squares = tree.map(lambda s, u: s + inner(u, u), state.grad_sum_of_squares, updates)
        scaled = tree.map(
            lambda u, d, s: multiply(u, global_scale * quotient(d, root(s + eps))), updates, max_dist, squares
        )
        return scaled, ScaleByDistanceOverGradientsState(max_dist, squares, state.init_params)

    return GradientTransformation(init, update)


def _checked_init_step(where: str, init_step: Any) -> tuple[str, Any]:
    kinds = ("distance", "heuristic", "learning_rate")
    if (
        not isinstance(init_step, tuple)
        or len(init_step) != 2
        or init_step[0] not in kinds
        or callable(init_step[1])
    ):
        raise PureSGDError(
            where,
            f"init_step={init_step!r} is no pair of one of {kinds} and a number",
            "Pass ('heuristic', 1e-6), say",
        )
    check_offsets(where, init_step=init_step[1])
    return init_step
