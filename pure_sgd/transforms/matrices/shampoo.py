"""A preconditioner for every axis of a leaf: Shampoo."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from ... import tree
from ...errors import PureSGDError, check_count, check_hyperparameter
from ..contract import GradientTransformation, Hyperparameter, Params, Updates, step_zero, transformation
from ..running import bias_correction, real_zeros, root, squared
from ..wrapping import either
from .fibres import along, fibre_covariance
from .roots import inverse_root

__all__ = ["ScaleByShampooState", "scale_by_shampoo"]

GRAFTS = (None, "sgd", "rms")


class ScaleByShampooState(NamedTuple):
    """The covariances of the updates along each axis, and the inverse roots that are in use."""

    step: torch.Tensor  # int64, shape ()
    covariances: Updates  # for each leaf one (n, n) or (n,) per axis, n its length, in at least float32
    roots: Updates  # for each leaf one (n, n) per axis with such a covariance
    nu: Updates  # with graft="rms" like params, real, in at least float32; else for each leaf ()


@transformation
def scale_by_shampoo(
    b2: Hyperparameter = 1.0,
    eps: Hyperparameter = 1e-6,
    root_every: int = 1,
    max_dim: int = 1024,
    *,
    graft: str | None = None,
) -> GradientTransformation:
    """Multiply the updates along every axis by an inverse root of their covariance there: Shampoo.

        C_i = b2 * C_i + w * (sum of f f^T over the fibres f of u along axis i)          i = 1, ..., k
        u   = (C_i / c + eps * I)**(-1 / (2 * k)) applied along each axis i

    For a matrix that is ``L**(-1/4) @ u @ R**(-1/4)``, ``L`` the sum of ``u @ u^T`` and ``R`` of ``u^T @ u``.
    ``w`` and ``c`` are 1 for ``b2 = 1`` (the paper's sums, which begin at ``eps * I``); otherwise ``w`` is
    ``1 - b2`` and ``c = 1 - b2**t``, t counted from 1. The roots are computed at the first step and at every
    ``root_every``-th one after it, and do not run in between (as in :func:`multi_steps`, with the same
    exceptions).

    An axis longer than ``max_dim`` keeps the diagonal of its covariance only, and so does the one axis of a
    vector; a number without axes counts as a vector: for them this is Adagrad (RMSProp for ``b2 < 1``),
    with a root that is always fresh. Empty leaves pass. With ``graft`` every leaf gets the norm of another
    rule's update: "sgd", that of ``u`` itself, or "rms", that of ``u / (sqrt(nu / c) + eps)`` with
    ``nu = b2 * nu + w * u**2``.

    State has at least float32. Derivatives with respect to ``b2`` and ``eps`` are exact, also where
    eigenvalues meet; second ones are not. Sources: Gupta, Koren and Singer 2018, arXiv:1802.09568; Anil et
    al. 2020, arXiv:2002.09018 (the schedule and the grafts).

    Raises:
        PureSGDError: ``b2`` outside [0, 1], an ``eps`` that is not positive, ``root_every`` or ``max_dim``
            under 1, or an unknown ``graft``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.scale_by_shampoo(eps=1e-12)
        >>> tx.update(torch.tensor([[3.0, 0.0], [0.0, -0.5]]), tx.init(torch.zeros(2, 2)))[0]
        tensor([[ 1.,  0.],
                [ 0., -1.]])
    """
    where = "scale_by_shampoo"
    check_hyperparameter(where, "b2", b2, low=0, high=1)
    check_hyperparameter(where, "eps", eps, low=0, open_low=True)
    check_count(where, "root_every", root_every)
    check_count(where, "max_dim", max_dim)
    if graft not in GRAFTS:
        raise PureSGDError(
            where, f"graft={graft!r} is unknown", f"Pass one of {', '.join(map(repr, GRAFTS))}"
        )

    def weights(t: torch.Tensor) -> tuple[Any, Any]:
        if isinstance(b2, torch.Tensor):
            sums = b2 == 1
            return torch.where(sums, 1.0, 1 - b2), torch.where(sums, 1.0, bias_correction(b2, t))
        return (1.0, 1.0) if b2 == 1 else (1 - b2, bias_correction(b2, t))

    def full_axes(u: torch.Tensor) -> list[int]:
        """The axes whose covariance is a matrix."""
        return [axis for axis in range(u.ndim) if u.ndim > 1 and u.numel() and u.shape[axis] <= max_dim]

    def init(params: Params) -> ScaleByShampooState:
        def covariances(p: torch.Tensor) -> tuple[torch.Tensor, ...]:
            wide, full = tree.wide(p.dtype), full_axes(p)
            lengths = enumerate(_as_tensor(p).shape if p.numel() else ())
            return tuple(
                p.new_zeros((n, n), dtype=wide) if axis in full else p.new_zeros(n, dtype=wide.to_real())
                for axis, n in lengths
            )

        def roots(p: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(
                p.new_zeros((p.shape[axis], p.shape[axis]), dtype=tree.wide(p.dtype)) for axis in full_axes(p)
            )

        nu = real_zeros(params) if graft == "rms" else tree.map(lambda p: (), params)
        return ScaleByShampooState(
            step_zero(params), tree.map(covariances, params), tree.map(roots, params), nu
        )

    def update(
        updates: Updates, state: ScaleByShampooState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleByShampooState]:
        new, total = weights(state.step + 1)

        def gathered(u: torch.Tensor, old: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            x, full = _as_tensor(tree.widened(u)), full_axes(u)
            now = (fibre_covariance(x, i) if i in full else _diagonal(x, i) for i in range(len(old)))
            return tuple((b2 * c + new * n).to(c.dtype) for c, n in zip(old, now, strict=True))

        def rooted(u: torch.Tensor, covariances: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            return tuple(
                inverse_root((covariances[axis] / total).to(covariances[axis].dtype), 2 * u.ndim, eps)
                for axis in full_axes(u)
            )

        def preconditioned(
            u: torch.Tensor, covariances: tuple[torch.Tensor, ...], roots: tuple[torch.Tensor, ...]
        ) -> torch.Tensor:
            x, full = _as_tensor(tree.widened(u)), full_axes(u)
            for axis, matrix in zip(full, roots, strict=True):
                x = along(x, axis, matrix)
            for axis, diagonal in enumerate(covariances):
                if axis not in full:
                    factor = (diagonal / total + eps) ** (-1 / (2 * len(covariances)))
                    x = x * factor.reshape([-1 if other == axis else 1 for other in range(x.ndim)])
            return x.reshape(u.shape)

        def grafted(u: torch.Tensor, x: torch.Tensor, v: Any) -> torch.Tensor:
            if graft is None:
                return x.to(u.dtype)
            other = tree.widened(u) if graft == "sgd" else tree.widened(u) / (root(v / total) + eps)
            size = tree.norm(x)
            return (x * (tree.norm(other) / torch.where(size > 0, size, 1.0))).to(u.dtype)

        covariances = tree.map(gathered, updates, state.covariances)
        roots = either(
            state.step % root_every == 0,
            lambda: tree.map(rooted, updates, covariances),
            lambda: state.roots,
        )
        out = tree.map(preconditioned, updates, covariances, roots)
        nu = state.nu
        if graft == "rms":
            nu = tree.map(lambda v, u: (b2 * v + new * squared(u)).to(v.dtype), nu, updates)
        out = tree.map(grafted, updates, out, nu)
        return out, ScaleByShampooState(state.step + 1, covariances, roots, nu)

    return GradientTransformation(init, update)


def _as_tensor(u: torch.Tensor) -> torch.Tensor:
    """``u`` itself, or a number as a vector of one."""
    return u if u.ndim else u.reshape(1)


def _diagonal(x: torch.Tensor, axis: int) -> torch.Tensor:
    return squared(x.movedim(axis, 0).reshape(x.shape[axis], -1)).sum(1)
