"""Differential privacy: a mean of per-example gradients that hides every single example."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from .. import random, tree
from ..errors import PureSGDError, check_hyperparameter
from .contract import (
    GradientTransformation,
    Hyperparameter,
    Params,
    Updates,
    step_zero,
    transformation,
)
from .noise import key_of
from .per_example import clipped_sum

__all__ = ["DifferentiallyPrivateAggregateState", "differentially_private_aggregate"]


class DifferentiallyPrivateAggregateState(NamedTuple):
    """The key of the next noise."""

    key: torch.Tensor  # int64, shape (2,)


@transformation
def differentially_private_aggregate(
    l2_norm_clip: Hyperparameter,
    noise_multiplier: Hyperparameter,
    key: int | torch.Tensor | None = None,
    *,
    seed: int | None = None,
) -> GradientTransformation:
    """Replace the gradients of B examples by the noisy mean of the clipped ones, as DP-SGD does.

        u = (sum_i g_i * min(1, l2_norm_clip / |g_i|) + l2_norm_clip * noise_multiplier * normal) / B

    Updates come in with a leading axis of examples, (B, *P), as :func:`per_example_grads` gives them, and go
    out without it: it stands first in a :func:`chain`. Norms are over all leaves. ``key`` is a key of
    :mod:`pure_sgd.random` or a seed (which may also be given as ``seed``); one of them is needed, since noise
    that anybody can draw hides nothing. The state carries it on. Noise is drawn in at least float32, and for
    float32 is that of Optax from the same seed. Not to be put after :func:`multi_steps` or
    :func:`apply_every`, which would sum up different examples; it keeps no account of the privacy spent.
    Source: Abadi et al. 2016, arXiv:1607.00133.

    Raises:
        PureSGDError: a negative ``l2_norm_clip`` or ``noise_multiplier``, not exactly one of ``key`` and
            ``seed``; in ``update``, leaves without a common leading axis, or unlike ``params`` after it.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.differentially_private_aggregate(1.0, 0.0, key=42)
        >>> tx.update(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), tx.init(torch.zeros(2)))[0]
        tensor([0.3000, 0.4000])
    """
    where = "differentially_private_aggregate"
    check_hyperparameter(where, "l2_norm_clip", l2_norm_clip, low=0)
    check_hyperparameter(where, "noise_multiplier", noise_multiplier, low=0)
    first = key_of(_one_of(where, key, seed))

    def init(params: Params) -> DifferentiallyPrivateAggregateState:
        # A copy: the state must not share memory with the caller's key.
        return DifferentiallyPrivateAggregateState(first.to(step_zero(params).device, copy=True))

    def update(
        updates: Updates, state: DifferentiallyPrivateAggregateState, params: Params = None, **extra: Any
    ) -> tuple[Updates, DifferentiallyPrivateAggregateState]:
        count = tree.batch_length(updates, "updates")
        if params is not None:
            _check_examples(updates, params)
        sums, rebuild = tree.flatten(clipped_sum(updates, l2_norm_clip, "updates")[0])
        carried, *keys = random.split(state.key, len(sums) + 1).unbind()
        deviation = l2_norm_clip * noise_multiplier
        noisy = [
            ((total + deviation * random.normal(leaf_key, total.shape, total.dtype)) / count).to(u.dtype)
            for total, leaf_key, u in zip(sums, keys, tree.leaves(updates), strict=True)
        ]
        return rebuild(noisy), DifferentiallyPrivateAggregateState(carried.clone())

    return GradientTransformation(init, update, per_example=True)


def _one_of(where: str, key: Any, seed: int | None) -> Any:
    if (key is None) == (seed is None):
        got = "neither key nor seed" if key is None else "both a key and a seed"
        raise PureSGDError(where, f"got {got}", "Pass one of them, which nobody else knows")
    return seed if key is None else key


def _check_examples(updates: Updates, params: Params) -> None:
    expected = dict(tree.named_leaves(params))
    for path, u in tree.named_leaves(updates):
        if path in expected and u.shape[1:] != expected[path].shape:
            wanted = ", ".join(["B", *map(str, expected[path].shape)])
            raise PureSGDError(
                f"updates{path}",
                f"has shape {tuple(u.shape)}, expected ({wanted}): a gradient for each of B examples",
                "Take them from per_example_grads, and put this transform first in its chain",
            )
    tree.check_like(tree.map(lambda u: u[0], updates), params, "updates", "params")
