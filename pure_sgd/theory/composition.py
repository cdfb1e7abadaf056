"""What steps do to mean and covariance, one after the other: many of them are again as one."""

from __future__ import annotations

from typing import NamedTuple

import torch

__all__ = ["Motion", "composed", "motions", "repeated", "then"]


class Motion(NamedTuple):
    """What happens to a mean and a covariance: ``m = A m``, ``S = A S A^T + spread``, A the transition."""

    transition: torch.Tensor  # (..., n, k, k)
    spread: torch.Tensor  # (..., n, k, k)


def motions(transition: torch.Tensor, noise: torch.Tensor, variance: torch.Tensor) -> Motion:
    """The motions of linear steps (..., n, k, k) whose gradients have noise of ``variance`` (n,).

    Example:
        >>> import torch
        >>> from pure_sgd.theory.composition import motions
        >>> motions(torch.ones(1, 1, 1), torch.tensor([[0.5]]), torch.tensor([4.0])).spread
        tensor([[[1.]]])
    """
    return Motion(transition, noise[..., :, None] * noise[..., None, :] * variance[:, None, None])


def then(first: Motion, second: Motion) -> Motion:
    """Both, one after the other.

    Example:
        >>> import torch
        >>> from pure_sgd.theory.composition import Motion, then
        >>> halved = Motion(torch.full((1, 1, 1), 0.5), torch.ones(1, 1, 1))
        >>> then(halved, halved)
        Motion(transition=tensor([[[0.2500]]]), spread=tensor([[[1.2500]]]))
    """
    spread = second.transition @ first.spread @ second.transition.mT + second.spread
    return Motion(second.transition @ first.transition, spread)


def repeated(motion: Motion, times: int) -> Motion:
    """The same motion ``times`` times, in about ``2 log2(times)`` compositions.

    Example:
        >>> import torch
        >>> from pure_sgd.theory.composition import Motion, repeated
        >>> repeated(Motion(torch.full((1, 1, 1), 2.0), torch.ones(1, 1, 1)), 3)
        Motion(transition=tensor([[[8.]]]), spread=tensor([[[21.]]]))
    """
    result = None
    while True:
        if times & 1:
            result = motion if result is None else then(result, motion)
        times >>= 1
        if not times:
            return motion if result is None else result
        motion = then(motion, motion)


def composed(stacked: Motion) -> Motion:
    """All motions along the leading axis, the first one first.

    Example:
        >>> import torch
        >>> from pure_sgd.theory.composition import Motion, composed
        >>> composed(Motion(torch.tensor([2.0, 3.0, 5.0]).reshape(3, 1, 1, 1), torch.zeros(3, 1, 1, 1)))
        Motion(transition=tensor([[[30.]]]), spread=tensor([[[0.]]]))
    """
    while len(stacked.transition) > 1:
        even = len(stacked.transition) // 2 * 2
        paired = then(Motion(*(x[0:even:2] for x in stacked)), Motion(*(x[1:even:2] for x in stacked)))
        rest = (x[even:] for x in stacked)
        stacked = Motion(*(torch.cat(pair) for pair in zip(paired, rest, strict=True)))
    return Motion(*(x[0] for x in stacked))
