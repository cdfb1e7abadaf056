"""What the look of ``fit`` at loss and gradient costs: a step with it over a step without it.

python benchmarks/finite_look.py
"""

from __future__ import annotations

import itertools
import statistics
import time
from typing import Any, Literal

import torch

import pure_sgd as ps

ROUNDS, STEPS, WINDOW = 3, 240, 20
MODEL = ps.models.mlp((784, 256, 10), torch.relu)
LOSS = ps.empirical_risk(
    lambda params, x, y: ps.losses.softmax_cross_entropy_with_integer_labels(MODEL.apply(params, x), y)
)
PARAMS = MODEL.init(ps.random.key(0))
DATA = (torch.randn(4096, 784), torch.randint(10, (4096,)))
POLICIES: tuple[Literal["allow", "stop", "skip"], ...] = ("allow", "stop", "skip")


def windows(nonfinite: Literal["allow", "stop", "skip"], compile: bool) -> list[float]:
    """Seconds of a step, in each window of a run but the first."""
    ends: list[float] = []
    options: Any = {"steps": STEPS, "batch_size": 512, "record_every": WINDOW, "progress": False}
    told = [lambda record, state: ends.append(time.perf_counter())]
    tx = ps.sgd(0.01, momentum=0.9)
    ps.fit(LOSS, tx, PARAMS, DATA, nonfinite=nonfinite, compile=compile, callbacks=told, **options)
    return [(end - start) / WINDOW for start, end in itertools.pairwise(ends)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    for compile in (False, True):
        taken: dict[str, list[float]] = {policy: [] for policy in POLICIES}
        for _ in range(ROUNDS):
            for policy in POLICIES:
                taken[policy].append(statistics.median(windows(policy, compile)))
        for policy in POLICIES[1:]:
            ratios = sorted(
                ours / without for ours, without in zip(taken[policy], taken["allow"], strict=True)
            )
            step = f"{1e3 * statistics.median(taken[policy]):.2f} ms"
            low, middle, high = ratios[0], statistics.median(ratios), ratios[-1]
            how = "compiled" if compile else "eager"
            print(f"{how:<9} {policy:<5} {step}, {middle:.3f} of a step without ({low:.3f} to {high:.3f})")
