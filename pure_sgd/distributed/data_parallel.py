"""The loss of a batch that is spread over ranks, as one function of the parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh

from .. import tree
from ..arguments import typed
from ..errors import PureSGDError
from ..gradients import EmpiricalRisk, GradientMoments, value_and_grad
from ..gradients.examples import Batch, ExampleLoss, Params
from ..models.buffers import BUFFERS, trainable
from .collectives import Group, group_of, pooled, shared
from .messages import is_one_message
from .moments import gradient_moments

__all__ = ["data_parallel"]


@typed
def data_parallel(
    loss: Callable[..., Any], mesh: DeviceMesh, dtype: torch.dtype | None = None
) -> Callable[[Params, Batch], Any]:
    """The loss of the whole batch, where each rank holds some of its rows: ``f(params, rows)``.

        f(params, rows) = sum_r len(rows_r) * loss(params, rows_r) / sum_r len(rows_r)

    A loss like any other: its value and gradient are those of one process with all rows, up to the order of
    sums, and the same bits on every rank. So ``make_step(data_parallel(loss, mesh), tx)`` is the step of
    the whole batch, line searches, curvature and ``statistics`` included, and state and metrics stay equal
    on all ranks if they were. It can be differentiated, again and in both modes, mapped over and compiled.
    All ranks have to call it together, and to do the same in it.

    ``loss`` is a mean over the leading axis of ``rows``, whose length may differ from rank to rank; what
    it returns besides, buffers too, is averaged likewise. ``mesh`` has one axis. Gradients travel and are
    summed in ``dtype``, by default in their own or float32 if that is more. 25 MiB of them leave as soon as
    they are known, while the rest of the backward runs; fewer leave together with the loss.

    Raises:
        PureSGDError: a mesh of several axes; a ``dtype`` without fractions; rows of different lengths, or
            none, on this rank.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> from torch import distributed
        >>> distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        >>> mesh = distributed.init_device_mesh(
        ...     "cpu", (1,)
        ... )  # ("cpu", (2,)) under torchrun --nproc-per-node 2
        >>> loss = ps.distributed.data_parallel(ps.empirical_risk(lambda params, x: (x - params) ** 2), mesh)
        >>> ps.value_and_grad(loss)(torch.tensor(0.0), (torch.tensor([1.0, 3.0]),))
        (tensor(5.), tensor(-4.))
        >>> distributed.destroy_process_group()
    """
    if dtype is not None and not dtype.is_floating_point:
        raise PureSGDError("dtype", f"is {dtype}, in which no gradient travels", "Pass torch.bfloat16, say")
    over = _Risk if isinstance(loss, EmpiricalRisk) else _OverRanks
    return over(loss, mesh, group_of(mesh, "data_parallel"), dtype)


@dataclass(frozen=True)
class _OverRanks:
    """The loss of the rows of all ranks."""

    own: Callable[..., Any]  # of the rows of this one
    mesh: DeviceMesh
    group: Group
    dtype: torch.dtype | None  # in which gradients travel

    @typed
    def __call__(self, params: Params, rows: Batch) -> Any:
        count = tree.batch_length(rows)
        return pooled(self.own(self._known(params), rows), count, self.group)

    def value_and_grad(self, has_aux: bool) -> Callable[[Params, Batch], tuple[Any, Params]]:
        """As if it were differentiated; what is one message, value and gradient, travels as one."""
        own = value_and_grad(self.own, has_aux)
        of_all = value_and_grad(self.__call__, has_aux)

        def evaluate(params: Params, rows: Batch) -> tuple[Any, Params]:
            if self.dtype is not None or not is_one_message(tree.leaves(trainable(params))):
                return of_all(params, rows)
            return pooled(own(self._known(params), rows), tree.batch_length(rows), self.group)

        return evaluate

    def _known(self, params: Params) -> Params:
        """The parameters, which what is made of them here does not know to be the same everywhere."""
        moving = trainable(params)
        known = shared(moving, self.group, self.dtype)
        return known if moving is params else {**known, BUFFERS: params[BUFFERS]}


class _Risk(_OverRanks, EmpiricalRisk):
    """The empirical risk of the examples of all ranks."""

    own: EmpiricalRisk

    @property
    def example_loss(self) -> ExampleLoss:
        return self.own.example_loss

    def moments(self) -> Callable[[Params, Batch], GradientMoments]:
        return gradient_moments(self.example_loss, self.mesh)
