"""The decoder-only transformer: each token predicts the next from those up to itself."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from .. import random
from ..errors import PureSGDError, check_count
from ..recipe import recorded
from .contract import Model, Params, sentenced
from .initial import scaled_normal

__all__ = ["transformer"]


@recorded
@sentenced
def transformer(vocabulary: int, context: int, width: int = 64, heads: int = 4, layers: int = 2) -> Model:
    """A decoder-only transformer language model in the manner of GPT-2.

    ``h = token + position``; in each block ``h <- h + attention(norm(h))``, where a token attends
    to itself and to earlier ones, then ``h <- h + mlp(norm(h))``, whose GELU acts on a width of
    ``4 * width``; the logits are ``norm(h) @ w``. Weights are normal of standard deviation 0.02,
    those that write into ``h`` of ``0.02 / sqrt(2 * layers)``; biases are 0 and norms begin as
    the identity. The output weights are not those of the token embedding.

    Shapes: tokens (T,) int64 from 0 to ``vocabulary - 1``, T from 1 to ``context``; the output
    (T, vocabulary), row t the logits of token t + 1. ``heads`` divides ``width``.

    Raises:
        PureSGDError: a size that is not a positive int, or ``heads`` that does not divide
            ``width``; in ``apply``, tokens of another shape, length or dtype.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> model = ps.models.transformer(vocabulary=11, context=16, width=8, heads=2, layers=1)
        >>> params = model.init(ps.random.key(0))
        >>> model.apply(params, torch.tensor([1, 7, 7])).shape
        torch.Size([3, 11])

    Source: Vaswani et al. 2017, arXiv:1706.03762; the layout and the first values are those of
    Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
    """
    sizes = {
        "vocabulary": vocabulary,
        "context": context,
        "width": width,
        "heads": heads,
        "layers": layers,
    }
    for name, size in sizes.items():
        check_count("transformer", name, size)
    if width % heads:
        raise PureSGDError(
            "transformer",
            f"width={width} is not a multiple of heads={heads}",
            f"Pass a width such as {heads * math.ceil(width / heads)}",
        )

    def init(key: torch.Tensor, dtype: torch.dtype = torch.float32) -> Params:
        key_tokens, key_positions, key_head, *keys = random.split(key, 3 + layers)
        return {
            "tokens": {"w": scaled_normal(key_tokens, (vocabulary, width), 0.02, dtype)},
            "positions": {"w": scaled_normal(key_positions, (context, width), 0.02, dtype)},
            "blocks": [_init_block(k, width, 0.02 / math.sqrt(2 * layers), dtype) for k in keys],
            "norm": _identity_norm(width, dtype, key.device),
            "head": {"w": scaled_normal(key_head, (width, vocabulary), 0.02, dtype)},
        }

    def apply(params: Params, tokens: torch.Tensor) -> torch.Tensor:
        _check_tokens(tokens, context)
        hidden = F.embedding(tokens, params["tokens"]["w"])
        hidden = hidden + params["positions"]["w"][: len(tokens)]
        for block in params["blocks"]:
            hidden = hidden + _attend(block, _norm(block["attention_norm"], hidden), heads)
            expanded = _dense(block["expand"], _norm(block["mlp_norm"], hidden))
            hidden = hidden + _dense(block["contract"], F.gelu(expanded))
        return _norm(params["norm"], hidden) @ params["head"]["w"]

    return Model(init, apply)


def _init_block(key: torch.Tensor, width: int, residual_std: float, dtype: torch.dtype) -> Params:
    shapes = {
        "attention_in": (width, 3 * width, 0.02),
        "attention_out": (width, width, residual_std),
        "expand": (width, 4 * width, 0.02),
        "contract": (4 * width, width, residual_std),
    }
    keys = random.split(key, len(shapes))
    layers = {
        name: {
            "w": scaled_normal(k, (inputs, outputs), std, dtype),
            "b": torch.zeros(outputs, dtype=dtype, device=key.device),
        }
        for k, (name, (inputs, outputs, std)) in zip(keys, shapes.items(), strict=True)
    }
    norms = {name: _identity_norm(width, dtype, key.device) for name in ("attention_norm", "mlp_norm")}
    return {**layers, **norms}


def _identity_norm(width: int, dtype: torch.dtype, device: torch.device) -> Params:
    return {
        "w": torch.ones(width, dtype=dtype, device=device),
        "b": torch.zeros(width, dtype=dtype, device=device),
    }


def _attend(block: Params, hidden: torch.Tensor, heads: int) -> torch.Tensor:
    # Three axes, and no batch axis of 1: the fused kernels take four, and vmap would run them, and
    # the gradient through them, example by example.
    query, key, value = (
        _dense(block["attention_in"], hidden).unflatten(-1, (3, heads, -1)).permute(1, 2, 0, 3)
    )
    mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    return _dense(block["attention_out"], mixed.transpose(0, 1).flatten(1))


def _dense(layer: Params, hidden: torch.Tensor) -> torch.Tensor:
    return hidden @ layer["w"] + layer["b"]


def _norm(layer: Params, hidden: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(hidden, hidden.shape[-1:], layer["w"], layer["b"])


def _check_tokens(tokens: torch.Tensor, context: int) -> None:
    if tokens.ndim != 1 or not 1 <= len(tokens) <= context:
        raise PureSGDError(
            "transformer",
            f"tokens has shape {tuple(tokens.shape)}, expected (T,) with T from 1 to "
            f"context={context}, the tokens of one example",
            "Shorten the sequence, or map over a batch with torch.func.vmap(model.apply, (None, 0))",
        )
    if tokens.dtype != torch.int64:
        raise PureSGDError(
            "transformer",
            f"tokens is of dtype {tokens.dtype}, expected torch.int64",
            "Pass tokens.long()",
        )
