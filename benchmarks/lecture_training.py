"""The lecture's experiment, this library beside plain PyTorch: time to train, and equal results.

Each run is a process of its own with an empty compile cache, the two programs in turn. Only training is
timed: data, model and optimizer are set up before, and what each library imports late is imported by
then. Both validate the raw and the averaged parameters after each of the 50 epochs.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from rounds import Line, Row, Settings, duration, line, ratio

HERE = Path(__file__).parent
PROGRAMS = ("pure_sgd", "torch")
RUNS = 7
AT_MOST = 2.0
CLOSE = 1e-4


def train(program: str) -> dict[str, Any]:
    """Set up, then train under the clock."""
    import_module("torch._dynamo")  # what torch itself imports late takes a second
    if program == "torch":
        import torch_lecture

        experiment = torch_lecture.Experiment()
        start = time.perf_counter()
        history = experiment.run()
        seconds = time.perf_counter() - start
        return {
            "seconds": seconds,
            "weights": experiment.weights() + experiment.weights(averaged=True),
            "losses": [history[name] for name in ("loss", "val_loss")],
        }
    sys.path.insert(0, str(HERE.parent / "examples"))
    import lecture

    import pure_sgd as ps

    arguments = lecture.prepare()
    start = time.perf_counter()
    state, history = ps.fit(**arguments, progress=False)
    seconds = time.perf_counter() - start
    averaged = ps.eval_params(state.opt_state, state.params)
    return {
        "seconds": seconds,
        "weights": [x for p in (state.params, averaged) for x in (*p["w"].tolist(), p["b"].item())],
        "losses": [history[name] for name in ("loss", "val_loss")],
    }


def one_run(program: str) -> dict[str, Any]:
    """The same in a fresh process that finds nothing compiled."""
    with tempfile.TemporaryDirectory() as cache:
        out = subprocess.run(
            [sys.executable, __file__, program],
            env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache},
            check=True,
            capture_output=True,
            text=True,
        )
    return json.loads(out.stdout)


def largest_difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Over all weights, learned and averaged, and the training and held-out losses of all epochs.

    Not over the losses of the average: torch's begins at the parameters after the first step, ours
    at those before it, which shows in the first epochs.
    """
    flat = [[*run["weights"], *(x for losses in run["losses"] for x in losses)] for run in (one, other)]
    return max(abs(a - b) for a, b in zip(*flat, strict=True))


def training(settings: Settings) -> list[Line]:
    """The two in turn; nothing if they learn different things."""
    count = 2 if settings.quick else RUNS
    runs = {program: [one_run(program)] for program in PROGRAMS}
    off = largest_difference(*(runs[program][0] for program in PROGRAMS))
    if off > CLOSE:
        return [Line("lecture/training", "fit", "the same loop in torch", "", "", f"differs by {off:.1e}")]
    for _ in range(count - 1):
        for program in PROGRAMS:
            runs[program].append(one_run(program))
    ours, theirs = ([run["seconds"] for run in runs[program]] for program in PROGRAMS)
    shown = f"fit, {duration(statistics.median(ours))}"
    row = Row(("fit",), PROGRAMS[1:], AT_MOST)
    return [line("lecture/training", shown, "the same program in torch", row, ratio(ours, theirs))]


GROUPS = {"lecture/training": training}

if __name__ == "__main__":
    print(json.dumps(train(sys.argv[1])))
