"""Optimizers that divide by the root of a second moment and keep no first one."""

from __future__ import annotations

from typing import Any

from ..arguments import factory
from ..errors import PureSGDError
from ..schedules import inverse_time_decay_schedule
from ..transforms import (
    GradientTransformation,
    Hyperparameter,
    add_decayed_weights,
    chain,
    scale_by_adadelta,
    scale_by_learning_rate,
    scale_by_rms,
    scale_by_rss,
    scale_by_stddev,
    trace,
)

__all__ = ["adadelta", "adagrad", "rmsprop"]


@factory
def rmsprop(
    learning_rate: Hyperparameter,
    decay: Hyperparameter = 0.9,
    eps: Hyperparameter = 1e-8,
    initial_scale: Hyperparameter = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: Hyperparameter | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
    *,
    lr_in_momentum: bool = True,
    weight_decay: Hyperparameter | None = None,
    mask: Any = None,
) -> GradientTransformation:
    """RMSprop: :func:`scale_by_rms` (``centered``: :func:`scale_by_stddev`), the learning rate, momentum.

    The default is Optax's rule. That of ``torch.optim.RMSprop`` has ``eps_in_sqrt=False``,
    ``lr_in_momentum=False`` (the learning rate comes after the momentum, which matters when it changes)
    and a decay of 0.99. ``weight_decay * params`` is added to the gradients, as in torch, on the leaves
    that ``mask`` picks. Sources: Tieleman and Hinton 2012, Coursera lecture 6.5; Graves 2013,
    arXiv:1308.0850.

    Raises:
        PureSGDError: a negative learning rate, eps, initial scale or weight decay, a decay or momentum
            outside [0, 1), or Nesterov without momentum.

    Example:
        >>> import pure_sgd as ps
        >>> ps.rmsprop(1e-2, momentum=0.9)
        chain(scale_by_rms(), scale_by_learning_rate(0.01), trace(0.9))
    """
    if nesterov and momentum is None:
        raise PureSGDError("rmsprop", "nesterov=True without momentum", "Pass momentum=0.9, say")
    decayed = () if weight_decay is None else (add_decayed_weights(weight_decay, mask),)
    rule = scale_by_stddev if centered else scale_by_rms
    rate = scale_by_learning_rate(learning_rate)
    memory = () if momentum is None else (trace(momentum, nesterov),)
    tail = (rate, *memory) if lr_in_momentum else (*memory, rate)
    return chain(*decayed, rule(decay, eps, initial_scale, eps_in_sqrt, bias_correction), *tail)


@factory
def adagrad(
    learning_rate: Hyperparameter,
    initial_accumulator_value: Hyperparameter = 0.1,
    eps: Hyperparameter = 1e-7,
    *,
    eps_in_sqrt: bool = True,
    lr_decay: Hyperparameter | None = None,
    weight_decay: Hyperparameter | None = None,
    mask: Any = None,
) -> GradientTransformation:
    """Adagrad: :func:`scale_by_rss`, then the learning rate, divided by ``1 + lr_decay * step``.

    The default is Optax's rule. That of ``torch.optim.Adagrad`` is ``adagrad(lr, 0.0, 1e-10,
    eps_in_sqrt=False, lr_decay=lr_decay, weight_decay=weight_decay)``; ``weight_decay * params`` is added
    to the gradients of the leaves that ``mask`` picks. :func:`learning_rate` is the decayed one.
    Source: Duchi, Hazan and Singer 2011, https://jmlr.org/papers/v12/duchi11a.html.

    Raises:
        PureSGDError: a negative learning rate, accumulator, eps, ``lr_decay`` or weight decay.

    Example:
        >>> import pure_sgd as ps
        >>> ps.adagrad(1e-2)
        chain(scale_by_rss(), scale_by_learning_rate(0.01))
    """
    decayed = () if weight_decay is None else (add_decayed_weights(weight_decay, mask),)
    rule = scale_by_rss(initial_accumulator_value, eps, eps_in_sqrt=eps_in_sqrt)
    rates = (scale_by_learning_rate(learning_rate),)
    if lr_decay is not None:
        # A rate of its own, and no scale: the learning rate of the chain is the product of both.
        slower = inverse_time_decay_schedule(1.0, lr_decay)
        rates = (*rates, scale_by_learning_rate(slower, flip_sign=False))
    return chain(*decayed, rule, *rates)


@factory
def adadelta(
    learning_rate: Hyperparameter | None = None,
    rho: Hyperparameter = 0.9,
    eps: Hyperparameter = 1e-6,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Any = None,
) -> GradientTransformation:
    """Adadelta: ``weight_decay * params`` joins the gradients, :func:`scale_by_adadelta`, the learning rate.

    The rule of ``torch.optim.Adadelta``. No learning rate is one of 1, as in the paper and in torch; without
    one Optax forgets the sign as well and climbs. Source: Zeiler 2012, arXiv:1212.5701.

    Raises:
        PureSGDError: a negative learning rate, eps or weight decay, or ``rho`` outside [0, 1).

    Example:
        >>> import pure_sgd as ps
        >>> ps.adadelta()
        chain(add_decayed_weights(), scale_by_adadelta(), scale_by_learning_rate(1.0))
    """
    return chain(
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_adadelta(rho, eps),
        scale_by_learning_rate(1.0 if learning_rate is None else learning_rate),
    )
