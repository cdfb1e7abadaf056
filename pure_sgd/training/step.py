"""One training step as one pure function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .. import tree
from ..errors import PureSGDError
from ..gradients import value_and_grad
from ..transforms import GradientTransformation, apply_updates, extra_args_of, learning_rate
from .state import BUFFERS, TrainState, trainable

__all__ = ["Metrics", "Step", "make_step"]

Metrics = dict[str, torch.Tensor]
Step = Callable[..., tuple[TrainState, Metrics]]


def make_step(loss: Callable[..., Any], tx: GradientTransformation, has_aux: bool = False) -> Step:
    """The pure step ``step(state, batch, **extra) -> (state, metrics)``.

        value, grads = value_and_grad(loss)(params, batch)
        updates, opt_state = tx.update(grads, opt_state, params, **extra)
        params = apply_updates(params, updates)

    ``loss(params, batch)`` is a scalar, :func:`empirical_risk` of an example loss or any other. Metrics are
    tensors of shape ``()``: ``loss`` (before the step), ``grad_norm`` (over all leaves),
    ``learning_rate`` where the state holds one, and what the loss returns beside its value. With
    ``has_aux`` the loss returns ``(value, aux)``, ``aux`` a dict of metrics; its entry ``'buffers'``, if any,
    replaces ``params['buffers']``. Extra arguments go to ``tx``; a ``value`` that ``tx`` reads and nobody
    gives is the loss.

    Raises:
        PureSGDError: an extra argument that ``tx`` does not read, a loss that is not a scalar, or
            gradients unlike ``params``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.sgd(0.5)
        >>> step = ps.make_step(ps.empirical_risk(lambda params, x: (params - x) ** 2 / 2), tx)
        >>> state = ps.init_train_state(torch.tensor(0.0), tx)
        >>> state, metrics = step(state, (torch.tensor([1.0, 3.0]),))
        >>> state.params, metrics["loss"]
        (tensor(1.), tensor(2.5000))
    """
    reads = extra_args_of(tx)

    def step(state: TrainState, batch: Any, **extra: Any) -> tuple[TrainState, Metrics]:
        for name in extra:
            if name not in reads:
                raise PureSGDError(
                    "step",
                    f"nobody reads the extra argument {name!r}; the optimizer reads {list(reads) or 'none'}",
                    "Leave it out, or add the transform that needs it",
                )
        params = trainable(state.params)
        constants = {} if params is state.params else {BUFFERS: state.params[BUFFERS]}

        def objective(params: Any, batch: Any) -> Any:
            return loss({**params, **constants} if constants else params, batch)

        value, grads = value_and_grad(objective, has_aux)(params, batch)
        value, aux = value if has_aux else (value, {})
        if "value" in reads and "value" not in extra:
            extra = {**extra, "value": value}
        updates, opt_state = tx.update(grads, state.opt_state, params, **extra)
        params = apply_updates(params, updates)
        if constants:
            params = {**params, BUFFERS: aux.get(BUFFERS, constants[BUFFERS])}
        metrics = {"loss": value, "grad_norm": tree.norm(grads)}
        rate = learning_rate(opt_state)
        if rate is not None:
            metrics["learning_rate"] = rate
        metrics.update({name: metric for name, metric in aux.items() if name != BUFFERS})
        return TrainState(state.step + 1, params, opt_state), metrics

    return step
