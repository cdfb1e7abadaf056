"""Parameters of low precision, which follow their like in a higher one."""

from __future__ import annotations

from typing import Any, NamedTuple

from .. import tree
from .contract import (
    GradientTransformation,
    Params,
    State,
    Updates,
    apply_updates,
    extra_args_of,
    missing_params,
    transformation,
)
from .wrapping import check_inner, extras_for

__all__ = ["MasterWeightsState", "master_weights"]


class MasterWeightsState(NamedTuple):
    """What the parameters are rounded from."""

    master: Params  # like params, in at least float32
    inner_state: State


@transformation
def master_weights(inner: GradientTransformation) -> GradientTransformation:
    """Let ``inner`` train a copy of the parameters in at least float32; they follow it, rounded.

        master = master + inner(u, master)
        u      = round(master) - params                      rounded to the dtype of params

    For parameters in bfloat16 or float16: an update smaller than their rounding is lost where it is added to
    them, and is not lost where it is added to ``master``. ``inner`` sees updates and parameters in at least
    float32, and so keeps its state. What is changed in the parameters from outside, the next update undoes.
    Source: Micikevicius et al. 2018, arXiv:1710.03740.

    Raises:
        PureSGDError: ``inner`` is no transform.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx, params = ps.master_weights(ps.sgd(0.25)), torch.ones(1, dtype=torch.bfloat16)
        >>> state = ps.init_train_state(params, tx)
        >>> step = ps.make_step(lambda params, _: 0.01 * params.sum(), tx)
        >>> for _ in range(8):
        ...     state, _ = step(state, ())
        >>> state.params, state.opt_state.master
        (tensor([0.9805], dtype=torch.bfloat16), tensor([0.9800]))
    """
    check_inner("master_weights", inner)

    def init(params: Params) -> MasterWeightsState:
        master = tree.map(lambda p: tree.widened(p).clone(), params)
        return MasterWeightsState(master, inner.init(master))

    def update(
        updates: Updates, state: MasterWeightsState, params: Params = None, **extra: Any
    ) -> tuple[Updates, MasterWeightsState]:
        if params is None:
            raise missing_params("master_weights")
        wide = tree.map(tree.widened, updates)
        wide, inner_state = inner.update(wide, state.inner_state, state.master, **extras_for(inner, extra))
        master = apply_updates(state.master, wide)

        def to_master(m: Any, p: Any, u: Any) -> Any:
            return (tree.widened(m.to(p.dtype)) - tree.widened(p)).to(u.dtype)

        return tree.map(to_master, master, params, updates), MasterWeightsState(master, inner_state)

    return GradientTransformation(init, update, extra_args_of(inner))
