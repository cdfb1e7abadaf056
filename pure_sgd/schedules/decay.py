"""Schedules with one formula: constant, polynomial, exponential, step, 1/t and cosine."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from ..errors import PureSGDError, check_count, check_hyperparameter
from ..recipe import recorded
from .schedule import Number, Schedule, check_constants, progress

__all__ = [
    "constant_schedule",
    "cosine_decay_schedule",
    "exponential_decay",
    "inverse_time_decay_schedule",
    "linear_schedule",
    "multiplicative_schedule",
    "polynomial_schedule",
    "step_schedule",
]


@recorded
def constant_schedule(value: Number) -> Schedule:
    """The same value at every step.

    Raises:
        PureSGDError: ``value`` is no number and no 0-d tensor.

    Example:
        >>> import pure_sgd as ps
        >>> ps.constant_schedule(0.1)(7)
        tensor(0.1000, dtype=torch.float64)
    """
    check_constants("constant_schedule", value=value)
    return Schedule(lambda step: torch.zeros_like(step) + value)


@recorded
def polynomial_schedule(
    init_value: Number,
    end_value: Number,
    power: Number,
    transition_steps: int,
    transition_begin: int = 0,
) -> Schedule:
    """From ``init_value`` to ``end_value`` along a power of the time that is left.

        value = end_value + (init_value - end_value) * (1 - t)**power
        t     = clip((step - transition_begin) / transition_steps, 0, 1)

    With ``transition_steps=0`` the value is ``end_value`` from ``transition_begin`` on (Optax stays at
    ``init_value`` for ever).

    Raises:
        PureSGDError: a negative number of steps, or a constant that is no number and no 0-d tensor.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.polynomial_schedule(1.0, 0.0, 2, 4)(torch.arange(5))
        tensor([1.0000, 0.5625, 0.2500, 0.0625, 0.0000], dtype=torch.float64)
    """
    check_constants("polynomial_schedule", init_value=init_value, end_value=end_value, power=power)
    check_count("polynomial_schedule", "transition_steps", transition_steps, low=0)
    check_count("polynomial_schedule", "transition_begin", transition_begin, low=0)

    def schedule(step: torch.Tensor) -> torch.Tensor:
        left = 1 - progress(step - transition_begin, transition_steps)
        return end_value + (init_value - end_value) * left**power

    return Schedule(schedule)


@recorded
def linear_schedule(
    init_value: Number, end_value: Number, transition_steps: int, transition_begin: int = 0
) -> Schedule:
    """From ``init_value`` to ``end_value`` along a straight line.

    Raises:
        PureSGDError: as :func:`polynomial_schedule`.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.linear_schedule(0.0, 1.0, 4)(torch.arange(6))
        tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000, 1.0000], dtype=torch.float64)
    """
    return polynomial_schedule(init_value, end_value, 1, transition_steps, transition_begin)


@recorded
def exponential_decay(
    init_value: Number,
    transition_steps: int,
    decay_rate: Number,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: Number | None = None,
) -> Schedule:
    """``init_value * decay_rate**((step - transition_begin) / transition_steps)``.

    ``staircase`` rounds the exponent down; ``end_value`` bounds the value, from below when
    ``decay_rate`` is a number under 1 and from above otherwise. With ``transition_steps=1`` this is
    ``torch.optim.lr_scheduler.ExponentialLR``.

    Raises:
        PureSGDError: ``transition_steps`` under 1, a ``decay_rate`` that is not positive, or a constant
            that is no number and no 0-d tensor.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.exponential_decay(1.0, 1, 0.5)(torch.arange(4))
        tensor([1.0000, 0.5000, 0.2500, 0.1250], dtype=torch.float64)
    """
    check_constants("exponential_decay", init_value=init_value, decay_rate=decay_rate)
    if end_value is not None:
        check_constants("exponential_decay", end_value=end_value)
    check_count("exponential_decay", "transition_steps", transition_steps)
    check_count("exponential_decay", "transition_begin", transition_begin, low=0)
    check_hyperparameter("exponential_decay", "decay_rate", decay_rate, low=0, open_low=True)

    def schedule(step: torch.Tensor) -> torch.Tensor:
        exponent = (step - transition_begin).clamp(min=0) / transition_steps
        value = init_value * decay_rate ** (exponent.floor() if staircase else exponent)
        if end_value is None:
            return value
        end = torch.zeros_like(step) + end_value
        decays = torch.as_tensor(decay_rate, device=step.device) < 1
        return torch.where(decays, torch.maximum(value, end), torch.minimum(value, end))

    return Schedule(schedule)


@recorded
def step_schedule(init_value: Number, step_size: int, gamma: Number = 0.1) -> Schedule:
    """Step decay: ``init_value * gamma**floor(step / step_size)``, ``torch``'s StepLR.

    Raises:
        PureSGDError: ``step_size`` under 1, a ``gamma`` that is not positive, or a constant that is no
            number and no 0-d tensor.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.step_schedule(1.0, step_size=2, gamma=0.1)(torch.arange(5))
        tensor([1.0000, 1.0000, 0.1000, 0.1000, 0.0100], dtype=torch.float64)
    """
    check_constants("step_schedule", init_value=init_value, gamma=gamma)
    check_count("step_schedule", "step_size", step_size)
    check_hyperparameter("step_schedule", "gamma", gamma, low=0, open_low=True)
    return Schedule(lambda step: init_value * gamma ** (step / step_size).floor())


@recorded
def inverse_time_decay_schedule(init_value: Number, decay_rate: Number) -> Schedule:
    """1/t decay: ``init_value / (1 + decay_rate * step)``.

    With a well-chosen ``decay_rate`` SGD on a strongly convex risk reaches the exact minimum at a rate of
    O(1/step). Source: Robbins and Monro 1951, doi:10.1214/aoms/1177729586.

    Raises:
        PureSGDError: a negative ``decay_rate``, or a constant that is no number and no 0-d tensor.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.inverse_time_decay_schedule(1.0, 1.0)(torch.arange(4))
        tensor([1.0000, 0.5000, 0.3333, 0.2500], dtype=torch.float64)
    """
    where = "inverse_time_decay_schedule"
    check_constants(where, init_value=init_value, decay_rate=decay_rate)
    check_hyperparameter(where, "decay_rate", decay_rate, low=0)
    return Schedule(lambda step: init_value / (1 + decay_rate * step))


@recorded
def cosine_decay_schedule(
    init_value: Number, decay_steps: int, alpha: Number = 0.0, exponent: Number = 1.0
) -> Schedule:
    """Half a cosine from ``init_value`` down to ``alpha * init_value``.

        value = init_value * ((1 - alpha) * ((1 + cos(pi * t)) / 2)**exponent + alpha)
        t     = clip(step / decay_steps, 0, 1)

    For a cosine from 0.1 to 0.001 pass ``init_value=0.1, alpha=0.01``.
    Source: Loshchilov and Hutter 2017, arXiv:1608.03983.

    Raises:
        PureSGDError: ``decay_steps`` under 1, or a constant that is no number and no 0-d tensor.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.cosine_decay_schedule(1.0, 4)(torch.arange(5))
        tensor([1.0000, 0.8536, 0.5000, 0.1464, 0.0000], dtype=torch.float64)
    """
    check_constants("cosine_decay_schedule", init_value=init_value, alpha=alpha, exponent=exponent)
    check_count("cosine_decay_schedule", "decay_steps", decay_steps)

    def schedule(step: torch.Tensor) -> torch.Tensor:
        cosine = (1 + torch.cos(math.pi * progress(step, decay_steps))) / 2
        return init_value * ((1 - alpha) * cosine**exponent + alpha)

    return Schedule(schedule)


@recorded
def multiplicative_schedule(
    init_value: Number, factor_fn: Callable[[torch.Tensor], Any], transition_steps: int
) -> Schedule:
    """``init_value`` times the factors of all steps so far, ``torch``'s MultiplicativeLR.

        value = init_value * factor_fn(1) * factor_fn(2) * ... * factor_fn(min(step, transition_steps))

    ``factor_fn`` is a schedule: it is given a tensor of steps and returns their factors. The product
    has an end, ``transition_steps``, so that the value is a function of the step alone.

    Raises:
        PureSGDError: ``transition_steps`` under 1, a ``factor_fn`` that is no function, or an
            ``init_value`` that is no number and no 0-d tensor.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.multiplicative_schedule(1.0, lambda step: 1 / step, 3)(torch.arange(5))
        tensor([1.0000, 1.0000, 0.5000, 0.1667, 0.1667], dtype=torch.float64)
    """
    check_constants("multiplicative_schedule", init_value=init_value)
    check_count("multiplicative_schedule", "transition_steps", transition_steps)
    if not callable(factor_fn):
        raise PureSGDError(
            "multiplicative_schedule",
            f"factor_fn={factor_fn!r} is not a function of the step",
            "Pass a schedule, or use exponential_decay for a constant factor",
        )

    def schedule(step: torch.Tensor) -> torch.Tensor:
        steps = torch.arange(transition_steps + 1, dtype=step.dtype, device=step.device)
        factors = torch.zeros_like(steps[1:]) + factor_fn(steps[1:])
        products = torch.cat([torch.ones_like(factors[:1]), factors.cumprod(0)])
        so_far = step.clamp(0, transition_steps).long()
        # Not products[so_far], which asks for the value of a 0-d index while it is compiled.
        return init_value * products.index_select(0, so_far.reshape(-1)).reshape(step.shape)

    return Schedule(schedule)
