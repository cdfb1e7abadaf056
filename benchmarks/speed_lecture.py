"""The lecture's experiment, 1250 steps in the steady state: as one call, and step by step.

SGD with momentum, weight decay, a cosine schedule and an EMA; 5 features, batches of 32 of 800 examples. All
take the same batches in the same order: the shuffles are drawn before, and their time counts for none. As
one call the data lie in memory and gathering the batches counts; step by step they are gathered before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lecture_jax
import torch
from rounds import Group, Results, Row, Settings, Way
from torch.utils.data import DataLoader, TensorDataset
from torch_lecture import EPOCHS, Experiment

import pure_sgd as ps

MOVED = ("data", "params")
STEPS_PER_EPOCH = 25
STEPS = EPOCHS * STEPS_PER_EPOCH


def many(settings: Settings) -> Group:
    """All steps as one call, beside the lecture's own loop and ``lax.scan``."""
    arguments, order = prepared(settings)

    def scanned() -> Callable[[], Any]:
        step = ps.make_step(arguments["loss"], arguments["tx"])
        state = ps.init_train_state(arguments["params"], arguments["tx"])
        return lambda: ps.scan_indices(step, state, arguments["data"], order)

    def loaded() -> Callable[[], Any]:
        x, y = arguments["data"]
        rows, dataset = epochs_of(order.tolist()), TensorDataset(x, y[:, None])
        return lambda: own_loop(settings, DataLoader(dataset, batch_sampler=Walk(rows)))

    ways = {
        "scan_indices": Way(scanned, read, threads=1),
        "DataLoader loop": Way(loaded, read_own_loop, threads=1),
        "lax.scan, Optax": Way(lambda: lecture_jax.scanned(arguments, order), lecture_jax.read),
    }
    rows = [
        Row(("scan_indices",), ("DataLoader loop",), 100, faster=True),
        Row(("scan_indices",), ("lax.scan, Optax",), 1, faster=True),
    ]
    return Group("lecture/many", ways, rows, STEPS)


def step(settings: Settings) -> Group:
    """A compiled step, called for each batch, beside a jitted one and ``torch.optim``."""
    arguments, order = prepared(settings)
    x, y = arguments["data"]
    batches = [(x[rows], y[rows]) for rows in order]

    def compiled() -> Callable[[], Any]:
        tx = arguments["tx"]
        step = ps.compile_step(ps.make_step(arguments["loss"], tx), donate=True)

        def work() -> Any:
            state, losses = ps.init_train_state(arguments["params"], tx), []
            for batch in batches:
                state, metrics = step(state, batch)
                losses.append(metrics["loss"])
            return state, {"loss": torch.stack(losses)}

        return work

    def eager() -> Callable[[], Any]:
        epochs = epochs_of([(x, y[:, None]) for x, y in batches])
        return lambda: own_loop(settings, Walk(epochs))

    ways = {
        "compile_step": Way(compiled, read, threads=1),
        "torch.optim loop": Way(eager, read_own_loop, threads=1),
        "jit, Optax": Way(lambda: lecture_jax.called(arguments, batches), lecture_jax.read),
    }
    rows = [
        Row(("compile_step",), ("jit, Optax",), 1, faster=True),
        Row(("compile_step",), ("torch.optim loop",), 6, faster=True),
    ]
    return Group("lecture/step", ways, rows, STEPS)


GROUPS: dict[str, Callable[[Settings], Group]] = {"lecture/many": many, "lecture/step": step}


def prepared(settings: Settings) -> tuple[dict[str, Any], torch.Tensor]:
    """What is to be trained, and the rows of each batch, (steps, B); on the device."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
    import lecture

    arguments = lecture.prepare()
    order = torch.cat([arguments["order"](epoch) for epoch in range(EPOCHS)])
    moved = {name: ps.tree.map(lambda leaf: leaf.to(settings.device), arguments[name]) for name in MOVED}
    return {**arguments, **moved}, order.to(settings.device)


def own_loop(settings: Settings, batches: Any) -> Any:
    """The lecture's program without its validation, on batches from elsewhere."""
    experiment = Experiment()
    experiment.train, experiment.held_out = batches, DataLoader(TensorDataset(torch.empty(0)))
    experiment.model.to(settings.device)
    experiment.average.to(settings.device)
    return experiment, experiment.run()


def read(result: Any) -> Results:
    """Mean loss of each epoch, final weights, and their average."""
    state, metrics = result
    average = ps.eval_params(state.opt_state, state.params)
    return {
        "loss": [metrics["loss"].reshape(EPOCHS, -1).mean(1)],
        "weights": [state.params["w"], state.params["b"]],
        "average": [average["w"], average["b"]],
    }


def read_own_loop(result: Any) -> Results:
    """The same of the lecture's own loop."""
    experiment, history = result
    found = {"loss": [torch.tensor(history["loss"])]}
    for name, averaged in (("weights", False), ("average", True)):
        *w, b = experiment.weights(averaged)
        found[name] = [torch.tensor(w), torch.tensor(b)]
    return found


def epochs_of(batches: list[Any]) -> list[list[Any]]:
    return [batches[i : i + STEPS_PER_EPOCH] for i in range(0, STEPS, STEPS_PER_EPOCH)]


class Walk:
    """Each pass over it goes through the next epoch."""

    def __init__(self, epochs: list[Any]) -> None:
        self.epochs = iter(epochs)

    def __iter__(self) -> Iterator[Any]:
        return iter(next(self.epochs))
