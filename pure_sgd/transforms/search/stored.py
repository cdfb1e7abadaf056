"""The objective that a line search has already evaluated at the parameters it stepped to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ... import tree
from ...arguments import typed
from ...errors import PureSGDError
from ...gradients import value_and_grad
from ..contract import Params, State, Updates
from ..wrapping import either
from .backtracking import ScaleByBacktrackingLinesearchState
from .zoom import ScaleByZoomLinesearchState

__all__ = ["value_and_grad_from_state"]

SEARCHES = (ScaleByBacktrackingLinesearchState, ScaleByZoomLinesearchState)


@typed
def value_and_grad_from_state(value_fn: Callable[..., Any]) -> Callable[..., tuple[torch.Tensor, Updates]]:
    """``value_and_grad(value_fn)``, taken from the state where a line search has left it there.

    Returns ``f(params, *args, state=opt_state, **kwargs) -> (value, grad)``. What is stored belongs to the
    parameters that the last step led to, so the line search must come last in its chain and ``value_fn``
    must not change (all data, not batches). Before the first step, and after one without a finite
    value, both are computed.

    Raises:
        PureSGDError: the state holds no value and gradient of a line search, or those of several.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx, params = ps.lbfgs(), torch.tensor([1.0, 2.0])
        >>> value_and_grad = ps.value_and_grad_from_state(lambda params: (params**2).sum())
        >>> value_and_grad(params, state=tx.init(params))
        (tensor(5.), tensor([2., 4.]))
    """

    def evaluate(params: Params, *args: Any, state: State, **kwargs: Any) -> tuple[torch.Tensor, Updates]:
        searches = [node for _, node in tree.walk(state) if isinstance(node, SEARCHES)]
        stored = [node for node in searches if node.grad is not None]
        if len(stored) != 1:
            raise PureSGDError(
                "value_and_grad_from_state",
                f"the state holds the value and gradient of {len(stored)} line searches, expected one",
                "End the chain with scale_by_zoom_linesearch(...), or with "
                "scale_by_backtracking_linesearch(..., store_grad=True)",
            )
        known = stored[0].value

        def computed() -> tuple[torch.Tensor, Updates]:
            value, grad = value_and_grad(lambda params: value_fn(params, *args, **kwargs))(params)
            return value.to(known.dtype), grad

        return either(
            torch.isfinite(known), lambda: (known, tree.cast_like(stored[0].grad, params)), computed
        )

    return evaluate
