"""The loss of a batch that is spread over ranks, as one function of the parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh

from .. import tree
from ..gradients import EmpiricalRisk, GradientMoments
from ..gradients.examples import Batch, Params
from ..models.buffers import BUFFERS, trainable
from .collectives import Group, group_of, pooled, shared
from .moments import gradient_moments

__all__ = ["data_parallel"]


def data_parallel(loss: Callable[..., Any], mesh: DeviceMesh) -> Callable[[Params, Batch], Any]:
    """The loss of the whole batch, where each rank holds some of its rows: ``f(params, rows)``.

        f(params, rows) = sum_r len(rows_r) * loss(params, rows_r) / sum_r len(rows_r)

    A loss like any other: its value and gradient are those of one process with all rows, up to the order of
    sums, and the same bits on every rank. So ``make_step(data_parallel(loss, mesh), tx)`` is the step of
    the whole batch, line searches, curvature and ``statistics`` included, and state and metrics stay equal
    on all ranks if they were. It can be differentiated, again and in both modes, mapped over and compiled.
    All ranks have to call it together.

    ``loss`` is a mean over the leading axis of ``rows``, whose length may differ from rank to rank; what
    it returns besides, buffers too, is averaged likewise. ``mesh`` has one axis. Gradients are summed in at
    least float32, 25 MiB at a time.

    Raises:
        PureSGDError: a mesh of several axes; rows of different lengths, or none, on this rank.

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
    group = group_of(mesh, "data_parallel")
    if isinstance(loss, EmpiricalRisk):
        return _RiskOverRanks(loss.example_loss, mesh, group)
    return lambda params, rows: _over_ranks(loss, params, rows, group)


@dataclass(frozen=True)
class _RiskOverRanks(EmpiricalRisk):
    """The empirical risk of the examples of all ranks."""

    mesh: DeviceMesh
    group: Group

    def __call__(self, params: Params, batch: Batch) -> torch.Tensor:
        return _over_ranks(EmpiricalRisk(self.example_loss), params, batch, self.group)

    def moments(self) -> Callable[[Params, Batch], GradientMoments]:
        return gradient_moments(self.example_loss, self.mesh)


def _over_ranks(loss: Callable[..., Any], params: Params, rows: Batch, group: Group) -> Any:
    count, own = tree.batch_length(rows), trainable(params)
    known = shared(own, count, group)
    if own is not params:
        known = {**known, BUFFERS: params[BUFFERS]}
    return pooled(loss(known, rows), count, group)
