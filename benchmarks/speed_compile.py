"""Time to the first compiled step beside plain ``torch.compile``, and after how many steps that has paid.

Each time is that of the first call in a process of its own, with an empty compile cache or with the one that
such a process has left. Model, loss and optimizer are the same; only ``compile_step(donate=True)`` differs.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rounds import Line, Row, Settings, line, ratio

import pure_sgd as ps

RUNS, QUICK_RUNS = 2, 1
WARM_UP, STEPS = 20, 100
WAYS = ("compile_step", "torch.compile")
CACHES = ("cold", "warm")
Runs = list[dict[str, float]]
Problem = tuple[Callable[..., Any], Any, Any, Any]  # loss, optimizer, parameters, batch


def mlp(device: torch.device) -> Problem:
    """784-512-512-10 at batch 128."""
    model = ps.models.mlp((784, 512, 512, 10))
    cross_entropy = ps.losses.softmax_cross_entropy_with_integer_labels
    loss = ps.empirical_risk(lambda params, x, y: cross_entropy(model.apply(params, x), y))
    batch = torch.randn(128, 784, device=device), torch.randint(10, (128,), device=device)
    params = ps.tree.map(lambda leaf: leaf.to(device), model.init(ps.random.key(0)))
    return loss, optimizer(), params, batch


def lecture(device: torch.device) -> Problem:
    """Linear, 5 features, batch 32."""
    model = ps.models.linear(5)
    loss = ps.empirical_risk(lambda params, x, y: (model.apply(params, x) - y) ** 2)
    batch = torch.randn(32, 5, device=device), torch.randn(32, device=device)
    params = ps.tree.map(lambda leaf: leaf.to(device), model.init(ps.random.key(0)))
    return loss, optimizer(), params, batch


def optimizer() -> ps.GradientTransformation:
    rate = ps.cosine_decay_schedule(0.01, 1250)
    return ps.chain(ps.sgd(rate, momentum=0.9, weight_decay=1e-4), ps.params_ema(0.99))


PROBLEMS: dict[str, Callable[[torch.device], Problem]] = {"mlp": mlp, "lecture": lecture}


def first_step(problem: str, way: str, device: str) -> dict[str, float]:
    """Seconds of the first call, of a later one, and of one that is not compiled."""
    torch.manual_seed(0)
    loss, tx, params, batch = PROBLEMS[problem](torch.device(device))
    eager = ps.make_step(loss, tx)
    compiled: dict[str, Callable[[], Callable[..., Any]]] = {
        "compile_step": lambda: ps.compile_step(eager, donate=True),
        "torch.compile": lambda: torch.no_grad()(torch.compile(eager, fullgraph=True)),
    }
    state = ps.init_train_state(params, tx)
    start = time.perf_counter()
    step = compiled[way]()
    state, metrics = step(state, batch)
    first, loss_then = time.perf_counter() - start, metrics["loss"].item()
    later = seconds_a_step(step, state, batch)
    plain = seconds_a_step(eager, ps.init_train_state(params, tx), batch)
    return {"first": first, "later": later, "plain": plain, "loss": loss_then}


def seconds_a_step(step: Callable[..., Any], state: Any, batch: Any) -> float:
    for _ in range(WARM_UP):
        state, _ = step(state, batch)
    start = time.perf_counter()
    for _ in range(STEPS):
        state, _ = step(state, batch)
    state.step.item()
    return (time.perf_counter() - start) / STEPS


def in_own_process(problem: str, way: str, device: str, cache: str) -> dict[str, float]:
    """The same with its own compile cache."""
    out = subprocess.run(
        [sys.executable, __file__, problem, way, device],
        env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache, "PYTHONPATH": str(Path(ps.__file__).parents[1])},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(out.stdout.splitlines()[-1])


def first_steps(problem: str, settings: Settings) -> list[Line]:
    """One row for the empty cache, one for the warm one, and how many steps pay."""
    runs: dict[tuple[str, str], Runs] = {}
    for _ in range(QUICK_RUNS if settings.quick else RUNS):
        for way in WAYS:
            with tempfile.TemporaryDirectory() as cache:
                for state in CACHES:
                    run = in_own_process(problem, way, str(settings.device), cache)
                    runs.setdefault((state, way), []).append(run)
    losses = [run["loss"] for found in runs.values() for run in found]
    name = f"compile/{problem}"
    if max(losses) - min(losses) > 1e-4 * max(losses):
        return [Line(name, *WAYS, "", "", f"does not count: the losses are {min(losses)} to {max(losses)}")]
    return [compared(name, state, *(runs[state, way] for way in WAYS)) for state in CACHES]


def compared(name: str, state: str, ours: Runs, theirs: Runs) -> Line:
    """One row, and after how many steps the compiled one has been faster than the step as it is."""

    def middle(runs: Runs, what: str) -> float:
        return statistics.median(run[what] for run in runs)

    # Of a single run the quartiles are the run.
    found = ratio(*([run["first"] for run in runs] * 2 for runs in (ours, theirs)))
    mine, other = (
        f"{way}, {state}, {middle(runs, 'first'):.1f} s"
        for way, runs in zip(WAYS, (ours, theirs), strict=True)
    )
    gain = middle(ours, "plain") - middle(ours, "later")
    steps = f"pays after {middle(ours, 'first') / gain:,.0f} steps" if gain > 0 else "does not pay"
    whole = line(name, mine, other, Row(WAYS[:1], WAYS[1:], 1.0), found)
    return whole._replace(verdict=f"{whole.verdict}; {steps}")


GROUPS: dict[str, Callable[[Settings], list[Line]]] = {
    f"compile/{problem}": partial(first_steps, problem) for problem in PROBLEMS
}

if __name__ == "__main__":
    print(json.dumps(first_step(*sys.argv[1:])))
