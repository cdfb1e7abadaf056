"""The linear map that a step of any chain is nearly, close to one point."""

from __future__ import annotations

from typing import Any

import torch

from .. import tree
from ..arguments import typed
from ..errors import PureSGDError
from ..transforms import GradientTransformation
from ..transforms.wrapping import known
from .coordinates import Clock, coordinates
from .linear import Linearization, as_curvature, check_reads
from .matrices import matrices

__all__ = ["linearize_at"]


@typed
def linearize_at(
    tx: GradientTransformation, curvature: Any, params: torch.Tensor, opt_state: Any
) -> Linearization:
    """Take the derivatives of one step of any chain at a point, where small differences obey them.

        difference_{t + 1} = transition[0] @ difference_t + noise[0] * xi_t

    The point is ``params`` (n,) in float64 and ``opt_state``, and the gradient there ``curvature * params``.
    The result is marked as ``local``: what it tells holds near a point that the step leaves where it is, such
    as the minimum, and while step counts and what else all coordinates share stay as they are. ``start`` is
    the point itself.

    Raises:
        PureSGDError: a chain that reads extra arguments, whose coordinates depend on each other, or that has
            no derivatives at the point.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx, params = ps.chain(ps.clip(1.0), ps.sgd(0.5)), torch.zeros(1, dtype=torch.float64)
        >>> ps.theory.linearize_at(tx, 1.0, params, tx.init(params)).transition
        tensor([[[[0.5000]]]], dtype=torch.float64)
    """
    where = "linearize_at"
    check_reads(where, tx)
    h = as_curvature(where, curvature)
    tree.check_like(params, h, "params", "curvature")
    system = coordinates(tx, h)
    point, clock = system.take_apart(params.to(h.dtype), opt_state)
    still = torch.zeros_like(h)
    after, ticks = system.advance(point, still, clock)

    def step(z: torch.Tensor, xi: torch.Tensor) -> tuple[torch.Tensor, Clock]:
        return torch.func.jvp(lambda z, xi: system.advance(z, xi, clock)[0], (point, still), (z, xi))[
            1
        ], ticks

    def average(z: torch.Tensor, ticks: Clock) -> torch.Tensor:
        return torch.func.jvp(lambda z: system.average(z, ticks), (after,), (z,))[1]

    transition, noise, read, is_linear = matrices(step, average, h, len(system.names))
    if known(is_linear) is False:
        raise PureSGDError(
            where,
            f"{tx} has no derivatives at this point, or its coordinates depend on each other",
            "Choose a point inside, and rules that treat each number by itself",
        )
    return Linearization(transition[None], noise[None], read[None], point.T, system.names, False, True)
