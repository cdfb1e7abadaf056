"""A clipping bound that finds its own size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from .. import random
from ..arguments import typed
from ..errors import PureSGDError, check_hyperparameter

__all__ = ["AdaptiveClipping", "AdaptiveClippingState", "adaptive_clipping"]


class AdaptiveClippingState(NamedTuple):
    """The bound of the next step."""

    max_norm: torch.Tensor  # shape ()


class AdaptiveClipping(NamedTuple):
    """A pure pair: ``init(max_norm) -> state`` and ``update(norms, state, key=None) -> state``."""

    init: Callable[[Any], AdaptiveClippingState]
    update: Callable[..., AdaptiveClippingState]


@typed
def adaptive_clipping(
    target_quantile: float | torch.Tensor = 0.5,
    learning_rate: float | torch.Tensor = 0.2,
    noise_multiplier: float | torch.Tensor = 0.0,
    *,
    expected_batch_size: float | None = None,
) -> AdaptiveClipping:
    """A clipping bound that follows a quantile of the gradient norms, geometrically.

        count    = sum_i (1 if norms[i] <= max_norm else 0) - 1/2
        share    = (count + noise_multiplier * normal / 2) / B + 1/2
        max_norm = max_norm * exp(-learning_rate * (share - target_quantile))

    ``update`` takes the norms that :func:`clipped_mean_grads` returns; the bound of the next step is
    ``state.max_norm``. ``count`` has a sensitivity of 1/2: with ``noise_multiplier`` and a ``key`` the bound
    is private too. ``B`` is ``expected_batch_size`` if given.
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

    def init(max_norm: float | torch.Tensor) -> AdaptiveClippingState:
        check_hyperparameter(where, "max_norm", max_norm, low=0, open_low=True)
        return AdaptiveClippingState(torch.as_tensor(max_norm, dtype=torch.float32).clone())

    def update(
        norms: torch.Tensor, state: AdaptiveClippingState, key: torch.Tensor | None = None
    ) -> AdaptiveClippingState:
        count = ((norms <= state.max_norm).to(state.max_norm.dtype) - 0.5).sum()
        if not silent:
            if key is None:
                raise PureSGDError(where, "key is None, and noise is to be drawn", "Pass a key")
            count = count + noise_multiplier * random.normal(key) / 2
        share = count / (len(norms) if expected_batch_size is None else expected_batch_size) + 0.5
        factor = torch.exp(-learning_rate * (share - target_quantile))
        return AdaptiveClippingState((state.max_norm * factor).to(state.max_norm.dtype))

    return AdaptiveClipping(init, update)
