"""Averages of the parameters: transforms for the end of a chain, which leave the updates as they are."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from .. import tree
from ..errors import check_count, check_hyperparameter
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
from .running import bias_correction

__all__ = [
    "ParamsAverageState",
    "ParamsEmaState",
    "params_ema",
    "polyak_average",
    "stochastic_weight_average",
]


class ParamsEmaState(NamedTuple):
    """The exponential moving average of the parameters."""

    step: torch.Tensor  # int64, shape ()
    average: Params  # like params, in at least float32


@transformation
def params_ema(decay: Hyperparameter, debias: bool = False) -> GradientTransformation:
    """Follow the exponential moving average of the parameters; the updates pass through.

        average = decay * average + (1 - decay) * (params + updates)

    The average begins at the parameters that ``init`` sees. With ``debias`` that beginning has no weight:
    ``1 - decay`` becomes ``(1 - decay) / (1 - decay**t)``, t counted from 1. For a decay that grows pass
    :func:`ema_warmup_schedule` or :func:`power_ema_schedule`. The average has at least float32. Put it last
    in a chain, several of them in a :func:`named_chain`, and read it with :func:`eval_params`.
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
        return ParamsEmaState(step_zero(params), wide_copy(params))

    def update(
        updates: Updates, state: ParamsEmaState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ParamsEmaState]:
        if params is None:
            raise missing_params("params_ema")
        step = state.step + 1
        weight = (1 - decay) / bias_correction(decay, step) if debias else 1 - decay
        new = apply_updates(params, updates)
        average = tree.elementwise(lambda a, p: (a + weight * (p - a)).to(a.dtype), state.average, new)
        return updates, ParamsEmaState(step, average)

    return GradientTransformation(init, update)


class ParamsAverageState(NamedTuple):
    """The uniform average of some of the parameters so far."""

    step: torch.Tensor  # int64, shape ()
    count: torch.Tensor  # int64, shape (): how many are in the average
    average: Params  # like params, in at least float32


@transformation
def polyak_average(start: int = 0) -> GradientTransformation:
    """Follow the mean of the parameters after each update but the first ``start``; the updates pass through.

        average = (params_{start + 1} + ... + params_t) / (t - start)        params_t after t updates

    Until then the average is the parameters themselves. With ``start=0`` this is Polyak-Ruppert averaging,
    with a later one tail averaging, which forgets the way from where training began. The average has at
    least float32. Put it last in a chain, and read it with :func:`eval_params`.
    Sources: Polyak and Juditsky 1992, doi:10.1137/0330046; Jain et al. 2018, arXiv:1610.03774.

    Raises:
        PureSGDError: a ``start`` that is no int of at least 0, or no ``params`` in ``update``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.chain(ps.sgd(1.0), ps.polyak_average())
        >>> params = torch.zeros(1)
        >>> state = tx.init(params)
        >>> for _ in range(3):
        ...     updates, state = tx.update(-torch.ones(1), state, params)
        ...     params = ps.apply_updates(params, updates)
        >>> params, ps.eval_params(state, params)
        (tensor([3.]), tensor([2.]))
    """
    return _uniform("polyak_average", start, 1)


@transformation
def stochastic_weight_average(start: int, every: int) -> GradientTransformation:
    """Follow the mean of the parameters after every ``every``-th update; the updates pass through.

        average = (params_{start + every} + params_{start + 2 * every} + ...) / count

    with ``params_t`` after t updates; until the first of them the average is the parameters themselves.
    ``start`` and ``every`` count updates: for the end of each epoch from the tenth on, pass ``9 * n`` and
    ``n``, n the updates of an epoch. The average is that of ``torch.optim.swa_utils.AveragedModel``, updated
    at these steps. It has at least float32. Put it last in a chain, and read it with :func:`eval_params`.
    Source: Izmailov et al. 2018, arXiv:1803.05407.

    Raises:
        PureSGDError: a ``start`` that is no int of at least 0, an ``every`` under 1, or no ``params`` in
            ``update``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.chain(ps.sgd(1.0), ps.stochastic_weight_average(start=2, every=2))
        >>> params = torch.zeros(1)
        >>> state = tx.init(params)
        >>> for _ in range(7):
        ...     updates, state = tx.update(-torch.ones(1), state, params)
        ...     params = ps.apply_updates(params, updates)
        >>> params, ps.eval_params(state, params)  # the mean of 4 and 6
        (tensor([7.]), tensor([5.]))
    """
    return _uniform("stochastic_weight_average", start, every)


def wide_copy(params: Params) -> Params:
    """Copies in at least float32: a state may be donated, and must not share memory with the parameters."""
    return tree.map(lambda p: p.to(tree.wide(p.dtype), copy=True), params)


def _uniform(where: str, start: int, every: int) -> GradientTransformation:
    check_count(where, "start", start, low=0)
    check_count(where, "every", every)

    def init(params: Params) -> ParamsAverageState:
        return ParamsAverageState(step_zero(params), step_zero(params), wide_copy(params))

    def update(
        updates: Updates, state: ParamsAverageState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ParamsAverageState]:
        if params is None:
            raise missing_params(where)
        step = state.step + 1
        due = (step > start) & ((step - start) % every == 0)
        count = state.count + due

        def follow(a: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
            mean = torch.where(count > 1, a + (p - a) / count.clamp(min=1), p)
            # Chosen rather than weighed: what a skipped step holds, NaN too, leaves no trace.
            return torch.where(due | (count == 0), mean, a)

        average = tree.map(follow, state.average, apply_updates(params, updates))
        return updates, ParamsAverageState(step, count, average)

    return GradientTransformation(init, update)
