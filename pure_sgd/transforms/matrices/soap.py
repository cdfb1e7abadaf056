"""Adam in the eigenbasis of Shampoo's preconditioners: SOAP."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from ... import tree
from ...errors import check_count
from ..contract import GradientTransformation, Hyperparameter, Params, Updates, step_zero, transformation
from ..running import bias_correction, check_decays, check_offsets, real_zeros, root, squared
from ..wrapping import either
from .fibres import along, fibre_covariance
from .roots import eigen

__all__ = ["ScaleBySoapState", "scale_by_soap"]


class ScaleBySoapState(NamedTuple):
    """Adam's moments, the covariances of the updates along each axis, and the bases in use."""

    step: torch.Tensor  # int64, shape ()
    mu: Updates  # like params, in at least float32
    nu: Updates  # like params, real, in at least float32; in the bases
    covariances: Updates  # for each leaf one (n, n) per axis that is turned, n its length, as mu
    bases: Updates  # like covariances: the columns are eigenvectors, or nearly so


@transformation
def scale_by_soap(
    b1: Hyperparameter = 0.95,
    b2: Hyperparameter = 0.95,
    eps: Hyperparameter = 1e-8,
    precondition_frequency: int = 10,
    max_precond_dim: int = 10000,
    *,
    shampoo_beta: Hyperparameter = None,
) -> GradientTransformation:
    """Adam in the eigenbasis of the covariances of the updates along their axes: SOAP.

        mu = b1 * mu + (1 - b1) * u             nu = b2 * nu + (1 - b2) * turned(u)**2
        u  = turned back(turned(mu) / (1 - b1**t) / (sqrt(nu / (1 - b2**t)) + eps))
        C_i = shampoo_beta * C_i + (1 - shampoo_beta) * (sum of f f^T over the fibres f of u along axis i)

    To turn is to multiply along each axis i by the transpose of its basis ``Q_i``; for a matrix
    ``Q_1^T @ u @ Q_2``. The first update is zero: it only makes the covariances and their eigenbases. From
    then on t counts from 1, and after every ``precondition_frequency``-th step the basis follows by one
    power iteration, ``Q_i = qr(C_i @ Q_i)``, its columns (and ``nu`` with them) first sorted by falling
    ``Q_i^T @ C_i @ Q_i``. Neither runs in between (as in :func:`multi_steps`, with the same exceptions).

    Axes longer than ``max_precond_dim``, and leaves with fewer than two axes or none of their entries, are
    not turned: for them it is Adam. ``shampoo_beta`` is ``b2`` by default. The rule of the authors' code,
    where ``eps`` is added to ``sqrt(nu)`` before its correction. State has at least float32. The bases are
    constants for every derivative: those with respect to ``shampoo_beta`` are zero.
    Source: Vyas et al. 2024, arXiv:2409.11321.

    Raises:
        PureSGDError: ``b1``, ``b2`` or ``shampoo_beta`` outside [0, 1), a negative ``eps``, or
            ``precondition_frequency`` or ``max_precond_dim`` under 1.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx, u = ps.scale_by_soap(), torch.tensor([[3.0, 0.0], [0.0, -0.5]])
        >>> _, state = tx.update(u, tx.init(u))
        >>> tx.update(u, state)[0]
        tensor([[ 1.,  0.],
                [ 0., -1.]])
    """
    where, memory = "scale_by_soap", b2 if shampoo_beta is None else shampoo_beta
    check_decays(where, b1=b1, b2=b2, shampoo_beta=memory)
    check_offsets(where, eps=eps)
    check_count(where, "precondition_frequency", precondition_frequency)
    check_count(where, "max_precond_dim", max_precond_dim)

    def turned_axes(u: torch.Tensor) -> list[int]:
        return [i for i in range(u.ndim) if u.ndim > 1 and u.numel() and u.shape[i] <= max_precond_dim]

    def init(params: Params) -> ScaleBySoapState:
        def zeros(p: torch.Tensor) -> tuple[torch.Tensor, ...]:
            sizes = ((p.shape[axis], p.shape[axis]) for axis in turned_axes(p))
            return tuple(p.new_zeros(size, dtype=tree.wide(p.dtype)) for size in sizes)

        return ScaleBySoapState(
            step_zero(params),
            tree.zeros_like(params),
            real_zeros(params),
            tree.map(zeros, params),
            tree.map(zeros, params),
        )

    def turned(x: torch.Tensor, bases: tuple[torch.Tensor, ...], back: bool = False) -> torch.Tensor:
        for axis, basis in zip(turned_axes(x), bases, strict=True):
            x = along(x, axis, basis if back else basis.mH)
        return x

    def sorted_along(v: torch.Tensor, orders: tuple[torch.Tensor, ...]) -> torch.Tensor:
        for axis, order in zip(turned_axes(v), orders, strict=True):
            v = v.index_select(axis, order)
        return v

    def update(
        updates: Updates, state: ScaleBySoapState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleBySoapState]:
        started, t = state.step > 0, state.step.clamp(min=1)

        def averaged(decay: Any, moment: torch.Tensor, now: torch.Tensor) -> torch.Tensor:
            return torch.where(started, (decay * moment + (1 - decay) * now).to(moment.dtype), moment)

        def direction(
            u: torch.Tensor, m: torch.Tensor, v: torch.Tensor, bases: tuple[torch.Tensor, ...]
        ) -> torch.Tensor:
            m_hat = turned(m, bases) / bias_correction(b1, t)
            adam = m_hat / (root(v / bias_correction(b2, t)) + eps)
            return torch.where(started, turned(adam, bases, back=True), 0.0).to(u.dtype)

        def gathered(u: torch.Tensor, old: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            now = (fibre_covariance(tree.widened(u), axis) for axis in turned_axes(u))
            return tuple((memory * c + (1 - memory) * n).to(c.dtype) for c, n in zip(old, now, strict=True))

        mu = tree.map(lambda m, u: averaged(b1, m, tree.widened(u)), state.mu, updates)
        squares = tree.map(lambda u, q: squared(turned(tree.widened(u), q)), updates, state.bases)
        nu = tree.map(lambda v, square: averaged(b2, v, square), state.nu, squares)
        out = tree.map(direction, updates, mu, nu, state.bases)
        covariances = tree.map(gathered, updates, state.covariances)

        # Only what may change goes through the choice, which copies: a tuple of one, or an empty one.
        sortable = tree.map(lambda v: (v,) if turned_axes(v) else (), nu)

        def begun() -> tuple[Updates, Updates]:
            return tree.map(lambda c: eigen(c)[1], covariances), sortable

        def followed() -> tuple[Updates, Updates]:
            orders = tree.map(_falling, covariances, state.bases)
            bases = tree.map(_power_iteration, covariances, state.bases, orders)
            return bases, tree.map(
                lambda v, order: (sorted_along(v, order),) if turned_axes(v) else (), nu, orders
            )

        bases, sortable = either(
            ~started,
            begun,
            lambda: either(
                state.step % precondition_frequency == 0, followed, lambda: (state.bases, sortable)
            ),
        )
        nu = tree.map(lambda v, moved: moved[0] if moved else v, nu, sortable)
        return out, ScaleBySoapState(state.step + 1, mu, nu, covariances, bases)

    return GradientTransformation(init, update)


def _falling(covariance: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """The order of the basis vectors by falling variance along them."""
    variances = (basis.conj() * (covariance @ basis)).sum(0)
    return (variances.real if basis.is_complex() else variances).argsort(descending=True, stable=True)


def _power_iteration(covariance: torch.Tensor, basis: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    return torch.linalg.qr((covariance @ basis.index_select(1, order)).detach())[0]
