"""Averages of the parameters: transforms for the end of a chain, which leave the updates as they are."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from .. import tree
from ..errors import check_hyperparameter
from .adaptive import bias_correction
from .contract import (
    GradientTransformation,
    Hyperparameter,
    Params,
    Updates,
    apply_updates,
    missing_params,
    step_zero,
    transformation,
)

__all__ = ["ParamsEmaState", "params_ema"]


class ParamsEmaState(NamedTuple):
    """The exponential moving average of the parameters."""

    step: torch.Tensor  # int64, shape ()
    average: Params  # like params, in at least float32


@transformation
def params_ema(decay: Hyperparameter, debias: bool = False) -> GradientTransformation:
    """Follow the exponential moving average of the parameters; the updates pass through.

        average = decay * average + (1 - decay) * (params + updates)

    The average begins at the parameters that ``init`` sees. With ``debias`` that beginning has no weight:
    ``1 - decay`` becomes ``(1 - decay) / (1 - decay**t)``, t counted from 1. The average has at least
    float32. Put it last in a chain, and read it with :func:`eval_params`.
    Source: Polyak and Juditsky 1992, doi:10.1137/0330046; as used in Zhang et al. 2019, arXiv:1907.04164.

    Raises:
        PureSGDError: ``decay`` outside [0, 1), or no ``params`` in ``update``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.chain(ps.sgd(1.0), ps.params_ema(0.9))
        >>> params = torch.ones(1)
        >>> updates, state = tx.update(torch.ones(1), tx.init(params), params)
        >>> ps.apply_updates(params, updates), ps.eval_params(state, params)
        (tensor([0.]), tensor([0.9000]))
    """
    check_hyperparameter("params_ema", "decay", decay, low=0, high=1, open_high=True)

    def init(params: Params) -> ParamsEmaState:
        # A copy: the state may be donated, and must not share memory with the parameters.
        copies = tree.map(lambda p: p.to(tree.wide(p.dtype), copy=True), params)
        return ParamsEmaState(step_zero(params), copies)

    def update(
        updates: Updates, state: ParamsEmaState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ParamsEmaState]:
        if params is None:
            raise missing_params("params_ema")
        step = state.step + 1
        weight = (1 - decay) / bias_correction(decay, step) if debias else 1 - decay
        new = apply_updates(params, updates)
        average = tree.map(lambda a, p: (a + weight * (p - a)).to(a.dtype), state.average, new)
        return updates, ParamsEmaState(step, average)

    return GradientTransformation(init, update)
