"""Gradients of which no single example has more than a bounded part: clipped, averaged, and made noisy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from .. import random, tree
from ..arguments import typed
from ..errors import PureSGDError, check_count, check_hyperparameter
from ..models.buffers import trainable, without_buffers
from .compilable import compilable
from .example_gradients import ExampleGradients, example_gradients, sliced
from .examples import Batch, ExampleLoss, Params
from .norms import NORMS, check_finite
from .onepass.stack import Want

__all__ = ["ClippedGrads", "clipped_mean_grads"]

MEAN = Want(mean=True, variance=False, norms=False)


class ClippedGrads(NamedTuple):
    """The mean of clipped gradients, and what was clipped."""

    grads: Params  # a tree like params, in its dtypes
    loss: torch.Tensor  # shape (): the mean loss; it is not private
    norms: Any  # (B,): the norms before clipping; a tree of them where leaves are clipped by themselves


@typed
def clipped_mean_grads(
    example_loss: ExampleLoss,
    max_norm: Any,
    noise_multiplier: float | torch.Tensor = 0.0,
    *,
    expected_batch_size: float | None = None,
    method: str = "auto",
    chunk_size: int | None = None,
) -> Callable[..., ClippedGrads]:
    """The gradient of DP-SGD: ``f(params, batch, key=None) -> ClippedGrads``.

        clipped_i = g_i * min(1, max_norm / |g_i|)
        grads     = (sum_i clipped_i + noise_multiplier * max_norm * normal) / B

    ``max_norm`` is a number or a tensor of shape ``()`` for the norm over all leaves; or a tree like
    ``params`` of those, and then each leaf is clipped by itself, and the noise has their joint norm
    ``sqrt(sum of squares)`` in place of ``max_norm``. ``B`` is ``expected_batch_size`` if given: where
    examples are drawn independently, the number drawn is itself private.

    Sensitivity: with one example added or taken away the sum changes by at most ``max_norm`` in norm (and
    rounding), whatever the example, as long as its gradient is finite; so with batches drawn by Poisson
    sampling each call is one subsampled Gaussian mechanism of noise multiplier ``noise_multiplier``, as
    accountants understand it. Such a batch may be empty: with ``expected_batch_size`` all is noise then.

    The gradients are never all held: one pass gives their norms, and from what it left the clipped sum is
    formed. ``method`` and ``chunk_size`` (a microbatch: examples in memory at a time) are those of
    :func:`gradient_moments`. ``key`` is a key of :mod:`pure_sgd.random`, a new one for each call.
    Sources: Abadi et al. 2016, arXiv:1607.00133; the norms: Goodfellow 2015, arXiv:1510.01799.

    Raises:
        PureSGDError: a ``max_norm`` that is not positive, a negative ``noise_multiplier``, noise without a
            key, a gradient that is not finite (by example; compiled, the result is NaN), or what
            :func:`per_example_grad_norms` refuses.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> grads = ps.clipped_mean_grads(lambda params, x: x @ params, max_norm=1.0)
        >>> grads(torch.zeros(2), (torch.tensor([[0.5, 0.0], [0.0, 8.0]]),)).grads
        tensor([0.2500, 0.5000])
    """
    where = "clipped_mean_grads"
    for bound in tree.leaves(max_norm):
        check_hyperparameter(where, "max_norm", bound, low=0, open_low=True)
    check_hyperparameter(where, "noise_multiplier", noise_multiplier, low=0)
    if expected_batch_size is not None:
        check_hyperparameter(where, "expected_batch_size", expected_batch_size, low=0, open_low=True)
    if chunk_size is not None:
        check_count(where, "chunk_size", chunk_size)
    silent = not isinstance(noise_multiplier, torch.Tensor) and noise_multiplier == 0

    def clip_all(params: Params, batch: Batch) -> list[torch.Tensor]:
        loss, params = without_buffers(example_loss, params)
        return _clip(example_gradients(loss, params, batch, method), _bounds(max_norm, params))

    # A bound that is a tensor may be one that is being traced: what is compiled apart cannot close over it.
    apart = not any(isinstance(bound, torch.Tensor) for bound in tree.leaves(max_norm))
    clip = compilable(clip_all) if apart else clip_all

    def clipped(params: Params, batch: Batch, key: torch.Tensor | None = None) -> ClippedGrads:
        if key is None and not silent:
            raise PureSGDError(where, "key is None, and noise is to be drawn", "Pass f(params, batch, key)")
        axes = [leaf.shape[:1] if isinstance(leaf, torch.Tensor) else () for leaf in tree.leaves(batch)]
        empty = expected_batch_size is not None and all(axis == (0,) for axis in axes)
        count = 0 if empty else tree.batch_length(batch, "batch")
        leaves, rebuild = tree.flatten(trainable(params))
        bounds, size = _bounds(max_norm, rebuild(leaves)), chunk_size or max(count, 1)
        clips = [clip(params, sliced(batch, start, start + size)) for start in range(0, count, size)]
        losses, *rest = zip(*(clips or [_nothing(leaves, bounds)]), strict=True)
        norms = [torch.cat(parts) for parts in rest[: len(bounds)]]
        total = [_added(parts) for parts in rest[len(bounds) :]]
        for norm in norms:
            check_finite(where, norm)
        if not silent:
            total = _noisy(total, key, noise_multiplier * _added([b * b for b in bounds]) ** 0.5)
        divisor = count if expected_batch_size is None else expected_batch_size
        return ClippedGrads(
            rebuild([(t / divisor).to(p.dtype) for t, p in zip(total, leaves, strict=True)]),
            torch.cat(losses).mean(),
            norms[0] if _is_one(max_norm) else rebuild(norms),
        )

    return clipped


def _clip(gradients: ExampleGradients, bounds: list[Any]) -> list[torch.Tensor]:
    """Clip to one bound, the norm over all leaves, or to one for each leaf.

    Returns the losses (B,), the norms (B,) for each bound, and for each leaf the sum of the clipped
    gradients (*P).
    """
    found = gradients.sums(NORMS)
    squares = [leaf.norms for leaf in found.leaves if leaf.norms is not None]
    together = len(bounds) == 1
    norms = [square.sqrt() for square in ([_added(squares)] if together else squares)]
    # A norm of 0 makes this infinite, and the weight 1.
    weights = [(bound / norm).clamp(max=1) for bound, norm in zip(bounds, norms, strict=True)]
    scaled = gradients.scaled(weights * len(squares) if together else weights)
    means = [leaf.mean for leaf in scaled.sums(MEAN).leaves if leaf.mean is not None]
    return [found.losses, *norms, *[mean * len(found.losses) for mean in means]]


def _nothing(leaves: list[torch.Tensor], bounds: list[Any]) -> list[torch.Tensor]:
    """The same of no example."""
    total = [torch.zeros_like(tree.widened(leaf)) for leaf in leaves]
    none = total[0].new_zeros(0).abs()
    return [none, *[none for _ in bounds], *total]


def _is_one(max_norm: Any) -> bool:
    """Whether the bound is for all leaves together."""
    return isinstance(max_norm, (int, float, torch.Tensor))


def _bounds(max_norm: Any, params: Params) -> list[Any]:
    """One bound for all leaves together, or one for each."""
    if _is_one(max_norm):
        return [max_norm]
    if [path for path, _ in tree.named_leaves(max_norm)] != [path for path, _ in tree.named_leaves(params)]:
        raise PureSGDError(
            "max_norm", "is a tree of another structure than params", "Pass a number, or one for each leaf"
        )
    return tree.leaves(max_norm)


def _noisy(total: list[torch.Tensor], key: Any, deviation: Any) -> list[torch.Tensor]:
    keys = random.split(key, max(len(total), 1)).unbind()
    return [
        leaf + deviation * random.normal(leaf_key, leaf.shape, leaf.dtype)
        for leaf, leaf_key in zip(total, keys, strict=False)
    ]


def _added(terms: Sequence[Any]) -> Any:
    return sum(terms[1:], terms[0])
