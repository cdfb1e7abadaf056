"""One run for every point of a grid of hyperparameters and seeds, many runs at once."""

from __future__ import annotations

import gc
import math
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .. import functorch, tree
from ..arguments import check_arguments
from ..errors import PureSGDError, check_count
from .grids import check_names, grid_points
from .memory import bounded, ran_out
from .progress import progress_bar

__all__ = ["SweepResult", "flattened", "sweep"]

#: Words of torch.vmap's own messages, the problem they stand for, and its remedy.
REFUSALS = (
    (
        ("data-dependent control flow", "calling .item()"),
        "reads the value of a tensor, which differs between runs",
        "Use torch.where in place of a decision, tensors in place of .item(), and make_step in place of fit",
    ),
    (
        ("randomness error mode",),
        "draws from torch's global generator, which runs cannot share",
        "Draw with pure_sgd.random from random.key(seed), and sweep over seed",
    ),
    (
        ("dynamic shape",),
        "makes a tensor whose shape depends on values, which differ between runs",
        "Use torch.where, or multiply by the mask",
    ),
    (
        ("inplace arithmetic", "doesn't match the broadcast shape"),
        "writes what differs between runs into a tensor that they share",
        "Make a new tensor (x = x + y for x += y)",
    ),
    (
        ("Batching rule not implemented",),
        "calls a function that torch.vmap cannot map",
        "Write it with other functions, or call run in a loop",
    ),
)
Leaves = Sequence[torch.Tensor]
#: The leaves of the results with one leading axis for all points, and what makes a tree of them.
Results = tuple[list[torch.Tensor], Callable[[list[Any]], Any]]

NOT_THE_CAUSE = (Path(torch.__file__).parent, Path(__file__).parents[1])


class SweepResult(NamedTuple):
    """What :func:`sweep` returns."""

    grids: dict[str, torch.Tensor]  # the values on each axis, in the order of the axes
    results: Any  # like what run returned; a leaf P is now (len(grid 1), len(grid 2), ..., P)


def sweep(
    run: Callable[..., Any],
    /,
    *,
    zipped: bool = False,
    chunk_size: int | None = None,
    progress: bool = True,
    **grids: Any,
) -> SweepResult:
    """Call ``run`` at every point of the product of the grids, as many at once as fit the memory.

        results[i, j, ...] = run(name_1=grid_1[i], name_2=grid_2[j], ...)

    Every call is mapped by ``torch.func.vmap``, over one grid after the other, so that what depends on the
    seed alone, such as batches, is computed once for all rates. ``run`` receives 0-d tensors and must not ask
    for their values; otherwise it may be any function, such as a whole training run. The steps of small runs
    belong into :func:`scan` or :func:`scan_indices`, which become one loop in C++ for all runs, compiled once
    for all sweeps that do the same with other numbers; :func:`replay_step` makes a loop in Python faster,
    too. Each run equals the same run by itself, to rounding.

    Without a ``chunk_size`` all runs are tried at once, and where memory runs out, again in halves: the grid
    that was named first is cut, then the next. On Linux four fifths of what is free at the start, by the
    machine and by its control groups, are a limit of the process for as long as the sweep lasts, so that a
    sweep is cut, not killed; on a GPU all that is free may be taken; on the CPU of another system, and inside
    another transform of torch, nothing is cut.

    Args:
        run: ``run(**hyperparams)`` gives a tree of tensors. Parameters without a grid keep their defaults.
        zipped: Go through grids of one length side by side, instead of their product: the results have one
            leading axis.
        chunk_size: Runs that are mapped at once, at most. Memory grows with it, and the time that a small run
            takes falls. None: all; where these take more than the memory that is free, half of them, and so
            on: see below.
        progress: Show a progress bar if there is more than one chunk, in a terminal or a notebook.
        **grids: By the name of a parameter of ``run``, a sequence of numbers or of tensors of one shape, or a
            tensor, whose first axis is gone through. Of numbers, ints become int64 (seeds:
            ``random.key(seed)`` takes them), and floats float64, which keeps each what it is and leaves the
            dtypes of parameters alone; they go to torch's default device. Tensors come as they are.

    Returns:
        ``(grids, results)``: each grid as a tensor, and what ``run`` returned with one leading axis a grid,
        in the order in which they were named.

    Raises:
        PureSGDError: a grid that ``run`` does not take, none for what it needs, an empty one, lengths that
            differ when ``zipped``, or a ``run`` that cannot be mapped, with the line that says why. Without
            ``chunk_size`` also: a single run, or the results of all, that take more memory than is free.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> def run(rate, seed):
        ...     tx = ps.sgd(rate)
        ...     step = ps.make_step(lambda params, target: (params - target) ** 2, tx)
        ...     state = ps.init_train_state(ps.random.normal(ps.random.key(seed)), tx)
        ...     for _ in range(10):
        ...         state, metrics = step(state, torch.tensor(1.0))
        ...     return metrics["loss"]
        >>> grids, losses = ps.sweep(run, rate=[0.01, 0.1, 0.3], seed=range(4))
        >>> losses.shape, grids["rate"][losses.mean(1).argmin()].item()
        (torch.Size([3, 4]), 0.3)
    """
    check_arguments(sweep, (run,), {})
    check_names(run, grids)
    check_arguments(sweep, (), {"zipped": zipped, "progress": progress})
    if chunk_size is not None:
        check_count("sweep", "chunk_size", chunk_size)
    values, shape = grid_points(grids, zipped)
    take = partial(_run_all, run, values, shape, zipped, progress)
    # Another transform may keep what all chunks compute; it is for an outermost sweep to take less at once.
    cut = chunk_size is None and not functorch.within_transform()
    leaves, rebuild = _that_fit(take, shape) if cut else take(chunk_size or math.prod(shape))
    return SweepResult(values, rebuild([leaf.reshape(*shape, *leaf.shape[1:]) for leaf in leaves]))


def flattened(results: Any) -> tuple[list[torch.Tensor], Callable[[list[Any]], Any]]:
    """What a run has returned, and what makes a tree like it of other leaves.

    Raises:
        PureSGDError: a leaf that is no tensor.

    Example:
        >>> import torch
        >>> from pure_sgd.training.swept import flattened
        >>> flattened({"loss": torch.tensor(0.5)})[0]
        [tensor(0.5000)]
    """
    leaves, rebuild = tree.flatten(results)
    for path, leaf in tree.named_leaves(results, "result"):
        if not isinstance(leaf, torch.Tensor):
            raise PureSGDError(
                "sweep",
                f"{path} of run is a {type(leaf).__name__}, expected a tensor",
                "Return a tree of tensors",
            )
    return leaves, rebuild


def _run_all(
    run: Callable[..., Any],
    values: dict[str, torch.Tensor],
    shape: tuple[int, ...],
    zipped: bool,
    progress: bool,
    chunk_size: int,
) -> Results:
    """Every run, so many of them mapped at once."""
    rebuild: Callable[[list[Any]], Any] = list

    # vmap sees flat tuples only: it takes no None, and orders dicts in its own way.
    def flat(*arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        nonlocal rebuild
        results, rebuild = flattened(run(**dict(zip(values, arguments, strict=True))))
        return tuple(results)

    results: list[torch.Tensor] = []
    done, count = 0, math.prod(shape)
    with progress_bar(count, "run", shown=progress and chunk_size < count) as bar:
        for block in _blocks(shape, chunk_size):
            rows = block * len(values) if zipped else block
            part = [grid[row] for grid, row in zip(values.values(), rows, strict=True)]
            leaves, size = _mapped(flat, part, zipped), math.prod(len(grid) for grid in part[: len(block)])
            # The place of all results is taken with the first, so that later chunks find no less than these.
            results = results or _places(leaves, count)
            for result, leaf in zip(results, leaves, strict=True):
                result[done : done + size] = leaf
            done += size
            bar.update(size)
    return results, rebuild


def _that_fit(take: Callable[[int], Results], shape: tuple[int, ...]) -> Results:
    """``take(chunk_size)`` for all points, and where these run out of memory, for half as many, and so on."""
    told = ""
    with bounded():
        for size in _sizes(shape):
            try:
                return take(size)
            except (RuntimeError, ValueError, MemoryError) as error:
                if not ran_out(error):
                    raise
                told = str(error).partition("\n")[0]
            gc.collect()  # the tensors in the frames of the traceback
    problem = f"a single run takes more memory than is free ({told})"
    raise PureSGDError("sweep", problem, "Make it smaller, or pass chunk_size=1, which tries it all the same")


def _places(leaves: Leaves, count: int) -> list[torch.Tensor]:
    """Room for the results of so many runs like these."""
    try:
        return [leaf.new_empty((count, *leaf.shape[1:])) for leaf in leaves]
    except (RuntimeError, MemoryError) as error:
        if len(leaves[0]) == count or not ran_out(error):
            raise
        size = count * sum(leaf[0].nbytes for leaf in leaves) / 2**30
        raise PureSGDError(
            "sweep",
            f"the results of all {count} runs take {size:.3g} GiB, which is more than is free",
            "Return less from run, such as the last loss in place of all states",
        ) from error


def _sizes(shape: tuple[int, ...]) -> Iterator[int]:
    """How many points to take at once: all, and then about half of the last, whole rows as long as may be."""
    yield math.prod(shape)
    for axis, length in enumerate(shape):
        while length > 1:
            length = -(-length // 2)
            yield length * math.prod(shape[axis + 1 :])


def _blocks(shape: tuple[int, ...], at_once: int) -> Iterator[tuple[slice, ...]]:
    """The product cut into blocks of at most so many points, in order: a slice of every grid."""
    if not shape:
        yield ()
        return
    size = max(1, at_once // math.prod(shape[1:]))
    for start in range(0, shape[0], size):
        for rest in _blocks(shape[1:], at_once):
            yield slice(start, min(start + size, shape[0])), *rest


def _mapped(flat: Callable[..., Leaves], grids: list[torch.Tensor], zipped: bool) -> list[torch.Tensor]:
    """The results at all points of these grids, with one leading axis for them."""
    try:
        if zipped or len(grids) == 1:
            return list(torch.func.vmap(flat)(*grids))
        try:
            return [leaf.flatten(0, len(grids) - 1) for leaf in _nested(flat, len(grids))(*grids)]
        except (RuntimeError, ValueError) as error:
            if ran_out(error):
                raise
            # Some functions of torch can be mapped once and not twice.
            places = torch.meshgrid(*[torch.arange(len(grid)) for grid in grids], indexing="ij")
            points = [g[place.flatten().to(g.device)] for g, place in zip(grids, places, strict=True)]
            return list(torch.func.vmap(flat)(*points))
    except (RuntimeError, ValueError) as error:
        if told := _explained(error):
            raise told from error
        raise


def _nested(flat: Callable[..., Leaves], count: int) -> Callable[..., Leaves]:
    """Mapped over one grid after the other: what depends on one of them alone is computed once for each."""
    for index in reversed(range(count)):
        flat = torch.func.vmap(flat, tuple(0 if i == index else None for i in range(count)))
    return flat


def _explained(error: Exception) -> PureSGDError | None:
    """What a refusal of ``torch.vmap`` means for a run, with the line that it refused; else None."""
    for words, problem, remedy in REFUSALS:
        if any(word in str(error) for word in words):
            frames = [
                frame
                for frame in traceback.extract_tb(error.__traceback__)
                if not any(Path(frame.filename).is_relative_to(folder) for folder in NOT_THE_CAUSE)
            ]
            place = f" ({frames[-1].filename}, line {frames[-1].lineno}: {frames[-1].line})" if frames else ""
            return PureSGDError("sweep", f"run {problem}{place}", remedy)
    return None
