"""Sophia: momentum over a curvature that is estimated now and then, cut off entry by entry."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from .. import tree
from ..errors import check_count, check_hyperparameter
from .contract import (
    GradientTransformation,
    Hyperparameter,
    Params,
    State,
    Updates,
    extra_args_of,
    missing_params,
    step_zero,
    transformation,
)
from .hutchinson import hutchinson_estimator_diag_hessian
from .running import bias_correction, check_decays, mean
from .wrapping import check_inner, either, extras_for

__all__ = ["SophiaState", "scale_by_sophia"]


class SophiaState(NamedTuple):
    """The averages of the gradients and of the Hessian's diagonal, and the state of its estimator."""

    step: torch.Tensor  # int64, shape ()
    mu: Updates  # like params, in mu_dtype or at least float32
    nu: Updates  # like params, in at least float32
    hessian_fn_state: State


@transformation
def scale_by_sophia(
    b1: Hyperparameter = 0.965,
    b2: Hyperparameter = 0.99,
    eps: Hyperparameter = 1e-8,
    gamma: Hyperparameter = 0.01,
    clip_threshold: Hyperparameter | None = 1.0,
    update_interval: int = 10,
    hessian_diagonal_fn: GradientTransformation | None = None,
    mu_dtype: torch.dtype | None = None,
) -> GradientTransformation:
    """Divide the mean of the gradients by that of the Hessian's diagonal, and cut off what comes out large.

        mu = b1 * mu + (1 - b1) * g
        u  = clamp(mu / (1 - b1**t) / max(gamma * nu, eps), -clip_threshold, clip_threshold)
        nu = b2 * nu + (1 - b2) * diagonal                   every update_interval steps, from the first on

    ``t`` counts from 1; with ``clip_threshold=None`` nothing is cut off. An entry whose curvature is small or
    negative moves by the sign of its gradient. The rule of Optax: in the paper ``nu`` is one step newer,
    and ``mu`` is not divided by ``1 - b1**t``.

    ``hessian_diagonal_fn`` is a transform that replaces the gradients by an estimate of the diagonal, and is
    given the extra arguments that it reads: :func:`hutchinson_estimator_diag_hessian`, which reads
    ``value_fn``, unless it is another, such as Gauss-Newton-Bartlett. It runs at those steps alone (as in
    :func:`multi_steps`, with the same exceptions).
    Source: Liu et al. 2023, arXiv:2305.14342.

    Raises:
        PureSGDError: ``b1`` or ``b2`` outside [0, 1), an ``eps`` that is not positive, a negative ``gamma``
            or ``clip_threshold``, an ``update_interval`` below 1, an estimator that is no transform, or no
            ``params`` in ``update``, or complex ones; what the estimator raises.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx, params = ps.scale_by_sophia(gamma=1.0, b2=0.0), torch.tensor([1.0, 2.0])
        >>> state, loss = tx.init(params), lambda p: (p[0] ** 2 + 20 * p[1] ** 2) / 2
        >>> for _ in range(2):
        ...     updates, state = tx.update(torch.tensor([1.0, 40.0]) / 2, state, params, value_fn=loss)
        >>> updates, state.nu
        (tensor([0.5000, 1.0000]), tensor([ 1., 20.]))
    """
    where = "scale_by_sophia"
    check_decays(where, b1=b1, b2=b2)
    check_hyperparameter(where, "eps", eps, low=0, open_low=True)
    check_hyperparameter(where, "gamma", gamma, low=0)
    if clip_threshold is not None:
        check_hyperparameter(where, "clip_threshold", clip_threshold, low=0)
    check_count(where, "update_interval", update_interval)
    estimator = hutchinson_estimator_diag_hessian() if hessian_diagonal_fn is None else hessian_diagonal_fn
    check_inner(where, estimator)

    def init(params: Params) -> SophiaState:
        zeros = tree.zeros_like(params, mu_dtype)
        return SophiaState(step_zero(params), zeros, tree.zeros_like(params), estimator.init(params))

    def update(
        updates: Updates, state: SophiaState, params: Params = None, **extra: Any
    ) -> tuple[Updates, SophiaState]:
        if params is None:
            raise missing_params(where)
        tree.check_real(updates, "updates", where)
        step = state.step + 1
        mu = mean(b1, state.mu, updates)

        def preconditioned(m: torch.Tensor, h: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
            ratio = m / bias_correction(b1, step) / torch.clamp(gamma * h, min=eps)
            if clip_threshold is not None:
                ratio = torch.clamp(ratio, -clip_threshold, clip_threshold)
            return ratio.to(u.dtype)

        def measured() -> tuple[Updates, State]:
            diagonal, new = estimator.update(
                updates, state.hessian_fn_state, params, **extras_for(estimator, extra)
            )
            return mean(b2, state.nu, diagonal), new

        nu, hessian_fn_state = either(
            state.step % update_interval == 0, measured, lambda: (state.nu, state.hessian_fn_state)
        )
        out = tree.map(preconditioned, mu, state.nu, updates)
        return out, SophiaState(step, mu, nu, hessian_fn_state)

    return GradientTransformation(init, update, extra_args_of(estimator))
