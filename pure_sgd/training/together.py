"""Ranks that do one thing together: all of them, or none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh

from ..errors import PureSGDError
from .checkpoints import CorruptCheckpointError

__all__ = ["ALONE", "Together"]

T = TypeVar("T")


class Together:
    """The ranks of a mesh of one axis, or one process by itself.

    Raises:
        PureSGDError: by its methods, where an attempt fails on one of the ranks.

    Example:
        >>> from pure_sgd.training.together import Together
        >>> alone = Together(None)
        >>> alone.rank, alone.ranks, alone.each("here")
        (0, 1, ['here'])
    """

    def __init__(self, mesh: DeviceMesh | None) -> None:
        self._mesh, self._group = mesh, None if mesh is None else mesh.get_group()
        self.rank, self.ranks = (0, 1) if mesh is None else (mesh.get_local_rank(), mesh.size())

    def each(self, value: T) -> list[T]:
        """What every rank gives, in their order."""
        values: list[Any] = [value] * self.ranks
        if self._group is not None:
            distributed.all_gather_object(values, value, group=self._group)
        return values

    def most(self, number: int) -> int:
        """The largest that any rank gives."""
        if self._mesh is None:
            return number
        largest = torch.tensor(number, device=self._mesh.device_type)
        distributed.all_reduce(largest, distributed.ReduceOp.MAX, self._group)
        return int(largest)

    def all(self, attempt: Callable[[], T]) -> T:
        """What ``attempt`` returns on this rank, where it raises on none.

        Raises:
            PureSGDError: it does on some rank, which is named; every rank raises the same.
            OSError: so for a full disk.
        """
        result: Any = None
        failure = None
        try:
            result = attempt()
        except BaseException as error:  # whatever it is, the others wait to hear of it
            if self._group is None:
                raise
            failure = error
        told = self.each(failure and _told(failure))
        if failure is not None and not isinstance(failure, Exception):
            raise failure
        for rank, words in enumerate(told):
            if words is not None:
                raise _told_again(f"rank {rank}", *words) from failure
        return result

    def first(self, attempt: Callable[[], T]) -> T:
        """What ``attempt`` returns on the first rank, which alone makes it, on all.

        Raises:
            PureSGDError: it raises there; every rank raises the same.
            OSError: so for a full disk.
        """
        results: list[Any] = self.each(self.all(lambda: None if self.rank else attempt()))
        return results[0]


#: One process by itself.
ALONE = Together(None)


def _told(error: BaseException) -> tuple[str, int | None, str, Any]:
    """An error in words that another process can be told."""
    if isinstance(error, OSError):
        return "OSError", error.errno, error.strerror or str(error), error.filename
    if isinstance(error, PureSGDError):
        corrupt = isinstance(error, CorruptCheckpointError)
        return "CorruptCheckpointError" if corrupt else "PureSGDError", None, str(error), None
    return type(error).__name__, None, str(error), None


def _told_again(rank: str, kind: str, number: int | None, words: str, file: Any) -> Exception:
    if kind == "OSError":
        return OSError(number, f"{rank}: {words}", file)
    if kind in ("PureSGDError", "CorruptCheckpointError"):
        problem, _, remedy = words.removesuffix(".").rpartition(". ")
        return (PureSGDError if kind == "PureSGDError" else CorruptCheckpointError)(rank, problem, remedy)
    return PureSGDError(rank, f"{kind}: {words}".rstrip(". \n"), "Its own traceback says where")
