"""What an optimizer state can be asked for, wherever in its tree the answer lies."""

from __future__ import annotations

import torch

from .. import tree
from ..errors import PureSGDError
from .averaging import ParamsAverageState, ParamsEmaState
from .contract import Params, State
from .lookahead import LookaheadState
from .masking import MaskedNode
from .plateau import ReduceOnPlateauState
from .scaling import ScaleByLearningRateState
from .schedule_free import ScheduleFreeState

__all__ = ["eval_params", "learning_rate"]

#: States with a field ``average`` that is to be evaluated instead of the parameters.
AVERAGES = (LookaheadState, ParamsAverageState, ParamsEmaState, ScheduleFreeState)


def learning_rate(opt_state: State) -> torch.Tensor | None:
    """The learning rate of the last update, found anywhere in an optimizer state; None without one.

    The product of the rates and of the plateau scales in the state, shape ``()``: those of one chain
    multiply. A state that holds several rates side by side is better asked part by part.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.learning_rate(ps.sgd(0.1).init(torch.zeros(2)))
        tensor(0.1000, dtype=torch.float64)
    """
    product = None
    for _, node in tree.walk(opt_state):
        if isinstance(node, ScaleByLearningRateState):
            factor = node.learning_rate
        elif isinstance(node, ReduceOnPlateauState):
            factor = node.learning_rate_scale
        else:
            continue
        product = factor if product is None else product * factor
    return product


def eval_params(opt_state: State, params: Params) -> Params:
    """The parameters to evaluate with: the average that ``opt_state`` holds, else ``params`` themselves.

    Leaves come in the dtypes of ``params``; those that the average does not cover (buffers, and what a
    mask leaves out) are taken from ``params``. Of several averages, pass the part of the state that holds
    the one you mean.

    Raises:
        PureSGDError: ``opt_state`` holds more than one average, or one that does not fit ``params``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.eval_params(ps.sgd(0.1).init(torch.ones(1)), torch.ones(1))
        tensor([1.])
    """
    averages = [
        (path, node.average) for path, node in tree.walk(opt_state, "opt_state") if isinstance(node, AVERAGES)
    ]
    if not averages:
        return params
    if len(averages) > 1:
        raise PureSGDError(
            "eval_params",
            f"the state holds {len(averages)} averages: {', '.join(path for path, _ in averages)}",
            "Pass the part of the state that holds the one you mean",
        )
    average, covered, rest = averages[0][1], params, {}
    if isinstance(params, dict) and isinstance(average, dict):
        rest = {name: child for name, child in params.items() if name not in average}
    if rest:
        covered = {name: params[name] for name in average if name in params}
    average = _without_holes(average, covered)
    tree.check_like(average, covered, "average", "params")
    cast = tree.cast_like(average, covered)
    return {**cast, **rest} if rest else cast


def _without_holes(average: Params, params: Params) -> Params:
    """The average with the leaves of ``params`` where a mask left none."""
    holes = {path for path, node in tree.walk(average) if isinstance(node, MaskedNode)}
    own = dict(tree.named_leaves(average))
    named = tree.named_leaves(params)
    if not holes or {path for path, _ in named} != holes | own.keys():
        return average
    _, rebuild = tree.flatten(params)
    return rebuild([own.get(path, p) for path, p in named])
