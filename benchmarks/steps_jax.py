"""The full training step of speed_steps.py in JAX, with Optax: one program whose arguments are donated."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import noise_jax
from noise_cases import Case

import pure_sgd as ps

# By name, so that the type checker does not ask for them where they are not installed.
jax: Any = import_module("jax")
jnp: Any = import_module("jax.numpy")
optax: Any = import_module("optax")


def loop(
    case: Case, steps: int, rate: float, momentum: float, weight_decay: float, average: float
) -> Callable[[], tuple[list[Any], Any]]:
    """A function that takes ``steps`` steps at each call: the losses, the parameters and their average."""
    tx = optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(rate, momentum))
    forward = noise_jax.model(case.kind)

    def loss_of_batch(params: Any, x: Any, labels: Any) -> Any:
        logits = jax.vmap(forward, (None, 0))(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(params: Any, state: Any, followed: Any, x: Any, labels: Any) -> tuple[Any, Any, Any, Any]:
        loss, grads = jax.value_and_grad(loss_of_batch)(params, x, labels)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        followed = optax.incremental_update(params, followed, 1 - average)
        return params, state, followed, loss

    def array(tensor: Any) -> Any:
        return jnp.array(tensor.cpu().numpy(), device=jax.devices(case.batch[0].device.type)[0])

    params, batch = (ps.tree.map(array, values) for values in (case.params, case.batch))
    carried = (params, tx.init(params), ps.tree.map(jnp.copy, params))

    def work() -> tuple[list[Any], Any]:
        nonlocal carried
        losses = []
        for _ in range(steps):
            *carried, loss = step(*carried, *batch)
            losses.append(loss)
        jax.block_until_ready((carried, losses))
        return losses, (carried[0], carried[2])

    return work
