"""The lecture's experiment in JAX with Optax: the same data, start, order and rule."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch

Arrays = Any


def scanned(arguments: dict[str, Any], order: torch.Tensor) -> Callable[[], Arrays]:
    """All steps as one ``lax.scan``, jitted, which gathers the rows that ``order`` (steps, B) names."""
    jax, step, start = _experiment(arguments)
    carry, data, rows = start(), _arrays(arguments["data"]), _arrays(order.int())

    # Nothing is donated: the copies are made once for all steps, and each run begins with the same state.
    @jax.jit
    def run(carry: Arrays, data: Arrays, rows: Arrays) -> Arrays:
        return jax.lax.scan(lambda c, row: step(c, tuple(leaf[row] for leaf in data)), carry, rows)

    return lambda: jax.block_until_ready(run(carry, data, rows))


def called(arguments: dict[str, Any], batches: list[Any]) -> Callable[[], Arrays]:
    """A jitted step that is donated its state, called for each batch."""
    jax, step, start = _experiment(arguments)
    jitted, inputs = jax.jit(step, donate_argnums=0), [_arrays(batch) for batch in batches]

    def work() -> Arrays:
        carry, losses = start(), []
        for batch in inputs:
            carry, loss = jitted(carry, batch)
            losses.append(loss)
        return jax.block_until_ready((carry, losses))

    return work


def read(result: Arrays) -> dict[str, list[torch.Tensor]]:
    """Its quantities as those of the others."""
    (params, _, average), losses = result
    return {
        "loss": [torch.tensor([float(loss) for loss in losses]).reshape(50, -1).mean(1)],
        "weights": [_tensor(params["w"]), _tensor(params["b"])],
        "average": [_tensor(average["w"]), _tensor(average["b"])],
    }


def _experiment(arguments: dict[str, Any]) -> tuple[Any, Callable[..., Any], Callable[[], Arrays]]:
    jax, optax = import_module("jax"), import_module("optax")
    cosine = optax.cosine_decay_schedule(0.1, 50, alpha=0.01)
    tx = optax.chain(
        optax.add_decayed_weights(1e-4),
        optax.trace(0.9),
        optax.scale_by_learning_rate(lambda step: cosine(step // 25)),
    )

    def loss_of(params: Arrays, x: Arrays, y: Arrays) -> Arrays:
        return ((x @ params["w"] + params["b"] - y) ** 2).mean()

    def step(carry: Arrays, batch: Arrays) -> Arrays:
        params, state, average = carry
        loss, grads = jax.value_and_grad(loss_of)(params, *batch)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state, optax.incremental_update(params, average, 0.01)), loss

    def start() -> Arrays:
        params, average = _arrays(arguments["params"]), _arrays(arguments["params"])
        return params, tx.init(params), average

    return jax, step, start


def _arrays(leaves: Any) -> Arrays:
    """Tensors of a tree as arrays that own their memory."""
    return import_module("jax").tree.map(
        lambda leaf: import_module("jax.numpy").array(leaf.cpu().numpy()), leaves
    )


def _tensor(array: Arrays) -> torch.Tensor:
    return torch.tensor(import_module("numpy").asarray(array))
