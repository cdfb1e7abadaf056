"""What a loss reads beside the parameters and nobody differentiates: the entry ``'buffers'`` of a dict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["BUFFERS", "trainable", "without_buffers"]

BUFFERS = "buffers"


def trainable(params: Any) -> Any:
    """``params`` without the entry ``'buffers'``: what is differentiated and updated.

    Example:
        >>> from pure_sgd.models.buffers import trainable
        >>> trainable({"w": 1.0, "buffers": {"count": 3}})
        {'w': 1.0}
    """
    if isinstance(params, dict) and BUFFERS in params:
        return {name: child for name, child in params.items() if name != BUFFERS}
    return params


def without_buffers(loss: Callable[..., Any], params: Any) -> tuple[Callable[..., Any], Any]:
    """The loss as a function of the trainable parameters alone, and these.

    Example:
        >>> from pure_sgd.models.buffers import without_buffers
        >>> loss, params = without_buffers(lambda p, x: p["w"] * x + p["buffers"], {"w": 2.0, "buffers": 1.0})
        >>> params, loss(params, 3.0)
        ({'w': 2.0}, 7.0)
    """
    rest = trainable(params)
    if rest is params:
        return loss, params
    buffers = params[BUFFERS]
    return lambda params, *args: loss({**params, BUFFERS: buffers}, *args), rest
