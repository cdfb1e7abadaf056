"""The step as one compiled program, and the decision whether that pays."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch._dynamo import config
from torch._dynamo.exc import TorchDynamoException

from .. import tree
from ..errors import PureSGDError
from .replayed import replay_step
from .state import TrainState
from .step import Metrics, Step

__all__ = ["compile_step", "compile_when_it_pays"]

#: Seconds of steps still to come, uncompiled, above which compiling is taken to pay: a first compilation
#: takes 10 to 60 s on two cores; it makes a large step a quarter faster, a small one four times.
PAYS_AFTER_SECONDS = 180.0
#: Steps from which on recording pays: it takes as long as about ten.
REPLAY_STEPS = 30
WARM_UP_STEPS = 3
TIMED_STEPS = 10


def compile_step(step: Step, donate: bool = False, **options: Any) -> Step:
    """The same step as one compiled program, always with ``fullgraph=True``.

    With ``donate=True`` the new state is written into the memory of the old one, whose tensors must not
    be used again (numbers of shape ``()`` are new); otherwise the step stays pure. ``options`` go to
    ``torch.compile`` (``backend``, ``mode``, ``dynamic``). The program runs without autograd: for
    gradients through a run use the step itself.

    Raises:
        PureSGDError: what the step itself raises; a state whose leaves share memory, with ``donate``.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.sgd(0.5)
        >>> step = ps.make_step(ps.empirical_risk(lambda params, x: (params - x) ** 2 / 2), tx)
        >>> step = ps.compile_step(step, donate=True, backend="aot_eager")
        >>> state, metrics = step(ps.init_train_state(torch.tensor(0.0), tx), (torch.tensor([1.0, 3.0]),))
        >>> state.params
        tensor(1.)
    """

    def donated(state: TrainState, batch: Any, **extra: Any) -> tuple[list[torch.Tensor], Metrics]:
        new, metrics = step(state, batch, **extra)
        tree.check_like(new, state, "new state", "state")
        scalars: list[torch.Tensor] = []
        for old_leaf, new_leaf in zip(tree.leaves(state), tree.leaves(new), strict=True):
            # torch 2.13 loses what is written into an input of shape () and dtype float64.
            if old_leaf.ndim:
                old_leaf.copy_(new_leaf)
            else:
                scalars.append(new_leaf)
        return scalars, metrics

    program: Callable[..., Any] = torch.compile(donated if donate else step, fullgraph=True, **options)
    owned: TrainState | None = None
    known: set[tuple[torch.Size, ...]] = set()  # the shapes of the batches that were compiled for

    def compiled(state: TrainState, batch: Any, **extra: Any) -> tuple[TrainState, Metrics]:
        nonlocal owned
        if donate and state is not owned:
            _check_memory(state)
        shapes = tuple(leaf.shape for leaf in tree.leaves(batch))
        # Python floats are constants: dynamo would turn one that was another in an earlier program into an
        # input, and Inductor then fails to compile what torch.cond does with it.
        constants = nullcontext() if shapes in known else config.patch(specialize_float=True)
        known.add(shapes)
        with torch.no_grad(), constants:
            try:
                result = program(state, batch, **extra)
            except TorchDynamoException:
                # A step is pure: run as it stands, it raises the sentence that the compiler swallowed.
                step(state, batch, **extra)
                raise
        if not donate:
            return result
        scalars, metrics = result
        leaves, rebuild = tree.flatten(state)
        fresh = iter(scalars)
        new: TrainState = rebuild([leaf if leaf.ndim else next(fresh) for leaf in leaves])
        owned = new
        return new, metrics

    return compiled


def compile_when_it_pays(step: Step, steps: int | None, **options: Any) -> Step:
    """A step that is replayed, and goes on compiled when what is left is long enough.

    A run of at least 30 ``steps`` (or of an unknown number, None) begins with :func:`replay_step`. After 3
    calls to warm up, 10 are timed, and the shortest is multiplied by the steps that are left: above
    3 minutes the step is compiled with ``donate=True``, below it never is. An unknown number counts as
    long enough once 3 minutes have been spent. Batches of another shape than the compiled one, such as
    a shorter last batch, stay uncompiled, so that nothing is compiled twice.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> from pure_sgd.training import compile_when_it_pays
        >>> tx = ps.sgd(0.5)
        >>> step = ps.make_step(ps.empirical_risk(lambda params, x: (params - x) ** 2 / 2), tx)
        >>> step = compile_when_it_pays(step, steps=100)
        >>> step(ps.init_train_state(torch.tensor(0.0), tx), (torch.tensor([1.0, 3.0]),))[0].params
        tensor(1.)
    """
    slow = replay_step(step) if steps is None or steps >= REPLAY_STEPS else step
    fast: Step | None = None
    fast_shapes: list[torch.Size] = []
    done, timed, spent = 0, [], 0.0

    def pays() -> bool:
        if steps is None:
            return spent > PAYS_AFTER_SECONDS
        if len(timed) != TIMED_STEPS:
            return False
        return min(timed) * (steps - done) > PAYS_AFTER_SECONDS

    def adaptive(state: TrainState, batch: Any, **extra: Any) -> tuple[TrainState, Metrics]:
        nonlocal fast, fast_shapes, done, spent
        if fast is not None:
            chosen = fast if _shapes(batch) == fast_shapes else slow
            return chosen(state, batch, **extra)
        if steps is not None and len(timed) == TIMED_STEPS:
            return slow(state, batch, **extra)
        start = time.perf_counter()
        new, metrics = slow(state, batch, **extra)
        # On an accelerator the launch returns at once: wait for the result, for the timed steps only.
        if tree.leaves(new)[0].device.type != "cpu":
            metrics["loss"].item()
        seconds = time.perf_counter() - start
        done, spent = done + 1, spent + seconds
        if done > WARM_UP_STEPS and len(timed) < TIMED_STEPS:
            timed.append(seconds)
        if pays():
            fast, fast_shapes = compile_step(step, donate=True, **options), _shapes(batch)
        return new, metrics

    return adaptive


def _shapes(batch: Any) -> list[torch.Size]:
    return [leaf.shape for leaf in tree.leaves(batch)]


def _check_memory(state: TrainState) -> None:
    seen: dict[int, str] = {}
    for path, leaf in tree.named_leaves(state, "state"):
        if leaf.numel() == 0:
            continue
        address = leaf.untyped_storage().data_ptr()
        if address in seen:
            raise PureSGDError(
                path,
                f"shares its memory with {seen[address]}, and a donated state is written in place",
                "Clone one of them before the first step",
            )
        seen[address] = path
