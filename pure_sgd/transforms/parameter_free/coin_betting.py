"""Steps as bets on the outcome of a coin: COCOB."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from ... import tree
from ..averaging import wide_copy
from ..contract import GradientTransformation, Hyperparameter, Params, Updates, missing_params, transformation
from ..running import check_offsets, filled
from .measuring import quotient

__all__ = ["ScaleByCocobState", "scale_by_cocob"]


class ScaleByCocobState(NamedTuple):
    """What every coordinate has won, and the gradients that it has met."""

    init_params: Params  # like params, in at least float32
    cumulative_gradients: Updates  # minus their sum: like params, in at least float32
    scale: Updates  # the largest magnitude: like params, in at least float32
    subgradients: Updates  # the sum of the magnitudes: like params, in at least float32
    reward: Updates  # like params, in at least float32


@transformation
def scale_by_cocob(alpha: Hyperparameter = 100.0, eps: Hyperparameter = 1e-8) -> GradientTransformation:
    """Bet on every coordinate as much as what it has won allows: COCOB-Backprop.

        scale                = max(scale, |u|)                      eps at first
        subgradients         = subgradients + |u|
        reward               = max(reward - u * (p - init_p), 0)
        cumulative_gradients = cumulative_gradients - u
        bet = cumulative_gradients / (scale * max(subgradients + scale, alpha * scale)) * (scale + reward)
        u   = init_p + bet - p

    All that comes out points downhill, ready for :func:`apply_updates`; a larger ``alpha`` makes the first
    steps smaller. Gradients multiplied by a constant give the same steps. For real parameters.
    Source: Orabona and Tommasi 2017, arXiv:1705.07795, algorithm 2.

    Raises:
        PureSGDError: a negative ``alpha`` or ``eps``, or no ``params`` in ``update``, or complex ones.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx, params = ps.scale_by_cocob(alpha=10.0), torch.zeros(2)
        >>> tx.update(torch.tensor([3.0, -4e5]), tx.init(params), params)[0]
        tensor([-0.1000,  0.1000])
    """
    where = "scale_by_cocob"
    check_offsets(where, alpha=alpha, eps=eps)

    def init(params: Params) -> ScaleByCocobState:
        zeros = (tree.zeros_like(params) for _ in range(3))
        gradients, magnitudes, reward = zeros
        return ScaleByCocobState(wide_copy(params), gradients, filled(params, eps), magnitudes, reward)

    def update(
        updates: Updates, state: ScaleByCocobState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleByCocobState]:
        if params is None:
            raise missing_params(where)
        tree.check_real(updates, "updates", where)
        new = ScaleByCocobState(
            state.init_params,
            tree.map(lambda c, u: c - u, state.cumulative_gradients, updates),
            tree.map(lambda s, u: torch.maximum(s, u.abs()), state.scale, updates),
            tree.map(lambda g, u: g + u.abs(), state.subgradients, updates),
            tree.map(
                lambda r, u, p, p0: (r - u * (p - p0)).clamp(min=0),
                state.reward,
                updates,
                params,
                state.init_params,
            ),
        )

        def move(
            u: torch.Tensor,
            p: torch.Tensor,
            p0: torch.Tensor,
            c: torch.Tensor,
            s: torch.Tensor,
            g: torch.Tensor,
            r: torch.Tensor,
        ) -> torch.Tensor:
            # Two quotients, because the product of their denominators over- or underflows sooner.
            bet = quotient(c, torch.maximum(g + s, alpha * s)) * (1 + quotient(r, s))
            return (p0 - p + bet).to(u.dtype)

        return tree.map(move, updates, params, *new), new

    return GradientTransformation(init, update)
