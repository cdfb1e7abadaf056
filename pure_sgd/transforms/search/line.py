"""What the line searches share: the objective along a line, and a loop that ends when a tensor says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from ... import functorch, tree
from ...errors import PureSGDError
from ...gradients import value_and_grad
from ..contract import Params, Updates, missing_params
from ..plateau import one_value
from ..wrapping import known


class Point(NamedTuple):
    """A place on the line ``params + step * updates``."""

    step: torch.Tensor  # real, in at least float32, shape (); so are the others
    value: torch.Tensor  # of the objective
    slope: torch.Tensor  # its derivative by the step


class Line(NamedTuple):
    """The objective ``value_fn(params + step * updates)`` as a function of the step."""

    where: str
    params: Params
    updates: Updates
    like: torch.Tensor  # every number has its dtype and device
    value_fn: Callable[[Params], Any]

    def start(self, value: Any, grad: Updates) -> tuple[Point, Updates]:
        """The point of step 0 with its gradient; what the caller does not know is computed."""
        zero = torch.zeros_like(self.like)
        if grad is None:
            point, grad = self.point(zero)
            if value is not None:
                point = point._replace(value=one_value(self.where, value, self.like))
            return point, grad
        tree.check_like(grad, self.params, "grad", "params")
        value = self.value(zero) if value is None else one_value(self.where, value, self.like)
        return Point(zero, value, self._slope(grad)), tree.map(_wide_copy, grad)

    def value(self, step: torch.Tensor) -> torch.Tensor:
        """The objective at ``step``."""
        return one_value(self.where, self.value_fn(self._at(step)), self.like)

    def point(self, step: torch.Tensor) -> tuple[Point, Updates]:
        """The objective at ``step``, and its gradient like params, in at least float32."""
        value, grad = value_and_grad(self.value_fn)(self._at(step))
        point = Point(step, one_value(self.where, value, self.like), self._slope(grad))
        return point, tree.map(tree.widened, grad)

    def _at(self, step: torch.Tensor) -> Params:
        # Widened, because torch would round the step to the dtype of the update before it multiplies.
        return tree.map(lambda p, u: (p + step * tree.widened(u)).to(p.dtype), self.params, self.updates)

    def _slope(self, grad: Updates) -> torch.Tensor:
        products = tree.map(lambda g, u: tree.vdot(g, u).to(self.like.dtype), grad, self.updates)
        return sum(tree.leaves(products), torch.zeros_like(self.like))


def line_along(where: str, params: Params, updates: Updates, like: torch.Tensor, value_fn: Any) -> Line:
    """The line from ``params`` along ``updates``, once both are known to be there with a function to call.

    Raises:
        PureSGDError: no parameters, or no objective.
    """
    if params is None:
        raise missing_params(where)
    if not callable(value_fn):
        raise PureSGDError(
            where,
            f"the extra argument value_fn is {value_fn!r}, expected the objective as a function of params",
            "Train with make_step or fit, or call update(..., value_fn=lambda params: loss(params, batch))",
        )
    return Line(where, params, updates, like, value_fn)


def zero_scalar(params: Params) -> torch.Tensor:
    """A 0, real, of shape ``()``, on the device of ``params``, in their widest dtype and at least float32."""
    found = tree.leaves(params)
    dtype = torch.float32
    for leaf in found:
        dtype = torch.promote_types(dtype, leaf.real.dtype)
    return torch.zeros((), dtype=dtype, device=found[0].device if found else None)


def picked(condition: torch.Tensor, yes: Any, no: Any) -> Any:
    """The tree ``yes`` where ``condition`` holds, else ``no``."""
    return tree.map(lambda y, n: torch.where(condition, y, n), yes, no)


def violation(excess: torch.Tensor) -> torch.Tensor:
    """By how much a criterion ``excess <= 0`` is missed: 0 where it holds, inf where it cannot be told."""
    return torch.where(torch.isnan(excess), torch.inf, excess.clamp(min=0))


def restarted(rate: torch.Tensor) -> torch.Tensor:
    """The last rate to begin a search with, or 1 after a search that found none: from 0 nothing grows."""
    return torch.where(rate > 0, rate, 1.0)


def repeat(
    condition: Callable[[Any], torch.Tensor], body: Callable[[Any], Any], carry: Any, most: int
) -> Any:
    """``carry = body(carry)`` for as long as ``condition(carry)`` holds, but at most ``most`` times.

    ``carry`` is a tree of tensors, and ``body`` keeps its shapes; dtypes are kept for it. Eagerly Python
    reads the condition, and nothing runs that is not needed. Compiled, ``torch.while_loop`` does the same.
    Where a condition cannot be read (mapped by ``vmap``, in a CUDA graph, or compiled under a transform of
    ``torch.func``, where ``torch.while_loop`` has no rule as of torch 2.13) the body runs ``most`` times
    and ``torch.where`` keeps what is done: the same numbers at the price of the longest search.
    """
    if torch.compiler.is_compiling() and not functorch.within_transform():
        return _compiled_loop(condition, body, carry)
    for _ in range(most):
        going = condition(carry)
        holds = known(going)
        if holds is False:
            break
        # Read at each turn: what is mapped over may come in only with the first turn.
        carry = _chosen(None if holds else going, body(carry), carry)
    return carry


def _chosen(going: torch.Tensor | None, new: Any, old: Any) -> Any:
    cast = tree.map(lambda n, o: n.to(o.dtype), new, old)
    return cast if going is None else picked(going, cast, old)


def _compiled_loop(condition: Callable[[Any], torch.Tensor], body: Callable[[Any], Any], carry: Any) -> Any:
    found, rebuild = tree.flatten(carry)

    def going(*leaves: torch.Tensor) -> torch.Tensor:
        return condition(rebuild(list(leaves)))

    def turn(*leaves: torch.Tensor) -> tuple[torch.Tensor, ...]:
        old = rebuild(list(leaves))
        # Neither the results nor what comes in may share memory.
        return tuple(leaf.clone() for leaf in tree.leaves(_chosen(None, body(old), old)))

    return rebuild(list(torch.while_loop(going, turn, tuple(leaf.clone() for leaf in found))))


def _wide_copy(leaf: torch.Tensor) -> torch.Tensor:
    # A copy: a state may be donated, and must not share memory with its arguments.
    return leaf.to(tree.wide(leaf.dtype), copy=True)
