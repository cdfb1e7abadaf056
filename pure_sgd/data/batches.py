"""Where the batches of an epoch come from: tensors in memory, or anything that can be iterated over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import torch

from .. import random, tree
from ..errors import PureSGDError
from .order import check_sizes, epoch_indices

__all__ = ["BatchSource", "batch_source", "take", "train_test_split"]

_SPLIT = int.from_bytes(b"split")
Order = Callable[[int], Iterable[torch.Tensor]]


class BatchSource(NamedTuple):
    """The batches of any epoch from any of its steps on, and how many there are (None: nobody can know)."""

    epoch: Callable[..., Iterable[Any]]  # epoch(number, start=0)
    steps_per_epoch: int | None


def take(data: Any, rows: Any) -> Any:
    """The examples ``rows`` of every leaf of ``data``.

    Example:
        >>> import torch
        >>> from pure_sgd import data
        >>> data.take((torch.arange(4), torch.arange(4) * 10), torch.tensor([2, 0]))
        (tensor([2, 0]), tensor([20,  0]))
    """
    return tree.map(lambda leaf: leaf[rows], data)


def batch_source(
    data: Any,
    batch_size: int | None = None,
    seed: int = 0,
    replacement: bool = False,
    order: Order | None = None,
) -> BatchSource:
    """The batches of ``data``, epoch by epoch.

    A tensor, dict or tuple of tensors (B, ...) is data in memory: each epoch takes batches of
    ``batch_size`` from it (None: all of it, full gradient descent) in the order of
    :func:`epoch_indices`, or in that of ``order(epoch)``, which gives one int64 tensor of rows a batch.
    Anything else is iterated over once an epoch (a ``DataLoader``, a list of batches), and its
    batches are taken as they come.

    Raises:
        PureSGDError: an empty data set, leaves of different lengths, a batch size out of range, a
            ``batch_size`` or ``order`` for data that is not in memory, or an iterable that is used up.

    Example:
        >>> import torch
        >>> from pure_sgd import data
        >>> source = data.batch_source((torch.arange(4),), batch_size=2)
        >>> source.steps_per_epoch, [len(x) for (x,) in source.epoch(0)]
        (2, [2, 2])
    """
    if not _in_memory(data):
        return _iterated(data, batch_size, order)
    count = tree.batch_length(data, "data")
    size = count if batch_size is None else batch_size
    check_sizes("fit", count, size)
    device = tree.leaves(data)[0].device

    def shuffled(epoch: int) -> Iterable[torch.Tensor]:
        return epoch_indices(count, size, seed, epoch, replacement)

    def batches(epoch: int, start: int = 0) -> Iterator[Any]:
        if order is None and size == count and not replacement:
            yield from [data][start:]  # the mean does not depend on the order: spare the copy
            return
        for rows in islice((order or shuffled)(epoch), start, None):
            yield take(data, rows.to(device))

    return BatchSource(batches, -(-count // size) if order is None else len(list(order(0))))


def train_test_split(data: Any, test_fraction: float = 0.2, seed: int = 0) -> tuple[Any, Any]:
    """Split the examples of ``data`` at random into ``(train, held_out)``.

    Raises:
        PureSGDError: leaves of different lengths, or a fraction that leaves a part empty.

    Example:
        >>> import torch
        >>> from pure_sgd import data
        >>> train, held_out = data.train_test_split((torch.arange(10),), test_fraction=0.3)
        >>> len(train[0]), len(held_out[0])
        (7, 3)
    """
    count = tree.batch_length(data, "data")
    held_out = round(count * test_fraction)
    if not 0 < held_out < count:
        raise PureSGDError(
            "train_test_split",
            f"test_fraction={test_fraction} holds out {held_out} of {count} examples",
            "Pass a fraction that leaves both parts at least one",
        )
    # A constant of its own keeps the split apart from the orders that are drawn from the same seed.
    rows = random.permutation(random.fold_in(random.key(seed), _SPLIT), count)
    return take(data, rows[held_out:]), take(data, rows[:held_out])


def _in_memory(data: Any) -> bool:
    if not isinstance(data, (torch.Tensor, dict, tuple)):
        return False
    return all(isinstance(leaf, torch.Tensor) for leaf in tree.leaves(data))


def _iterated(data: Any, batch_size: int | None, order: Order | None) -> BatchSource:
    if not isinstance(data, Iterable):
        raise PureSGDError(
            "data",
            f"is a {type(data).__name__}, expected tensors or an iterable of batches",
            "Pass a tuple of tensors, a DataLoader or a list of batches",
        )
    for name, value in (("batch_size", batch_size), ("order", order)):
        if value is not None:
            raise PureSGDError(
                name,
                f"was given for data of type {type(data).__name__}, which makes its own batches",
                "Leave it out, or pass a tuple of tensors",
            )

    def batches(epoch: int, start: int = 0) -> Iterator[Any]:
        empty = True
        for number, batch in enumerate(data):
            empty = False
            # DataLoader collates the fields of an example into a list; losses see a tuple either way.
            if number >= start:
                yield tuple(batch) if isinstance(batch, list) else batch
        if empty:
            raise PureSGDError(
                "data",
                f"gave no batch in epoch {epoch}",
                "Pass something that can be iterated over again (a generator cannot), or fewer epochs",
            )

    length = getattr(data, "__len__", None)
    return BatchSource(batches, length() if length else None)
