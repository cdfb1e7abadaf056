"""A training state that is spread over ranks, and the step that takes it as it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.experimental import implicit_replication
from torch.overrides import TorchFunctionMode

from .. import tree
from ..arguments import typed
from ..errors import PureSGDError
from ..training import TrainState
from ..training.step import Metrics, Step
from ..transforms.contract import explained
from .collectives import group_of
from .placement import placed_like, spread, whole

__all__ = ["gather", "on_shards", "shard"]

#: Which leaves are spread: what the optimizer remembers, or the parameters too.
PLANS = {"optimizer": r"state\.opt_state", "all": r"state\.(opt_state|params(?!\['buffers'\]))"}

#: What torch 2.13 never comes back from where the leaf has no entries.
ENDLESS = (torch.Tensor.reshape, torch.tensordot)


@typed
def shard(state: TrainState, mesh: DeviceMesh, plan: str | Callable[[str], bool] = "optimizer") -> TrainState:
    """The same state with its larger leaves spread over the ranks, by rows.

    The state is the same on all ranks. Of each leaf that ``plan`` names, every rank keeps its part of the
    first axis, as a ``DTensor``; nothing is sent. Leaves without axes or entries, and those that are not
    floating-point, stay whole. ``plan`` is ``"optimizer"`` for what the optimizer remembers (ZeRO, stage 1),
    ``"all"`` for the parameters too (stage 3), or a predicate on the path of a leaf, which is spelled as in
    ``state.params['w']``. :func:`on_shards` makes a step that takes it; :func:`gather` is the inverse.
    Source: Rajbhandari et al. 2020, arXiv:1910.02054.

    Raises:
        PureSGDError: a mesh of several axes, or an unknown plan.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> from torch import distributed
        >>> distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        >>> mesh = distributed.init_device_mesh("cpu", (1,))
        >>> state = ps.init_train_state({"w": torch.zeros(4, 3)}, ps.sgd(0.1, momentum=0.9))
        >>> ps.distributed.shard(state, mesh, plan="all").params["w"].placements
        (Shard(dim=0),)
        >>> distributed.destroy_process_group()
    """
    group_of(mesh, "shard")
    if isinstance(plan, str) and plan not in PLANS:
        raise PureSGDError("shard", f"plan={plan!r} is unknown", f"Pass one of {[*PLANS]}, or a predicate")
    chosen = plan if callable(plan) else re.compile(PLANS[plan]).match
    _, rebuild = tree.flatten(state)
    named = tree.named_leaves(state, "state")
    return rebuild([spread(leaf, mesh) if chosen(path) else leaf for path, leaf in named])


def gather(state: Any) -> Any:
    """The same tree in whole tensors, on every rank; all ranks have to call it.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.distributed.gather({"w": torch.ones(2)})
        {'w': tensor([1., 1.])}
    """
    return tree.map(whole, state)


@typed
def on_shards(step: Step) -> Step:
    """The step of a state that :func:`shard` has spread: ``f(state, rows) -> (state, metrics)``.

    ``step`` is that of whole tensors, compiled (not donated) or not, of a :func:`data_parallel` loss: as in
    ``on_shards(compile_step(make_step(data_parallel(loss, mesh), tx)))``. The new state lies where the old
    one does, metrics are whole, and all numbers are those of one process, up to the order of sums: norms
    over leaves are norms over all rows, a rule for matrices gathers them, spread parameters are gathered
    for the loss and their gradient spread again.

    Raises:
        PureSGDError: a transform that does what cannot be done to rows that are elsewhere, such as
            :func:`scale_by_lbfgs`, by its name; and what ``step`` raises.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> from torch import distributed
        >>> distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        >>> mesh, tx = distributed.init_device_mesh("cpu", (1,)), ps.sgd(0.5, momentum=0.9)
        >>> loss = ps.distributed.data_parallel(ps.empirical_risk(lambda p, x: x @ p), mesh)
        >>> step = ps.distributed.on_shards(ps.make_step(loss, tx))
        >>> state = ps.distributed.shard(ps.init_train_state(torch.zeros(2), tx), mesh)
        >>> state, metrics = step(state, (torch.tensor([[1.0, 0.0], [0.0, 1.0]]),))
        >>> state.params, state.opt_state[0].trace.placements
        (tensor([-0.2500, -0.2500]), (Shard(dim=0),))
        >>> distributed.destroy_process_group()
    """

    @typed
    def stepped(state: TrainState, batch: Any, **extra: Any) -> tuple[TrainState, Metrics]:
        try:
            with implicit_replication(), _SumsAreWhole():
                new, metrics = step(state, batch, **extra)
        except (PureSGDError, RuntimeError) as error:
            cause = _told(error)
            transform = _transform_in(cause)
            if transform and isinstance(cause, RuntimeError):
                raise _refused(transform, cause) from error
            raise
        return tree.map(placed_like, new, state), gather(metrics)

    return stepped


class _SumsAreWhole(TorchFunctionMode):
    """Sums over rows are added up over ranks at once: torch 2.13 adds a number to the part of each rank."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in ENDLESS and any(isinstance(arg, torch.Tensor) and not arg.numel() for arg in args):
            args = [whole(arg) for arg in args]
        result = function(*args, **(kwargs or {}))
        if isinstance(result, DTensor) and any(placement.is_partial() for placement in result.placements):
            return result.redistribute(placements=[Replicate()])
        return result


def _told(error: BaseException) -> BaseException:
    """What torch said, before it was put into a sentence about arguments."""
    cause = error.__cause__ if isinstance(error, PureSGDError) else None
    return error if cause is None else _told(cause)


def _transform_in(error: BaseException) -> str | None:
    """The name of the innermost transform whose init or update raised ``error``."""
    found, trace = None, error.__traceback__
    while trace is not None:
        made = re.match(r"(\w+)\.<locals>\.(?:init|update)", trace.tb_frame.f_code.co_qualname)
        if made and made[1] != explained.__name__:
            found = made[1]
        trace = trace.tb_next
    return found


def _refused(transform: str, error: RuntimeError) -> PureSGDError:
    reason = str(error).strip().splitlines()[0].strip("()',. ")
    return PureSGDError(
        transform,
        f"cannot be done to leaves that are spread over ranks ({reason})",
        "Keep them whole, by a plan of shard that leaves out its state",
    )
