"""The batches of a run that goes on: those that it would have taken, or an error."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from .. import tree
from ..data import BatchSampler, BatchSource, Sampler
from ..errors import PureSGDError

__all__ = ["Rewound"]

#: Numbers of each leaf of a batch by which it is known again.
FIRST = 1024


class Rewound:
    """The batches of ``source``, and the place among them that a checkpoint writes down and goes on from.

    What ``data`` that are not in memory draw from torch's generators, such as the order of a ``DataLoader``
    with ``shuffle=True``, is drawn again as it was. A run through a :class:`BatchSampler` or :class:`Sampler`
    may go on with another number of ranks, whose batches together are the same.

    Raises:
        PureSGDError: from ``epoch``, where the batch before is not the one that the place was written after,
            or comes in another order.

    Example:
        >>> import torch
        >>> from torch.utils.data import DataLoader
        >>> from pure_sgd.data import batch_source
        >>> from pure_sgd.training.rewinding import Rewound
        >>> loader = DataLoader(torch.arange(8.0), batch_size=2, shuffle=True)
        >>> batches = Rewound(batch_source(loader), loader, {})
        >>> taken, places = [], []
        >>> for batch in batches.epoch(0, 0):
        ...     taken.append(batch.tolist())
        ...     places.append(batches.place())
        >>> again = Rewound(batch_source(loader), loader, places[1])
        >>> [batch.tolist() for batch in again.epoch(0, 2)] == taken[2:]
        True
    """

    def __init__(self, source: BatchSource, data: Any, place: Mapping[str, Any]) -> None:
        self._source, self._generators, self._goal = source, _generators(data), place
        self._order, self._share = _order_and_share(data)
        self._before: list[str] = []
        self._batch: Any = None

    def place(self) -> dict[str, Any]:
        """Where the last batch was taken, as JSON: for :class:`Rewound` of the run that goes on."""
        return {
            "before": self._before,
            "now": self._states(),
            "batch": _fingerprint(self._batch),
            "order": self._order,
            "share": self._share,
        }

    def epoch(self, number: int, start: int) -> Iterator[Any]:
        """The batches of an epoch from ``start`` on.

        Raises:
            PureSGDError: the batch before is not the one that the place was written after, or comes in
                another order.
        """
        goal: Mapping[str, Any] = self._goal
        self._goal = {}
        if goal and goal["share"] != self._share:
            self._check_order(goal["order"])
            goal = {}
        if goal:
            self._rewind(goal["before"])
        self._before = self._states()
        # The last batch that was taken is taken again, to be compared.
        batches = iter(self._source.epoch(number, max(start - 1, 0)))
        if start:
            self._batch = next(batches, None)
        if goal:
            if _fingerprint(self._batch) != goal["batch"]:
                raise PureSGDError(
                    "data",
                    f"gives another batch {start - 1} of epoch {number} than the run that was saved took",
                    "Resume with the same data in the same order, drawn from torch's generators if at all",
                )
            self._rewind(goal["now"])
        for batch in batches:
            self._batch = batch
            yield batch

    def _check_order(self, saved: Any) -> None:
        """All that is known of the batches where another number of ranks has taken them."""
        if saved is None or saved != self._order:
            problem = f"has the order {self._order}, and the run that was saved took its batches in {saved}"
            raise PureSGDError("data", problem, "Resume with the same batches of all ranks together")

    def _states(self) -> list[str]:
        return [generator.get_state().numpy().tobytes().hex() for generator in self._generators]

    def _rewind(self, states: list[str]) -> None:
        for generator, state in zip(self._generators, states, strict=True):
            generator.set_state(torch.frombuffer(bytearray.fromhex(state), dtype=torch.uint8))


def _generators(data: Any) -> list[torch.Generator]:
    """Torch's own, and those that a ``DataLoader`` and its samplers hold; for data in memory none."""
    if isinstance(data, (torch.Tensor, dict, tuple)):
        return []
    batches = getattr(data, "batch_sampler", None)
    parts = (data, getattr(data, "sampler", None), batches, getattr(batches, "sampler", None))
    held = [getattr(part, "generator", None) for part in parts]
    found = {id(generator): generator for generator in held if isinstance(generator, torch.Generator)}
    return [torch.default_generator, *found.values()]


def _order_and_share(data: Any) -> tuple[dict[str, Any] | None, list[int] | None]:
    """What the samplers of this library say of the batches of a ``DataLoader``."""
    for sampler in (getattr(data, "batch_sampler", None), getattr(data, "sampler", None)):
        if isinstance(sampler, (BatchSampler, Sampler)):
            examples = data.batch_size or 1 if isinstance(sampler, Sampler) else 1
            size = sampler.order["batch_size"] * examples
            return {**sampler.order, "batch_size": size, "steps": len(data)}, sampler.share
    return None, None


def _fingerprint(batch: Any) -> str:
    digest = hashlib.sha256()
    for path, leaf in tree.named_leaves(batch):
        if isinstance(leaf, torch.Tensor):
            digest.update(f"{path} {leaf.dtype} {leaf.shape}".encode())
            start = leaf.detach().reshape(-1)[:FIRST].cpu().contiguous()
            digest.update(start.view(torch.uint8).numpy().tobytes() if len(start) else b"")
    return digest.hexdigest()
