"""A chain that ends in a rule of torch's: its kernel, which writes over parameters and state."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Iterator, Mapping, Sequence
from importlib import import_module
from itertools import accumulate, groupby
from typing import Any, NamedTuple

import torch

from .. import tree
from ..schedules import value_at
from ..transforms import (
    GradientTransformation,
    InjectHyperparamsState,
    ScaleByAdamState,
    ScaleByAmsgradState,
    ScaleByLearningRateState,
    TraceState,
    add_decayed_weights,
    chain,
    clip_by_global_norm,
    extra_args_of,
    scale_by_adam,
    scale_by_amsgrad,
    scale_by_learning_rate,
    trace,
)
from ..transforms.clipping import shrinking
from .held import SHORT, arguments_of
from .in_place import read

__all__ = ["Kernel", "kernel_of"]

Tensors = list[torch.Tensor]
Arguments = dict[str, Any]
WIDE = (torch.float32, torch.float64)
#: Numbers that are scaled at a time on a CPU: they are in its cache yet when the kernel reads them.
MANY = 1 << 18

#: What torch.optim is made of has no public names.
_torch: Any = import_module("torch")
_by_kind: Any = import_module("torch.utils._foreach_utils")._group_tensors_by_device_and_dtype

CHAIN, CLIP = map(inspect.unwrap, (chain, clip_by_global_norm))
DECAY, TRACE = map(inspect.unwrap, (add_decayed_weights, trace))
ADAM, AMSGRAD, RATE = map(inspect.unwrap, (scale_by_adam, scale_by_amsgrad, scale_by_learning_rate))
MAX_NORM = "max_norm"
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
#: The rule of what stands at the end of a chain, with a clip by norm or without.
RULES: dict[tuple[Any, ...], _Rule] = {
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
RULES.update({(CLIP, *factories): rule for factories, rule in RULES.items()})


class _Link(NamedTuple):
    """A transform of a chain, what made it, of what, and its state."""

    transform: GradientTransformation
    factory: Any
    arguments: Arguments
    state: Any


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

    def __init__(
        self, rule: _Rule, params: Mapping[Hashable, torch.Tensor], before: list[_Link], links: list[_Link]
    ):
        given = _given(links)
        self._rule, self._is_sgd, self._schedule = rule, rule is SGD, given["lr"]
        self._numbers = {name: given.get(name, 0.0) for name in rule.numbers}
        self._numbers |= {name: given[name] for name in given.keys() & {MAX_NORM}}
        self._nesterov = bool(given.get("nesterov"))
        self._named, self._params = dict(params), list(params.values())
        self._before = chain(*(link.transform for link in before)) if before else None
        self._state = tuple(link.state for link in before)
        names = [name for link in before for name, _ in arguments_of(link.transform) if name is not None]
        self._fixed = {SHORT.get(name, name) for name in names}
        self._memory, self._steps = list[Tensors](), list[torch.Tensor]()
        for _, node in tree.walk([link.state for link in links]):
            for field in MEMORY.get(type(node), ()):
                self._memory.append([getattr(node, field)[name] for name in params])
            if isinstance(node, (*MEMORY, ScaleByLearningRateState)):
                self._steps.append(node.step)
            if isinstance(node, ScaleByLearningRateState):
                self._rate = node.learning_rate
        ends = list(accumulate(p.numel() for p in self._params))
        on_cpu = all(p.device.type == "cpu" for p in self._params)
        parts = [list(part) for _, part in groupby(range(len(ends)), lambda i: on_cpu and ends[i] // MANY)]
        self._parts = [slice(part[0], part[-1] + 1) for part in parts]
        columns = [self._params, *self._memory]
        self.kinds = {(leaf.device, leaf.dtype) for column in columns for leaf in column}

    def fits(self) -> bool:
        """Whether parameters and memory are what the kernel takes."""
        # Elsewhere, to read what a schedule returns would wait for the device.
        devices = ("cpu",) if callable(self._schedule) else ("cpu", "cuda")
        return [device.type in devices and dtype in WIDE for device, dtype in self.kinds] == [True]

    def step(self, grads: Tensors, held: Mapping[str, Any]) -> bool:
        """One update with the hyperparameters ``held``; False, and nothing done, where it has none."""
        numbers = {name: float(value) for name, value in (self._numbers | dict(held)).items()}
        # Without momentum the kernel leaves the trace as it is.
        if self._is_sgd and self._memory and not numbers["decay"]:
            return False
        # The transforms before the rule have the hyperparameters that they were made with.
        if numbers.keys() != self._numbers.keys() or self._fixed & held.keys():
            return False
        if not (self._fits(self._params) and self._fits(grads)):
            return False
        if callable(self._schedule):
            at_step = value_at(self._schedule, self._steps[-1], "scale_by_learning_rate", "learning_rate")
            numbers["lr"] *= float(at_step)
        grads = self._updates(grads)
        self._rate.fill_(numbers["lr"])
        self._apply(grads, numbers)
        return True

    def _updates(self, grads: Tensors) -> Tensors:
        """What the rule gets; the state of what stands before it is written over."""
        if self._before is None:
            return grads
        named = dict(zip(self._named, grads, strict=True))
        extra = {"grad": named} if "grad" in extra_args_of(self._before) else {}
        updates, state = self._before.update(named, self._state, self._named, **extra)
        places = tree.leaves(self._state)
        found = read([*(updates[name] for name in named), *tree.leaves(state)], places)
        for place, value in zip(places, found[len(grads) :], strict=True):
            place.copy_(value)
        return [update.contiguous() for update in found[: len(grads)]]

    def _fits(self, column: Tensors) -> bool:
        # Parameters may have been cast or moved since, and gradients may be views.
        return _by_kind([column]).keys() == self.kinds and all(map(torch.Tensor.is_contiguous, column))

    def _apply(self, grads: Tensors, numbers: Mapping[str, float]) -> None:
        """The rule, with the clip before it."""
        told = {theirs: numbers[ours] for ours, theirs in self._rule.numbers.items()}
        if self._is_sgd:
            first = told["dampening"] != 0 and not int(self._steps[0])
            told |= {"nesterov": self._nesterov, "is_first_step": first}
        else:
            told |= {"amsgrad": len(self._memory) == 3}
        if MAX_NORM in numbers:
            norm = torch.linalg.vector_norm(torch.stack(_torch._foreach_norm(grads)))
            factor = shrinking(norm, numbers[MAX_NORM])
            for part in self._parts:
                # No name for what is scaled: its memory is that of the next part.
                self._call(part, _torch._foreach_mul(grads[part], factor), told)
        else:
            self._call(slice(None), grads, told)
        _torch._foreach_add_(self._steps, 1)

    def _call(self, part: slice, grads: Sequence[torch.Tensor], told: Arguments) -> None:
        params, memory = self._params[part], [column[part] for column in self._memory]
        if self._is_sgd:
            _torch._fused_sgd_(params, grads, *(memory or [[]]), **told, maximize=False)
        else:
            mu, nu, *top = memory
            steps = [(self._steps[0] + 1).to(torch.float32)] * len(params)
            kernel = getattr(_torch, self._rule.name)
            kernel(params, grads, mu, nu, *(top or [[]]), steps, **told, maximize=False)


def kernel_of(
    tx: GradientTransformation, params: Mapping[Hashable, torch.Tensor], state: Any, *, whole: bool = False
) -> Kernel | None:
    """The kernel of ``fused=True`` that does what ``tx`` ends in, to rounding; None where torch has none.

    It writes over ``params`` and over ``state``, that of ``tx`` or of :func:`hold` of it. Torch has one for
    the rules of its SGD, Adam and AdamW, on parameters of one dtype, float32 or float64, on one device. It
    knows no masks, and no schedules of anything but the learning rate. Gradients that are clipped by their
    norm right before the rule are scaled on their way into it. What else stands before the longest such
    rule is computed first, as ever; with ``whole`` nothing may.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> from pure_sgd.bridges.kernels import kernel_of
        >>> params = {"w": torch.zeros(2)}
        >>> for tx in (ps.adam(0.1), ps.lion(0.1), ps.chain(ps.sgd(0.1), ps.params_ema(0.9))):
        ...     print(
        ...         [kernel_of(tx, params, tx.init(params), whole=whole) is None for whole in (True, False)]
        ...     )
        [False, False]
        [True, False]
        [True, True]
    """
    if not {*map(type, params.values())} <= {torch.Tensor, torch.nn.Parameter}:
        return None
    links = list(_links(tx, state.inner_state if isinstance(state, InjectHyperparamsState) else state))
    for start in range(1 if whole else len(links)):
        rule = _rule(links[start:])
        kernel = Kernel(rule, params, links[:start], links[start:]) if rule is not None else None
        if kernel is not None and kernel.fits():
            return kernel
    return None


def _rule(links: list[_Link]) -> _Rule | None:
    """That which torch has a kernel for, with these arguments."""
    rule, given = RULES.get(tuple(link.factory for link in links)), _given(links)
    if rule is None or any(_differs(given.get(name, only), only) for name, only in rule.fixed.items()):
        return None
    numbers = [given.get(name, 0.0) for name in {*rule.numbers, MAX_NORM} - {"lr"}]
    return rule if all(isinstance(value, (int, float)) for value in numbers) else None


def _links(tx: GradientTransformation, state: Any) -> Iterator[_Link]:
    """The transforms of a chain, one after the other."""
    recipe = tx.recipe
    if recipe is None:
        yield _Link(tx, None, {}, state)
    elif recipe.factory is CHAIN:
        for part, its in zip(recipe.args, state, strict=True):
            yield from _links(part, its)
    else:
        bound = inspect.signature(recipe.factory).bind(*recipe.args, **recipe.kwargs)
        bound.apply_defaults()
        yield _Link(tx, recipe.factory, bound.arguments, state)


def _given(links: list[_Link]) -> Arguments:
    return {SHORT.get(name, name): value for link in links for name, value in link.arguments.items()}


def _differs(value: Any, only: Any) -> bool:
    return value is not only and (isinstance(value, torch.Tensor) or value != only)
