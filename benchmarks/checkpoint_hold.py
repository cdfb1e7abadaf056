"""How long a checkpoint of 100 MB holds the training: written at once, and written behind it.

python benchmarks/checkpoint_hold.py [DIRECTORY]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

import pure_sgd as ps

STATE = {f"w{number}": torch.randn(250_000) for number in range(100)}
ROUNDS = 9


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def told(name: str, times: list[float]) -> str:
    low, middle, high = (f"{1e3 * value:.0f}" for value in (min(times), statistics.median(times), max(times)))
    return f"{name:<18} {middle} ms ({low} to {high})"


def measure(root: str) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {"save_checkpoint": [], "AsyncCheckpoints": [], "load_checkpoint": []}
    with ps.AsyncCheckpoints(f"{root}/behind", keep=2) as behind:
        for step in range(ROUNDS):
            calls = (
                lambda step=step: ps.save_checkpoint(f"{root}/at once", STATE, step, keep=2),
                lambda step=step: behind.save(STATE, step),
                lambda: ps.load_checkpoint(f"{root}/at once", STATE),
            )
            for name, call in zip(times, calls, strict=True):
                times[name].append(seconds(call))
                behind.wait()
    return times


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        times = measure(folder)
    for name, values in times.items():
        print(told(name, values))
    pairs = zip(times["save_checkpoint"], times["AsyncCheckpoints"], strict=True)
    print(f"ratio {statistics.median(at_once / behind for at_once, behind in pairs):.1f}")
