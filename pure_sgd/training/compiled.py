"""The step as one compiled program, and the decision whether that pays."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from .. import functorch, tree
from ..arguments import typed
from ..hints import T
from .donated import Donated, take_over
from .programs.direct import compile_directly
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


@typed
def compile_step(step: Step[T], donate: bool = False, **options: Any) -> Step[T]:
    """The same step as one compiled program, always with ``fullgraph=True``.

    The first call with a batch of some shape compiles; a later one runs the program alone, and costs less
    than any other way to call one. What ``step`` reads besides its arguments is read once. ``options`` go to
    ``torch.compile`` (``backend``, ``mode``, ``options``, ``dynamic``). The program runs without
    autograd: for gradients through a run use the step itself.

    With ``donate=True`` the state belongs to the compiled step, one at a time: the first call takes over the
    leaves of more than 4096 numbers and copies the others, and every call writes the new state over the old
    one. Nothing is allocated, addresses stay. An earlier state is then an
    error; ``state._replace(params=...)`` of the newest is a new one to take over. Metrics stay as they are.

    Raises:
        PureSGDError: what the step itself raises; a state that was donated to an earlier call.

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
    from torch._dynamo.exc import TorchDynamoException

    run = _in_place(step, options) if donate else _pure(step, options)

    def compiled(state: TrainState, batch: Any, **extra: Any) -> tuple[TrainState, Metrics]:
        if torch.compiler.is_compiling() or functorch.within_transform():
            return step(state, batch, **extra)
        try:
            return run(state, batch, extra)
        except TorchDynamoException:
            # A step is pure: run as it stands, it raises the sentence that the compiler swallowed.
            try:
                with torch.no_grad():
                    step(state, batch, **extra)
            except Exception as error:
                raise error from None  # without the hundreds of lines that the compiler says instead
            raise

    return compiled


def _pure(step: Step, options: dict[str, Any]) -> Callable[..., tuple[TrainState, Metrics]]:
    program = compile_directly(lambda memory, state, batch, extra: step(state, batch, **extra), **options)
    return partial(program, [])


def _in_place(step: Step, options: dict[str, Any]) -> Callable[..., tuple[TrainState, Metrics]]:
    """The step of a state that the program writes over."""
    programs: dict[Any, Callable[..., Metrics]] = {}
    owned: Donated | None = None
    program: Callable[..., Metrics] | None = None

    def run(state: TrainState, batch: Any, extra: dict[str, Any]) -> tuple[TrainState, Metrics]:
        nonlocal owned, program
        if owned is not None and program is not None and state is owned.state:
            metrics = program(owned.memory, batch, extra)
            return owned.advance(), metrics
        leaves = tree.leaves(state)
        kind = (tree.structure(state), *[(leaf.shape, leaf.dtype, leaf.device) for leaf in leaves])
        if kind not in programs:
            programs[kind] = _program(step, state, options)
        wanted = programs[kind]
        taken = take_over(state, owned)
        metrics = wanted(taken.memory, batch, extra)
        owned, program = taken, wanted
        return owned.advance(), metrics

    return run


def _program(step: Step, state: TrainState, options: dict[str, Any]) -> Callable[..., Metrics]:
    """``program(memory, batch, extra) -> metrics`` for states like this one."""
    like = tree.map(lambda leaf: 0, state)
    shapes = [leaf.shape for leaf in tree.leaves(state)]

    def program(memory: list[torch.Tensor], batch: Any, extra: dict[str, Any]) -> Metrics:
        leaves = [_shaped(held, shape) for held, shape in zip(memory, shapes, strict=True)]
        old: TrainState = tree.flatten(like)[1](leaves)
        new, metrics = step(old, batch, **extra)
        tree.check_like(new, old, "new state", "state")
        # A metric may be a part of the state, which is about to change.
        metrics = tree.map(_read_now, metrics)
        written = [_shaped(leaf, held.shape) for leaf, held in zip(tree.leaves(new), memory, strict=True)]
        for held, value in zip(memory, written, strict=True):
            held.copy_(value)
        return metrics

    return compile_directly(program, **options)


def _shaped(leaf: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    return leaf if leaf.shape == shape else leaf.reshape(shape)


def _read_now(leaf: torch.Tensor) -> torch.Tensor:
    # Not clone: read_first says why. What is itself an input does not pass through the program at all.
    return torch.where(leaf == leaf, leaf, leaf)


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
