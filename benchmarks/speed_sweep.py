"""The lecture's run at 32 learning rates from 8 seeds, as one call: 256 runs of 50 epochs.

Beside JAX, which takes all runs as one program too, both get the order of the data as a table. Beside the
lecture's loop, which shuffles as it goes, ours draws it within the run. Of the loop one run is timed: a
thousand times faster a run is a ratio of 1000 / 256. Times are a step and run, in a second call of
``sweep``: the first one compiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from rounds import Group, Results, Row, Settings, Way
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Sampler, TensorDataset

import pure_sgd as ps

RATES, SEEDS, EPOCHS, BATCH_SIZE, STEPS_PER_EPOCH = 32, 8, 50, 32, 25
RUNS = RATES * SEEDS
MOMENTUM, WEIGHT_DECAY, AVERAGE, LAST_RATE = 0.9, 1e-4, 0.99, 0.01
#: The run whose results are compared with those of the lecture's loop.
CHOSEN = (20, 3)


class Problem(NamedTuple):
    """What every way is given."""

    data: tuple[torch.Tensor, torch.Tensor]  # x (800, 5), y (800,)
    starts: Any  # the first parameters of every seed: w (8, 5), b (8,)
    orders: torch.Tensor  # the rows of every batch: int64 (8, steps, 32)
    rates: torch.Tensor


class Found(NamedTuple):
    """What every way gives, of every run."""

    losses: Any  # before each of its steps: (32, 8, steps)
    params: Any
    average: Any


def problem(device: torch.device) -> Problem:
    data, _ = ps.data.linear_regression(ps.random.key(42), n=800, features=5, noise=0.5)
    starts = [ps.models.linear(5).init(ps.random.key(seed)) for seed in range(SEEDS)]
    made = Problem(
        data,
        ps.tree.map(lambda *leaves: torch.stack(leaves), *starts),
        torch.stack([order(torch.tensor(seed)) for seed in range(SEEDS)]),
        torch.logspace(-4, -1, RATES),
    )
    return ps.tree.map(lambda leaf: leaf.to(device), made)


def order(seed: torch.Tensor) -> torch.Tensor:
    """The rows of all batches of a run."""
    epochs = torch.arange(EPOCHS, device=seed.device)
    return torch.func.vmap(lambda epoch: ps.epoch_indices(800, BATCH_SIZE, seed, epoch))(epochs).flatten(0, 1)


def ours(given: Problem, drawn: bool) -> Callable[[], Found]:
    """A sweep of a scan; with ``drawn`` each run draws its order by itself."""
    loss = ps.empirical_risk(
        lambda params, x, y: ps.losses.squared_error(ps.models.linear(5).apply(params, x), y)
    )
    cosine = ps.cosine_decay_schedule(1.0, EPOCHS, alpha=LAST_RATE)

    def run(rate: torch.Tensor, seed: torch.Tensor) -> Found:
        tx = ps.chain(
            ps.sgd(lambda step: rate * cosine(step // STEPS_PER_EPOCH), MOMENTUM, weight_decay=WEIGHT_DECAY),
            ps.params_ema(AVERAGE),
        )
        state = ps.init_train_state(ps.data.take(given.starts, seed), tx)
        rows = order(seed) if drawn else given.orders[seed]
        state, metrics = ps.scan_indices(ps.make_step(loss, tx), state, given.data, rows)
        return Found(metrics["loss"], state.params, ps.eval_params(state.opt_state, state.params))

    seeds = torch.arange(SEEDS, device=given.rates.device)
    return lambda: ps.sweep(run, rate=given.rates, seed=seeds).results


def jax_sweep(given: Problem) -> Callable[[], Any]:
    import sweep_jax

    return sweep_jax.sweep(*given, MOMENTUM, WEIGHT_DECAY, AVERAGE, LAST_RATE)


class Order(Sampler[int]):
    """What a DataLoader asks for its rows: those of the next epoch."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.epochs = [epoch.flatten().tolist() for epoch in rows.split(STEPS_PER_EPOCH)]
        self.at = 0

    def __iter__(self) -> Iterator[int]:
        self.at += 1
        return iter(self.epochs[(self.at - 1) % EPOCHS])

    def __len__(self) -> int:
        return len(self.epochs[0])


def torch_loop(given: Problem) -> Callable[[], Found]:
    """The lecture's loop, of the run that was chosen: its rows are shuffled before."""
    (x, y), (rate, seed) = given.data, CHOSEN
    loader = DataLoader(TensorDataset(x, y[:, None]), BATCH_SIZE, sampler=Order(given.orders[seed]))
    criterion, learning_rate = nn.MSELoss(), float(given.rates[rate])

    def work() -> Found:
        model = nn.Linear(5, 1, device=x.device)
        with torch.no_grad():
            model.weight.copy_(given.starts["w"][seed][None])
            model.bias.copy_(given.starts["b"][seed][None])
        optimizer = torch.optim.SGD(model.parameters(), learning_rate, MOMENTUM, weight_decay=WEIGHT_DECAY)
        scheduler = CosineAnnealingLR(optimizer, EPOCHS, LAST_RATE * learning_rate)
        average = AveragedModel(model, avg_fn=lambda a, p, _: AVERAGE * a + (1 - AVERAGE) * p)
        average.n_averaged += 1  # it begins at the first parameters
        losses: list[float] = []
        for _ in range(EPOCHS):
            for features, target in loader:
                optimizer.zero_grad()
                loss = criterion(model(features), target)
                loss.backward()
                optimizer.step()
                average.update_parameters(model)
                losses.append(loss.item())
            scheduler.step()
        return Found(losses, list(model.parameters()), list(average.module.parameters()))

    return work


def read(found: Found) -> Results:
    """Those of all runs, and those of the one that was chosen."""
    values = {name: ps.tree.leaves(part) for name, part in found._asdict().items()}
    chosen = {f"{name} of one run": [leaf[CHOSEN] for leaf in leaves] for name, leaves in values.items()}
    return {name: [leaf.cpu() for leaf in leaves] for name, leaves in {**values, **chosen}.items()}


def read_torch(found: Found) -> Results:
    weights = {"params": found.params, "average": found.average}
    by_name = {
        f"{name} of one run": [bias.detach()[0].cpu(), weight.detach()[0].cpu()]
        for name, (weight, bias) in weights.items()
    }
    return {"losses of one run": [torch.tensor(found.losses)], **by_name}


def read_jax(found: Any) -> Results:
    import noise_jax

    return read(Found(*(ps.tree.map(lambda leaf: noise_jax.read(leaf)[0], part) for part in found)))


def threads(
    name: str, way: Callable[[], Callable[[], Any]], read: Callable[[Any], Results]
) -> dict[str, Way]:
    """With one thread and with all of them, of which the faster counts."""
    return {
        f"{name}, {count} thread{'s' * (count > 1)}": Way(way, read, count)
        for count in sorted({1, torch.get_num_threads()})
    }


def group(settings: Settings) -> Group:
    given = problem(settings.device)
    table = threads("sweep(scan)", partial(ours, given, drawn=False), read)
    shuffled = threads("sweep(scan), shuffling", partial(ours, given, drawn=True), read)
    loop = threads("1 of 256 runs of the lecture's loop", partial(torch_loop, given), read_torch)
    jax = {"JAX scan(vmap)": Way(partial(jax_sweep, given), read_jax)}
    why = "a third of it is the loop; the rest writes the step down anew and gathers the batches"
    rows = [
        Row(tuple(shuffled), tuple(loop), 1000 / RUNS, faster=True),
        Row(tuple(table), tuple(jax), 1.0, faster=True, why=why),
    ]
    return Group("sweep/256", {**table, **shuffled, **loop, **jax}, rows, EPOCHS * STEPS_PER_EPOCH * RUNS)


GROUPS: dict[str, Callable[[Settings], Group]] = {"sweep/256": group}
