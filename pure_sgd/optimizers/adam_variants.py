"""Optimizers that change one thing in Adam: AMSGrad, Adamax, NAdam."""

from __future__ import annotations

from typing import Any

from ..arguments import factory
from ..errors import PureSGDError
from ..transforms import (
    GradientTransformation,
    Hyperparameter,
    add_decayed_weights,
    chain,
    scale_by_adam,
    scale_by_adamax,
    scale_by_amsgrad,
    scale_by_learning_rate,
    scale_by_nadam,
)

__all__ = ["adamax", "adamaxw", "amsgrad", "nadam", "nadamw"]


@factory
def amsgrad(
    learning_rate: Hyperparameter,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-8,
    eps_root: Hyperparameter = 0.0,
    mu_dtype: Any = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
    *,
    max_before_correction: bool = False,
) -> GradientTransformation:
    """AMSGrad: :func:`scale_by_amsgrad`, then the learning rate.

    The default is Optax's rule, the maximum of the corrected second moments; ``max_before_correction``
    gives that of ``torch.optim.Adam(amsgrad=True)``.
    Source: Reddi, Kale and Kumar 2018, arXiv:1904.09237.

    Raises:
        PureSGDError: a negative learning rate or eps, or ``b1``, ``b2`` outside [0, 1).

    Example:
        >>> import pure_sgd as ps
        >>> ps.amsgrad(1e-3)
        chain(scale_by_amsgrad(), scale_by_learning_rate(0.001))
    """
    return chain(
        scale_by_amsgrad(
            b1,
            b2,
            eps,
            eps_root,
            mu_dtype,
            bias_correction_mu,
            bias_correction_nu,
            max_before_correction=max_before_correction,
        ),
        scale_by_learning_rate(learning_rate),
    )


@factory
def adamax(
    learning_rate: Hyperparameter,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-8,
) -> GradientTransformation:
    """Adamax: :func:`scale_by_adamax`, then the learning rate.

    The rule of Optax and of ``torch.optim.Adamax``. Source: Kingma and Ba 2015, arXiv:1412.6980, section 7.1.

    Raises:
        PureSGDError: a negative learning rate or eps, or ``b1``, ``b2`` outside [0, 1).

    Example:
        >>> import pure_sgd as ps
        >>> ps.adamax(1e-3)
        chain(scale_by_adamax(), scale_by_learning_rate(0.001))
    """
    return chain(scale_by_adamax(b1, b2, eps), scale_by_learning_rate(learning_rate))


@factory
def adamaxw(
    learning_rate: Hyperparameter,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 1e-4,
    mask: Any = None,
) -> GradientTransformation:
    """Adamax with decoupled weight decay on the leaves that ``mask`` picks.

        params = params - learning_rate * (adamax + weight_decay * params)

    Source: Loshchilov and Hutter 2019, arXiv:1711.05101.

    Raises:
        PureSGDError: as :func:`adamax`, and for a negative weight decay.

    Example:
        >>> import pure_sgd as ps
        >>> ps.adamaxw(1e-3, weight_decay=0.01)
        chain(scale_by_adamax(), add_decayed_weights(0.01), scale_by_learning_rate(0.001))
    """
    return chain(
        scale_by_adamax(b1, b2, eps),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@factory
def nadam(
    learning_rate: Hyperparameter,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-8,
    eps_root: Hyperparameter = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    momentum_decay: Hyperparameter | None = None,
) -> GradientTransformation:
    """NAdam, Adam with Nesterov's look ahead, then the learning rate.

    The default is Optax's rule, :func:`scale_by_adam` with ``nesterov``. With ``momentum_decay`` it is that
    of ``torch.optim.NAdam``, :func:`scale_by_nadam`, whose momentum warms up; torch's default is 4e-3.
    Source: Dozat 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ.

    Raises:
        PureSGDError: a negative learning rate, eps or ``momentum_decay``, ``b1`` or ``b2`` outside [0, 1),
            or ``momentum_decay`` with ``nesterov=False``.

    Example:
        >>> import pure_sgd as ps
        >>> ps.nadam(1e-3)
        chain(scale_by_adam(nesterov=True), scale_by_learning_rate(0.001))
        >>> ps.nadam(1e-3, momentum_decay=4e-3)
        chain(scale_by_nadam(), scale_by_learning_rate(0.001))
    """
    rule = _nadam_rule("nadam", b1, b2, eps, eps_root, mu_dtype, nesterov, momentum_decay)
    return chain(rule, scale_by_learning_rate(learning_rate))


@factory
def nadamw(
    learning_rate: Hyperparameter,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-8,
    eps_root: Hyperparameter = 0.0,
    mu_dtype: Any = None,
    weight_decay: Hyperparameter = 1e-4,
    mask: Any = None,
    *,
    nesterov: bool = True,
    momentum_decay: Hyperparameter | None = None,
) -> GradientTransformation:
    """NAdam with decoupled weight decay on the leaves that ``mask`` picks.

        params = params - learning_rate * (nadam + weight_decay * params)

    With ``momentum_decay`` the rule of ``torch.optim.NAdam(decoupled_weight_decay=True)``.
    Source: Loshchilov and Hutter 2019, arXiv:1711.05101.

    Raises:
        PureSGDError: as :func:`nadam`, and for a negative weight decay.

    Example:
        >>> import pure_sgd as ps
        >>> ps.nadamw(1e-3, weight_decay=0.01)
        chain(scale_by_adam(nesterov=True), add_decayed_weights(0.01), scale_by_learning_rate(0.001))
    """
    return chain(
        _nadam_rule("nadamw", b1, b2, eps, eps_root, mu_dtype, nesterov, momentum_decay),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


def _nadam_rule(
    where: str,
    b1: Hyperparameter,
    b2: Hyperparameter,
    eps: Hyperparameter,
    eps_root: Hyperparameter,
    mu_dtype: Any,
    nesterov: bool,
    momentum_decay: Hyperparameter | None,
) -> GradientTransformation:
    if momentum_decay is None:
        return scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)
    if not nesterov:
        raise PureSGDError(
            where, f"momentum_decay={momentum_decay} without nesterov", "Leave one of them at its default"
        )
    return scale_by_nadam(b1, b2, eps, eps_root, mu_dtype, momentum_decay=momentum_decay)
