"""Only the entries of an update that agree with the gradient in sign."""

from __future__ import annotations

from typing import Any

import torch

from .. import tree
from ..errors import PureSGDError
from .contract import GradientTransformation, Params, State, Updates, extra_args_of, transformation
from .scaling import ScaleByLearningRateState
from .wrapping import check_inner, extras_for

__all__ = ["cautious"]


@transformation
def cautious(inner: GradientTransformation) -> GradientTransformation:
    """Apply ``inner``, and drop the entries of its result that point against the update that came in.

        v    = inner(u)
        mask = (v * u > 0)
        u    = v * mask / max(mean(mask), 1e-3)        the mean over one leaf

    ``inner`` is a rule, such as ``scale_by_adam()`` or ``trace(0.9)``, whose result points uphill like the
    gradient: the weight decay and the learning rate come behind, as in the paper. Of complex entries the
    real part of ``v * conj(u)`` decides. The state is that of ``inner``.
    Source: Liang et al. 2024, arXiv:2411.16085.

    Raises:
        PureSGDError: ``inner`` is no transform; later, one that holds ``scale_by_learning_rate``, as whole
            optimizers do: its result points downhill.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.chain(ps.cautious(ps.trace(0.9)), ps.scale_by_learning_rate(0.1))
        >>> state = tx.init(torch.zeros(2))
        >>> _, state = tx.update(torch.tensor([1.0, 1.0]), state)
        >>> tx.update(torch.tensor([1.0, -0.5]), state)[0]
        tensor([-0.3800, -0.0000])
    """
    check_inner("cautious", inner)

    def init(params: Params) -> State:
        state = inner.init(params)
        if any(isinstance(node, ScaleByLearningRateState) for _, node in tree.walk(state)):
            raise PureSGDError(
                "cautious",
                f"inner={inner!r} holds scale_by_learning_rate, whose result points downhill",
                "Put it behind, as in chain(cautious(scale_by_adam()), scale_by_learning_rate(0.1))",
            )
        return state

    def update(updates: Updates, state: State, params: Params = None, **extra: Any) -> tuple[Updates, State]:
        new, state = inner.update(updates, state, params, **extras_for(inner, extra))
        return tree.map(_agreeing, new, updates), state

    return GradientTransformation(init, update, extra_args_of(inner))


def _agreeing(v: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    if v.is_complex():
        agrees = (tree.widened(v) * tree.widened(u).conj()).real > 0
    else:
        agrees = v.sign() * u.sign() > 0  # a product of small numbers would be 0
    share = agrees.to(tree.widened(v).real.dtype).mean().clamp(min=1e-3)
    return (torch.where(agrees, tree.widened(v), 0.0) / share).to(v.dtype)
