"""Complex leaves as pairs of real ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from .. import tree
from .contract import GradientTransformation, Params, State, Updates, extra_args_of, transformation
from .wrapping import check_inner, extras_for

__all__ = ["SplitRealAndImaginaryState", "split_real_and_imaginary"]


class SplitRealAndImaginaryState(NamedTuple):
    """The state of the wrapped transform, which sees real leaves alone."""

    inner_state: State


class _Parts(NamedTuple):
    """A complex leaf as two real ones."""

    real: torch.Tensor
    imaginary: torch.Tensor


@transformation
def split_real_and_imaginary(inner: GradientTransformation) -> GradientTransformation:
    """Apply ``inner`` to the real and the imaginary part of every complex leaf, as to two real leaves.

        u = inner(real(u)) + i * inner(imaginary(u))         real leaves as they are

    Second moments then belong to each part on its own, as in ``torch.optim``, where the other transforms here
    keep one of ``|u|**2``. What torch calls the gradient of a real loss points uphill in both parts
    together: nothing is to be conjugated, as it is in JAX.

    Raises:
        PureSGDError: ``inner`` is no transform.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.split_real_and_imaginary(ps.scale_by_sign())
        >>> tx.update(torch.tensor([3 - 4j]), tx.init(torch.zeros(1, dtype=torch.complex64)))[0]
        tensor([1.-1.j])
    """
    check_inner("split_real_and_imaginary", inner)

    def init(params: Params) -> SplitRealAndImaginaryState:
        return SplitRealAndImaginaryState(inner.init(_split(params)))

    def update(
        updates: Updates, state: SplitRealAndImaginaryState, params: Params = None, **extra: Any
    ) -> tuple[Updates, SplitRealAndImaginaryState]:
        own = None if params is None else _split(params)
        parts, inner_state = inner.update(_split(updates), state.inner_state, own, **extras_for(inner, extra))
        return _joined(parts, updates), SplitRealAndImaginaryState(inner_state)

    return GradientTransformation(init, update, extra_args_of(inner))


def _split(like: Params) -> Params:
    return tree.map(lambda leaf: _Parts(*_two(leaf)) if leaf.is_complex() else leaf, like)


def _two(leaf: torch.Tensor) -> tuple[torch.Tensor, ...]:
    # Autograd gives lazy conjugates, which cannot be viewed as real.
    return torch.view_as_real(leaf.resolve_conj()).unbind(-1)


def _joined(parts: Updates, like: Updates) -> Updates:
    real: Iterator[torch.Tensor] = iter(tree.leaves(parts))
    found, rebuild = tree.flatten(like)
    return rebuild([torch.complex(next(real), next(real)) if u.is_complex() else next(real) for u in found])
