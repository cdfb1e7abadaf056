"""Momentum whose matrices are made orthogonal: Muon."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from ... import tree
from ...errors import PureSGDError, check_count, check_hyperparameter
from ..combining import stateless
from ..contract import GradientTransformation, Hyperparameter, Params, Updates, step_zero, transformation
from ..running import check_decays, check_offsets, corrected_mean, mean
from .axes import MatrixAxes, as_matrix, fans, matrix_axes
from .orthogonal import PRECONDITIONINGS, newton_schulz, polynomials

__all__ = ["ScaleByMuonState", "scale_by_muon", "scale_by_shape"]


class ScaleByMuonState(NamedTuple):
    """The mean of the updates."""

    step: torch.Tensor  # int64, shape ()
    mu: Updates  # like params, in at least float32


@transformation
def scale_by_muon(
    ns_coeffs: Any = (3.4445, -4.7750, 2.0315),
    ns_steps: int = 5,
    beta: Hyperparameter = 0.95,
    eps: Hyperparameter = 1e-8,
    mu_dtype: torch.dtype | None = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: str = "frobenius",
    weight_dimension_numbers: Any = None,
    bias_correction: bool = True,
    clamp_norm: bool = False,
    ns_dtype: torch.dtype | None = None,
) -> GradientTransformation:
    """Give every matrix the orthogonal factor of its mean: all its singular values become about 1.

        mu     = beta * mu + (1 - beta) * u
        mu_hat = mu / (1 - beta**t)                              t counts from 1
        mu_hat = beta * mu / (1 - beta**(t + 1)) + (1 - beta) * u / (1 - beta**t)      with nesterov
        u      = newton_schulz(mu_hat), times sum(mu_hat * u) with adaptive

    A step of the iteration is ``x = a * x + (b * x @ x^H + c * (x @ x^H)**2) @ x``, after a division by
    a norm: the Frobenius one plus ``eps``, or what ``preconditioning`` names ("spectral", "aol",
    "schatten"). ``ns_coeffs`` is ``(a, b, c)`` for each of the ``ns_steps``, a triple for every step
    (``ns_steps`` then does not count), "standard" (3.4445, -4.775, 2.0315) or "dion". Which leaves are
    matrices, and along which axes, is as in :func:`partition_matrices`; **the others leave as**
    ``mu_hat``. Matrices that lie in one leaf are treated one by one.

    The rule of Optax, except that ``eps`` counts in every preconditioning and ``adaptive`` treats matrices
    in one leaf one by one too. That of ``torch.optim.Muon`` has ``eps=1e-7``, ``bias_correction=False``
    (the mean and its look ahead as they are), ``clamp_norm=True`` (``max(norm, eps)`` in place of the sum)
    and ``ns_dtype=torch.bfloat16``: the iteration runs in that type, by default in the leaf's raised to at
    least float32. Sources: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; Bernstein and
    Newhouse 2024, arXiv:2409.20325; Boissin et al. 2025, arXiv:2512.04632 (aol); Grishina et al. 2025,
    arXiv:2506.10935 (schatten); Ahn et al. 2025, arXiv:2504.05295 (dion).

    Raises:
        PureSGDError: ``beta`` outside [0, 1), a negative ``eps``, ``ns_steps`` under 1, unknown ``ns_coeffs``
            or ``preconditioning``; later, axes that a leaf has not.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.scale_by_muon((1.5, -0.5, 0.0), ns_steps=20)
        >>> tx.update(torch.tensor([[3.0, 0.0], [0.0, 0.5]]), tx.init(torch.zeros(2, 2)))[0]
        tensor([[1., 0.],
                [0., 1.]])
    """
    where = "scale_by_muon"
    check_decays(where, beta=beta)
    check_offsets(where, eps=eps)
    check_count(where, "ns_steps", ns_steps)
    steps = polynomials(where, ns_coeffs, ns_steps)
    if preconditioning not in PRECONDITIONINGS:
        raise PureSGDError(
            where,
            f"preconditioning={preconditioning!r} is unknown",
            f"Pass one of {', '.join(map(repr, PRECONDITIONINGS))}",
        )

    def init(params: Params) -> ScaleByMuonState:
        return ScaleByMuonState(step_zero(params), tree.zeros_like(params, mu_dtype))

    def direction(u: torch.Tensor, m: torch.Tensor, axes: MatrixAxes | None) -> torch.Tensor:
        m = m.to(tree.wide(u.dtype))
        if axes is None:
            return m.to(u.dtype)
        x, back = as_matrix(m, axes)
        out = newton_schulz(x.to(ns_dtype or x.dtype), steps, preconditioning, eps, clamp_norm).to(x.dtype)
        if adaptive:
            out = (x.conj() * out).sum((-2, -1), keepdim=True) * out
        return back(out).to(u.dtype)

    def update(
        updates: Updates, state: ScaleByMuonState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleByMuonState]:
        t = state.step + 1
        mu = mean(beta, state.mu, updates)
        if bias_correction:
            mu_hat = corrected_mean(beta, t, mu, updates, nesterov)
        else:
            mu_hat = mean(beta, mu, updates) if nesterov else mu
        found, rebuild = tree.flatten(updates)
        every = matrix_axes(weight_dimension_numbers, updates, where)
        out = map(direction, found, tree.leaves(mu_hat), every)
        return rebuild(list(out)), ScaleByMuonState(t, mu)

    return GradientTransformation(init, update)


@transformation
def scale_by_shape(
    weight_dimension_numbers: Any = None, consistent_rms: Hyperparameter = None
) -> GradientTransformation:
    """Multiply the updates of matrices by a factor that their shape gives; the others pass unchanged.

        u = u * sqrt(max(1, outputs / inputs))
        u = u * consistent_rms * sqrt(max(inputs, outputs))          with consistent_rms

    The first keeps the change of a layer's output the same whatever its width; the second gives an
    orthogonal matrix entries of root mean square ``consistent_rms`` (0.2 is about that of Adam's). Which
    leaves are matrices is as in :func:`partition_matrices`. Of ``torch.optim.Muon``, whose matrices have
    ``MuonDimensionNumbers(1, 0)``, they are ``adjust_lr_fn="original"`` and, with 0.2, "match_rms_adamw".
    Source: Liu et al. 2025, arXiv:2502.16982.

    Raises:
        PureSGDError: a negative ``consistent_rms``; later, axes that a leaf has not.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.scale_by_shape().update(torch.ones(1, 4), ps.EmptyState())[0]
        tensor([[2., 2., 2., 2.]])
    """
    if consistent_rms is not None:
        check_hyperparameter("scale_by_shape", "consistent_rms", consistent_rms, low=0)

    def factor(u: torch.Tensor, axes: MatrixAxes) -> Any:
        inputs, outputs = fans(u, axes)
        if consistent_rms is None:
            return math.sqrt(max(1.0, outputs / inputs))
        return consistent_rms * math.sqrt(max(inputs, outputs))

    def scaled(updates: Updates, params: Params) -> Updates:
        found, rebuild = tree.flatten(updates)
        every = matrix_axes(weight_dimension_numbers, updates, "scale_by_shape")
        return rebuild(
            [
                u if axes is None else (factor(u, axes) * tree.widened(u)).to(u.dtype)
                for u, axes in zip(found, every, strict=True)
            ]
        )

    return stateless(scaled)
