"""The oracle of per-example gradients: autograd itself, one example after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import pure_sgd as ps
from pure_sgd.models.buffers import without_buffers


def loop_gradients(loss: Callable[..., torch.Tensor], params: Any, batch: Any) -> list[torch.Tensor]:
    """The gradients of every leaf, (B, *P), in traversal order."""
    rows: list[list[torch.Tensor]] = []
    loss, params = without_buffers(loss, params)
    leaves, rebuild = ps.tree.flatten(params)
    for index in range(ps.tree.batch_length(batch)):
        fresh = [leaf.detach().clone().requires_grad_() for leaf in leaves]
        example = ps.tree.map(lambda leaf, index=index: leaf[index], batch)
        value = loss(rebuild(fresh), *(example if type(example) in (tuple, list) else (example,)))
        rows.append(list(torch.autograd.grad(value, fresh, allow_unused=True, materialize_grads=True)))
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def assert_moments_of_loop(loss: Callable[..., torch.Tensor], params: Any, batch: Any, method: str) -> None:
    """Moments and norms are those of the loop, to 1e-10 of the largest entry."""
    grads = loop_gradients(loss, params, batch)
    moments = ps.gradient_moments(loss, method)(params, batch)
    norms = ps.per_example_grad_norms(loss, method)(params, batch)
    found = zip(grads, ps.tree.leaves(moments.mean), ps.tree.leaves(moments.variance), strict=True)
    for expected, mean, variance in found:
        _assert_close(mean, expected.mean(0))
        _assert_close(variance, expected.var(0))
    squares = [grad.reshape(len(grad), -1).abs().square().sum(1) for grad in grads]
    _assert_close(norms, torch.stack(squares).sum(0).sqrt())


def _assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    scale = max(expected.abs().max().item(), 1e-3) if expected.numel() else 1.0
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * scale)
