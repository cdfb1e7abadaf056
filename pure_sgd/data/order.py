"""In which order an epoch visits the examples: a table of rows, one per step."""

from __future__ import annotations

import torch

from .. import random
from ..errors import PureSGDError, check_count

__all__ = ["epoch_indices"]

# Above all that a program is likely to fold into the key of the same seed, so that what it draws
# from that key, such as its first parameters, shares nothing with the order.
_ORDER = int.from_bytes(b"order")


def epoch_indices(
    n: int,
    batch_size: int,
    seed: int,
    epoch: int,
    replacement: bool = False,
    drop_last: bool = False,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """The examples that each step of an epoch visits, int64 (steps, batch_size).

    A function of its arguments alone, so that any epoch of any run can be had again. ``batch_size``
    n is full gradient descent, 1 is pure SGD, and between lie mini-batches. Every row is drawn
    uniformly, so that the mean gradient over a row is an unbiased estimate of the gradient of the
    empirical risk.

    Without replacement, the rows are cut from a permutation of ``range(n)``, a new one for every
    ``(seed, epoch)``. Where ``batch_size`` does not divide ``n``, the last row is filled up with the
    first examples of the same permutation: every row is full, every example comes at least once,
    and none comes twice in a row. With ``drop_last`` that row is left out, and every example comes
    at most once.

    With replacement, all entries are independent: 64-bit draws modulo ``n``, which favours no
    example by more than ``n / 2**64``. There are ``ceil(n / batch_size)`` rows, or
    ``n // batch_size`` with ``drop_last``.

    Raises:
        PureSGDError: ``n`` is 0; ``batch_size`` is not from 1 to ``n``; ``epoch`` is negative; or
            one of these or ``seed`` is not an int.

    Example:
        >>> import pure_sgd as ps
        >>> ps.epoch_indices(5, 2, seed=0, epoch=0)
        tensor([[0, 4],
                [1, 3],
                [2, 0]])
    """
    where = "epoch_indices"
    check_sizes(where, n, batch_size)
    check_count(where, "seed", seed, low=-(2**63), high=2**64 - 1)
    check_count(where, "epoch", epoch, low=0)
    key = random.fold_in(random.fold_in(random.key(seed, device), _ORDER), epoch)
    steps = n // batch_size if drop_last else -(-n // batch_size)
    if replacement:
        high, low = random.bits(key, (2, steps, batch_size))
        return (high << 32 | low) % n
    order = random.permutation(key, n)
    missing = max(steps * batch_size - n, 0)
    return torch.cat([order, order[:missing]])[: steps * batch_size].reshape(steps, batch_size)


def check_sizes(where: str, n: int, batch_size: int) -> None:
    """Check that batches of ``batch_size`` can be taken from ``n`` examples.

    Raises:
        PureSGDError: no example, or a batch size out of its range.

    Example:
        >>> from pure_sgd.data.order import check_sizes
        >>> check_sizes("fit", n=5, batch_size=2)
    """
    if n == 0 and not isinstance(n, bool):
        raise PureSGDError(
            where,
            "n=0 is an empty data set, expected at least one example",
            "Pass the number of examples",
        )
    check_count(where, "n", n)
    check_count(where, "batch_size", batch_size)
    if batch_size > n:
        raise PureSGDError(
            where,
            f"batch_size={batch_size} is more than the n={n} examples",
            "Pass at most n; batch_size=n is full gradient descent",
        )
