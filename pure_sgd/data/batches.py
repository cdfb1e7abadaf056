"""Where the batches of an epoch come from: tensors in memory, or anything that can be iterated over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader

from .. import random, tree
from ..arguments import typed
from ..errors import PureSGDError, check_count
from ..hints import T
from .files import FileDataset
from .order import check_sizes, epoch_windows
from .samplers import BatchSampler, Sampler

__all__ = ["BatchSource", "batch_source", "take", "train_test_split"]

_SPLIT = int.from_bytes(b"split")
Order = Callable[[int], Iterable[torch.Tensor]]


class BatchSource(NamedTuple):
    """The batches of any epoch from any of its steps on, and how many there are (None: nobody can know)."""

    epoch: Callable[..., Iterable[Any]]  # epoch(number, start=0)
    steps_per_epoch: int | None
    rows: Callable[..., Iterable[torch.Tensor]] | None = None  # likewise: which examples they hold, if known


@typed
def take(data: T, rows: Any) -> T:
    """The examples ``rows`` of every leaf of ``data``.

    Example:
        >>> import torch
        >>> from pure_sgd import data
        >>> data.take((torch.arange(4), torch.arange(4) * 10), torch.tensor([2, 0]))
        (tensor([2, 0]), tensor([20,  0]))
    """
    return tree.map(lambda leaf: leaf[rows], data)


@typed
def batch_source(
    data: Any,
    batch_size: int | None = None,
    seed: int = 0,
    replacement: bool = False,
    order: Order | None = None,
    device: torch.device | None = None,
) -> BatchSource:
    """The batches of ``data``, epoch by epoch.

    A tensor, dict or tuple of tensors (B, ...) is data in memory: each epoch takes batches of
    ``batch_size`` from it (None: all of it, full gradient descent) in the order of
    :func:`epoch_indices`, or in that of ``order(epoch)``, which gives one int64 tensor of rows a batch.
    So does it from the data of :func:`from_files`, for which ``batch_size`` must be given.
    Anything else is iterated over once an epoch (a ``DataLoader``, a list of batches), and its
    batches are taken as they come. The sampler of a ``DataLoader`` is told the epoch by its
    ``set_epoch``, and a :class:`BatchSampler` or :class:`Sampler` the step too, so that nothing is
    read to be left out.

    Batches are moved to ``device``, if it is given, while the program goes on.

    Raises:
        PureSGDError: an empty data set, leaves of different lengths, a batch size out of range, or none for
            data in files, a ``batch_size`` or ``order`` for data that makes its own batches, or an
            iterable that is used up.

    Example:
        >>> import torch
        >>> from pure_sgd import data
        >>> source = data.batch_source((torch.arange(4),), batch_size=2)
        >>> source.steps_per_epoch, [len(x) for (x,) in source.epoch(0)]
        (2, [2, 2])
    """
    if isinstance(data, FileDataset):
        count, taken = len(data), partial(data.read, pinned=_is_gpu(device))
        if batch_size is None and order is None:
            problem = f"is None, which would take all {count} examples into memory"
            raise PureSGDError("batch_size", problem, "Pass the number of examples in a batch")
    elif _in_memory(data):
        count, taken = tree.batch_length(data, "data"), partial(_taken, data)
    else:
        return _iterated(data, batch_size, order, device)
    size = count if batch_size is None else batch_size
    check_sizes("fit", count, size)
    whole = order is None and size == count and not replacement

    def rows(epoch: int, start: int = 0) -> Iterable[torch.Tensor]:
        if order is not None or whole:
            return islice(order(epoch) if order else [torch.arange(count)], start, None)
        windows = epoch_windows(count, size, seed, epoch, replacement, start=start)
        return (batch for window in windows for batch in window)

    def batches(epoch: int, start: int = 0) -> Iterator[Any]:
        _check_place(epoch, start)
        for chosen in rows(epoch, start):
            if not isinstance(chosen, torch.Tensor):
                problem = f"gave a {type(chosen).__name__}, expected rows as an int64 tensor (B,)"
                raise PureSGDError("order", problem, "Give one tensor of rows a batch")
            # The mean over all does not depend on their order: spare the copy.
            spared = whole and not isinstance(data, FileDataset)
            yield _moved(data if spared else taken(chosen), device)

    return BatchSource(batches, -(-count // size) if order is None else len(list(order(0))), rows)


@typed
def train_test_split(data: T, test_fraction: float = 0.2, seed: int = 0) -> tuple[T, T]:
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


def _taken(data: Any, rows: torch.Tensor) -> Any:
    return take(data, rows.to(tree.leaves(data)[0].device))


def _check_place(epoch: int, start: int) -> None:
    check_count("batch_source", "epoch", epoch, low=0)
    check_count("batch_source", "start", start, low=0)


def _is_gpu(device: torch.device | None) -> bool:
    return device is not None and device.type == "cuda"


def _moved(batch: Any, device: torch.device | None) -> Any:
    """The batch on ``device``; what lies in pinned memory goes there while the program goes on."""
    if device is None:
        return batch
    return tree.map(
        lambda leaf: (
            leaf.to(device, non_blocking=_is_gpu(device)) if isinstance(leaf, torch.Tensor) else leaf
        ),
        batch,
    )


def _iterated(
    data: Any, batch_size: int | None, order: Order | None, device: torch.device | None
) -> BatchSource:
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
        _check_place(epoch, start)
        empty = True
        skipped = _go_to(data, epoch, start)
        for number, batch in enumerate(data):
            empty = False
            # DataLoader collates the fields of an example into a list; losses see a tuple either way.
            if number >= start - skipped:
                yield _moved(tuple(batch) if isinstance(batch, list) else batch, device)
        if empty and not skipped:
            raise PureSGDError(
                "data",
                f"gave no batch in epoch {epoch}",
                "Pass something that can be iterated over again (a generator cannot), or fewer epochs",
            )

    length = getattr(data, "__len__", None)
    return BatchSource(batches, length() if length else None)


def _go_to(data: Any, epoch: int, start: int) -> int:
    """Tell the sampler of a ``DataLoader`` where to begin: how many batches it leaves out by itself."""
    if not isinstance(data, DataLoader):
        return 0
    samplers: list[Any] = [data.batch_sampler, data.sampler]
    for sampler in samplers:
        if isinstance(sampler, (BatchSampler, Sampler)):
            examples = data.batch_size or 1 if isinstance(sampler, Sampler) else 1
            sampler.set_epoch(epoch, start * examples)
            return start
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
    return 0
