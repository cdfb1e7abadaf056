"""Processes that stand in for machines: a pool of gloo ranks, and a problem whose rows they share."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

import pure_sgd as ps

#: Seconds after which a rank that does not answer counts as dead.
PATIENCE = 300
ROWS = 24
#: What another order of sums may cost, in float64.
CLOSE = 1e-12

model = ps.models.mlp((5, 8, 3), torch.tanh)


class Ranks:
    """Ranks that all call the same function, and answer with what it returned on each of them."""

    def __init__(self, connections: list[Connection]) -> None:
        self._connections = connections

    def __call__(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        answers = self.answers(function, *args)
        told = [
            f"rank {rank}: {answer}" for rank, answer in enumerate(answers) if isinstance(answer, Failure)
        ]
        assert not told, "\n".join(told)
        return answers

    def answers(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """The same, a :class:`Failure` where it raised or the process ended."""
        for connection in self._connections:
            connection.send((function, args))
        answers: list[Any] = []
        for connection in self._connections:
            assert connection.poll(PATIENCE), f"rank {len(answers)} does not answer"
            try:
                answers.append(connection.recv())
            except (EOFError, ConnectionError):
                answers.append(Failure("the process has ended"))
        return answers


class Failure(str):
    """Why a rank has no answer."""


@contextmanager
def started(ranks: int) -> Generator[Ranks]:
    """``ranks`` processes in one process group, until the end of the block."""
    context = multiprocessing.get_context("forkserver")
    # Imported once, in the server that they are forked from.
    context.set_forkserver_preload(["ranks", "torch.distributed.tensor"])
    with tempfile.TemporaryDirectory() as folder:
        pairs = [context.Pipe() for _ in range(ranks)]
        store = os.path.join(folder, "store")
        processes = [
            context.Process(target=_serve, args=(rank, ranks, store, theirs), daemon=True)
            for rank, (_, theirs) in enumerate(pairs)
        ]
        for process, (_, theirs) in zip(processes, pairs, strict=True):
            process.start()
            theirs.close()
        try:
            yield Ranks([ours for ours, _ in pairs])
        finally:
            for ours, _ in pairs:
                ours.close()
            for process in processes:
                process.join(10)
                process.kill()


def _serve(rank: int, ranks: int, store: str, connection: Connection) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=ranks, timeout=timedelta(seconds=120)
    )
    while True:
        try:
            function, args = connection.recv()
        except EOFError:
            os._exit(0)
        try:
            answer = function(*args)
        except Exception:
            answer = Failure(traceback.format_exc())
        connection.send(answer)


@cache
def mesh_of(ranks: int) -> DeviceMesh:
    """A mesh of so many ranks: all there are, or each group of so many by itself."""
    world = distributed.get_world_size()
    if ranks == world:
        return init_device_mesh("cpu", (world,))
    return init_device_mesh("cpu", (world // ranks, ranks), mesh_dim_names=("copy", "data"))["data"]


def example_loss(params: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (model.apply(params, x) - y).square().mean()


def start() -> Any:
    return ps.tree.map(lambda p: p.double(), model.init(ps.random.key(0)))


def batch_of(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    one, other = ps.random.split(ps.random.fold_in(ps.random.key(1), step))
    return (
        ps.random.normal(one, (ROWS, 5), torch.float64),
        ps.random.normal(other, (ROWS, 3), torch.float64),
    )


def rows_of(batch: Any, mesh: DeviceMesh, even: bool = True) -> Any:
    """The rows of this rank; uneven, the last rank gives one of its own to each of the others."""
    rank, ranks = mesh.get_local_rank(), mesh.size()
    size = ROWS // ranks
    sizes = [size] * ranks if even else [size + 1] * (ranks - 1) + [size - ranks + 1]
    return ps.tree.map(lambda leaf: leaf.split(sizes)[rank], batch)


def difference(one: Any, other: Any) -> float:
    """The largest between two trees."""
    ps.tree.check_like(one, other, "one", "other")
    pairs = zip(ps.tree.leaves(one), ps.tree.leaves(other), strict=True)
    return max([float((_numbers(a) - _numbers(b)).abs().max()) for a, b in pairs if a.numel()])


def disagreement(values: Any, mesh: DeviceMesh) -> float:
    """The largest difference between the numbers of this rank and those of the first."""
    mine = torch.cat([_numbers(leaf).reshape(-1) for leaf in ps.tree.leaves(values)])
    first = mine.clone()
    distributed.broadcast(first, group=mesh.get_group(), group_src=0)
    return float((mine - first).abs().max())


def _numbers(leaf: torch.Tensor) -> torch.Tensor:
    # NaN, which marks what was not measured, is to be NaN in the other too.
    return leaf.double().nan_to_num(nan=-1e9)
