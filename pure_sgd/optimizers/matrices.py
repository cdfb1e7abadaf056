"""Optimizers that treat a leaf as a matrix."""

from __future__ import annotations

from typing import Any

import torch

from ..arguments import factory
from ..transforms import (
    GradientTransformation,
    Hyperparameter,
    add_decayed_weights,
    chain,
    partition_matrices,
    scale_by_galore,
    scale_by_learning_rate,
    scale_by_muon,
    scale_by_shampoo,
    scale_by_shape,
    scale_by_soap,
    trace,
)
from .adam import adamw

__all__ = ["galore", "muon", "shampoo", "soap"]


@factory
def galore(
    learning_rate: Hyperparameter,
    rank: int = 128,
    update_proj_gap: int = 200,
    scale: Hyperparameter = 1.0,
    base_optimizer: GradientTransformation | None = None,
    weight_decay: Hyperparameter = 0.0,
    mask: Any = None,
    weight_dimension_numbers: Any = None,
) -> GradientTransformation:
    """GaLore: :func:`scale_by_galore`, decoupled decay on the leaves that ``mask`` picks, the learning rate.

    ``base_optimizer``, Adam by default, runs within ``rank`` directions of each matrix, and keeps no more
    state than that. The paper has a ``scale`` of 0.25. Source: Zhao et al. 2024, arXiv:2403.03507.

    Raises:
        PureSGDError: as :func:`scale_by_galore`, and for a negative learning rate or weight decay.

    Example:
        >>> import pure_sgd as ps
        >>> ps.galore(0.01, rank=16, scale=0.25)
        chain(scale_by_galore(16, scale=0.25), add_decayed_weights(), scale_by_learning_rate(0.01))
    """
    return chain(
        scale_by_galore(rank, update_proj_gap, scale, base_optimizer, weight_dimension_numbers),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@factory
def muon(
    learning_rate: Hyperparameter,
    ns_coeffs: Any = (3.4445, -4.7750, 2.0315),
    ns_steps: int = 5,
    beta: Hyperparameter = 0.95,
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Any = None,
    mu_dtype: torch.dtype | None = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: str = "frobenius",
    adam_b1: Hyperparameter = 0.9,
    adam_b2: Hyperparameter = 0.999,
    adam_eps_root: Hyperparameter = 0.0,
    adam_weight_decay: Hyperparameter = 0.0,
    adam_learning_rate: Hyperparameter | None = None,
    muon_weight_dimension_numbers: Any = None,
    consistent_rms: Hyperparameter | None = None,
    bias_correction: bool = True,
    clamp_norm: bool = False,
    ns_dtype: torch.dtype | None = None,
) -> GradientTransformation:
    """Muon for matrices: :func:`scale_by_muon`, :func:`scale_by_shape`, decay, rate. AdamW for the rest.

    Matrices are the leaves with two axes, none of length 0; ``muon_weight_dimension_numbers`` says otherwise,
    as in :func:`partition_matrices`. Their axes are (inputs, outputs), as in this package's models; for
    weights laid out as those of ``torch.nn.Linear`` pass ``MuonDimensionNumbers(1, 0)``, which all leaves
    with more than one axis then have. ``nesterov`` holds for both rules, ``adam_learning_rate`` is by
    default that of Muon. Embeddings and a last layer are better left to AdamW: give them ``None``.

    The rule of Optax. That of ``torch.optim.Muon`` has the layout above, ``eps=1e-7``,
    ``weight_decay=0.1``, ``bias_correction=False``, ``clamp_norm=True`` and ``ns_dtype=torch.bfloat16``;
    its ``adjust_lr_fn="match_rms_adamw"`` is ``consistent_rms=0.2``.
    Sources: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; Liu et al. 2025,
    arXiv:2502.16982.

    Raises:
        PureSGDError: as :func:`scale_by_muon` and :func:`adamw`, and for a negative learning rate, weight
            decay or ``consistent_rms``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx, params = ps.muon(0.1), {"w": torch.eye(2), "b": torch.zeros(2)}
        >>> list(tx.init(params).inner_states)
        ['matrices', 'others']
    """
    axes = muon_weight_dimension_numbers
    return partition_matrices(
        chain(
            scale_by_muon(
                ns_coeffs,
                ns_steps,
                beta,
                eps,
                mu_dtype,
                nesterov=nesterov,
                adaptive=adaptive,
                preconditioning=preconditioning,
                weight_dimension_numbers=axes,
                bias_correction=bias_correction,
                clamp_norm=clamp_norm,
                ns_dtype=ns_dtype,
            ),
            scale_by_shape(axes, consistent_rms),
            add_decayed_weights(weight_decay, weight_decay_mask),
            scale_by_learning_rate(learning_rate),
        ),
        adamw(
            learning_rate if adam_learning_rate is None else adam_learning_rate,
            adam_b1,
            adam_b2,
            eps,
            adam_eps_root,
            mu_dtype,
            adam_weight_decay,
            nesterov=nesterov,
        ),
        axes,
    )


@factory
def shampoo(
    learning_rate: Hyperparameter,
    momentum: Hyperparameter | None = 0.9,
    b2: Hyperparameter = 1.0,
    eps: Hyperparameter = 1e-6,
    root_every: int = 1,
    max_dim: int = 1024,
    weight_decay: Hyperparameter = 0.0,
    mask: Any = None,
    *,
    graft: str | None = None,
    nesterov: bool = False,
) -> GradientTransformation:
    """Shampoo: :func:`scale_by_shampoo`, momentum, decoupled decay on the leaves that ``mask`` picks, rate.

    With ``b2=1`` and no momentum or decay the rule of Gupta et al.; a large model wants ``b2`` near 0.99,
    ``root_every`` of 10 or more, and ``graft="rms"`` with a learning rate as for Adam: a root that is not
    fresh enlarges what is new to it, up to ``eps**-0.5`` times, and the graft holds the size of the step.
    Sources: Gupta, Koren and Singer 2018, arXiv:1802.09568; Anil et al. 2020, arXiv:2002.09018.

    Raises:
        PureSGDError: as :func:`scale_by_shampoo`, for a momentum outside [0, 1), or a negative learning rate
            or weight decay.

    Example:
        >>> import pure_sgd as ps
        >>> ps.shampoo(0.1, momentum=None, root_every=10)
        chain(scale_by_shampoo(root_every=10), add_decayed_weights(), scale_by_learning_rate(0.1))
    """
    memory = () if momentum is None else (trace(momentum, nesterov),)
    return chain(
        scale_by_shampoo(b2, eps, root_every, max_dim, graft=graft),
        *memory,
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@factory
def soap(
    learning_rate: Hyperparameter,
    b1: Hyperparameter = 0.95,
    b2: Hyperparameter = 0.95,
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0.01,
    mask: Any = None,
    precondition_frequency: int = 10,
    max_precond_dim: int = 10000,
    *,
    shampoo_beta: Hyperparameter | None = None,
) -> GradientTransformation:
    """SOAP: :func:`scale_by_soap`, decoupled decay on the leaves that ``mask`` picks, the learning rate.

    The first step only decays. The authors' code lets the parameters decay after they have moved, and uses
    a learning rate of 3e-3. Source: Vyas et al. 2024, arXiv:2409.11321.

    Raises:
        PureSGDError: as :func:`scale_by_soap`, and for a negative learning rate or weight decay.

    Example:
        >>> import pure_sgd as ps
        >>> ps.soap(3e-3, weight_decay=0.1)
        chain(scale_by_soap(), add_decayed_weights(0.1), scale_by_learning_rate(0.003))
    """
    return chain(
        scale_by_soap(b1, b2, eps, precondition_frequency, max_precond_dim, shampoo_beta=shampoo_beta),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
