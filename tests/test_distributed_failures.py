"""A rank that dies ends the job soon, by its name, and the next attempt goes on from the last checkpoint."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from dying_rank import STEPS, TX
from ranks import Failure, batch_of, example_loss, mesh_of, rows_of, start, started
from saved_trees import assert_same
from torch import distributed

import pure_sgd as ps

ENVIRONMENT = {
    # Without it the ranks of a second attempt meet the addresses of the first one.
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    "GLOO_SOCKET_IFNAME": "lo",
    "OMP_NUM_THREADS": "1",
}
NEVER = (0, STEPS)


def torchrun(
    kind: str, directory: Path, rank: int, step: int, restarts: int
) -> subprocess.CompletedProcess[str]:
    script = Path(__file__).with_name("dying_rank.py")
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--max-restarts={restarts}"),
        *("--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"),
        *(str(script), kind, str(directory / "run"), str(rank), str(step)),
    ]
    environment = {**os.environ, **ENVIRONMENT}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)


def result_of(directory: Path) -> ps.TrainState:
    return ps.load_checkpoint(directory / "result", ps.init_train_state(start(), TX))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ps.TrainState]:
    @cache
    def taken(kind: str) -> ps.TrainState:
        directory = tmp_path_factory.mktemp(kind)
        assert torchrun(kind, directory, *NEVER, restarts=0).returncode == 0
        return result_of(directory)

    return taken


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, rank, step, begins",
    [("fit", 1, 7, 6), ("fit", 0, 2, 0), ("spread", 1, 11, 9), ("saving", 0, -9, 6)],
)
def test_the_next_attempt_goes_on_from_the_last_checkpoint(tmp_path, uninterrupted, kind, rank, step, begins):
    done = torchrun(kind, tmp_path, rank, step, restarts=1)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"begins at (\d+)", done.stdout) == ["0", "0", str(begins), str(begins)]
    assert_same(result_of(tmp_path), uninterrupted("fit" if kind == "fit" else "spread"))


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_job_by_its_name(tmp_path):
    done = torchrun("fit", tmp_path, 1, 7, restarts=0)
    assert done.returncode != 0
    cause = done.stderr[done.stderr.index("Root Cause") :]
    assert re.search(r"rank +: 1 .*\n +exitcode +: -9 .*SIGKILL", cause)
    assert ps.checkpoint_steps(tmp_path / "run") == [3, 6]


class Once:
    """An iterable of batches, made when they are asked for."""

    def __init__(self, batches: Callable[[], Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        return self.batches()


def fit_and_die() -> Any:
    mesh = mesh_of(2)
    loss = ps.distributed.data_parallel(ps.empirical_risk(example_loss), mesh)

    def batches() -> Any:
        for step in range(STEPS):
            if (distributed.get_rank(), step) == (1, 4):
                os.kill(os.getpid(), signal.SIGKILL)
            yield rows_of(batch_of(step), mesh)

    return ps.fit(loss, TX, start(), Once(batches), epochs=1, progress=False)


def test_the_other_ranks_do_not_wait_for_one_that_has_died():
    with started(2) as ranks:
        survivor, dead = ranks.answers(fit_and_die)
    assert dead == Failure("the process has ended")
    assert re.search(r"RuntimeError: .*gloo.* (by|from) peer", survivor)
    assert "cannot take" not in survivor
