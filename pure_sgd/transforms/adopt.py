"""Adam that normalizes an update by the squares before it, then averages: ADOPT."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from .. import tree
from ..errors import PureSGDError
from ..schedules import as_real, value_at
from .contract import GradientTransformation, Hyperparameter, Params, Updates, step_zero, transformation
from .running import check_decays, check_offsets, mean, real_zeros, root, squared

__all__ = ["ScaleByAdoptState", "scale_by_adopt"]


class ScaleByAdoptState(NamedTuple):
    """The mean of the normalized updates, and the mean of the squares of the updates."""

    step: torch.Tensor  # int64, shape ()
    mu: Updates  # like params, in at least float32
    nu: Updates  # like params, real, in at least float32


@transformation
def scale_by_adopt(
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.9999,
    eps: Hyperparameter = 1e-6,
    mu_dtype: torch.dtype | None = None,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: Callable[[torch.Tensor], Any] | None = None,
) -> GradientTransformation:
    """Average updates that were divided by the root mean square of those before them.

        c  = clip_value_fn(step), by default step**0.25           step counts from 0
        n  = clip(u / max(sqrt(nu), eps), -c, c)                   0 at the first step
        mu = b1 * mu + (1 - b1) * n
        u  = mu,  or  b1 * mu + (1 - b1) * n  with nesterov
        nu = b2 * nu + (1 - b2) * u_in**2                          u_in**2 at the first step

    The first step only measures, and moves nothing. The rule of Optax, and of the paper with its clipping;
    complex entries are clipped in magnitude. Moments have at least float32 (``mu_dtype`` for the first).
    Source: Taniguchi et al. 2024, arXiv:2411.02853.

    Raises:
        PureSGDError: ``b1`` or ``b2`` outside [0, 1), a negative ``eps``, or a ``clip_value_fn`` that is no
            function, or returned more than one number.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.scale_by_adopt(b1=0.5)
        >>> first, state = tx.update(torch.tensor([3.0, -0.2]), tx.init(torch.zeros(2)))
        >>> first, tx.update(torch.tensor([3.0, -0.2]), state)[0]
        (tensor([0., 0.]), tensor([ 0.5000, -0.5000]))
    """
    check_decays("scale_by_adopt", b1=b1, b2=b2)
    check_offsets("scale_by_adopt", eps=eps)
    if clip_value_fn is not None and not callable(clip_value_fn):
        raise PureSGDError(
            "scale_by_adopt",
            f"clip_value_fn={clip_value_fn!r} is not a function of the step",
            "Pass a function, such as lambda step: step**0.25",
        )
    clip_at = clip_value_fn or (lambda step: step**0.25)

    def init(params: Params) -> ScaleByAdoptState:
        return ScaleByAdoptState(step_zero(params), tree.zeros_like(params, mu_dtype), real_zeros(params))

    def update(
        updates: Updates, state: ScaleByAdoptState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleByAdoptState]:
        first = state.step == 0
        bound = value_at(clip_at, as_real(state.step), "scale_by_adopt", "clip_value_fn")

        def normalized(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            # At the first step there is nothing to divide by.
            n = tree.widened(u) / torch.where(first, 1.0, root(v).clamp(min=eps))
            return torch.where(first, 0.0, _clipped(n, bound) if use_clipping else n)

        def squares(v: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
            square = squared(u)
            return torch.where(first, square, b2 * v + (1 - b2) * square).to(v.dtype)

        n = tree.map(normalized, updates, state.nu)
        mu = mean(b1, state.mu, n)
        out = tree.cast_like(mean(b1, mu, n) if nesterov else mu, updates)
        return out, ScaleByAdoptState(state.step + 1, mu, tree.map(squares, state.nu, updates))

    return GradientTransformation(init, update)


def _clipped(n: torch.Tensor, bound: Any) -> torch.Tensor:
    if not n.is_complex():
        return n.clamp(-bound, bound)
    size = n.abs()
    small = size <= bound
    return torch.where(small, n, n * (bound / torch.where(small, 1.0, size)))
