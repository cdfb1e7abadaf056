"""Signal against noise in per-example gradients: how far examples agree on the way to go."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from ... import tree
from ...arguments import typed
from ..moments import GradientMoments

__all__ = [
    "SignalToNoise",
    "empirical_fisher_diagonal",
    "gradient_diversity",
    "gradient_signal_to_noise",
]


class SignalToNoise(NamedTuple):
    """The squared mean gradient over its variance, at three resolutions."""

    parameters: Any  # a tree like params, of leaves P
    leaves: Any  # a tree like params, of shape () each
    tree: torch.Tensor  # shape ()


@typed
def gradient_signal_to_noise(moments: GradientMoments) -> SignalToNoise:
    """The gradient signal-to-noise ratio of every parameter, every leaf and the whole tree.

        parameters = mean**2 / variance
        leaves     = |mean|**2 / sum of variance              over the leaf
        tree       = |mean|**2 / sum of variance              over all leaves

    Of single examples: a batch of ``b`` has ``b`` times as much. It is 0 where the mean is 0 and infinite
    where the examples agree. It has a bias of 1 / B, since the mean is itself measured on B examples.
    Source: Liu et al. 2020, arXiv:2001.07384, definition 2.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> mean, variance = torch.tensor([3.0, 0.0]), torch.tensor([4.0, 5.0])
        >>> moments = ps.GradientMoments(torch.tensor(8), torch.tensor(0.0), mean, variance)
        >>> ps.gradient_signal_to_noise(moments)
        SignalToNoise(parameters=tensor([2.2500, 0.0000]), leaves=tensor(1.), tree=tensor(1.))
    """
    mean, variance = moments.mean, moments.variance
    return SignalToNoise(
        tree.map(lambda m, v: _ratio(_sq_magnitude(m), v), mean, variance),
        tree.map(lambda m, v: _ratio(tree.vdot(m, m), v.sum()), mean, variance),
        _ratio(tree.vdot(mean, mean), tree.sum(variance)),
    )


@typed
def gradient_diversity(moments: GradientMoments) -> torch.Tensor:
    """The gradient diversity of a batch: how far its gradients point different ways, shape ``()``.

        diversity = sum_i |g_i|**2 / |sum_i g_i|**2                    from 1 / B, if all agree, up

    ``B * diversity`` bounds the batch size up to which mini-batch SGD goes as far in an epoch as pure SGD.
    Source: Yin et al. 2018, arXiv:1706.05699, definition 1.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> moments = ps.GradientMoments(torch.tensor(4), torch.tensor(0.0), torch.ones(2), torch.zeros(2))
        >>> ps.gradient_diversity(moments)
        tensor(0.2500)
    """
    squared_mean = tree.vdot(moments.mean, moments.mean)
    sum_of_squares = (moments.count - 1) * tree.sum(moments.variance) + moments.count * squared_mean
    return sum_of_squares / (moments.count**2 * squared_mean)


@typed
def empirical_fisher_diagonal(moments: GradientMoments) -> Any:
    """The diagonal of the empirical Fisher matrix: the mean squared gradient, a tree like ``params``.

        fisher = mean_i g_i**2 = mean**2 + variance * (B - 1) / B

    Exact for this batch. It takes labels as they are; the Fisher matrix itself takes them from the model.
    Source: Kunstner, Balles and Hennig 2019, arXiv:1905.12558.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> moments = ps.GradientMoments(torch.tensor(2), torch.tensor(0.0), torch.ones(2), torch.ones(2))
        >>> ps.empirical_fisher_diagonal(moments)
        tensor([1.5000, 1.5000])
    """
    count = moments.count
    return tree.map(lambda m, v: _sq_magnitude(m) + v * (count - 1) / count, moments.mean, moments.variance)


def _sq_magnitude(mean: torch.Tensor) -> torch.Tensor:
    return mean.abs().square() if mean.is_complex() else tree.widened(mean).square()


def _ratio(signal: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    return torch.where(signal > 0, signal / noise, 0.0)
