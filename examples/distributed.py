"""Two processes train, with half of every batch each, what one process trains with the whole of it.

    torchrun --nproc-per-node 2 examples/distributed.py

or, to the same effect, ``python examples/distributed.py``. On CPUs the processes talk through gloo, on GPUs,
if there is one for each, through NCCL.

Expected: a network on handwritten digits (SGD with momentum) and a small transformer on English (clipped
AdamW, its state spread over the processes, so that each holds half of it) end with the parameters of a
run of one process to 1e-5 of their largest; that is what another order of float32 sums makes of them. The
network reads 98 % of held-out digits. About 20 s.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

import pure_sgd as ps

BOOK = Path(__file__).with_name("alice.txt")
CONTEXT = 32
TOLERANCE = 1e-5


class Problem(NamedTuple):
    """What is trained; it knows nothing of processes."""

    name: str
    model: ps.models.Model
    loss: Callable[..., torch.Tensor]  # of one example
    data: tuple[torch.Tensor, torch.Tensor]
    tx: ps.GradientTransformation
    steps: int
    batch_size: int
    plan: str | None  # what is spread over the ranks; None: every rank holds all


def digits(split: ps.data.Split) -> Problem:
    dense = ps.models.mlp((64, 256, 128, 10))
    model = dense._replace(apply=lambda params, image: dense.apply(params, image.flatten()))
    tx = ps.sgd(ps.cosine_decay_schedule(0.1, 150), momentum=0.9, weight_decay=1e-3)
    return Problem("digits", model, cross_entropy(model), split.train, tx, 150, 64, plan=None)


def letters() -> Problem:
    book = " ".join(BOOK.read_text(encoding="ascii").split())
    alphabet = sorted(set(book))
    rows = torch.tensor([alphabet.index(character) for character in book]).unfold(0, CONTEXT + 1, 1)
    model = ps.models.transformer(len(alphabet), CONTEXT, width=64, heads=4, layers=1)
    data = (rows[:, :-1], rows[:, 1:])
    # A gradient that is zero but for rounding, as that of the bias of the keys, is to stay so: with the
    # usual eps of 1e-8 Adam makes whole steps of it, and two runs differ by 2e-4.
    tx = ps.chain(ps.clip_by_global_norm(1.0), ps.adamw(3e-3, eps=1e-5))
    return Problem("letters", model, cross_entropy(model), data, tx, 60, 32, plan="optimizer")


def cross_entropy(model: ps.models.Model) -> Callable[..., torch.Tensor]:
    def loss(params: Any, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return ps.losses.softmax_cross_entropy_with_integer_labels(model.apply(params, x), label)

    return loss


def batches(problem: Problem, rank: int, ranks: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """This rank's rows of each batch; the batch of all is the same for any number of ranks."""
    order = ps.data.BatchSampler(
        len(problem.data[0]), problem.batch_size, drop_last=True, rank=rank, ranks=ranks
    )
    for epoch in itertools.count():
        order.set_epoch(epoch)
        for indices in order:
            yield tuple(leaf[indices] for leaf in problem.data)


def train(problem: Problem, device: torch.device, mesh: DeviceMesh | None) -> tuple[ps.TrainState, str]:
    """The state after all steps, and a word on the run: of one process, or of those of a mesh."""
    start, metrics = time.perf_counter(), {}
    rank, ranks = (mesh.get_local_rank(), mesh.size()) if mesh else (0, 1)
    loss = ps.empirical_risk(problem.loss)
    step = ps.make_step(ps.distributed.data_parallel(loss, mesh) if mesh else loss, problem.tx)
    params = ps.tree.map(lambda leaf: leaf.to(device), problem.model.init(ps.random.key(0)))
    state = ps.init_train_state(params, problem.tx)
    if mesh and problem.plan:
        state, step = ps.distributed.shard(state, mesh, problem.plan), ps.distributed.on_shards(step)
    for rows in itertools.islice(batches(problem, rank, ranks), problem.steps):
        state, metrics = step(state, tuple(leaf.to(device) for leaf in rows))
    return state, f"last loss {metrics['loss'].item():.6f}, {time.perf_counter() - start:.1f} s"


def held(state: ps.TrainState) -> int:
    """How many numbers of the optimizer's state are on this rank."""
    leaves = ps.tree.leaves(state.opt_state)
    return sum(leaf.to_local().numel() if isinstance(leaf, DTensor) else leaf.numel() for leaf in leaves)


def apart(one: Any, other: Any) -> float:
    """The largest difference of two trees, as a share of the largest number."""
    pairs = zip(ps.tree.leaves(one), ps.tree.leaves(other), strict=True)
    most = max(leaf.abs().max() for leaf in ps.tree.leaves(other))
    return float(max((a - b).abs().max() for a, b in pairs) / most)


def compare(problem: Problem, device: torch.device, mesh: DeviceMesh) -> Any:
    """Train on the mesh, and on its first rank alone, which prints how far they are apart."""
    state, seen = train(problem, device, mesh)
    together = ps.distributed.gather(state)
    if mesh.get_local_rank() == 0:
        alone, seen_alone = train(problem, device, None)
        difference = apart(together.params, alone.params)
        print(f"{problem.name}: {problem.steps} steps of {problem.batch_size} examples")
        print(f"  {mesh.size()} processes: {seen}; {held(state)} numbers of optimizer state each")
        print(f"  1 process:   {seen_alone}; {held(alone)} numbers")
        print(f"  apart by {difference:.1e} of the largest parameter; {TOLERANCE:.0e} is allowed")
        assert difference < TOLERANCE, difference
    return together.params


def main() -> None:
    """What each process does."""
    torch.set_num_threads(1)
    rank, ranks = int(os.environ["LOCAL_RANK"]), int(os.environ["WORLD_SIZE"])
    on_gpus = torch.cuda.device_count() >= ranks
    device = torch.device("cuda", rank) if on_gpus else torch.device("cpu")
    distributed.init_process_group("nccl" if on_gpus else "gloo")
    mesh, split = init_device_mesh(device.type, (ranks,)), ps.data.digits()
    network, transformer = digits(split), letters()
    params = compare(network, device, mesh)
    compare(transformer, device, mesh)
    if rank == 0:
        images, labels = split.held_out
        read = torch.func.vmap(lambda image: network.model.apply(params, image))(images.to(device)).argmax(1)
        accuracy = (read.cpu() == labels).float().mean().item()
        print(f"{accuracy:.1%} of {len(labels)} held-out digits are read")
        assert accuracy > 0.95, accuracy
    distributed.destroy_process_group()


if __name__ == "__main__":
    if "RANK" in os.environ:
        main()
    else:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
        subprocess.run([*torchrun, __file__], check=True)
