"""The diagonal of the Hessian, from products with random signs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from .. import random, tree
from ..errors import PureSGDError
from ..gradients import value_and_grad
from .contract import GradientTransformation, Params, Updates, missing_params, step_zero, transformation
from .noise import key_of

__all__ = ["HutchinsonState", "hutchinson_estimator_diag_hessian"]


class HutchinsonState(NamedTuple):
    """The key of the next draw."""

    key: torch.Tensor  # int64, shape (2,)


@transformation
def hutchinson_estimator_diag_hessian(key: int | torch.Tensor = 0) -> GradientTransformation:
    """Replace the updates by an estimate of the diagonal of the Hessian at ``params``.

        u = signs * (H @ signs)        signs of -1 and 1, each with probability 1/2

    Its mean over the signs is the diagonal, and where the Hessian is diagonal it is exact; its variance in an
    entry is that row's sum of squares beside the diagonal. ``update`` needs the extra argument
    ``value_fn(params)`` (``obj_fn`` in Optax), the loss on this batch: H is its Hessian; the product costs
    about three gradients. ``key`` is a seed or a key of :mod:`pure_sgd.random`, which the state carries on;
    what Optax calls ``random_seed`` has to be a key. Signs are those of Optax from the same key.
    Sources: Hutchinson 1990, doi:10.1080/03610919008812866; Bekas et al. 2007,
    doi:10.1016/j.apnum.2007.01.003.

    Raises:
        PureSGDError: a ``key`` that is neither a seed nor a key; in ``update``, no ``params``, and no
            ``value_fn`` or one that returns no scalar.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx, params = ps.hutchinson_estimator_diag_hessian(), torch.tensor([1.0, 2.0])
        >>> tx.update(params, tx.init(params), params, value_fn=lambda p: (p**3).sum())[0]  # 6 * params
        tensor([ 6., 12.])
    """
    where = "hutchinson_estimator_diag_hessian"
    first = key_of(key)

    def init(params: Params) -> HutchinsonState:
        # A copy: the state must not share memory with the caller's key.
        return HutchinsonState(first.to(step_zero(params).device, copy=True))

    def update(
        updates: Updates,
        state: HutchinsonState,
        params: Params = None,
        *,
        value_fn: Callable[[Params], torch.Tensor] | None = None,
        **extra: Any,
    ) -> tuple[Updates, HutchinsonState]:
        if params is None:
            raise missing_params(where)
        if value_fn is None:
            raise PureSGDError(
                where,
                "the extra argument value_fn is missing",
                "Call update(updates, state, params, value_fn=lambda params: loss(params, batch))",
            )
        carried, used = random.split(state.key).unbind()
        found, rebuild = tree.flatten(params)
        keys = random.split(used, max(len(found), 1)).unbind()
        signs = [_signs(leaf_key, p) for p, leaf_key in zip(found, keys, strict=False)]
        products = _hessian_product(value_fn, params, rebuild(signs))
        diagonal = [
            (r * h).to(u.dtype) for r, h, u in zip(signs, products, tree.leaves(updates), strict=True)
        ]
        return rebuild(diagonal), HutchinsonState(carried.clone())

    return GradientTransformation(init, update)


def _signs(key: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return 2 * random.bernoulli(key, 0.5, like.shape).to(like.dtype) - 1


def _hessian_product(
    value_fn: Callable[[Params], torch.Tensor], params: Params, direction: Params
) -> list[torch.Tensor]:
    """The leaves of ``direction @ H``, which is symmetric."""
    found, rebuild = tree.flatten(params)

    def gradient(*leaves: torch.Tensor) -> tuple[torch.Tensor, ...]:
        _, grads = value_and_grad(value_fn)(rebuild(list(leaves)))
        return tuple(tree.leaves(grads))

    # Backward through backward: no slower than forward mode here, and more operations have it.
    pull_back = torch.func.vjp(gradient, *found)[1]
    return list(pull_back(tuple(tree.leaves(direction))))
