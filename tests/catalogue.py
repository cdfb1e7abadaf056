"""Every public transform and optimizer, and how to build it: the table that the contract is held to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

import pure_sgd as ps


class Entry(NamedTuple):
    """How to build a transform from its floating-point hyperparameters, and what it needs besides."""

    build: Callable[..., ps.GradientTransformation]
    hyperparams: dict[str, float]
    extra: Mapping[str, Any] = MappingProxyType({})
    keeps_updates: bool = False  # passes the updates through: nothing to compare


def _sgd(**hyperparams: Any) -> ps.GradientTransformation:
    return ps.sgd(nesterov=True, **hyperparams)


CURVATURE = 2.0

#: name -> entry; names are those of the public namespace, with a note behind a space.
CATALOGUE: dict[str, Entry] = {
    "adam": Entry(ps.adam, {"learning_rate": 0.05, "b1": 0.8, "b2": 0.95, "eps": 1e-6}),
    "adamw": Entry(
        ps.adamw, {"learning_rate": 0.05, "b1": 0.8, "b2": 0.95, "eps": 1e-6, "weight_decay": 0.1}
    ),
    "add_decayed_weights": Entry(ps.add_decayed_weights, {"weight_decay": 0.1}),
    "chain": Entry(
        lambda decay, step_size: ps.chain(ps.trace(decay), ps.scale(step_size)),
        {"decay": 0.9, "step_size": -0.1},
    ),
    "clip_by_global_norm": Entry(ps.clip_by_global_norm, {"max_norm": 0.7}),
    "identity": Entry(ps.identity, {}, keeps_updates=True),
    "named_chain": Entry(
        lambda decay, rate: ps.named_chain(
            ("momentum", ps.trace(decay)), ("rate", ps.scale_by_learning_rate(rate))
        ),
        {"decay": 0.9, "rate": 0.1},
    ),
    "params_ema": Entry(ps.params_ema, {"decay": 0.9}, keeps_updates=True),
    "params_ema debiased": Entry(
        lambda decay: ps.params_ema(decay, debias=True), {"decay": 0.9}, keeps_updates=True
    ),
    "reduce_on_plateau": Entry(
        lambda factor, min_scale: ps.reduce_on_plateau(factor, patience=1, min_scale=min_scale),
        {"factor": 0.5, "min_scale": 0.1},
        {"value": torch.tensor(1.0)},
    ),
    "scale": Entry(ps.scale, {"step_size": -0.1}),
    "scale_by_adam": Entry(ps.scale_by_adam, {"b1": 0.8, "b2": 0.95, "eps": 1e-6, "eps_root": 1e-6}),
    "scale_by_adam nesterov": Entry(
        lambda b1, b2: ps.scale_by_adam(b1, b2, nesterov=True), {"b1": 0.8, "b2": 0.95}
    ),
    "scale_by_learning_rate": Entry(ps.scale_by_learning_rate, {"learning_rate": 0.1}),
    "scale_by_preconditioner": Entry(
        # Like the parameters it will meet, whatever tree they are.
        lambda power: ps.GradientTransformation(
            lambda params: ps.EmptyState(),
            lambda updates, state, params=None: ps.scale_by_preconditioner(
                ps.tree.map(lambda u: torch.full_like(u, CURVATURE), updates), power
            ).update(updates, state, params),
        ),
        {"power": 0.5},
    ),
    "scale_by_schedule": Entry(
        lambda rate: ps.scale_by_schedule(lambda step: rate / (1 + step.double())), {"rate": 0.1}
    ),
    "sgd": Entry(ps.sgd, {"learning_rate": 0.1}),
    "sgd every option": Entry(_sgd, {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    "sgd scheduled": Entry(
        lambda rate, decay: ps.sgd(
            ps.exponential_decay(rate, 3, decay), momentum=lambda step: 0.9 - 0.5 / (1 + step.double())
        ),
        {"rate": 0.1, "decay": 0.5},
    ),
    "stateless": Entry(
        lambda factor: ps.stateless(
            lambda updates, params: ps.tree.map(lambda u: (factor * u).to(u.dtype), updates)
        ),
        {"factor": 2.0},
    ),
    "stateless_with_tree_map": Entry(
        lambda factor: ps.stateless_with_tree_map(lambda u, p: (factor * u + p).to(u.dtype)),
        {"factor": 2.0},
    ),
    "trace": Entry(ps.trace, {"decay": 0.9}),
    "trace dampened": Entry(
        lambda decay, dampening: ps.trace(decay, dampening=dampening), {"decay": 0.9, "dampening": 0.3}
    ),
}


def params_of(dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """A matrix, a vector, a scalar, an empty leaf and a None, nested; the values do not matter."""
    return {
        "layers": [{"w": torch.linspace(-1, 1, 6).reshape(2, 3).to(dtype), "b": torch.zeros(3, dtype=dtype)}],
        "scale": torch.tensor(0.5, dtype=dtype),
        "nothing": None,
        "empty": torch.zeros(0, 4, dtype=dtype),
    }


def grads_of(params: Any, step: int) -> Any:
    """Gradients like ``params`` that differ from step to step."""
    return ps.tree.map(
        lambda p: torch.sin(torch.arange(p.numel()) * 1.7 + 0.8 * step + 0.3).reshape(p.shape).to(p.dtype),
        params,
    )
