"""Optimizers that follow signs: sign descent, Signum, Lion and Rprop."""

from __future__ import annotations

from typing import Any

from ..arguments import factory
from ..transforms import (
    GradientTransformation,
    Hyperparameter,
    add_decayed_weights,
    chain,
    ema,
    scale,
    scale_by_learning_rate,
    scale_by_lion,
    scale_by_rprop,
    scale_by_sign,
)

__all__ = ["lion", "rprop", "sign_sgd", "signum"]


@factory
def sign_sgd(learning_rate: Hyperparameter) -> GradientTransformation:
    """Sign descent: every coordinate moves by the learning rate.

        params = params - learning_rate * sign(grads)

    Source: Bernstein et al. 2018, arXiv:1802.04434.

    Raises:
        PureSGDError: a negative learning rate.

    Example:
        >>> import pure_sgd as ps
        >>> ps.sign_sgd(1e-3)
        chain(scale_by_sign(), scale_by_learning_rate(0.001))
    """
    return chain(scale_by_sign(), scale_by_learning_rate(learning_rate))


@factory
def signum(
    learning_rate: Hyperparameter, beta: Hyperparameter = 0.9, accumulator_dtype: Any = None
) -> GradientTransformation:
    """Sign descent along the exponential moving average of the gradients.

    Source: Bernstein et al. 2018, arXiv:1802.04434.

    Raises:
        PureSGDError: a negative learning rate, or ``beta`` outside [0, 1).

    Example:
        >>> import pure_sgd as ps
        >>> ps.signum(1e-3)
        chain(ema(0.9, debias=False), scale_by_sign(), scale_by_learning_rate(0.001))
    """
    return chain(
        ema(beta, debias=False, accumulator_dtype=accumulator_dtype),
        scale_by_sign(),
        scale_by_learning_rate(learning_rate),
    )


@factory
def lion(
    learning_rate: Hyperparameter,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.99,
    mu_dtype: Any = None,
    weight_decay: Hyperparameter = 1e-3,
    mask: Any = None,
) -> GradientTransformation:
    """Lion: the sign of a mixed momentum, with decoupled weight decay on the leaves that ``mask`` picks.

    The learning rate is to be three to ten times smaller than Adam's, the decay larger by as much.
    Source: Chen et al. 2023, arXiv:2302.06675.

    Raises:
        PureSGDError: a negative learning rate or weight decay, or ``b1``, ``b2`` outside [0, 1).

    Example:
        >>> import pure_sgd as ps
        >>> ps.lion(1e-4)
        chain(scale_by_lion(), add_decayed_weights(0.001), scale_by_learning_rate(0.0001))
    """
    return chain(
        scale_by_lion(b1, b2, mu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@factory
def rprop(
    learning_rate: Hyperparameter,
    eta_minus: Hyperparameter = 0.5,
    eta_plus: Hyperparameter = 1.2,
    min_step_size: Hyperparameter = 1e-6,
    max_step_size: Hyperparameter = 50.0,
) -> GradientTransformation:
    """Rprop: step sizes of their own for all coordinates, which begin at ``learning_rate``.

    The rule of ``torch.optim.Rprop``; Optax's comes one step late. ``learning_rate`` is where the
    step sizes begin: of a schedule only the value at step 0 counts.
    Source: Riedmiller and Braun 1993, doi:10.1109/ICNN.1993.298623.

    Raises:
        PureSGDError: as :func:`scale_by_rprop`.

    Example:
        >>> import pure_sgd as ps
        >>> ps.rprop(0.01)
        chain(scale_by_rprop(0.01), scale(-1.0))
    """
    return chain(
        scale_by_rprop(learning_rate, eta_minus, eta_plus, min_step_size, max_step_size), scale(-1.0)
    )
