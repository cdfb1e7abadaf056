"""What an optimizer state can be asked for, wherever in its tree the answer lies."""

from __future__ import annotations

import re

import torch

from .. import tree
from ..arguments import typed
from ..errors import PureSGDError
from ..hints import T
from .averaging import ParamsAverageState, ParamsEmaState
from .contract import Params, State
from .lookahead import LookaheadState
from .masking import MaskedNode
from .parameter_free import (
    ScaleByDadaptAdamState,
    ScaleByDogState,
    ScaleByDowgState,
    ScaleByMomoAdamState,
    ScaleByMomoState,
    ScaleByProdigyState,
)
from .plateau import ReduceOnPlateauState
from .scaling import ScaleByLearningRateState
from .schedule_free import ScheduleFreeState
from .search import ScaleByBacktrackingLinesearchState, ScaleByZoomLinesearchState
from .sharpness import SamState

__all__ = ["average_names", "eval_params", "learning_rate", "schedule_free_eval_params"]

# By type, since a model too may have fields of these names.
#: States with a field ``average`` that is to be evaluated instead of the parameters.
AVERAGES = (LookaheadState, ParamsAverageState, ParamsEmaState, SamState, ScheduleFreeState)
#: States with a field ``learning_rate`` that the updates were multiplied by.
RATES = (
    ScaleByBacktrackingLinesearchState,
    ScaleByDadaptAdamState,
    ScaleByDogState,
    ScaleByDowgState,
    ScaleByLearningRateState,
    ScaleByMomoAdamState,
    ScaleByMomoState,
    ScaleByProdigyState,
    ScaleByZoomLinesearchState,
)


@typed
def learning_rate(opt_state: State) -> torch.Tensor | None:
    """The learning rate of the last update, found anywhere in an optimizer state; None without one.

    The product of the rates (those found by line searches and by rules without a rate of their own too) and
    of the plateau scales in the state, shape ``()``: those of one chain multiply. A state that holds several
    rates side by side is better asked part by part.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.learning_rate(ps.sgd(0.1).init(torch.zeros(2)))
        tensor(0.1000, dtype=torch.float64)
    """
    product = None
    for _, node in tree.walk(opt_state):
        if isinstance(node, RATES):
            factor = node.learning_rate
        elif isinstance(node, ReduceOnPlateauState):
            factor = node.learning_rate_scale
        else:
            continue
        product = factor if product is None else product * factor
    return product


@typed
def eval_params(opt_state: State, params: T, name: str | None = None) -> T:
    """The parameters to evaluate with: the average that ``opt_state`` holds, else ``params`` themselves.

    Of several averages, ``name`` tells the one: its name in a :func:`named_chain`, its label in a
    :func:`partition`, or its path in the state, such as ``"opt_state[1]"``. Leaves come in the dtypes of
    ``params``; those that the average does not cover (buffers, and what a mask leaves out) are taken from
    ``params``.

    Raises:
        PureSGDError: ``opt_state`` holds several averages and ``name`` does not tell one of them, there is
            none of that name, or the average does not fit ``params``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> averages = ("fast", ps.params_ema(0.9)), ("slow", ps.params_ema(0.99))
        >>> tx, params = ps.named_chain(("step", ps.sgd(1.0)), *averages), torch.ones(1)
        >>> updates, state = tx.update(torch.ones(1), tx.init(params), params)
        >>> params = ps.apply_updates(params, updates)
        >>> ps.eval_params(state, params, "fast"), ps.eval_params(state, params, "slow")
        (tensor([0.9000]), tensor([0.9900]))
    """
    averages = _averages_in(opt_state)
    if not averages and name is None:
        return params
    chosen = [path for path in averages if name in (None, path) or f"[{name!r}]" in path]
    if len(chosen) != 1:
        raise _no_single_average(list(averages), chosen, name)
    return _laid_over(params, averages[chosen[0]])


#: Optax's name for it, where the average is that of :func:`schedule_free`.
schedule_free_eval_params = eval_params


def _laid_over(params: Params, average: Params) -> Params:
    """The leaves of the average, and of ``params`` those that it does not cover."""
    covered, rest = params, {}
    if isinstance(params, dict) and isinstance(average, dict):
        rest = {key: child for key, child in params.items() if key not in average}
    if rest:
        covered = {key: params[key] for key in average if key in params}
    average = _without_holes(average, covered)
    tree.check_like(average, covered, "average", "params")
    cast = tree.cast_like(average, covered)
    return {**cast, **rest} if rest else cast


def average_names(opt_state: State) -> list[str]:
    """The names by which :func:`eval_params` knows the averages in a state.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> from pure_sgd.transforms.reading import average_names
        >>> tx = ps.chain(ps.params_ema(0.9), ps.named_chain(("slow", ps.params_ema(0.99))))
        >>> average_names(tx.init(torch.ones(1)))
        ['opt_state[0]', 'slow']
    """
    return _names_of(list(_averages_in(opt_state)))


def _averages_in(opt_state: State) -> dict[str, Params]:
    """Every average in a state, by its path."""
    nodes = tree.walk(opt_state, "opt_state")
    return {path: node.average for path, node in nodes if isinstance(node, AVERAGES)}


def _no_single_average(averages: list[str], chosen: list[str], name: str | None) -> PureSGDError:
    names = list(map(repr, _names_of(averages)))
    if not averages:
        return PureSGDError("eval_params", f"name={name!r}, and the state holds no average", "Leave name out")
    if not chosen:
        return PureSGDError(
            "eval_params",
            f"the state holds no average {name!r}, but {', '.join(names)}",
            f"Pass one of these, as in name={names[0]}",
        )
    several = "averages" if name is None else f"averages {name!r}"
    names = list(map(repr, _names_of(chosen)))
    return PureSGDError(
        "eval_params",
        f"the state holds {len(chosen)} {several}: {', '.join(names)}",
        f"Name the one you mean, as in eval_params(opt_state, params, {names[0]})",
    )


def _names_of(paths: list[str]) -> list[str]:
    """The shortest name of each path: the last key in it, if no other path has that; else the whole."""
    keys = [re.findall(r"\['([^']*)'\]", path) for path in paths]
    last = [found[-1] if found else None for found in keys]
    return [
        path if key is None or sum(key in found for found in keys) > 1 else key
        for path, key in zip(paths, last, strict=True)
    ]


def _without_holes(average: Params, params: Params) -> Params:
    """The average with the leaves of ``params`` where a mask left none."""
    holes = {path for path, node in tree.walk(average) if isinstance(node, MaskedNode)}
    own = dict(tree.named_leaves(average))
    named = tree.named_leaves(params)
    if not holes or {path for path, _ in named} != holes | own.keys():
        return average
    _, rebuild = tree.flatten(params)
    return rebuild([own.get(path, p) for path, p in named])
