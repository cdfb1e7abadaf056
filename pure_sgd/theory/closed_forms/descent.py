"""SGD itself: its rate, the noise ball around the optimum, and how a falling learning rate shrinks it."""

from __future__ import annotations

import torch

from ...arguments import typed
from .numbers import Numbers, geometric_sum, not_negative, positive

__all__ = [
    "inverse_time_decay_variance",
    "noise_ball_radius",
    "sgd_convergence_rate",
    "sgd_variance",
]


@typed
def sgd_convergence_rate(learning_rate: Numbers, curvature: Numbers) -> torch.Tensor:
    """What one step of SGD multiplies the expected error by.

        rate = |1 - learning_rate * h|                              E w_k = (1 - learning_rate * h)**k * w_0

    The expectation of a step is linear and its noise has mean 0. SGD is stable for
    ``0 < learning_rate * h < 2``.
    Source: Zhang et al. 2019, arXiv:1907.04164.

    Raises:
        PureSGDError: a learning rate or curvature that is not positive.

    Example:
        >>> import pure_sgd as ps
        >>> ps.theory.sgd_convergence_rate(0.1, 2.0)
        tensor(0.8000, dtype=torch.float64)
    """
    rate, h = positive("sgd_convergence_rate", learning_rate=learning_rate, curvature=curvature)
    return (1 - rate * h).abs()


@typed
def sgd_variance(
    learning_rate: Numbers, curvature: Numbers, noise: Numbers, steps: Numbers | None = None
) -> torch.Tensor:
    """The variance of the parameter after ``steps`` steps of SGD, without them in the long run.

        variance = learning_rate * c / (h * (2 - learning_rate * h))                     in the long run
        variance * (1 - (1 - learning_rate * h)**(2 * steps))                            after steps

    It obeys v = (1 - learning_rate * h)**2 * v + learning_rate**2 * c, which begins at 0. With the mean it
    gives the risk, h / 2 * (mean**2 + variance). Stable for ``learning_rate * h < 2``.
    Source: Zhang et al. 2019, arXiv:1907.04164.

    Raises:
        PureSGDError: a learning rate or curvature that is not positive, or negative noise or steps.

    Example:
        >>> import pure_sgd as ps
        >>> ps.theory.sgd_variance(0.5, 1.0, noise=3.0)
        tensor(1., dtype=torch.float64)
    """
    rate, h = positive("sgd_variance", learning_rate=learning_rate, curvature=curvature)
    (c,) = not_negative("sgd_variance", noise=noise)
    return rate**2 * c * geometric_sum((1 - rate * h) ** 2, steps)


@typed
def noise_ball_radius(
    learning_rate: Numbers, curvature: Numbers, noise: Numbers, batch_size: Numbers = 1
) -> torch.Tensor:
    """How far from the optimum SGD stays: the root mean square distance in the long run.

        radius = sqrt(learning_rate / b) * sqrt(c / (h * (2 - learning_rate * h)))

    ``noise`` is that of one example here, and ``b`` the batch size. It is the root of :func:`sgd_variance`.
    The second factor hardly depends on a small learning rate, hence the law sqrt(learning_rate / b). Over
    several directions the squares add up.

    Raises:
        PureSGDError: a learning rate, curvature or batch size that is not positive, or negative noise.

    Example:
        >>> import pure_sgd as ps
        >>> ps.theory.noise_ball_radius(0.5, 1.0, noise=12.0, batch_size=4)
        tensor(1., dtype=torch.float64)
    """
    (b,) = positive("noise_ball_radius", batch_size=batch_size)
    (c,) = not_negative("noise_ball_radius", noise=noise)
    return sgd_variance(learning_rate, curvature, c / b).sqrt()


@typed
def inverse_time_decay_variance(
    learning_rate: Numbers, decay_rate: Numbers, curvature: Numbers, noise: Numbers, steps: Numbers
) -> torch.Tensor:
    """What many steps of SGD at the rate ``learning_rate / (1 + decay_rate * k)`` leave of the variance.

        variance = (a / h)**2 * c / ((2 * a - 1) * steps)              a = learning_rate * h / decay_rate

    The leading term, for a > 1/2: v_{k+1} = (1 - a / k)**2 * v_k + (a / (h * k))**2 * c, and v_k = v / k
    solves it up to terms in 1 / k**2 for v * (2 * a - 1) = (a / h)**2 * c. What is left of the start falls as
    steps**(-2 * a), faster. It is least, c / (h**2 * steps), for ``decay_rate = learning_rate * h``: the
    best that any method reaches. For a <= 1/2, a ``decay_rate`` of ``2 * learning_rate * h`` or more, nothing
    falls as 1 / steps, and the result is infinite.
    Source: Robbins and Monro 1951, doi:10.1214/aoms/1177729586; Chung 1954, doi:10.1214/aoms/1177728716.

    Raises:
        PureSGDError: negative noise, or another argument that is not positive.

    Example:
        >>> import pure_sgd as ps
        >>> ps.theory.inverse_time_decay_variance(1.0, 1.0, 1.0, noise=3.0, steps=300)
        tensor(0.0100, dtype=torch.float64)
    """
    where = "inverse_time_decay_variance"
    rate, decay = positive(where, learning_rate=learning_rate, decay_rate=decay_rate)
    h, k = positive(where, curvature=curvature, steps=steps)
    (c,) = not_negative(where, noise=noise)
    a = rate * h / decay
    return torch.where(2 * a > 1, (rate / decay) ** 2 * c / ((2 * a - 1) * k), torch.inf)
