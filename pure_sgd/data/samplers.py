"""The order of an epoch for torch's ``DataLoader``: a function of its place, which can begin anywhere."""

from __future__ import annotations

from collections.abc import Iterator

import torch.utils.data

from ..arguments import typed
from ..errors import PureSGDError, check_count
from .order import check_sizes, epoch_windows

__all__ = ["BatchSampler", "Sampler"]


class BatchSampler(torch.utils.data.Sampler[list[int]]):
    """The rows of :func:`epoch_indices`, as lists, from any step on.

    Nothing is kept but the place: ``set_epoch(epoch, start)`` goes to any step of any epoch at no cost, and
    :func:`fit` does so by itself, with ``resume=True`` too. Of ``ranks`` processes each takes its part of
    every batch, ``batch_size / ranks`` neighbours: the batch of all is the same for any number of ranks,
    and nobody has to ask the others. Memory does not grow with ``n``.

    Give it to a ``DataLoader`` as ``batch_sampler``; or as ``sampler`` with ``batch_size=None``, for data
    that take a whole list of rows at once, as those of :func:`from_files` do.

    Raises:
        PureSGDError: ``n`` is 0; ``batch_size``, which is that of all ranks together, is not from 1 to ``n``
            or not a multiple of ``ranks``; ``rank`` is not below ``ranks``; or one of these or ``seed`` is
            not an int.

    Example:
        >>> import pure_sgd as ps
        >>> sampler = ps.data.BatchSampler(10, batch_size=4, seed=0)
        >>> list(sampler)
        [[0, 4, 9, 8], [7, 1, 5, 3], [6, 2, 0, 4]]
        >>> second_of_two = ps.data.BatchSampler(10, batch_size=4, seed=0, rank=1, ranks=2)
        >>> second_of_two.set_epoch(0, start=1)
        >>> list(second_of_two)
        [[5, 3], [0, 4]]
    """

    @typed
    def __init__(
        self,
        n: int,
        batch_size: int,
        seed: int = 0,
        *,
        replacement: bool = False,
        drop_last: bool = False,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        check_sizes("BatchSampler", n, batch_size)
        check_count("BatchSampler", "seed", seed, low=-(2**63), high=2**64 - 1)
        check_count("BatchSampler", "ranks", ranks)
        check_count("BatchSampler", "rank", rank, low=0, high=ranks - 1)
        if batch_size % ranks:
            raise PureSGDError(
                "BatchSampler",
                f"batch_size={batch_size} is not a multiple of the {ranks} ranks",
                "Pass the size of the batches of all ranks together, which they can share evenly",
            )
        self._table = (n, batch_size, seed)
        self._options = (replacement, drop_last)
        names = ("n", "batch_size", "seed", "replacement", "drop_last")
        #: What the batches of all ranks together follow from, and whose of them these are.
        self.order = dict(zip(names, (*self._table, *self._options), strict=True))
        self.share = [rank, ranks]
        share = batch_size // ranks
        self._mine = slice(rank * share, (rank + 1) * share)
        self.set_epoch(0)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Begin the next iteration at step ``start`` of ``epoch``.

        Raises:
            PureSGDError: one of them is negative or not an int.
        """
        check_count("BatchSampler", "epoch", epoch, low=0)
        check_count("BatchSampler", "start", start, low=0)
        self._epoch, self._start = epoch, start

    def __iter__(self) -> Iterator[list[int]]:
        for rows in epoch_windows(*self._table, self._epoch, *self._options, start=self._start):
            yield from rows[:, self._mine].tolist()

    def __len__(self) -> int:
        """The steps of a whole epoch, wherever it is begun."""
        (n, batch_size, _), (_, drop_last) = self._table, self._options
        return n // batch_size if drop_last else -(-n // batch_size)


class Sampler(torch.utils.data.Sampler[int]):
    """The same order one example at a time, for a ``DataLoader`` with a ``batch_size`` of its own.

    Of ``ranks`` processes each takes every ``ranks``-th example. Where their number changes and the batches
    of all together keep their size, they hold the same examples. ``start`` counts the examples of one rank.
    Where ``ranks`` does not divide ``n``, the first examples of the order fill it up, or ``drop_last`` leaves
    the rest out.

    Raises:
        PureSGDError: ``n`` is 0; ``ranks`` is not from 1 to ``n``; ``rank`` is not below ``ranks``; or one of
            these or ``seed`` is not an int.

    Example:
        >>> import pure_sgd as ps
        >>> sampler = ps.data.Sampler(10, seed=0)
        >>> list(sampler)
        [0, 4, 9, 8, 7, 1, 5, 3, 6, 2]
        >>> sampler.set_epoch(0, start=8)
        >>> list(sampler)
        [6, 2]
    """

    @typed
    def __init__(
        self,
        n: int,
        seed: int = 0,
        *,
        replacement: bool = False,
        drop_last: bool = False,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        check_count("Sampler", "ranks", ranks)
        self._batches = BatchSampler(
            n, ranks, seed, replacement=replacement, drop_last=drop_last, rank=rank, ranks=ranks
        )
        self.order, self.share = self._batches.order, self._batches.share

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Begin the next iteration at example ``start`` of ``epoch``.

        Raises:
            PureSGDError: one of them is negative or not an int.
        """
        self._batches.set_epoch(epoch, start)

    def __iter__(self) -> Iterator[int]:
        for (row,) in self._batches:
            yield row

    def __len__(self) -> int:
        return len(self._batches)
