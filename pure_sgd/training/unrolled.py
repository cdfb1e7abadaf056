"""A run that can be differentiated without keeping what each of its steps computed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from .. import functorch, tree
from ..arguments import typed
from ..errors import PureSGDError, check_count
from ..hints import T
from .state import TrainState
from .step import Metrics, Step

__all__ = ["unroll"]

Leaves = tuple[torch.Tensor, ...]

_PASS_ON = "Pass it on: unroll(step, state, batches, rate) calls step(state, batch, rate)"


@typed
def unroll(
    step: Step[T], state: TrainState[T], batches: Any, *args: Any, checkpoint_every: int | None = None
) -> tuple[TrainState[T], Metrics]:
    """Take one step a batch, so that a gradient through all of them needs little memory.

        for batch in batches:
            state, metrics = step(state, batch, *args)

    ``batches`` is a tree of tensors with a leading axis of n steps; the metrics come back stacked, (n, P).
    Numbers and gradients are those of the loop. The loop keeps what all n steps computed until it is
    differentiated; this keeps the states between segments of k = ``checkpoint_every`` steps, about sqrt(n)
    by default, and computes one segment at a time again: n / k states and k steps in memory, for the time
    of one more run. It can be differentiated any number of times, by ``torch.func.grad``, under ``vmap``
    and by ``backward()``.

    What is differentiated or mapped reaches ``step`` through its arguments: the state, the batch, or
    ``args``, trees of tensors such as hyperparameters. For the slope along one hyperparameter there is
    forward mode, too: ``torch.func.jvp`` of the loop itself keeps nothing.

    Source: Chen et al. 2016, arXiv:1604.06174, for segments of sqrt(n).

    Raises:
        PureSGDError: no step, leaves of ``batches`` that disagree in length, a ``checkpoint_every`` under 1,
            or a ``step`` that reads a tensor which is differentiated or mapped over and is none of its
            arguments.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> loss = ps.empirical_risk(lambda params, x: (params - x) ** 2 / 2)
        >>> def step(state, batch, rate):
        ...     return ps.make_step(loss, ps.sgd(rate))(state, batch)
        >>> def final(rate, x):
        ...     state = ps.init_train_state(torch.tensor(0.0), ps.sgd(rate))
        ...     state, metrics = ps.unroll(step, state, x, rate)
        ...     return state.params
        >>> torch.func.grad(final)(torch.tensor(0.5), torch.ones(3, 1))  # of 1 - (1 - rate)**3
        tensor(0.7500)
    """
    count = tree.batch_length(batches, "batches")
    if checkpoint_every is None:
        checkpoint_every = math.isqrt(count - 1) + 1
    check_count("unroll", "checkpoint_every", checkpoint_every)
    _check_closure(step, state, tree.map(lambda leaf: leaf[0], batches), args)
    parts: list[Metrics] = []
    for start in range(0, count, checkpoint_every):
        part = tree.map(lambda leaf, start=start: leaf[start : start + checkpoint_every], batches)
        state, metrics = _recomputed(_segment(step), state, part, args)
        parts.append(metrics)
    return state, tree.map(lambda *rows: torch.cat(rows), *parts)


def _segment(step: Step) -> Callable[..., tuple[TrainState, Metrics]]:
    def segment(state: TrainState, batches: Any, args: Any) -> tuple[TrainState, Metrics]:
        rows: list[Metrics] = []
        for index in range(tree.batch_length(batches)):
            state, metrics = step(state, tree.map(lambda leaf, i=index: leaf[i], batches), *args)
            rows.append(metrics)
        return state, tree.map(lambda *row: torch.stack(row), *rows)

    return segment


def _recomputed(function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)`` of trees, of which nothing else is kept for its gradient."""
    inputs, rebuild = tree.flatten(arguments)
    rebuild_outputs: Callable[[list[Any]], Any] = list

    def flat(*leaves: torch.Tensor) -> Leaves:
        nonlocal rebuild_outputs
        outputs, rebuild_outputs = tree.flatten(function(*rebuild(list(leaves))))
        return tuple(outputs)

    outputs = _apply(flat, *inputs)
    return rebuild_outputs(list(outputs))


class _Recomputed(torch.autograd.Function):
    """A function of tensors that keeps nothing but its arguments until it is differentiated.

    Its derivative is another one of these, so that no derivative of any order keeps more.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(function: Callable[..., Leaves], *inputs: torch.Tensor) -> Leaves:
        # What goes through unchanged may not share its memory with an argument that is kept.
        return tuple(leaf.clone() for leaf in function(*inputs))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Leaves) -> None:
        ctx.function = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> tuple[Any, ...]:
        inputs, function = ctx.saved_tensors, ctx.function
        wanted = [i for i, leaf in enumerate(inputs) if ctx.needs_input_grad[i + 1] and _is_smooth(leaf)]

        def pullback(*leaves: torch.Tensor) -> Leaves:
            fixed, slopes = list(leaves[: len(inputs)]), leaves[len(inputs) :]

            def of_wanted(*changed: torch.Tensor) -> Leaves:
                for index, leaf in zip(wanted, changed, strict=True):
                    fixed[index] = leaf
                return tuple(leaf for leaf in function(*fixed) if _is_smooth(leaf))

            return torch.func.vjp(of_wanted, *(fixed[i] for i in wanted))[1](slopes)

        smooth = [cotangent for cotangent in cotangents if _is_smooth(cotangent)]
        found = iter(_apply(pullback, *inputs, *smooth))
        return None, *(next(found) if i in wanted else None for i in range(len(inputs)))


def _apply(function: Callable[..., Leaves], *inputs: torch.Tensor) -> Leaves:
    try:
        return _Recomputed.apply(function, *inputs)
    except RuntimeError as error:
        # A constant made inside of two transforms, which torch takes for one that outlived them.
        if "INTERNAL ASSERT" not in str(error):
            raise
        problem = "step reads a tensor that was made inside torch.func.grad and is none of its arguments"
        raise PureSGDError("unroll", problem, _PASS_ON) from error


def _is_smooth(leaf: torch.Tensor) -> bool:
    return leaf.is_floating_point() or leaf.is_complex()


def _check_closure(step: Step, state: TrainState, batch: Any, args: Any) -> None:
    """Take a step whose arguments are plain tensors: then nothing in it is differentiated or mapped."""
    leaves, rebuild = tree.flatten((state, batch, args))
    state, batch, args = rebuild([_plain(leaf) for leaf in leaves])
    with torch.no_grad(), _Watching():
        step(state, batch, *args)


def _plain(leaf: torch.Tensor) -> torch.Tensor:
    """A tensor of the leaf's shape without wrappers; where it is mapped, the first of many."""
    while functorch.is_wrapped(leaf):
        leaf, axis = functorch.stacked(leaf)
        leaf = leaf if axis < 0 else leaf.select(axis, 0)
    return leaf.detach()


class _Watching(TorchFunctionMode):
    """Looks for tensors that something around this block differentiates or maps over."""

    def __init__(self) -> None:
        super().__init__()
        self.level = functorch.level()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for value in tree.leaves((args, kwargs)):
            if isinstance(value, torch.Tensor) and self._is_transformed(value):
                shape = tuple(value.shape)
                raise PureSGDError(
                    "unroll",
                    f"step reads a tensor of shape {shape} that is differentiated or mapped over and is none "
                    "of its arguments",
                    _PASS_ON,
                )
        return func(*args, **(kwargs or {}))

    def _is_transformed(self, value: torch.Tensor) -> bool:
        # Each transform wraps its tensors once; those that the step itself entered are the outer wrappers.
        while functorch.is_wrapped(value):
            is_outside = functorch.level_of(value) <= self.level
            if is_outside and (value.requires_grad or functorch.is_batched(value, functorch.level_of(value))):
                return True
            value = functorch.unwrapped(value)
        return value.requires_grad
