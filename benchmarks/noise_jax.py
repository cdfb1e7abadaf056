"""The models of gradient_noise.py in JAX: the same parameters, and the loss of one example."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import torch
from noise_cases import HEADS, Case

import pure_sgd as ps


def grads(case: Case) -> Callable[[], list[Any]]:
    """``jit(vmap(grad(loss)))``: the gradient of each example."""
    return _compiled(case, lambda jax, grads: grads)


def variance(case: Case) -> Callable[[], list[Any]]:
    """``jit`` of ``vmap(grad(loss))`` and the variance over examples."""
    return _compiled(case, lambda jax, grads: [grad.var(0, ddof=1) for grad in jax.tree.leaves(grads)])


def read(arrays: Any) -> list[torch.Tensor]:
    """Results as tensors, in the order of the leaves of ``params``."""
    return [torch.tensor(import_module("numpy").asarray(a)) for a in import_module("jax").tree.leaves(arrays)]


def model(kind: str) -> Callable[[Any, Any], Any]:
    """``forward(params, x)`` of one example."""
    return partial({"mlp": _mlp, "cnn": _cnn, "transformer": _transformer}[kind], import_module("jax"))


def _compiled(case: Case, reduce: Callable[[Any, Any], Any]) -> Callable[[], Any]:
    jax = import_module("jax")
    numbers = import_module("jax.numpy")
    forward = model(case.kind)

    def loss(params: Any, x: Any, label: Any) -> Any:
        log_probabilities = jax.nn.log_softmax(forward(params, x))
        return -numbers.take_along_axis(log_probabilities, label[..., None], -1).mean()

    @jax.jit
    def work(params: Any, x: Any, labels: Any) -> Any:
        return reduce(jax, jax.vmap(jax.grad(loss), (None, 0, 0))(params, x, labels))

    params, batch = ps.tree.map(lambda leaf: numbers.asarray(leaf.cpu().numpy()), (case.params, case.batch))
    return lambda: jax.block_until_ready(work(params, *batch))


def _mlp(jax: Any, params: Any, x: Any) -> Any:
    *hidden, last = params["layers"]
    for layer in hidden:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ last["w"] + last["b"]


def _cnn(jax: Any, params: Any, x: Any) -> Any:
    for layer in params["convolutions"]:
        x = jax.lax.conv(x[None], layer["w"], (1, 1), "SAME")[0] + layer["b"][:, None, None]
        x = jax.lax.reduce_window(jax.nn.relu(x), -float("inf"), jax.lax.max, (1, 2, 2), (1, 2, 2), "VALID")
    return x.reshape(-1) @ params["head"]["w"] + params["head"]["b"]


def _transformer(jax: Any, params: Any, tokens: Any) -> Any:
    def norm(layer: Any, hidden: Any) -> Any:
        centred = hidden - hidden.mean(-1, keepdims=True)
        return centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * layer["w"] + layer["b"]

    def dense(layer: Any, hidden: Any) -> Any:
        return hidden @ layer["w"] + layer["b"]

    def attend(block: Any, hidden: Any) -> Any:
        together = dense(block["attention_in"], hidden).reshape(len(tokens), 3, HEADS, -1)
        query, key, value = together.transpose(1, 0, 2, 3)
        mixed = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        return dense(block["attention_out"], mixed.reshape(len(tokens), -1))

    hidden = params["tokens"]["w"][tokens] + params["positions"]["w"]
    for block in params["blocks"]:
        hidden = hidden + attend(block, norm(block["attention_norm"], hidden))
        expanded = jax.nn.gelu(dense(block["expand"], norm(block["mlp_norm"], hidden)), approximate=False)
        hidden = hidden + dense(block["contract"], expanded)
    return norm(params["norm"], hidden) @ params["head"]["w"]
