"""Schedules that begin again: cosines, with and without warm restarts, and triangles."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..errors import PureSGDError, check_count, check_hyperparameter
from ..recipe import recorded
from .joining import join_schedules, warmup_cosine_decay_schedule
from .schedule import Number, Schedule, check_constants

__all__ = [
    "cosine_annealing_schedule",
    "cosine_annealing_warm_restarts_schedule",
    "cyclic_schedule",
    "sgdr_schedule",
]


@recorded
def cosine_annealing_schedule(init_value: Number, T_max: int, eta_min: Number = 0.0) -> Schedule:
    """A cosine from ``init_value`` down to ``eta_min``, up again, and so on.

        value = eta_min + (init_value - eta_min) * (1 + cos(pi * step / T_max)) / 2

    It goes down in ``T_max`` steps and up in as many: ``torch.optim.lr_scheduler.CosineAnnealingLR``, past
    ``T_max`` too. One that stays down is :func:`cosine_decay_schedule`, one that jumps up
    :func:`cosine_annealing_warm_restarts_schedule`. Source: Loshchilov and Hutter 2017, arXiv:1608.03983.

    Raises:
        PureSGDError: ``T_max`` under 1, or a constant that is no number and no 0-d tensor.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.cosine_annealing_schedule(1.0, 2)(torch.arange(7))
        tensor([1.0000, 0.5000, 0.0000, 0.5000, 1.0000, 0.5000, 0.0000],
               dtype=torch.float64)
    """
    check_constants("cosine_annealing_schedule", init_value=init_value, eta_min=eta_min)
    check_count("cosine_annealing_schedule", "T_max", T_max)

    def schedule(step: torch.Tensor) -> torch.Tensor:
        return eta_min + (init_value - eta_min) * (1 + torch.cos(math.pi * step / T_max)) / 2

    return Schedule(schedule)


@recorded
def cosine_annealing_warm_restarts_schedule(
    init_value: Number, T_0: int, T_mult: int = 1, eta_min: Number = 0.0
) -> Schedule:
    """Half a cosine from ``init_value`` down to ``eta_min``, again and again.

        value = eta_min + (init_value - eta_min) * (1 + cos(pi * t)) / 2
        t     = (step - start of this cycle) / length of this cycle

    The first cycle has ``T_0`` steps and each later one ``T_mult`` times as many as the one before:
    ``torch.optim.lr_scheduler.CosineAnnealingWarmRestarts``.
    Source: Loshchilov and Hutter 2017, arXiv:1608.03983.

    Raises:
        PureSGDError: ``T_0`` or ``T_mult`` under 1, or a constant that is no number and no 0-d tensor.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.cosine_annealing_warm_restarts_schedule(1.0, 2, T_mult=2)(torch.arange(7))
        tensor([1.0000, 0.5000, 1.0000, 0.8536, 0.5000, 0.1464, 1.0000],
               dtype=torch.float64)
    """
    where = "cosine_annealing_warm_restarts_schedule"
    check_constants(where, init_value=init_value, eta_min=eta_min)
    check_count(where, "T_0", T_0)
    check_count(where, "T_mult", T_mult)

    def length_of(cycle: torch.Tensor) -> torch.Tensor:
        # Rounded, because not every device takes whole powers exactly.
        return T_0 * (T_mult**cycle).round()

    def start_of(cycle: torch.Tensor) -> torch.Tensor:
        return T_0 * cycle if T_mult == 1 else (length_of(cycle) - T_0) / (T_mult - 1)

    def cycle_at(step: torch.Tensor) -> torch.Tensor:
        if T_mult == 1:
            return (step / T_0).floor()
        cycle = (torch.log1p((step / T_0).clamp(min=0) * (T_mult - 1)) / math.log(T_mult)).floor()
        # The logarithm may be off by its last digit, and so the cycle by one.
        cycle = cycle + (step >= start_of(cycle + 1)).to(step.dtype) - (step < start_of(cycle)).to(step.dtype)
        return cycle.clamp(min=0)

    def schedule(step: torch.Tensor) -> torch.Tensor:
        cycle = cycle_at(step)
        # Where steps are farther apart than cycles, it may be any part of one.
        part = ((step - start_of(cycle)) / length_of(cycle)).clamp(0, 1)
        cosine = torch.cos(math.pi * part)
        return eta_min + (init_value - eta_min) * (1 + cosine) / 2

    return Schedule(schedule)


@recorded
def cyclic_schedule(
    base_value: Number,
    max_value: Number,
    step_size_up: int = 2000,
    step_size_down: int | None = None,
    mode: str = "triangular",
    gamma: Number = 1.0,
) -> Schedule:
    """Up and down between two values on straight lines, ``torch``'s CyclicLR.

        value  = base_value + (max_value - base_value) * height * scale
        height = 0 to 1 in ``step_size_up`` steps, and back to 0 in ``step_size_down`` (as many, if None)
        scale  = 1 (triangular),  2**-cycle (triangular2),  gamma**step (exp_range)

    with ``cycle`` counted from 0. CyclicLR moves the momentum the other way: give the optimizer a second
    schedule for it, from the larger to the smaller. Source: Smith 2017, arXiv:1506.01186.

    Raises:
        PureSGDError: a number of steps under 1, an unknown ``mode``, a ``gamma`` that is not positive, or a
            constant that is no number and no 0-d tensor.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.cyclic_schedule(0.0, 1.0, 2, mode="triangular2")(torch.arange(8))
        tensor([0.0000, 0.5000, 1.0000, 0.5000, 0.0000, 0.2500, 0.5000, 0.2500],
               dtype=torch.float64)
    """
    where = "cyclic_schedule"
    down = step_size_up if step_size_down is None else step_size_down
    check_constants(where, base_value=base_value, max_value=max_value, gamma=gamma)
    check_count(where, "step_size_up", step_size_up)
    check_count(where, "step_size_down", down)
    check_hyperparameter(where, "gamma", gamma, low=0, open_low=True)
    if mode not in ("triangular", "triangular2", "exp_range"):
        raise PureSGDError(where, f"mode={mode!r} is unknown", "Pass triangular, triangular2 or exp_range")

    def schedule(step: torch.Tensor) -> torch.Tensor:
        cycle = (step / (step_size_up + down)).floor()
        up = (step - cycle * (step_size_up + down)) / step_size_up
        height = torch.where(up <= 1, up, 1 - (up - 1) * step_size_up / down)
        scale = {"triangular": 1.0, "triangular2": 0.5**cycle, "exp_range": gamma**step}[mode]
        return base_value + (max_value - base_value) * height * scale

    return Schedule(schedule)


@recorded
def sgdr_schedule(cosine_kwargs: Sequence[Mapping[str, Any]]) -> Schedule:
    """SGD with warm restarts: one :func:`warmup_cosine_decay_schedule` after the other.

    Each item holds the arguments of one of them; its ``decay_steps`` is the length of that cycle.
    Source: Loshchilov and Hutter 2017, arXiv:1608.03983.

    Raises:
        PureSGDError: no cycle, or as :func:`warmup_cosine_decay_schedule`.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> cycle = dict(init_value=0.0, peak_value=1.0, warmup_steps=1, decay_steps=3)
        >>> ps.sgdr_schedule([cycle, {**cycle, "peak_value": 0.5}])(torch.arange(7))
        tensor([0.0000, 1.0000, 0.5000, 0.0000, 0.5000, 0.2500, 0.0000],
               dtype=torch.float64)
    """
    if not cosine_kwargs:
        raise PureSGDError("sgdr_schedule", "got no cycle", "Pass the arguments of at least one")
    cycles = [warmup_cosine_decay_schedule(**kwargs) for kwargs in cosine_kwargs]
    lengths = [kwargs["decay_steps"] for kwargs in cosine_kwargs]
    return join_schedules(cycles, list(itertools.accumulate(lengths[:-1])))
