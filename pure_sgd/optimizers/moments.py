"""Optimizers with another second moment than Adam's: AdaBelief, ACProp, Yogi, RAdam, NovoGrad, Adan."""

from __future__ import annotations

from typing import Any

from ..arguments import factory
from ..transforms import (
    GradientTransformation,
    Hyperparameter,
    add_decayed_weights,
    chain,
    scale_by_acprop,
    scale_by_adan,
    scale_by_belief,
    scale_by_learning_rate,
    scale_by_novograd,
    scale_by_radam,
    scale_by_yogi,
)

__all__ = ["acprop", "adabelief", "adan", "novograd", "radam", "yogi"]


@factory
def adabelief(
    learning_rate: Hyperparameter,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-16,
    eps_root: Hyperparameter = 1e-16,
    weight_decay: Hyperparameter | None = None,
    weight_decay_mask: Any = None,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    """AdaBelief: :func:`scale_by_belief`, decoupled weight decay where asked for, the learning rate.

    Source: Zhuang et al. 2020, arXiv:2010.07468.

    Raises:
        PureSGDError: a negative learning rate, eps or weight decay, or ``b1``, ``b2`` outside [0, 1).

    Example:
        >>> import pure_sgd as ps
        >>> ps.adabelief(1e-3)
        chain(scale_by_belief(), scale_by_learning_rate(0.001))
    """
    decayed = () if weight_decay is None else (add_decayed_weights(weight_decay, weight_decay_mask),)
    rule = scale_by_belief(b1, b2, eps, eps_root, nesterov=nesterov)
    return chain(rule, *decayed, scale_by_learning_rate(learning_rate))


@factory
def acprop(
    learning_rate: Hyperparameter,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-16,
    eps_root: Hyperparameter = 1e-16,
    weight_decay: Hyperparameter = 0.0,
    mask: Any = None,
) -> GradientTransformation:
    """ACProp: :func:`scale_by_acprop`, decoupled weight decay, the learning rate.

    Source: Zhuang et al. 2021, arXiv:2110.05454.

    Raises:
        PureSGDError: a negative learning rate, eps or weight decay, or ``b1``, ``b2`` outside [0, 1).

    Example:
        >>> import pure_sgd as ps
        >>> ps.acprop(1e-3)
        chain(scale_by_acprop(), add_decayed_weights(), scale_by_learning_rate(0.001))
    """
    return chain(
        scale_by_acprop(b1, b2, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@factory
def yogi(
    learning_rate: Hyperparameter,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-3,
) -> GradientTransformation:
    """Yogi: :func:`scale_by_yogi`, then the learning rate.

    Optax's moves along a gradient of zero; this one does not.
    Source: Zaheer et al. 2018, https://papers.nips.cc/paper/8186.

    Raises:
        PureSGDError: a negative learning rate or eps, or ``b1``, ``b2`` outside [0, 1).

    Example:
        >>> import pure_sgd as ps
        >>> ps.yogi(1e-2)
        chain(scale_by_yogi(), scale_by_learning_rate(0.01))
    """
    return chain(scale_by_yogi(b1, b2, eps), scale_by_learning_rate(learning_rate))


@factory
def radam(
    learning_rate: Hyperparameter,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-8,
    eps_root: Hyperparameter = 0.0,
    threshold: Hyperparameter = 5.0,
    *,
    nesterov: bool = False,
    eps_before_correction: bool = False,
    weight_decay: Hyperparameter | None = None,
    mask: Any = None,
    decoupled_weight_decay: bool = False,
) -> GradientTransformation:
    """RAdam: :func:`scale_by_radam`, then the learning rate.

    The default is Optax's rule; ``eps_before_correction`` gives that of ``torch.optim.RAdam``, and so do
    its ``weight_decay``, on the leaves that ``mask`` picks, and ``decoupled_weight_decay``: with it the decay
    comes after the rule, without it before. Source: Liu et al. 2020, arXiv:1908.03265.

    Raises:
        PureSGDError: a negative learning rate, eps or weight decay, ``b1`` or ``b2`` outside [0, 1), or a
            threshold below 4.

    Example:
        >>> import pure_sgd as ps
        >>> ps.radam(1e-3)
        chain(scale_by_radam(), scale_by_learning_rate(0.001))
    """
    decayed = () if weight_decay is None else (add_decayed_weights(weight_decay, mask),)
    rule = scale_by_radam(
        b1, b2, eps, eps_root, threshold, nesterov=nesterov, eps_before_correction=eps_before_correction
    )
    adapted = (rule, *decayed) if decoupled_weight_decay else (*decayed, rule)
    return chain(*adapted, scale_by_learning_rate(learning_rate))


@factory
def novograd(
    learning_rate: Hyperparameter,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.25,
    eps: Hyperparameter = 1e-6,
    eps_root: Hyperparameter = 0.0,
    weight_decay: Hyperparameter = 0.0,
) -> GradientTransformation:
    """NovoGrad: :func:`scale_by_novograd`, whose momentum holds the weight decay, then the learning rate.

    Source: Ginsburg et al. 2019, arXiv:1905.11286.

    Raises:
        PureSGDError: a negative learning rate, eps or weight decay, or ``b1``, ``b2`` outside [0, 1).

    Example:
        >>> import pure_sgd as ps
        >>> ps.novograd(1e-2)
        chain(scale_by_novograd(eps=1e-06), scale_by_learning_rate(0.01))
    """
    return chain(
        scale_by_novograd(b1, b2, eps, eps_root, weight_decay), scale_by_learning_rate(learning_rate)
    )


@factory
def adan(
    learning_rate: Hyperparameter,
    b1: Hyperparameter = 0.98,
    b2: Hyperparameter = 0.92,
    b3: Hyperparameter = 0.99,
    eps: Hyperparameter = 1e-8,
    eps_root: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0.0,
    mask: Any = None,
) -> GradientTransformation:
    """Adan: :func:`scale_by_adan`, decoupled weight decay, the learning rate.

    The paper's rule, from which Optax's departs (see there), with Optax's weight decay: the paper divides the
    parameters by ``1 + learning_rate * weight_decay`` instead.
    Source: Xie et al. 2022, arXiv:2208.06677.

    Raises:
        PureSGDError: a negative learning rate, eps or weight decay, or ``b1``, ``b2``, ``b3`` outside [0, 1).

    Example:
        >>> import pure_sgd as ps
        >>> ps.adan(1e-3)
        chain(scale_by_adan(eps_root=1e-08), add_decayed_weights(), scale_by_learning_rate(0.001))
    """
    return chain(
        scale_by_adan(b1, b2, b3, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
