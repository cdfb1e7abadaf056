"""A rule applied to matrices in a few directions only: GaLore."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from ... import tree
from ...errors import check_count, check_hyperparameter
from ..adaptive import scale_by_adam
from ..contract import (
    GradientTransformation,
    Hyperparameter,
    Params,
    State,
    Updates,
    extra_args_of,
    step_zero,
    transformation,
)
from ..wrapping import check_inner, either, extras_for
from .axes import MatrixAxes, as_matrix, matrix_axes
from .roots import constant

__all__ = ["ScaleByGaLoreState", "scale_by_galore"]


class ScaleByGaLoreState(NamedTuple):
    """The directions in use, and the state of the rule that runs within them."""

    step: torch.Tensor  # int64, shape ()
    base_optimizer_state: State
    projectors: Updates  # for each leaf (..., longer side, rank), in at least float32; none if no matrix


@transformation
def scale_by_galore(
    rank: int = 128,
    update_proj_gap: int = 200,
    scale: Hyperparameter = 1.0,
    base_optimizer: GradientTransformation | None = None,
    weight_dimension_numbers: Any = None,
) -> GradientTransformation:
    """Apply ``base_optimizer`` to every matrix within the leading directions of one gradient: GaLore.

        U, S, V^H = svd(u);  P = the first rank columns of U            at every update_proj_gap-th step
        u = scale * P @ base_optimizer(P^H @ u)                         for m >= n

    For a matrix (m, n) with ``m < n`` the directions are those of ``V``, and the rule sees ``u @ P``. Its
    state has the size of ``rank * min(m, n)`` numbers in place of ``m * n``. A column of a new ``P`` gets the
    sign that makes its product with the old one positive: the signs of a decomposition, which are arbitrary,
    then do not matter for a rule that is odd, as Adam's is. The decomposition does not run between those
    steps (as in :func:`multi_steps`, with the same exceptions).

    Which leaves are matrices, and along which axes, is as in :func:`partition_matrices`; other axes count
    through matrices with projectors of their own (Optax refuses them). ``base_optimizer`` (Adam by default)
    sees the other leaves whole, and no parameters: let what needs them, such as weight decay, come after.
    Optax decomposes in float32 always and keeps the projector in the leaf's type; here both have the leaf's
    raised to at least float32. The projector is a constant for every derivative.
    Source: Zhao et al. 2024, arXiv:2403.03507.

    Raises:
        PureSGDError: ``rank`` or ``update_proj_gap`` under 1, a ``scale`` that is no number, 0-d tensor or
            schedule, or a ``base_optimizer`` that is no transform or needs parameters.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.scale_by_galore(rank=1)
        >>> tx.init(torch.zeros(5, 3)).base_optimizer_state.mu.shape
        torch.Size([1, 3])
    """
    where = "scale_by_galore"
    check_count(where, "rank", rank)
    check_count(where, "update_proj_gap", update_proj_gap)
    check_hyperparameter(where, "scale", scale)
    base = scale_by_adam() if base_optimizer is None else base_optimizer
    check_inner(where, base)

    def axes_like(like: Params) -> Any:
        return tree.flatten(like)[1](matrix_axes(weight_dimension_numbers, like, where))

    def init(params: Params) -> ScaleByGaLoreState:
        def projector(p: torch.Tensor, axes: MatrixAxes | None) -> tuple[torch.Tensor, ...]:
            if axes is None:
                return ()
            *batch, m, n = as_matrix(p, axes)[0].shape
            return (p.new_zeros((*batch, max(m, n), min(rank, m, n)), dtype=tree.wide(p.dtype)),)

        every = axes_like(params)
        projectors = tree.map(projector, params, every)
        within = tree.map(_within, params, every, projectors)
        return ScaleByGaLoreState(step_zero(params), base.init(within), projectors)

    def update(
        updates: Updates, state: ScaleByGaLoreState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleByGaLoreState]:
        every = axes_like(updates)
        projectors = either(
            state.step % update_proj_gap == 0,
            lambda: tree.map(_leading, updates, every, state.projectors),
            lambda: state.projectors,
        )
        within = tree.map(_within, updates, every, projectors)
        new, base_state = base.update(within, state.base_optimizer_state, None, **extras_for(base, extra))

        def whole(
            u: torch.Tensor, low: torch.Tensor, axes: MatrixAxes | None, projector: tuple[torch.Tensor, ...]
        ) -> torch.Tensor:
            if axes is None:
                return low
            x, back = as_matrix(u, axes)
            p = projector[0]
            return back(scale * (p @ low if x.shape[-2] >= x.shape[-1] else low @ p.mH)).to(u.dtype)

        out = tree.map(whole, updates, new, every, projectors)
        return out, ScaleByGaLoreState(state.step + 1, base_state, projectors)

    return GradientTransformation(init, update, extra_args_of(base))


def _within(u: torch.Tensor, axes: MatrixAxes | None, projector: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """A matrix as its projector sees it; another leaf as it is."""
    if axes is None:
        return u
    x, p = as_matrix(tree.widened(u), axes)[0], projector[0]
    return p.mH @ x if x.shape[-2] >= x.shape[-1] else x @ p


def _leading(
    u: torch.Tensor, axes: MatrixAxes | None, projector: tuple[torch.Tensor, ...]
) -> tuple[torch.Tensor, ...]:
    """The leading singular vectors on the longer side, with the signs of the old ones."""
    if axes is None:
        return ()
    x, old = constant(as_matrix(tree.widened(u), axes)[0]), projector[0]
    left, _, right = torch.linalg.svd(x, full_matrices=False)
    new = (left if x.shape[-2] >= x.shape[-1] else right.mH)[..., : old.shape[-1]]
    same = (old.conj() * new).sum(-2, keepdim=True)
    return (torch.where((same.real if same.is_complex() else same) < 0, -new, new),)
