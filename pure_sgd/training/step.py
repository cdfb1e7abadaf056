"""One training step as one pure function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate

import torch

from .. import tree
from ..arguments import typed
from ..errors import PureSGDError, check_count
from ..gradients import EmpiricalRisk, GradientMoments, noise_scale, value_and_grad
from ..hints import T
from ..models.buffers import BUFFERS, trainable
from ..transforms import GradientTransformation, apply_updates, extra_args_of, learning_rate
from ..transforms.wrapping import either
from .state import TrainState

__all__ = ["Metrics", "Step", "make_step"]

Metrics = dict[str, torch.Tensor]
Step = Callable[Concatenate[TrainState[T], Any, ...], tuple[TrainState[T], Metrics]]


@typed
def make_step(
    loss: Callable[..., Any],
    tx: GradientTransformation,
    has_aux: bool = False,
    *,
    statistics: int | None = None,
) -> Step[T]:
    """The pure step ``step(state, batch, **extra) -> (state, metrics)``.

        value, grads = value_and_grad(loss)(params, batch)
        updates, opt_state = tx.update(grads, opt_state, params, **extra)
        params = apply_updates(params, updates)

    ``loss(params, batch)`` is a scalar, :func:`empirical_risk` of an example loss or any other. Metrics are
    tensors of shape ``()``: ``loss`` (before the step), ``grad_norm`` (over all leaves),
    ``learning_rate`` where the state holds one, and what the loss returns beside its value. With
    ``has_aux`` the loss returns ``(value, aux)``, ``aux`` a dict of metrics; its entry ``'buffers'``, if any,
    replaces ``params['buffers']``. Extra arguments go to ``tx``. Of those that ``tx`` reads and nobody gives,
    ``value`` is the loss, ``grad`` its gradient, ``value_fn(params)`` the loss of this batch at other
    parameters, as line searches ask for it, and ``grad_fn(params, i)`` its gradient there, as :func:`sam`
    does.

    Every ``statistics`` steps, the first included, the gradient comes from :func:`gradient_moments`, and
    metrics hold the terms of :func:`noise_scale`: ``trace_covariance``, ``grad_sq_norm`` and their ratio
    ``noise_scale``, which at other steps are NaN. ``loss`` is then an :func:`empirical_risk`. Such a step
    costs as much as two others at most where one pass serves; :func:`gradient_paths` tells.

    Raises:
        PureSGDError: an extra argument that ``tx`` does not read, a loss that is not a scalar,
            gradients unlike ``params``, or ``statistics`` of a loss that knows no examples.

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
    check_count("make_step", "statistics", 1 if statistics is None else statistics)
    measure = None if statistics is None else _measurement(loss)
    differentiate = value_and_grad(loss, has_aux)

    def step(state: TrainState, batch: Any, **extra: Any) -> tuple[TrainState, Metrics]:
        for name in extra:
            if name not in reads:
                raise PureSGDError(
                    "step",
                    f"nobody reads the extra argument {name!r}; the optimizer reads {list(reads) or 'none'}",
                    "Leave it out, or add the transform that needs it",
                )
        if not isinstance(state, TrainState):
            got = f"is a {type(state).__name__}, expected a TrainState"
            raise PureSGDError("state", got, "Make one with init_train_state")
        params = trainable(state.params)
        constants = {} if params is state.params else {BUFFERS: state.params[BUFFERS]}

        def at(params: Any) -> Any:
            return {**params, **constants} if constants else params

        noise: Metrics = {}
        if statistics is None or measure is None:
            value, grads = differentiate(state.params, batch)
            value, aux = value if has_aux else (value, {})
        else:
            due, aux = state.step % statistics == 0, {}
            value, grads, noise = _with_noise(due, measure, differentiate, state.params, batch)
        own = {
            "value": value,
            "grad": grads,
            "value_fn": lambda params: loss(at(params), batch)[0] if has_aux else loss(at(params), batch),
            "grad_fn": lambda params, i: differentiate(at(params), batch)[1],
        }
        extra = {**{name: known for name, known in own.items() if name in reads}, **extra}
        updates, opt_state = tx.update(grads, state.opt_state, params, **extra)
        params = apply_updates(params, updates)
        if constants:
            params = {**params, BUFFERS: aux.get(BUFFERS, constants[BUFFERS])}
        metrics = {"loss": value, "grad_norm": tree.norm(grads), **noise}
        rate = learning_rate(opt_state)
        if rate is not None:
            metrics["learning_rate"] = rate
        metrics.update({name: metric for name, metric in aux.items() if name != BUFFERS})
        return TrainState(state.step + 1, params, opt_state), metrics

    return step


def _measurement(loss: Callable[..., Any]) -> Callable[..., GradientMoments]:
    if isinstance(loss, EmpiricalRisk):
        return loss.moments()
    raise PureSGDError(
        "make_step", "statistics are of examples, and the loss knows none", "Pass an empirical_risk as loss"
    )


def _with_noise(
    due: torch.Tensor,
    measure: Callable[..., GradientMoments],
    differentiate: Callable[..., Any],
    params: Any,
    batch: Any,
) -> tuple[torch.Tensor, Any, Metrics]:
    """Loss, gradient and noise of a batch; noise is NaN, and costs nothing, where it is not ``due``."""

    def measured() -> tuple[torch.Tensor, Any, Metrics]:
        moments = measure(params, batch)
        trace, signal, ratio = noise_scale(moments)
        noise = {"trace_covariance": trace, "grad_sq_norm": signal, "noise_scale": ratio}
        return moments.loss, tree.cast_like(moments.mean, trainable(params)), noise

    def plain() -> tuple[torch.Tensor, Any, Metrics]:
        value, grads = differentiate(params, batch)
        value, unknown = tree.widened(value), tree.norm(grads) * torch.nan
        names = ("trace_covariance", "grad_sq_norm", "noise_scale")
        return value, grads, {name: unknown.clone() for name in names}

    return either(due, measured, plain)
