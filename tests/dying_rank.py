"""A run under torchrun of which one rank is killed once: ``dying_rank.py KIND DIRECTORY RANK STEP``."""

from __future__ import annotations

import os
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from ranks import batch_of, example_loss, rows_of, start
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

import pure_sgd as ps
from pure_sgd.distributed import checkpoints

STEPS, EVERY = 12, 3
TX = ps.chain(ps.adamw(1e-2), ps.params_ema(0.9))


def die_at(step: int) -> None:
    """End this rank as a machine that fails would, if it is the one, and only the first time."""
    rank, at = map(int, sys.argv[3:])
    first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if first and (distributed.get_rank(), step) == (rank, at):
        os.kill(os.getpid(), signal.SIGKILL)


class Batches:
    """Those of this rank, of which ``fit`` asks for an epoch at a time."""

    def __init__(self, mesh: DeviceMesh) -> None:
        self.mesh = mesh

    def __iter__(self) -> Any:
        for step in range(STEPS):
            die_at(step)
            yield rows_of(batch_of(step), self.mesh)


def fitted(directory: Path, mesh: DeviceMesh) -> ps.TrainState:
    loss = ps.distributed.data_parallel(ps.empirical_risk(example_loss), mesh)
    options: dict[str, Any] = {"checkpoint": directory, "checkpoint_every": EVERY, "resume": True}
    return ps.fit(loss, TX, start(), Batches(mesh), epochs=1, progress=False, **options).state


def spread(directory: Path, mesh: DeviceMesh) -> ps.TrainState:
    """The loop written out, over a state that is spread over the ranks."""
    loss = ps.distributed.data_parallel(ps.empirical_risk(example_loss), mesh)
    step = ps.distributed.on_shards(ps.make_step(loss, TX))
    state = ps.distributed.shard(ps.init_train_state(start(), TX), mesh, "all")
    if ps.checkpoint_steps(directory):
        state = ps.distributed.load_checkpoint(directory, state, mesh)
    for number in range(int(state.step), STEPS):
        die_at(number)
        state, _ = step(state, rows_of(batch_of(number), mesh))
        if (number + 1) % EVERY == 0:
            ps.distributed.save_checkpoint(directory, state, number + 1, mesh)
    return ps.distributed.gather(state)


def spread_saving(directory: Path, mesh: DeviceMesh) -> ps.TrainState:
    """The same, which ends when the shards of a checkpoint are written and its manifest is not."""
    write = checkpoints.write_manifest

    def dying(folder: Path, manifest: Any) -> None:
        die_at(-manifest.step)
        write(folder, manifest)

    with mock.patch.object(checkpoints, "write_manifest", dying):
        return spread(directory, mesh)


def main() -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", timeout=timedelta(seconds=60))
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    kind, directory = sys.argv[1], Path(sys.argv[2])
    steps = ps.checkpoint_steps(directory)
    print(f"begins at {steps[-1] if steps else 0}", flush=True)
    state = {"fit": fitted, "spread": spread, "saving": spread_saving}[kind](directory, mesh)
    if distributed.get_rank() == 0:
        ps.save_checkpoint(directory.with_name("result"), state, STEPS)
    distributed.destroy_process_group()
    # torch's own caches of DTensor hold the group all the same. A thread of it that lets go of a tensor
    # while Python ends aborts the process: https://github.com/pytorch/pytorch/issues/190489.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
