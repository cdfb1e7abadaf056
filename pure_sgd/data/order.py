"""In which order an epoch visits the examples: a table of rows, one per step."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from .. import random
from ..arguments import typed
from ..errors import PureSGDError, check_count, check_hyperparameter
from ..random.keys import threefry
from .permutation import permute_index

__all__ = ["epoch_indices", "poisson_indices"]

# Above all that a program is likely to fold into the key of the same seed, so that what it draws
# from that key, such as its first parameters, shares nothing with the order.
_ORDER = int.from_bytes(b"order")
_POISSON = int.from_bytes(b"poisson")

#: Examples from which on an order is calculated where it is looked at, and never held as a whole.
LARGE = 2**20
#: Places of an order that are looked at together: fewer cost more calls, more cost more memory.
WINDOW = 2**16


@typed
def epoch_indices(
    n: int,
    batch_size: int,
    seed: int | torch.Tensor,
    epoch: int | torch.Tensor,
    replacement: bool = False,
    drop_last: bool = False,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """The examples that each step of an epoch visits, int64 (steps, batch_size).

    A function of its arguments alone, so that any epoch of any run can be had again; ``seed`` and ``epoch``
    may be 0-d integer tensors, which :func:`sweep` and ``vmap`` can map over: all epochs at once take less
    than half the time of one after the other, where they are small. ``batch_size`` n is full gradient
    descent, 1 is pure SGD, and between lie mini-batches. Every row is drawn uniformly, so that the mean
    gradient over a row is an unbiased estimate of the gradient of the empirical risk.

    Without replacement, the rows are cut from a permutation of ``range(n)``, a new one for every
    ``(seed, epoch)``; from 2**20 examples on it is that of :func:`permute_index`. Where ``batch_size`` does
    not divide ``n``, the last row is filled up with the first examples of the same permutation: every row
    is full, every example comes at least once, and none comes twice in a row. With ``drop_last`` that row
    is left out, and every example comes at most once.

    With replacement, all entries are independent: 64-bit draws modulo ``n``, which favours no
    example by more than ``n / 2**64``. There are ``ceil(n / batch_size)`` rows, or
    ``n // batch_size`` with ``drop_last``.

    The entries in the order of the rows are the same for every ``batch_size``. This function gives the whole
    table; :func:`fit`, :class:`BatchSampler` and :class:`Sampler` go through it in parts.

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
    example_at, steps = _order(n, batch_size, seed, epoch, replacement, drop_last, device)
    places = torch.arange(steps * batch_size, device=device)
    # Eager operations take half the time where their operands stay in the cache.
    parts = [places] if torch.compiler.is_compiling() else places.split(WINDOW)
    return torch.cat([example_at(part) for part in parts]).reshape(steps, batch_size)


def epoch_windows(
    n: int,
    batch_size: int,
    seed: int,
    epoch: int,
    replacement: bool = False,
    drop_last: bool = False,
    start: int = 0,
) -> Iterator[torch.Tensor]:
    """The rows of :func:`epoch_indices` from row ``start`` on, some at a time: int64 (rows, batch_size).

    Raises:
        PureSGDError: as :func:`epoch_indices`.

    Example:
        >>> from pure_sgd.data.order import epoch_windows
        >>> [rows.shape for rows in epoch_windows(10**12, 10**5, seed=0, epoch=0, start=10**7 - 2)]
        [torch.Size([1, 100000]), torch.Size([1, 100000])]
    """
    example_at, steps = _order(n, batch_size, seed, epoch, replacement, drop_last, None)
    rows = max(WINDOW // batch_size, 1)
    for first in range(start, steps, rows):
        places = torch.arange(first * batch_size, min(first + rows, steps) * batch_size)
        yield example_at(places).reshape(-1, batch_size)


def _order(
    n: int,
    batch_size: int,
    seed: int | torch.Tensor,
    epoch: int | torch.Tensor,
    replacement: bool,
    drop_last: bool,
    device: torch.device | str | None,
) -> tuple[Callable[[torch.Tensor], torch.Tensor], int]:
    """The example at each place of an epoch, and how many batches the epoch has."""
    where = "epoch_indices"
    check_sizes(where, n, batch_size)
    if not isinstance(seed, torch.Tensor):
        check_count(where, "seed", seed, low=-(2**63), high=2**64 - 1)
    if not isinstance(epoch, torch.Tensor):
        check_count(where, "epoch", epoch, low=0)
    key = random.fold_in(random.fold_in(random.key(seed, device), _ORDER), epoch)
    steps = n // batch_size if drop_last else -(-n // batch_size)

    def drawn(places: torch.Tensor) -> torch.Tensor:
        high, low = threefry(key, places >> 32, places & 0xFFFFFFFF)
        return (high << 32 | low) % n

    if replacement:
        return drawn, steps
    if n >= LARGE:
        return lambda places: permute_index(places % n, n, key[0] << 32 | key[1]), steps
    order = random.permutation(key, n)
    return lambda places: order[places % n], steps


def poisson_indices(
    n: int,
    expected_batch_size: float,
    seed: int,
    step: int,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """The examples of one step if each is drawn by itself: int64 (drawn,), ascending.

        drawn[i] = uniform_i < expected_batch_size / n, for i from 0 to n - 1

    A function of its arguments alone. The number drawn is binomial, of mean ``expected_batch_size``, and
    may be 0. This is the sampling that accounts of privacy understand: to add an example or to take
    one away changes nothing for the others. It goes with :func:`clipped_mean_grads`, to which the same
    ``expected_batch_size`` is given. Since the shape depends on the draw, it is for eager loops.
    Source: Abadi et al. 2016, arXiv:1607.00133, who call a batch drawn in this way a lot.

    Raises:
        PureSGDError: ``n`` is under 1; ``expected_batch_size`` is not above 0 and at most ``n``; ``step``
            is negative; or an argument is of another type.

    Example:
        >>> import pure_sgd as ps
        >>> [ps.poisson_indices(10, 3, seed=0, step=step).tolist() for step in range(3)]
        [[4, 6], [4, 8], [1, 5, 7, 8]]
    """
    where = "poisson_indices"
    check_count(where, "n", n)
    check_hyperparameter(where, "expected_batch_size", expected_batch_size, low=0, high=n, open_low=True)
    check_count(where, "seed", seed, low=-(2**63), high=2**64 - 1)
    check_count(where, "step", step, low=0)
    key = random.fold_in(random.fold_in(random.key(seed, device), _POISSON), step)
    # In float64: float32 would round the probability up, by up to 1e-7, which for large n counts.
    return (random.uniform(key, (n,), torch.float64) < expected_batch_size / n).nonzero()[:, 0]


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
