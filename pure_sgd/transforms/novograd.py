"""Adam with one second moment for each leaf, before the mean: NovoGrad."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from .. import tree
from .contract import (
    GradientTransformation,
    Hyperparameter,
    Params,
    Updates,
    missing_params,
    step_zero,
    transformation,
)
from .running import check_decays, check_offsets, root, squared

__all__ = ["ScaleByNovogradState", "scale_by_novograd"]


class ScaleByNovogradState(NamedTuple):
    """Momentum of the normalized updates, and the mean square of each leaf's norm."""

    step: torch.Tensor  # int64, shape ()
    mu: Updates  # like params, in at least float32
    nu: Updates  # each leaf real, in at least float32, shape ()


@transformation
def scale_by_novograd(
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.25,
    eps: Hyperparameter = 1e-8,
    eps_root: Hyperparameter = 0.0,
    weight_decay: Hyperparameter = 0.0,
    mu_dtype: torch.dtype | None = None,
) -> GradientTransformation:
    """Divide each leaf by the running norm of its updates, then apply momentum.

        nu = b2 * nu + (1 - b2) * |u|**2            nu = |u|**2 at the first step, |u| a leaf's norm
        u  = mu = b1 * mu + u / (sqrt(nu + eps_root) + eps) + weight_decay * params

    The mean has no weight ``1 - b1``, as in Optax and the paper. Source: Ginsburg et al. 2019,
    arXiv:1905.11286.

    Raises:
        PureSGDError: ``b1`` or ``b2`` outside [0, 1), a negative ``eps``, ``eps_root`` or ``weight_decay``,
            or weight decay without ``params``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.scale_by_novograd()
        >>> tx.update(torch.tensor([3.0, -4.0]), tx.init(torch.zeros(2)))[0]
        tensor([ 0.6000, -0.8000])
    """
    check_decays("scale_by_novograd", b1=b1, b2=b2)
    check_offsets("scale_by_novograd", eps=eps, eps_root=eps_root, weight_decay=weight_decay)
    decays = isinstance(weight_decay, torch.Tensor) or weight_decay != 0

    def init(params: Params) -> ScaleByNovogradState:
        nu = tree.map(lambda p: torch.zeros_like(_norm_squared(p)), params)
        return ScaleByNovogradState(step_zero(params), tree.zeros_like(params, mu_dtype), nu)

    def update(
        updates: Updates, state: ScaleByNovogradState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleByNovogradState]:
        if decays and params is None:
            raise missing_params("scale_by_novograd")

        def second(v: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
            now = _norm_squared(u)
            return torch.where(state.step == 0, now, b2 * v + (1 - b2) * now).to(v.dtype)

        nu = tree.map(second, state.nu, updates)

        def first(m: torch.Tensor, u: torch.Tensor, v: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
            normalized = tree.widened(u) / (root(v + eps_root) + eps)
            pulled = normalized + weight_decay * tree.widened(p) if decays else normalized
            return (b1 * m + pulled).to(m.dtype)

        # Without decay the parameters are not read, and may be missing.
        mu = tree.map(first, state.mu, updates, nu, params if decays else updates)
        return tree.cast_like(mu, updates), ScaleByNovogradState(state.step + 1, mu, nu)

    return GradientTransformation(init, update)


def _norm_squared(u: torch.Tensor) -> torch.Tensor:
    return squared(u).sum()
