"""Several ways to do the same work: compare their results, let them take turns, and say who was faster."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

# After the first rounds, those that are not slow go on for so many seconds, and rounds.
SECONDS, QUICK_SECONDS = 5.0, 1.0
LEAST_ROUNDS, MORE_ROUNDS = 3, 9
SLOW = 0.4

# The largest difference of results, as a share of the largest entry of the same leaf, and of all leaves.
OF_LEAF, OF_ALL = 1e-3, 1e-6

Results = dict[str, list[torch.Tensor]]  # quantities: those of the same name are to be equal


class Settings(NamedTuple):
    """What a benchmark is asked for."""

    device: torch.device
    quick: bool  # the smallest sizes that still show it


class Way(NamedTuple):
    """One way to do the work."""

    set_up: Callable[[], Callable[[], Any]]
    read: Callable[[Any], Results]
    threads: int | None = None  # of torch, while it works


class Row(NamedTuple):
    """Two times whose ratio has a bound; of several ways the fastest counts."""

    ours: tuple[str, ...]
    beside: tuple[str, ...]
    bound: float
    faster: bool = False  # the ratio is theirs over ours, and at least the bound
    why: str = ""  # what binds where the bound is missed


class Group(NamedTuple):
    """Ways that take turns, and the rows that they fill."""

    name: str
    ways: dict[str, Way]
    rows: list[Row]
    steps: int = 1  # that one call takes


class Ratio(NamedTuple):
    """Over the rounds that both took part in."""

    median: float
    lower: float  # quartiles
    upper: float


class Line(NamedTuple):
    """What is known of a row, in words."""

    work: str
    ours: str
    beside: str
    bound: str
    ratio: str
    verdict: str


def lines(group: Group, settings: Settings) -> Iterator[Line]:
    """Measure; then a line for each row, and one for each way that did not run."""
    works, failed = prepared(group.ways)
    seconds = in_turn(works, settings)
    for row in group.rows:
        ours, beside = (fastest(names, seconds) for names in (row.ours, row.beside))
        if ours is None or beside is None:
            missing = " and ".join(row.ours if ours is None else row.beside)
            yield line(group.name, " or ".join(row.ours), missing, row, None)
        else:
            over, under = (beside, ours) if row.faster else (ours, beside)
            found = ratio(seconds[over], seconds[under])
            shown = f"{ours}, {duration(statistics.median(seconds[ours]) / group.steps)}"
            yield line(group.name, shown, beside, row, found)
    for name, reason in failed.items():
        yield Line(group.name, name, "", "", "", f"does not count: {reason}")


def prepared(ways: dict[str, Way]) -> tuple[dict[str, Callable[[], Any]], dict[str, str]]:
    """Set up and warm up; the works whose results agree with the first, and what is wrong with the others."""
    works: dict[str, Callable[[], Any]] = {}
    failed: dict[str, str] = {}
    first: Results = {}
    for name, way in ways.items():
        try:
            work = with_threads(way.set_up(), way.threads)
            results = way.read(work())
        except ModuleNotFoundError as error:
            failed[name] = f"{error.name} is not installed"
        except Exception as error:
            failed[name] = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        else:
            wrong = [
                difference(found, first.setdefault(what, found), what) for what, found in results.items()
            ]
            if any(wrong):
                failed[name] = " and ".join(filter(None, wrong))
            else:
                works[name] = work
    return works, failed


def with_threads(work: Callable[[], Any], threads: int | None) -> Callable[[], Any]:
    if threads is None:
        return work

    def limited() -> Any:
        usual = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return work()
        finally:
            torch.set_num_threads(usual)

    return limited


def difference(found: list[torch.Tensor], expected: list[torch.Tensor], what: str) -> str | None:
    """How far two results differ, if by more than float32 does."""
    if len(found) != len(expected):
        return f"its {what} has {len(found)} leaves, expected {len(expected)}"
    most = max(float(leaf.abs().max()) for leaf in expected)
    for index, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        largest = float(theirs.abs().max())
        off = float((ours.to(theirs) - theirs).abs().max())
        if not off <= OF_LEAF * largest + OF_ALL * most:
            return f"its {what} of leaf {index} is wrong by {off:.1e} of {largest:.1e}"
    return None


def in_turn(works: dict[str, Callable[[], Any]], settings: Settings) -> dict[str, list[float]]:
    """Seconds of each, round after round."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(LEAST_ROUNDS):
        one_round(works, seconds, settings.device)
    quick = {name: work for name, work in works.items() if min(seconds[name]) < SLOW}
    least, rounds = (QUICK_SECONDS, 0) if settings.quick else (SECONDS, MORE_ROUNDS)
    start = time.perf_counter()
    while quick and (rounds > 0 or time.perf_counter() - start < least):
        one_round(quick, seconds, settings.device)
        rounds -= 1
    return seconds


def one_round(
    works: dict[str, Callable[[], Any]], seconds: dict[str, list[float]], device: torch.device
) -> None:
    def done() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for name, work in works.items():
        # The first call finds in the caches what the one before it has left there.
        if seconds[name] and min(seconds[name]) < SLOW:
            work()
        done()
        start = time.perf_counter()
        work()
        done()
        seconds[name].append(time.perf_counter() - start)


def fastest(names: tuple[str, ...], seconds: dict[str, list[float]]) -> str | None:
    """Of those that run."""
    running = [name for name in names if name in seconds]
    return min(running, key=lambda name: statistics.median(seconds[name])) if running else None


def ratio(over: list[float], under: list[float]) -> Ratio:
    """Round by round."""
    ratios = [a / b for a, b in zip(over, under, strict=False)]
    lower, median, upper = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(median, lower, upper)


def line(work: str, ours: str, beside: str, row: Row, found: Ratio | None) -> Line:
    """One row of the table."""
    bound = f"at {'least' if row.faster else 'most'} {row.bound:g}"
    if found is None:
        return Line(work, ours, beside, bound, "", "nothing to compare")
    met = found.median >= row.bound if row.faster else found.median <= row.bound
    digits = 0 if found.median >= 100 else 2
    spread = f"{found.median:.{digits}f} ({found.lower:.{digits}f} to {found.upper:.{digits}f})"
    missed = f"**missed**: {row.why}" if row.why else "**missed**"
    return Line(work, ours, beside, bound, spread, "met" if met else missed)


def duration(seconds: float) -> str:
    """In a unit that leaves one to three digits before the point."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"
