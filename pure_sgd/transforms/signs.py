"""Rules that move every coordinate by its sign: sign descent, Lion and Rprop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from .. import tree
from ..errors import PureSGDError, check_hyperparameter
from .combining import stateless
from .contract import GradientTransformation, Hyperparameter, Params, Updates, transformation

__all__ = ["ScaleByLionState", "ScaleByRpropState", "scale_by_lion", "scale_by_rprop", "scale_by_sign"]


class ScaleByLionState(NamedTuple):
    """The mean of the updates."""

    mu: Updates  # like params, in at least float32


class ScaleByRpropState(NamedTuple):
    """How far every coordinate moved last, and which way it was sent."""

    step_sizes: Updates  # like params, in at least float32
    previous: Updates  # like params, in at least float32; 0 where the sign has just changed


@transformation
def scale_by_sign() -> GradientTransformation:
    """Replace every update by its sign: -1, 0 or 1; u / |u| where it is complex.

    Source: Bernstein et al. 2018, arXiv:1802.04434.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.scale_by_sign().update(torch.tensor([-3.0, 0.0, 0.2]), ps.EmptyState())[0]
        tensor([-1.,  0.,  1.])
    """
    return stateless(lambda updates, params: tree.map(torch.sgn, updates))


@transformation
def scale_by_lion(
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.99,
    mu_dtype: torch.dtype | None = None,
    *,
    mode: str = "hard",
    smooth_beta: Hyperparameter = 1.0,
) -> GradientTransformation:
    """The sign of a mean that weighs the present update more than the mean that is remembered.

        x  = (1 - b1) * u + b1 * mu
        mu = b2 * mu + (1 - b2) * u
        u  = sign(x)                       mode="hard"
             tanh(smooth_beta * x)         mode="smooth"
             clip(x, -1, 1)                mode="refined"

    Of complex numbers the magnitude is changed in this way and the angle stays. The mean has the shapes of
    the updates and at least float32, or ``mu_dtype``. Source: Chen et al. 2023, arXiv:2302.06675.

    Raises:
        PureSGDError: ``b1`` or ``b2`` outside [0, 1), a negative ``smooth_beta``, or an unknown mode.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.scale_by_lion()
        >>> tx.update(torch.tensor([3.0, -0.2]), tx.init(torch.zeros(2)))[0]
        tensor([ 1., -1.])
    """
    check_hyperparameter("scale_by_lion", "b1", b1, low=0, high=1, open_high=True)
    check_hyperparameter("scale_by_lion", "b2", b2, low=0, high=1, open_high=True)
    check_hyperparameter("scale_by_lion", "smooth_beta", smooth_beta, low=0)
    signs = {
        "hard": torch.sgn,
        "smooth": lambda x: _in_magnitude(lambda size: torch.tanh(smooth_beta * size), x),
        "refined": lambda x: _in_magnitude(lambda size: size.clamp(-1, 1), x),
    }
    if mode not in signs:
        raise PureSGDError(
            "scale_by_lion", f"mode={mode!r} is unknown", "Pass one of 'hard', 'smooth' and 'refined'"
        )
    sign = signs[mode]

    def init(params: Params) -> ScaleByLionState:
        return ScaleByLionState(tree.zeros_like(params, mu_dtype))

    def update(
        updates: Updates, state: ScaleByLionState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleByLionState]:
        def mixed(m: torch.Tensor, u: torch.Tensor, weight: Any) -> torch.Tensor:
            return weight * m + (1 - weight) * tree.widened(u)

        out = tree.map(lambda u, m: sign(mixed(m, u, b1)).to(u.dtype), updates, state.mu)
        mu = tree.map(lambda m, u: mixed(m, u, b2).to(m.dtype), state.mu, updates)
        return out, ScaleByLionState(mu)

    return GradientTransformation(init, update)


@transformation
def scale_by_rprop(
    learning_rate: Hyperparameter,
    eta_minus: Hyperparameter = 0.5,
    eta_plus: Hyperparameter = 1.2,
    min_step_size: Hyperparameter = 1e-6,
    max_step_size: Hyperparameter = 50.0,
) -> GradientTransformation:
    """Give every coordinate a step size that grows while its sign stays and shrinks when it changes.

        s        = clip(s * f, min_step_size, max_step_size)
        f        = eta_plus where u * previous > 0, eta_minus where u * previous < 0, else 1
        u        = sign(u) * s, but 0 where u * previous < 0
        previous = u as it came in, but 0 where u * previous < 0

    All step sizes begin at ``learning_rate`` (of a schedule the value at step 0 counts, no other); nothing
    is left to scale but the sign. The rule of ``torch.optim.Rprop``; Optax's comes one step late and
    does nothing at the first. Meant for gradients of the whole data set: it follows only signs.
    Source: Riedmiller and Braun 1993, doi:10.1109/ICNN.1993.298623.

    Raises:
        PureSGDError: a negative ``learning_rate`` or bound, ``eta_minus`` outside (0, 1), or ``eta_plus``
            of at most 1; later, complex updates.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.scale_by_rprop(0.1)
        >>> state = tx.init(torch.zeros(1))
        >>> for gradient in (1.0, 1.0, 1.0, -1.0, -1.0):
        ...     updates, state = tx.update(torch.tensor([gradient]), state)
        ...     print(f"{updates.item():.3f}")
        0.100
        0.120
        0.144
        0.000
        -0.072
    """
    check_hyperparameter("scale_by_rprop", "learning_rate", learning_rate, low=0)
    check_hyperparameter(
        "scale_by_rprop", "eta_minus", eta_minus, low=0, high=1, open_low=True, open_high=True
    )
    check_hyperparameter("scale_by_rprop", "eta_plus", eta_plus, low=1, open_low=True)
    check_hyperparameter("scale_by_rprop", "min_step_size", min_step_size, low=0)
    check_hyperparameter("scale_by_rprop", "max_step_size", max_step_size, low=0)

    def init(params: Params) -> ScaleByRpropState:
        zeros = tree.zeros_like(params)
        return ScaleByRpropState(tree.map(lambda zero: zero + learning_rate, zeros), zeros)

    def update(
        updates: Updates, state: ScaleByRpropState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleByRpropState]:
        tree.check_real(updates, "updates", "scale_by_rprop")
        # The product of the signs, since that of the updates themselves can underflow.
        turns = tree.map(lambda u, before: u.sgn() * before.sgn(), updates, state.previous)

        def resize(s: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
            # One by one, because torch takes no pair of a number and a tensor.
            resized = torch.where(turn > 0, eta_plus * s, torch.where(turn < 0, eta_minus * s, s))
            return resized.clamp(min=min_step_size).clamp(max=max_step_size).to(s.dtype)

        step_sizes = tree.map(resize, state.step_sizes, turns)
        previous = tree.map(
            lambda u, before, turn: torch.where(turn < 0, 0.0, u.to(before.dtype)),
            updates,
            state.previous,
            turns,
        )
        out = tree.map(lambda u, s, before: (before.sgn() * s).to(u.dtype), updates, step_sizes, previous)
        return out, ScaleByRpropState(step_sizes, previous)

    return GradientTransformation(init, update)


def _in_magnitude(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """An odd function of real numbers; of complex ones that of their magnitudes, at their angles."""
    return x.sgn() * function(x.abs()) if x.is_complex() else function(x)
