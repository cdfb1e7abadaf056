"""Averaged gradient descent: a rate that falls slowly, and the mean of the parameters it leads through."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import check_count, check_hyperparameter
from ..schedules import as_real
from .averaging import polyak_average
from .combining import chain
from .contract import GradientTransformation, Hyperparameter, transformation
from .decay import add_decayed_weights
from .running import check_offsets
from .scaling import scale_by_learning_rate

__all__ = ["scale_by_asgd"]


@transformation
def scale_by_asgd(
    learning_rate: Hyperparameter,
    lambd: Hyperparameter = 1e-4,
    alpha: Hyperparameter = 0.75,
    t0: int = 1_000_000,
) -> GradientTransformation:
    """Descend at a rate that falls as a power of the step, and average the parameters after ``t0`` steps.

        eta     = learning_rate / (1 + lambd * learning_rate * step)**alpha       step counts from 0
        u       = -eta * (u + lambd * params)
        average = the mean of the parameters after the updates t0 + 2, t0 + 3, ...

    The result points downhill: no learning rate follows it in a chain. :func:`eval_params` reads the average,
    which is the parameters themselves until then, and :func:`learning_rate` reads ``eta``. The rule of
    ``torch.optim.ASGD``, where a scheduled rate comes one step late; here it is that of its own step.
    Source: Polyak and Juditsky 1992, doi:10.1137/0330046.

    Raises:
        PureSGDError: a negative ``learning_rate`` or ``lambd``, an ``alpha`` that is no number, 0-d tensor or
            schedule, a ``t0`` that is no int of at least 0, or no ``params`` in ``update``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx, params = ps.scale_by_asgd(0.5, t0=0), torch.zeros(1)
        >>> state = tx.init(params)
        >>> for _ in range(3):
        ...     updates, state = tx.update(-torch.ones(1), state, params)
        ...     params = ps.apply_updates(params, updates)
        >>> ps.eval_params(state, params)  # the mean of nearly 1 and 1.5
        tensor([1.2498])
    """
    check_offsets("scale_by_asgd", learning_rate=learning_rate, lambd=lambd)
    check_hyperparameter("scale_by_asgd", "alpha", alpha)
    check_count("scale_by_asgd", "t0", t0, low=0)

    def eta(step: torch.Tensor) -> Any:
        return learning_rate / (1 + lambd * learning_rate * as_real(step)) ** alpha

    return chain(add_decayed_weights(lambd), scale_by_learning_rate(eta), polyak_average(t0 + 1))
