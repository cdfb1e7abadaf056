"""Rules that divide by the root of a second moment and keep no first one: RMSprop, Adagrad, Adadelta."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from .. import tree
from .contract import GradientTransformation, Hyperparameter, Params, Updates, step_zero, transformation
from .running import (
    bias_correction,
    check_decays,
    check_offsets,
    filled,
    mean,
    mean_of_squares,
    real_zeros,
    root,
    squared,
)

__all__ = [
    "ScaleByAdadeltaState",
    "ScaleByRmsState",
    "ScaleByRssState",
    "ScaleByStddevState",
    "scale_by_adadelta",
    "scale_by_rms",
    "scale_by_rss",
    "scale_by_stddev",
]


class ScaleByRmsState(NamedTuple):
    """The mean square of the updates."""

    step: torch.Tensor  # int64, shape ()
    nu: Updates  # like params, real, in at least float32


@transformation
def scale_by_rms(
    decay: Hyperparameter = 0.9,
    eps: Hyperparameter = 1e-8,
    initial_scale: Hyperparameter = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
) -> GradientTransformation:
    """Divide the updates by their running root mean square.

        nu = decay * nu + (1 - decay) * u**2        (initial_scale at first)
        u  = u / sqrt(nu + eps),  or  u / (sqrt(nu) + eps)  without eps_in_sqrt

    With ``bias_correction`` the root is taken of ``nu / (1 - decay**t)``, ``t`` from 1. The default is
    Optax's rule; ``torch.optim.RMSprop`` has ``eps_in_sqrt=False`` and a decay of 0.99.
    Source: Tieleman and Hinton 2012, Coursera lecture 6.5.

    Raises:
        PureSGDError: ``decay`` outside [0, 1), or a negative ``eps`` or ``initial_scale``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.scale_by_rms()
        >>> tx.update(torch.tensor([3.0, -0.2]), tx.init(torch.zeros(2)))[0]
        tensor([ 3.1623, -3.1623])
    """
    _check_average("scale_by_rms", decay, eps, initial_scale)

    def init(params: Params) -> ScaleByRmsState:
        return ScaleByRmsState(step_zero(params), filled(params, initial_scale))

    def update(
        updates: Updates, state: ScaleByRmsState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleByRmsState]:
        t = state.step + 1
        nu = mean_of_squares(decay, state.nu, updates)
        weight = _weight(decay, t, bias_correction)
        out = tree.map(lambda u, v: _divided(u, v / weight, eps, eps_in_sqrt), updates, nu)
        return out, ScaleByRmsState(t, nu)

    return GradientTransformation(init, update)


class ScaleByStddevState(NamedTuple):
    """The mean and the mean square of the updates."""

    step: torch.Tensor  # int64, shape ()
    mu: Updates  # like params, in at least float32
    nu: Updates  # like params, real, in at least float32


@transformation
def scale_by_stddev(
    decay: Hyperparameter = 0.9,
    eps: Hyperparameter = 1e-8,
    initial_scale: Hyperparameter = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
) -> GradientTransformation:
    """Divide the updates by their running standard deviation.

        mu = decay * mu + (1 - decay) * u
        nu = decay * nu + (1 - decay) * u**2        (initial_scale at first)
        variance = max(nu - |mu|**2, 0)
        u  = u / sqrt(variance + eps),  or  u / (sqrt(variance) + eps)  without eps_in_sqrt

    With ``bias_correction`` ``mu`` and ``nu`` are divided by ``1 - decay**t`` first, ``t`` from 1. The
    default is Optax's rule; ``torch.optim.RMSprop(centered=True)`` has ``eps_in_sqrt=False`` and a decay of
    0.99. Both take the root of a variance that round-off made negative, which gives NaN; here it is 0.
    Source: Graves 2013, arXiv:1308.0850.

    Raises:
        PureSGDError: ``decay`` outside [0, 1), or a negative ``eps`` or ``initial_scale``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.scale_by_stddev()
        >>> tx.update(torch.tensor([3.0, -0.2]), tx.init(torch.zeros(2)))[0]
        tensor([ 3.3333, -3.3333])
    """
    _check_average("scale_by_stddev", decay, eps, initial_scale)

    def init(params: Params) -> ScaleByStddevState:
        return ScaleByStddevState(step_zero(params), tree.zeros_like(params), filled(params, initial_scale))

    def update(
        updates: Updates, state: ScaleByStddevState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleByStddevState]:
        t = state.step + 1
        mu, nu = mean(decay, state.mu, updates), mean_of_squares(decay, state.nu, updates)
        weight = _weight(decay, t, bias_correction)

        def direction(u: torch.Tensor, m: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            variance = (v / weight - squared(m / weight)).clamp(min=0)
            return _divided(u, variance, eps, eps_in_sqrt)

        return tree.map(direction, updates, mu, nu), ScaleByStddevState(t, mu, nu)

    return GradientTransformation(init, update)


class ScaleByRssState(NamedTuple):
    """The sum of the squares of all updates so far."""

    sum_of_squares: Updates  # like params, real, in at least float32


@transformation
def scale_by_rss(
    initial_accumulator_value: Hyperparameter = 0.1,
    eps: Hyperparameter = 1e-7,
    *,
    eps_in_sqrt: bool = True,
) -> GradientTransformation:
    """Divide the updates by the root of the sum of their squares so far.

        s = s + u**2                                (initial_accumulator_value at first)
        u = u / sqrt(s + eps),  or  u / (sqrt(s) + eps)  without eps_in_sqrt;  0 where s is 0

    The default is Optax's rule; ``torch.optim.Adagrad`` has ``eps_in_sqrt=False``, and starts at 0 with an
    ``eps`` of 1e-10. Source: Duchi, Hazan and Singer 2011, https://jmlr.org/papers/v12/duchi11a.html.

    Raises:
        PureSGDError: a negative ``initial_accumulator_value`` or ``eps``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.scale_by_rss(0.0)
        >>> tx.update(torch.tensor([3.0, -0.2]), tx.init(torch.zeros(2)))[0]
        tensor([ 1.0000, -1.0000])
    """
    check_offsets("scale_by_rss", initial_accumulator_value=initial_accumulator_value, eps=eps)

    def init(params: Params) -> ScaleByRssState:
        return ScaleByRssState(filled(params, initial_accumulator_value))

    def update(
        updates: Updates, state: ScaleByRssState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleByRssState]:
        sums = tree.map(lambda s, u: (s + squared(u)).to(s.dtype), state.sum_of_squares, updates)

        def direction(u: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
            seen = s != 0
            return torch.where(seen, _divided(u, torch.where(seen, s, 1.0), eps, eps_in_sqrt), 0.0)

        return tree.map(direction, updates, sums), ScaleByRssState(sums)

    return GradientTransformation(init, update)


class ScaleByAdadeltaState(NamedTuple):
    """The mean squares of the updates that came in, and of those that went out."""

    nu: Updates  # like params, real, in at least float32
    nu_out: Updates  # like nu


@transformation
def scale_by_adadelta(rho: Hyperparameter = 0.9, eps: Hyperparameter = 1e-6) -> GradientTransformation:
    """Divide the updates by their running root mean square, and multiply by that of the results.

        nu     = rho * nu + (1 - rho) * u**2
        u      = u * sqrt(nu_out + eps) / sqrt(nu + eps)
        nu_out = rho * nu_out + (1 - rho) * u**2

    The rule of Optax and of ``torch.optim.Adadelta``. Source: Zeiler 2012, arXiv:1212.5701.

    Raises:
        PureSGDError: ``rho`` outside [0, 1), or a negative ``eps``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.scale_by_adadelta()
        >>> tx.update(torch.tensor([3.0, -0.2]), tx.init(torch.zeros(2)))[0]
        tensor([ 0.0032, -0.0032])
    """
    check_decays("scale_by_adadelta", rho=rho)
    check_offsets("scale_by_adadelta", eps=eps)

    def init(params: Params) -> ScaleByAdadeltaState:
        return ScaleByAdadeltaState(real_zeros(params), real_zeros(params))

    def update(
        updates: Updates, state: ScaleByAdadeltaState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ScaleByAdadeltaState]:
        nu = mean_of_squares(rho, state.nu, updates)
        out = tree.map(
            lambda u, v, w: tree.widened(u) * ((w + eps) / (v + eps)).sqrt(), updates, nu, state.nu_out
        )
        nu_out = mean_of_squares(rho, state.nu_out, out)
        return tree.cast_like(out, updates), ScaleByAdadeltaState(nu, nu_out)

    return GradientTransformation(init, update)


def _check_average(where: str, decay: Any, eps: Any, initial_scale: Any) -> None:
    check_decays(where, decay=decay)
    check_offsets(where, eps=eps, initial_scale=initial_scale)


def _weight(decay: Any, t: torch.Tensor, corrected: bool) -> Any:
    return bias_correction(decay, t) if corrected else 1.0


def _divided(u: torch.Tensor, square: torch.Tensor, eps: Any, eps_in_sqrt: bool) -> torch.Tensor:
    """``u`` over the root of ``square``, ``eps`` inside or outside of it, in the dtype of ``u``."""
    denominator = (square + eps).sqrt() if eps_in_sqrt else root(square) + eps
    return (tree.widened(u) / denominator).to(u.dtype)
