"""A chain that torch has a kernel for: one call of that, which writes over parameters and state."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Iterator, Mapping
from importlib import import_module
from typing import Any, NamedTuple

import torch

from .. import tree
from ..schedules import value_at
from ..transforms import (
    GradientTransformation,
    ScaleByAdamState,
    ScaleByAmsgradState,
    ScaleByLearningRateState,
    TraceState,
    add_decayed_weights,
    chain,
    scale_by_adam,
    scale_by_amsgrad,
    scale_by_learning_rate,
    trace,
)
from .held import SHORT

__all__ = ["Kernel", "kernel_of"]

Tensors = list[torch.Tensor]
Arguments = dict[str, Any]
WIDE = (torch.float32, torch.float64)

#: What torch.optim is made of has no public names.
_torch: Any = import_module("torch")
_by_kind: Any = import_module("torch.utils._foreach_utils")._group_tensors_by_device_and_dtype

CHAIN, DECAY, TRACE = map(inspect.unwrap, (chain, add_decayed_weights, trace))
ADAM, AMSGRAD, RATE = map(inspect.unwrap, (scale_by_adam, scale_by_amsgrad, scale_by_learning_rate))
#: What a kernel has of each parameter, beside its gradient.
MEMORY: dict[type, tuple[str, ...]] = {
    TraceState: ("trace",),
    ScaleByAdamState: ("mu", "nu"),
    ScaleByAmsgradState: ("mu", "nu", "nu_max"),
}


class _Rule(NamedTuple):
    """A kernel, what torch calls the hyperparameters of a chain, and the only value of those it lacks."""

    name: str
    numbers: dict[str, str]
    fixed: dict[str, Any]


SGD = _Rule(
    "_fused_sgd_",
    {"weight_decay": "weight_decay", "decay": "momentum", "dampening": "dampening", "lr": "lr"},
    {"mask": None, "flip_sign": True},
)
ADAM_W = _Rule(
    "_fused_adamw_",
    {"weight_decay": "weight_decay", "b1": "beta1", "b2": "beta2", "eps": "eps", "lr": "lr"},
    {
        **SGD.fixed,
        "eps_root": 0.0,
        "nesterov": False,
        "bias_correction_mu": True,
        "bias_correction_nu": True,
        "max_before_correction": True,
    },
)
ADAM_L2 = ADAM_W._replace(name="_fused_adam_")
#: The rule of what stands in a chain.
RULES = {
    (RATE,): SGD,
    (DECAY, RATE): SGD,
    (TRACE, RATE): SGD,
    (DECAY, TRACE, RATE): SGD,
    (ADAM, RATE): ADAM_L2,
    (DECAY, ADAM, RATE): ADAM_L2,
    (ADAM, DECAY, RATE): ADAM_W,
    (AMSGRAD, RATE): ADAM_L2,
    (DECAY, AMSGRAD, RATE): ADAM_L2,
    (AMSGRAD, DECAY, RATE): ADAM_W,
}


class Kernel:
    """A rule of torch, for the parameters of a group and the state of its chain; see :func:`kernel_of`.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> from pure_sgd.bridges.kernels import kernel_of
        >>> tx, params = ps.sgd(0.1, momentum=0.9), {"w": torch.zeros(2)}
        >>> state = tx.init(params)
        >>> kernel_of(tx, params, state).step([torch.ones(2)], {"lr": 0.5})
        True
        >>> params["w"], state[0].trace["w"], state[1].learning_rate
        (tensor([-0.5000, -0.5000]), tensor([1., 1.]), tensor(0.5000, dtype=torch.float64))
    """

    def __init__(self, rule: _Rule, given: Arguments, params: Mapping[Hashable, torch.Tensor], state: Any):
        self._rule, self._schedule = rule, given["lr"]
        self._numbers = {name: given.get(name, 0.0) for name in rule.numbers}
        self._nesterov = bool(given.get("nesterov"))
        self._params, self._memory, self._steps = list(params.values()), list[Tensors](), list[torch.Tensor]()
        for _, node in tree.walk(state):
            for field in MEMORY.get(type(node), ()):
                self._memory.append([getattr(node, field)[name] for name in params])
            if isinstance(node, (*MEMORY, ScaleByLearningRateState)):
                self._steps.append(node.step)
            if isinstance(node, ScaleByLearningRateState):
                self._rate = node.learning_rate
        columns = [self._params, *self._memory]
        self.kinds = {(leaf.device, leaf.dtype) for column in columns for leaf in column}

    def step(self, grads: Tensors, held: Mapping[str, Any]) -> bool:
        """One update with the hyperparameters ``held``; False, and nothing done, where it has none."""
        numbers = {name: float(value) for name, value in (self._numbers | dict(held)).items()}
        # Without momentum the kernel leaves the trace as it is.
        if self._rule is SGD and self._memory and not numbers["decay"]:
            return False
        if numbers.keys() != self._numbers.keys() or not (self._fits(self._params) and self._fits(grads)):
            return False
        if callable(self._schedule):
            at_step = value_at(self._schedule, self._steps[-1], "scale_by_learning_rate", "learning_rate")
            numbers["lr"] *= float(at_step)
        self._rate.fill_(numbers["lr"])
        told = {theirs: numbers[ours] for ours, theirs in self._rule.numbers.items()}
        (self._sgd if self._rule is SGD else self._adam)(grads, told)
        return True

    def _fits(self, column: Tensors) -> bool:
        # Parameters may have been cast or moved since, and gradients may be views.
        return _by_kind([column]).keys() == self.kinds and all(map(torch.Tensor.is_contiguous, column))

    def _sgd(self, grads: Tensors, told: dict[str, Any]) -> None:
        first = told["dampening"] != 0 and not int(self._steps[0])
        told |= {"nesterov": self._nesterov, "is_first_step": first, "maximize": False}
        _torch._fused_sgd_(self._params, grads, *(self._memory or [[]]), **told)
        _torch._foreach_add_(self._steps, 1)

    def _adam(self, grads: Tensors, told: dict[str, Any]) -> None:
        _torch._foreach_add_(self._steps, 1)
        mu, nu, *top = self._memory
        steps = [self._steps[0].to(torch.float32)] * len(grads)
        told |= {"amsgrad": bool(top), "maximize": False}
        getattr(_torch, self._rule.name)(self._params, grads, mu, nu, *(top or [[]]), steps, **told)


def kernel_of(
    tx: GradientTransformation, params: Mapping[Hashable, torch.Tensor], state: Any
) -> Kernel | None:
    """The kernel of ``fused=True`` that does what ``tx`` does, to rounding; None where torch has none.

    It writes over ``params`` and over ``state``, that of ``tx`` or of :func:`hold` of it. Torch has one for
    the rules of its SGD, Adam and AdamW, on parameters of one dtype, float32 or float64, on one device. It
    knows no masks, and no schedules of anything but the learning rate.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> from pure_sgd.bridges.kernels import kernel_of
        >>> params = {"w": torch.zeros(2)}
        >>> [kernel_of(tx, params, tx.init(params)) is None for tx in (ps.adam(0.1), ps.lion(0.1))]
        [False, True]
    """
    links = list(_links(tx))
    rule = RULES.get(tuple(factory for factory, _ in links))
    given = {SHORT.get(name, name): value for _, arguments in links for name, value in arguments.items()}
    if rule is None or any(_differs(given.get(name, only), only) for name, only in rule.fixed.items()):
        return None
    numbers = [value for name, value in given.items() if name in rule.numbers and name != "lr"]
    if not all(isinstance(value, (int, float)) for value in numbers):
        return None
    if not {*map(type, params.values())} <= {torch.Tensor, torch.nn.Parameter}:
        return None
    kernel = Kernel(rule, given, params, state)
    # Elsewhere, to read what a schedule returns would wait for the device.
    devices = ("cpu",) if callable(given["lr"]) else ("cpu", "cuda")
    known = [device.type in devices and dtype in WIDE for device, dtype in kernel.kinds]
    return kernel if known == [True] else None


def _links(tx: GradientTransformation) -> Iterator[tuple[Any, Arguments]]:
    """The transforms of a chain, one after the other: what made each, of what."""
    recipe = tx.recipe
    if recipe is not None and recipe.factory is CHAIN:
        for part in recipe.args:
            yield from _links(part)
    elif recipe is None:
        yield None, {}
    else:
        bound = inspect.signature(recipe.factory).bind(*recipe.args, **recipe.kwargs)
        bound.apply_defaults()
        yield recipe.factory, bound.arguments


def _differs(value: Any, only: Any) -> bool:
    return value is not only and (isinstance(value, torch.Tensor) or value != only)
