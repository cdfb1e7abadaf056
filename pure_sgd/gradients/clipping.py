"""Gradients of which no single example has more than a bounded part: clipped, averaged, and made noisy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from .. import random, tree
from ..errors import PureSGDError, check_count, check_hyperparameter
from .example_gradients import ExampleGradients, example_gradients, sliced
from .examples import Batch, ExampleLoss, Params
from .onepass.stack import Want

__all__ = [
    "AdaptiveClipping",
    "AdaptiveClippingState",
    "ClippedGrads",
    "adaptive_clipping",
    "clipped_mean_grads",
]

NORMS = Want(mean=False, variance=False, norms=True)
MEAN = Want(mean=True, variance=False, norms=False)


class ClippedGrads(NamedTuple):
    """The mean of clipped gradients, and what was clipped."""

    grads: Params  # a tree like params, in its dtypes
    loss: torch.Tensor  # shape (): the mean loss; it is not private
    norms: Any  # (B,): the norms before clipping; a tree of them where leaves are clipped by themselves


def clipped_mean_grads(
    example_loss: ExampleLoss,
    max_norm: Any,
    noise_multiplier: Any = 0.0,
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

    Sensitivity: with one example added or taken away the sum changes by at most ``max_norm`` in norm,
    whatever the example; so with batches drawn by Poisson sampling each call is one subsampled Gaussian
    mechanism of noise multiplier ``noise_multiplier``, as accountants understand it.

    The gradients are never all held: one pass gives their norms, and from what it left the clipped sum is
    formed. ``method`` and ``chunk_size`` (a microbatch: examples in memory at a time) are those of
    :func:`gradient_moments`. ``key`` is a key of :mod:`pure_sgd.random`, a new one for each call.
    Sources: Abadi et al. 2016, arXiv:1607.00133; the norms: Goodfellow 2015, arXiv:1510.01799.

    Raises:
        PureSGDError: a ``max_norm`` that is not positive, a negative ``noise_multiplier``, noise without a
            key, or what :func:`gradient_moments` refuses.

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

    def clipped(params: Params, batch: Batch, key: torch.Tensor | None = None) -> ClippedGrads:
        if key is None and not silent:
            raise PureSGDError(where, "key is None, and noise is to be drawn", "Pass f(params, batch, key)")
        count = tree.batch_length(batch, "batch")
        bounds = _bounds(max_norm, params)
        clips = [
            _clip(example_gradients(example_loss, params, part, method), bounds)
            for part in _parts(batch, count, chunk_size)
        ]
        total = [_added(leaf) for leaf in zip(*(clip.total for clip in clips), strict=True)]
        if not silent:
            total = _noisy(total, key, noise_multiplier * _added([b * b for b in bounds]) ** 0.5)
        leaves, rebuild = tree.flatten(params)
        divisor = count if expected_batch_size is None else expected_batch_size
        norms = [torch.cat(parts) for parts in zip(*(clip.norms for clip in clips), strict=True)]
        return ClippedGrads(
            rebuild([(t / divisor).to(p.dtype) for t, p in zip(total, leaves, strict=True)]),
            torch.cat([clip.losses for clip in clips]).mean(),
            norms[0] if _is_one(max_norm) else rebuild(norms),
        )

    return clipped


class AdaptiveClippingState(NamedTuple):
    """The bound of the next step."""

    max_norm: torch.Tensor  # shape ()


class AdaptiveClipping(NamedTuple):
    """A pure pair: ``init(max_norm) -> state`` and ``update(norms, state, key=None) -> state``."""

    init: Callable[[Any], AdaptiveClippingState]
    update: Callable[..., AdaptiveClippingState]


def adaptive_clipping(
    target_quantile: Any = 0.5,
    learning_rate: Any = 0.2,
    noise_multiplier: Any = 0.0,
    *,
    expected_batch_size: float | None = None,
) -> AdaptiveClipping:
    """A clipping bound that follows a quantile of the gradient norms, geometrically.

        share    = (number of norms <= max_norm + noise_multiplier * normal) / B
        max_norm = max_norm * exp(-learning_rate * (share - target_quantile))

    ``update`` takes the norms that :func:`clipped_mean_grads` returns; the bound of the next step is
    ``state.max_norm``. The number has a sensitivity of 1: with ``noise_multiplier`` (of which little is
    needed) and a ``key`` the bound is private too. ``B`` is ``expected_batch_size`` if given.
    Source: Andrew et al. 2021, arXiv:1905.03871.

    Raises:
        PureSGDError: a quantile outside [0, 1], a bound or a learning rate that is not positive, a negative
            ``noise_multiplier``, or noise without a key.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> clipping = ps.adaptive_clipping(target_quantile=0.5)
        >>> state = clipping.init(1.0)
        >>> clipping.update(torch.tensor([0.2, 0.4, 0.6]), state)  # all below: the bound falls
        AdaptiveClippingState(max_norm=tensor(0.9048))
    """
    where = "adaptive_clipping"
    check_hyperparameter(where, "target_quantile", target_quantile, low=0, high=1)
    check_hyperparameter(where, "learning_rate", learning_rate, low=0, open_low=True)
    check_hyperparameter(where, "noise_multiplier", noise_multiplier, low=0)
    silent = not isinstance(noise_multiplier, torch.Tensor) and noise_multiplier == 0

    def init(max_norm: Any) -> AdaptiveClippingState:
        check_hyperparameter(where, "max_norm", max_norm, low=0, open_low=True)
        return AdaptiveClippingState(torch.as_tensor(max_norm, dtype=torch.float32).clone())

    def update(
        norms: torch.Tensor, state: AdaptiveClippingState, key: torch.Tensor | None = None
    ) -> AdaptiveClippingState:
        below = (norms <= state.max_norm).to(state.max_norm.dtype).sum()
        if not silent:
            if key is None:
                raise PureSGDError(where, "key is None, and noise is to be drawn", "Pass a key")
            below = below + noise_multiplier * random.normal(key)
        share = below / (len(norms) if expected_batch_size is None else expected_batch_size)
        factor = torch.exp(-learning_rate * (share - target_quantile))
        return AdaptiveClippingState((state.max_norm * factor).to(state.max_norm.dtype))

    return AdaptiveClipping(init, update)


class _Clip(NamedTuple):
    """Of some of the examples."""

    losses: torch.Tensor  # (B,)
    norms: list[torch.Tensor]  # (B,) for each bound
    total: list[torch.Tensor]  # (*P) for each leaf: the sum of the clipped gradients


def _clip(gradients: ExampleGradients, bounds: list[Any]) -> _Clip:
    """Clip to one bound, the norm over all leaves, or to one for each leaf."""
    found = gradients.sums(NORMS)
    squares = [leaf.norms for leaf in found.leaves if leaf.norms is not None]
    together = len(bounds) == 1
    norms = [square.sqrt() for square in ([_added(squares)] if together else squares)]
    # A norm of 0 makes this infinite, and the weight 1.
    weights = [(bound / norm).clamp(max=1) for bound, norm in zip(bounds, norms, strict=True)]
    scaled = gradients.scaled(weights * len(squares) if together else weights)
    means = [leaf.mean for leaf in scaled.sums(MEAN).leaves if leaf.mean is not None]
    return _Clip(found.losses, norms, [mean * len(found.losses) for mean in means])


def _is_one(max_norm: Any) -> bool:
    """Whether the bound is for all leaves together."""
    return isinstance(max_norm, (int, float, torch.Tensor))


def _bounds(max_norm: Any, params: Params) -> list[Any]:
    """One bound for all leaves together, or one for each."""
    if _is_one(max_norm):
        return [max_norm]
    if tree.structure(max_norm) != tree.structure(params):
        raise PureSGDError(
            "max_norm", "is a tree of another structure than params", "Pass a number, or one for each leaf"
        )
    return tree.leaves(max_norm)


def _parts(batch: Batch, count: int, chunk_size: int | None) -> list[Batch]:
    if chunk_size is None or chunk_size >= count:
        return [batch]
    return [sliced(batch, start, min(start + chunk_size, count)) for start in range(0, count, chunk_size)]


def _noisy(total: list[torch.Tensor], key: Any, deviation: Any) -> list[torch.Tensor]:
    keys = random.split(key, max(len(total), 1)).unbind()
    return [
        leaf + deviation * random.normal(leaf_key, leaf.shape, leaf.dtype)
        for leaf, leaf_key in zip(total, keys, strict=False)
    ]


def _added(terms: Sequence[Any]) -> Any:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
