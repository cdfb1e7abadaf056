"""Optimizers that find their own learning rate; the one they take scales it, and 1 is meant."""

from __future__ import annotations

from typing import Any

import torch

from ..arguments import factory
from ..transforms import (
    GradientTransformation,
    Hyperparameter,
    add_decayed_weights,
    chain,
    scale,
    scale_by_cocob,
    scale_by_dadapt_adam,
    scale_by_dog,
    scale_by_dowg,
    scale_by_learning_rate,
    scale_by_momo,
    scale_by_momo_adam,
    scale_by_prodigy,
)

__all__ = ["cocob", "dadapt_adamw", "dog", "dowg", "momo", "momo_adam", "prodigy"]


@factory
def cocob(
    learning_rate: Hyperparameter = 1.0,
    alpha: Hyperparameter = 100.0,
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0.0,
    mask: Any = None,
) -> GradientTransformation:
    """COCOB: :func:`scale_by_cocob` of the gradients with their weight decay.

    ``learning_rate`` multiplies the gradients before the rule, as in Optax: a constant makes no difference,
    and a schedule says how much each gradient counts. Source: Orabona and Tommasi 2017, arXiv:1705.07795.

    Raises:
        PureSGDError: a negative learning rate, alpha, eps or weight decay.

    Example:
        >>> import pure_sgd as ps
        >>> ps.cocob()
        chain(add_decayed_weights(), scale_by_learning_rate(1.0, flip_sign=False), scale_by_cocob())
    """
    return chain(
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate, flip_sign=False),
        scale_by_cocob(alpha, eps),
    )


@factory
def dadapt_adamw(
    learning_rate: Hyperparameter = 1.0,
    betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.999),
    eps: Hyperparameter = 1e-8,
    estim_lr0: Hyperparameter = 1e-6,
    weight_decay: Hyperparameter = 0.0,
) -> GradientTransformation:
    """AdamW with D-Adaptation: :func:`scale_by_dadapt_adam` with its decoupled weight decay.

    Source: Defazio and Mishchenko 2023, arXiv:2301.07733.

    Raises:
        PureSGDError: a negative learning rate, eps or weight decay, ``betas`` outside [0, 1), or
            ``estim_lr0=0``.

    Example:
        >>> import pure_sgd as ps
        >>> ps.dadapt_adamw(weight_decay=0.01)
        chain(scale_by_dadapt_adam(weight_decay=0.01), scale(-1.0))
    """
    return chain(scale_by_dadapt_adam(learning_rate, *betas, eps, estim_lr0, weight_decay), scale(-1.0))


@factory
def dog(
    learning_rate: Hyperparameter = 1.0,
    init_step: tuple[str, float | torch.Tensor] = ("heuristic", 1e-6),
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter | None = None,
    mask: Any = None,
) -> GradientTransformation:
    """DoG: :func:`scale_by_dog` of the gradients, with weight decay where asked for.

    Evaluate an average of the parameters, such as :func:`polyak_average`.
    Source: Ivgi et al. 2023, arXiv:2302.12022.

    Raises:
        PureSGDError: a negative learning rate, eps or weight decay, or an ``init_step`` that is no pair of
            a kind and a number.

    Example:
        >>> import pure_sgd as ps
        >>> ps.dog(weight_decay=0.01)
        chain(add_decayed_weights(0.01), scale_by_dog(('heuristic', 1e-06)), scale_by_learning_rate(1.0))
    """
    decayed = () if weight_decay is None else (add_decayed_weights(weight_decay, mask),)
    return chain(*decayed, scale_by_dog(init_step, eps), scale_by_learning_rate(learning_rate))


@factory
def dowg(
    learning_rate: Hyperparameter = 1.0,
    init_estim_sq_dist: Hyperparameter | None = None,
    eps: Hyperparameter = 1e-4,
    weight_decay: Hyperparameter | None = None,
    mask: Any = None,
) -> GradientTransformation:
    """DoWG: :func:`scale_by_dowg` of the gradients, with weight decay where asked for.

    Source: Khaled et al. 2023, arXiv:2305.16284.

    Raises:
        PureSGDError: a negative learning rate, distance, eps or weight decay.

    Example:
        >>> import pure_sgd as ps
        >>> ps.dowg()
        chain(scale_by_dowg(), scale_by_learning_rate(1.0))
    """
    decayed = () if weight_decay is None else (add_decayed_weights(weight_decay, mask),)
    return chain(*decayed, scale_by_dowg(init_estim_sq_dist, eps), scale_by_learning_rate(learning_rate))


@factory
def momo(
    learning_rate: Hyperparameter = 1.0,
    beta: Hyperparameter = 0.9,
    lower_bound: Hyperparameter = 0.0,
    weight_decay: Hyperparameter = 0.0,
    adapt_lower_bound: bool = False,
) -> GradientTransformation:
    """MoMo: momentum with a Polyak step size of at most ``learning_rate``, :func:`scale_by_momo`.

    ``update`` needs the extra argument ``value``, the objective at ``params``. The weight decay is the
    paper's, not Optax's. Source: Schaipp et al. 2023, arXiv:2305.07583.

    Raises:
        PureSGDError: as :func:`scale_by_momo`.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx, params = ps.momo(), torch.tensor([1.0, 2.0, 3.0])
        >>> updates, state = tx.update(2 * params, tx.init(params), params, value=(params**2).sum())
        >>> ps.apply_updates(params, updates)
        tensor([0.5000, 1.0000, 1.5000])
    """
    return chain(
        scale_by_momo(learning_rate, beta, lower_bound, weight_decay, adapt_lower_bound), scale(-1.0)
    )


@factory
def momo_adam(
    learning_rate: Hyperparameter = 1e-2,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-8,
    lower_bound: Hyperparameter = 0.0,
    weight_decay: Hyperparameter = 0.0,
    adapt_lower_bound: bool = False,
) -> GradientTransformation:
    """MoMo-Adam: Adam with a Polyak step size of at most ``learning_rate``, :func:`scale_by_momo_adam`.

    ``update`` needs the extra argument ``value``, the objective at ``params``. The weight decay is the
    paper's, not Optax's. Source: Schaipp et al. 2023, arXiv:2305.07583.

    Raises:
        PureSGDError: as :func:`scale_by_momo_adam`.

    Example:
        >>> import pure_sgd as ps
        >>> ps.momo_adam(weight_decay=0.1)
        chain(scale_by_momo_adam(weight_decay=0.1), scale(-1.0))
    """
    rule = scale_by_momo_adam(learning_rate, b1, b2, eps, lower_bound, weight_decay, adapt_lower_bound)
    return chain(rule, scale(-1.0))


@factory
def prodigy(
    learning_rate: Hyperparameter = 1.0,
    betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.999),
    beta3: Hyperparameter | None = None,
    eps: Hyperparameter = 1e-8,
    estim_lr0: Hyperparameter = 1e-6,
    estim_lr_coef: Hyperparameter = 1.0,
    weight_decay: Hyperparameter = 0.0,
    safeguard_warmup: bool = False,
    weight_decay_mask: Any = None,
) -> GradientTransformation:
    """Prodigy: :func:`scale_by_prodigy` with its decoupled weight decay.

    ``safeguard_warmup`` is for a learning rate that warms up: with it small first rates do not let the
    estimate shoot up. Source: Mishchenko and Defazio 2023, arXiv:2306.06101.

    Raises:
        PureSGDError: a negative learning rate, eps, coefficient or weight decay, ``betas`` or ``beta3``
            outside [0, 1), or ``estim_lr0=0``.

    Example:
        >>> import pure_sgd as ps
        >>> ps.prodigy()
        chain(scale_by_prodigy(), scale(-1.0))
    """
    rule = scale_by_prodigy(
        learning_rate,
        *betas,
        beta3,
        eps,
        estim_lr0,
        estim_lr_coef,
        weight_decay,
        weight_decay_mask,
        safeguard_warmup=safeguard_warmup,
    )
    return chain(rule, scale(-1.0))
