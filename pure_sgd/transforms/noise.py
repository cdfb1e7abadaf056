"""Noise on the updates."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from .. import random, tree
from ..errors import check_hyperparameter
from ..schedules import as_real
from .contract import (
    GradientTransformation,
    Hyperparameter,
    Params,
    Updates,
    step_zero,
    transformation,
)

__all__ = ["AddNoiseState", "add_noise"]


class AddNoiseState(NamedTuple):
    """How many draws were made, and the key of the next."""

    step: torch.Tensor  # int64, shape ()
    key: torch.Tensor  # int64, shape (2,)


@transformation
def add_noise(
    eta: Hyperparameter, gamma: Hyperparameter, key: int | torch.Tensor = 0, *, seed: int | None = None
) -> GradientTransformation:
    """Add Gaussian noise whose variance falls with the step.

        u = u + sqrt(eta / t**gamma) * normal        t counts from 1

    A complex number gets half of the variance in each of its parts. ``key`` is a seed or a key of
    :mod:`pure_sgd.random`, ``seed`` a seed in its place; the state carries it on, so that a run repeats and
    resumes bit by bit. Draws are in at least float32, and for float32 those of Optax from the same seed.
    Source: Neelakantan et al. 2015, arXiv:1511.06807.

    Raises:
        PureSGDError: a negative ``eta`` or ``gamma``, or a ``key`` that is neither a seed nor a key.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.add_noise(0.01, 0.55, key=42)
        >>> tx.update(torch.zeros(2), tx.init(torch.zeros(2)))[0].shape
        torch.Size([2])
    """
    check_hyperparameter("add_noise", "eta", eta, low=0)
    check_hyperparameter("add_noise", "gamma", gamma, low=0)
    first = key_of(key if seed is None else seed)

    def init(params: Params) -> AddNoiseState:
        step = step_zero(params)
        # A copy: the state must not share memory with the caller's key.
        return AddNoiseState(step, first.to(step.device, copy=True))

    def update(
        updates: Updates, state: AddNoiseState, params: Params = None, **extra: Any
    ) -> tuple[Updates, AddNoiseState]:
        step = state.step + 1
        deviation = (eta / as_real(step) ** gamma) ** 0.5
        carried, used = random.split(state.key).unbind()
        found, rebuild = tree.flatten(updates)
        keys = random.split(used, max(len(found), 1)).unbind()

        def noisy(u: torch.Tensor, leaf_key: torch.Tensor) -> torch.Tensor:
            wide = tree.widened(u)
            return (wide + deviation * _normal_like(wide, leaf_key)).to(u.dtype)

        noised = [noisy(u, leaf_key) for u, leaf_key in zip(found, keys, strict=False)]
        return rebuild(noised), AddNoiseState(step, carried.clone())

    return GradientTransformation(init, update)


def key_of(seed: int | torch.Tensor) -> torch.Tensor:
    """A key of :mod:`pure_sgd.random`: ``seed`` itself if it is one, else the key of that seed."""
    made = seed if isinstance(seed, torch.Tensor) and seed.ndim else random.key(seed)
    random.split(made)  # says what is wrong with it
    return made


def _normal_like(u: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Standard normal numbers with the shape and dtype of ``u``."""
    if not u.is_complex():
        return random.normal(key, u.shape, u.dtype)
    return torch.view_as_complex(random.normal(key, (*u.shape, 2), u.real.dtype)) / 2**0.5
