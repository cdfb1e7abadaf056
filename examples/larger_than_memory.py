"""Train on files that nobody reads whole, stop in the middle of an epoch, and go on where it was.

Expected: 256 MB of examples in two files train as they would in memory, while the memory of the process
grows by less than a fifth of that; the true weights are found to 0.02; a DataLoader whose worker process
reads ahead gives the same run; and a run that was stopped ends bit for bit as the one that never was.
About 10 s.
"""

from __future__ import annotations

import itertools
import resource
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

import pure_sgd as ps

EXAMPLES, FEATURES, BATCH_SIZE, STEPS, BLOCK = 2**17, 512, 256, 600, 4096
torch.set_num_threads(1)

model = ps.models.linear(FEATURES)
loss = ps.empirical_risk(lambda params, x, y: ps.losses.squared_error(model.apply(params, x), y))
tx = ps.sgd(ps.linear_schedule(0.05, 0.0, STEPS))
truth = torch.linspace(-1, 1, FEATURES)


def write(directory: Path) -> ps.data.FileDataset:
    """Files as some other program may have left them: the examples in two parts, written block by block."""
    draw = np.random.default_rng(0)
    parts = [directory / "x0.npy", directory / "x1.npy"]
    targets: list[np.ndarray] = []
    for part in parts:
        with part.open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (EXAMPLES // 2, FEATURES)}
            np.lib.format.write_array_header_1_0(file, header)
            for _ in range(EXAMPLES // 2 // BLOCK):
                x = draw.standard_normal((BLOCK, FEATURES), dtype=np.float32)
                file.write(x.tobytes())
                targets.append(x @ truth.numpy() + 0.1 * draw.standard_normal(BLOCK, dtype=np.float32))
    np.save(directory / "y.npy", np.concatenate(targets))
    return ps.data.from_files((parts, directory / "y.npy"))


def fit(data: Any, loss: Any = loss, **options: Any) -> ps.FitResult:
    options = {"steps": STEPS, "record_every": 50, "compile": False, "progress": False, **options}
    return ps.fit(loss, tx, model.init(ps.random.key(0)), data, **options)


def stopped_at(step: int) -> Any:
    """The loss, during whose computation somebody presses Control-C."""
    calls = itertools.count(1)

    def stopping(params: Any, batch: Any) -> torch.Tensor:
        if next(calls) == step:
            signal.raise_signal(signal.SIGINT)
        return loss(params, batch)

    return stopping


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        dataset, checkpoint = write(Path(name)), Path(name) / "run"
        fit(dataset, batch_size=BATCH_SIZE, steps=1)  # for its first gradient torch imports more of itself
        before, start = peak_megabytes(), time.perf_counter()
        state, history = fit(dataset, batch_size=BATCH_SIZE, seed=1)
        seconds = time.perf_counter() - start
        print(f"{len(dataset)} examples of {FEATURES} numbers; {STEPS / seconds:.0f} steps a second")
        grown = peak_megabytes() - before
        print(f"peak of memory: {grown:.0f} MB more than before")
        print(f"loss {history['loss'][0]:.3f} -> {history['loss'][-1]:.4f}; 0.01 is the noise")

        sampler = ps.data.BatchSampler(len(dataset), BATCH_SIZE, seed=1)
        loader = DataLoader(dataset, sampler=sampler, batch_size=None, num_workers=1)
        ahead, _ = fit(loader)

        try:
            fit(loader, stopped_at(300), checkpoint=checkpoint)
        except KeyboardInterrupt:
            print(f"stopped after step {ps.checkpoint_steps(checkpoint)[-1]}; going on")
        resumed, again = fit(loader, checkpoint=checkpoint, resume=True)

    assert grown < 256 / 5, grown
    assert (state.params["w"] - truth).abs().max() < 0.02
    assert torch.equal(ahead.params["w"], state.params["w"])
    assert torch.equal(resumed.params["w"], state.params["w"])
    assert again == history


if __name__ == "__main__":
    main()
