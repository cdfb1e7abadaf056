"""How the time of a compiled step grows: with parameters, leaves, examples and replicas.

    python benchmarks/growth.py             a few minutes; prints the table, saves growth.png beside this file
    python benchmarks/growth.py --quick     fewer points, no picture

Beyond the overhead of a call, which is its time at the smallest size, time is to grow no faster than the
work: the slope in logarithms over the last decade is at most 1.05.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from rounds import Line, Settings, duration

import pure_sgd as ps
from pure_sgd.training.step import Metrics, Step

PICTURE = Path(__file__).with_name("growth.png")
STEEPEST = 1.05
#: What binds where the slope is steeper.
CACHES = "what fits the caches at the smaller size, in part, does not at the larger"
FRESH = "the C library gives blocks of more than 32 MB as fresh pages in every step; with old ones 1.02"
SECONDS = 0.5  # of timing at each point
Work = Callable[[], Any]


class Axis(NamedTuple):
    """What grows, from where to where, and what stays."""

    name: str  # with its unit, for the axis of the picture
    title: str
    sizes: list[int]
    quick: list[int]
    start: Callable[[int, torch.device], Work]
    why: str = CACHES


class Growth(NamedTuple):
    """Seconds a step at each size."""

    axis: Axis
    sizes: list[int]
    seconds: list[float]

    @property
    def beyond(self) -> list[float]:
        """Seconds beyond those at the smallest size."""
        return [seconds - self.seconds[0] for seconds in self.seconds]

    @property
    def slope(self) -> float:
        """Of the logarithm of time beyond the overhead, over the last two sizes."""
        return math.log(self.beyond[-1] / self.beyond[-2]) / math.log(self.sizes[-1] / self.sizes[-2])


OPTIMIZER = ps.chain(ps.sgd(0.01, momentum=0.9, weight_decay=1e-4), ps.params_ema(0.99))


def stepping(step: Step, state: ps.TrainState, batch: Any) -> Work:
    """One compiled step after another, from ``state`` on."""
    compiled = ps.compile_step(step, donate=True)

    def work() -> None:
        nonlocal state
        state, _ = compiled(state, batch)

    return work


def parameters(count: int, device: torch.device) -> Work:
    """A linear model, and a batch of one example: all that costs is what is read and written."""
    model = ps.models.linear(count)
    loss = ps.empirical_risk(lambda params, x, y: ps.losses.l2_loss(model.apply(params, x), y))
    params = {"w": torch.zeros(count, device=device), "b": torch.zeros((), device=device)}
    batch = (torch.full((1, count), 1 / count, device=device), torch.ones(1, device=device))
    return stepping(ps.make_step(loss, OPTIMIZER), ps.init_train_state(params, OPTIMIZER), batch)


def leaves(count: int, device: torch.device) -> Work:
    """Leaves of 64 numbers, and nothing but their update: the gradient is a batch of one tree."""

    def step(state: ps.TrainState, grads: Any) -> tuple[ps.TrainState, Metrics]:
        updates, opt_state = OPTIMIZER.update(grads, state.opt_state, state.params)
        params = ps.apply_updates(state.params, updates)
        return ps.TrainState(state.step + 1, params, opt_state), {}

    params = [torch.zeros(64, device=device) for _ in range(count)]
    grads = [torch.ones(64, device=device) for _ in range(count)]
    return stepping(step, ps.init_train_state(params, OPTIMIZER), grads)


def examples(count: int, device: torch.device) -> Work:
    """A multilayer perceptron 64-256-128-10."""
    model = ps.models.mlp((64, 256, 128, 10))

    def loss(params: Any, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return ps.losses.softmax_cross_entropy_with_integer_labels(model.apply(params, x), label)

    key = ps.random.key(0, device=device)
    batch = (ps.random.normal(key, (count, 64)), torch.zeros(count, dtype=torch.int64, device=device))
    state = ps.init_train_state(model.init(key), OPTIMIZER)
    return stepping(ps.make_step(ps.empirical_risk(loss), OPTIMIZER), state, batch)


def replicas(count: int, device: torch.device) -> Work:
    """The linear model of five numbers at batch 32, so many times at once by vmap."""
    model = ps.models.linear(5)
    loss = ps.empirical_risk(lambda params, x, y: ps.losses.l2_loss(model.apply(params, x), y))
    key = ps.random.key(0, device=device)
    batch = (ps.random.normal(key, (32, 5)), torch.ones(32, device=device))
    one = ps.init_train_state(model.init(key), OPTIMIZER)
    state = ps.tree.map(lambda leaf: leaf.expand(count, *leaf.shape).clone(), one)
    step = torch.func.vmap(ps.make_step(loss, OPTIMIZER), (0, None))
    return stepping(step, state, batch)


def powers(base: int, first: int, last: int) -> list[int]:
    return [base**k for k in range(first, last + 1)]


AXES = (
    Axis("parameters", "a linear model, one example", powers(10, 2, 8), [100, 10**7, 3 * 10**7], parameters),
    # Compiling takes 0.16 s of CPU time for each leaf: minutes for a thousand.
    Axis("leaves of 64 numbers", "update only", [1, 3, 10, 30, 100, 300, 1000], [1, 30, 300], leaves),
    Axis("examples in a batch", "MLP 64-256-128-10", powers(4, 0, 8), [1, 512, 4096], examples, FRESH),
    Axis(
        "replicas by vmap",
        "a linear model of 6 numbers, batch 32",
        powers(10, 0, 4),
        [1, 1000, 10**4],
        replicas,
    ),
)


def growth(settings: Settings) -> list[Line]:
    """Measure all four, draw them, and say how they grow."""
    found = [measured(axis, settings) for axis in AXES]
    if not settings.quick:
        draw(found).savefig(PICTURE, dpi=110)
    return [line(each) for each in found]


def measured(axis: Axis, settings: Settings) -> Growth:
    sizes = axis.quick if settings.quick else axis.sizes
    seconds = []
    for size in sizes:
        torch.compiler.reset()
        seconds.append(seconds_of(axis.start(size, settings.device), settings.device))
        print(f"{size:>12,} {axis.name:24} {duration(seconds[-1]):>8} a step", file=sys.stderr, flush=True)
    return Growth(axis, sizes, seconds)


def seconds_of(work: Work, device: torch.device) -> float:
    """The median over calls, after two that compile and warm up; calls that take less than 1 ms in tens."""

    def timed(repeats: int) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - start) / repeats

    timed(2)
    repeats = 10 if timed(1) < 1e-3 else 1
    times = [timed(repeats) for _ in range(3)]
    start = time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        times.append(timed(repeats))
    return statistics.median(times)


def line(found: Growth) -> Line:
    ends = f"{duration(found.seconds[0])} to {duration(found.seconds[-1])}"
    last = f"slope beyond the overhead, {found.sizes[-2]:,} to {found.sizes[-1]:,}"
    met = found.slope <= STEEPEST
    return Line(
        "growth",
        f"{found.axis.name}: {ends}",
        last,
        f"at most {STEEPEST:g}",
        f"{found.slope:.2f}",
        "met" if met else f"**missed**: {found.axis.why}",
    )


def draw(found: list[Growth]) -> Figure:
    """Time against size, and the overhead plus a line of slope one through the last point."""
    figure = Figure(figsize=(9.0, 6.6), layout="constrained")
    for axes, each in zip(figure.subplots(2, 2).ravel(), found, strict=True):
        size, seconds, overhead = each.sizes[-1], each.seconds[-1], each.seconds[0]
        fine = [each.sizes[0] * (size / each.sizes[0]) ** (k / 100) for k in range(101)]
        line = [overhead + each.beyond[-1] * n / size for n in fine]
        axes.loglog(fine, [1e3 * value for value in line], "--", color="0.5", label="overhead + slope one")
        axes.loglog(each.sizes, [1e3 * value for value in each.seconds], "o", color="C0", label="measured")
        axes.set(xlabel=each.axis.name, ylabel="time of a step in ms", title=each.axis.title)
        axes.text(
            0.04,
            0.68,
            f"{duration(overhead)} to {duration(seconds)}\nslope of the last step {each.slope:.2f}",
            transform=axes.transAxes,
            color="0.3",
        )
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="upper left")
    return figure


def main(words: list[str]) -> None:
    for each in growth(Settings(torch.device("cpu"), "--quick" in words)):
        print(" ".join(f"{text:34}" for text in each[1:]))
    print(f"picture: {PICTURE}")


if __name__ == "__main__":
    main(sys.argv[1:])
