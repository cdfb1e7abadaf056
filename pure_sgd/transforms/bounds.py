"""Corrections that need no number: updates without a mean, without NaN, within a set, or none at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from .. import tree
from ..errors import PureSGDError
from .combining import stateless
from .contract import GradientTransformation, Params, Updates, missing_params, transformation

__all__ = [
    "ZeroNansState",
    "centralize",
    "keep_params_nonnegative",
    "project",
    "set_to_zero",
    "zero_nans",
]


class ZeroNansState(NamedTuple):
    """Which leaves of the last updates held a NaN."""

    found_nan: Updates  # a bool of shape () for each leaf


@transformation
def set_to_zero() -> GradientTransformation:
    """Replace the updates by zeros: nothing moves.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.set_to_zero().update(torch.ones(2), ps.EmptyState())[0]
        tensor([0., 0.])
    """
    return stateless(lambda updates, params: tree.map(torch.zeros_like, updates))


@transformation
def centralize() -> GradientTransformation:
    """Subtract from every row of a leaf its mean: the updates of a unit add up to zero.

        u = u - mean(u over all axes but the first)        leaves of at least two axes

    A row is a unit where weights are (outputs, inputs, ...), as in ``torch.nn``.
    Source: Yong et al. 2020, arXiv:2004.01461.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.centralize().update(torch.tensor([[1.0, 3.0], [0.0, 4.0]]), ps.EmptyState())[0]
        tensor([[-1.,  1.],
                [-2.,  2.]])
    """

    def centred(u: torch.Tensor) -> torch.Tensor:
        if u.ndim < 2:
            return u
        wide = tree.widened(u)
        return (wide - wide.mean(dim=list(range(1, u.ndim)), keepdim=True)).to(u.dtype)

    return stateless(lambda updates, params: tree.map(centred, updates))


@transformation
def keep_params_nonnegative() -> GradientTransformation:
    """Stop every parameter at zero: put it last in a chain, after the learning rate.

        u = max(u, -params)

    Parameters that begin at zero or above never fall below.

    Raises:
        PureSGDError: no ``params`` in ``update``, or complex ones.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx, params = ps.keep_params_nonnegative(), torch.tensor([1.0, 3.0])
        >>> tx.update(torch.tensor([-2.0, -2.0]), tx.init(params), params)[0]
        tensor([-1., -2.])
    """

    def bounded(updates: Updates, params: Params) -> Updates:
        if params is None:
            raise missing_params("keep_params_nonnegative")
        tree.check_real(params, "params", "keep_params_nonnegative")
        return tree.map(lambda u, p: torch.maximum(u, -p).to(u.dtype), updates, params)

    return stateless(bounded)


@transformation
def project(projection: Callable[[Params], Params]) -> GradientTransformation:
    """Keep the parameters in a set: put it last in a chain, after the learning rate.

        u = projection(params + u) - params

    ``projection`` is a function of a tree, such as ``projection_simplex`` or
    ``partial(projection_l2_ball, scale=2.0)``; behind :func:`sgd` this is projected gradient descent. It is
    given at least float32; what is left of rounding is that of ``params + u``. For a set of some of the
    leaves wrap this in :func:`masked`, for one set a leaf map over the tree.
    Sources: Goldstein 1964, doi:10.1090/S0002-9904-1964-11178-2; Levitin and Polyak 1966,
    doi:10.1016/0041-5553(66)90114-5.

    Raises:
        PureSGDError: ``projection`` is no function; later, no ``params`` in ``update``, or it returned a
            tree unlike them.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx, params = ps.chain(ps.sgd(1.0), ps.project(ps.projection_simplex)), torch.tensor([0.5, 0.5])
        >>> updates, _ = tx.update(torch.tensor([-0.3, 0.1]), tx.init(params), params)
        >>> ps.apply_updates(params, updates)
        tensor([0.7000, 0.3000])
    """
    if not callable(projection) or isinstance(projection, GradientTransformation):
        raise PureSGDError(
            "project",
            f"projection is a {type(projection).__name__}, expected a function of a tree",
            "Pass the function itself, as in project(projection_simplex)",
        )

    def projected(updates: Updates, params: Params) -> Updates:
        if params is None:
            raise missing_params("project")
        # Not apply_updates, which would round to the dtype of the parameters before the projection.
        aim = tree.map(lambda p, u: tree.widened(p) + u, params, updates)
        nearest = projection(aim)
        tree.check_like(nearest, params, "projection(params)", "params")
        return tree.map(lambda q, p, u: (q - p).to(u.dtype), nearest, params, updates)

    return stateless(projected)


@transformation
def zero_nans() -> GradientTransformation:
    """Replace every NaN by 0, and note in the state which leaves held one; infinities stay.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.zero_nans()
        >>> tx.update(torch.tensor([1.0, torch.nan]), tx.init(torch.zeros(2)))
        (tensor([1., 0.]), ZeroNansState(found_nan=tensor(True)))
    """

    def init(params: Params) -> ZeroNansState:
        return ZeroNansState(tree.map(lambda p: torch.zeros((), dtype=torch.bool, device=p.device), params))

    def update(
        updates: Updates, state: ZeroNansState, params: Params = None, **extra: Any
    ) -> tuple[Updates, ZeroNansState]:
        found = tree.map(lambda u: u.isnan().any(), updates)
        return tree.map(lambda u: torch.where(u.isnan(), 0.0, u), updates), ZeroNansState(found)

    return GradientTransformation(init, update)
