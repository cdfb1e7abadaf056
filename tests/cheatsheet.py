"""The rows of docs/cheatsheet.md: a task of the lecture, in torch.optim, in Optax and in pure_sgd.

``python tests/cheatsheet.py`` writes the page anew. ``test_cheatsheet.py`` runs every cell after the lines
that the page begins with, and compares what the three of a row make.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parents[1] / "docs" / "cheatsheet.md"
LIBRARIES = ("torch.optim", "Optax", "pure_sgd")

#: What every cell of a column finds.
SETUP = (
    """\
import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.func import functional_call, grad, vmap
from torch.optim.lr_scheduler import *
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import *

dataset = TensorDataset(features, labels)
model = nn.Linear(5, 1)
""",
    """\
import jax
import jax.numpy as jnp
import optax


def apply(params, x):
    return x @ params["w"] + params["b"]


def risk(params, x, y):
    return optax.squared_error(apply(params, x), y).mean()
""",
    """\
import torch
import pure_sgd as ps

data = (features, labels)
model = ps.models.linear(5)


def example_loss(params, x, y):
    return ps.losses.squared_error(model.apply(params, x), y)


risk = ps.empirical_risk(example_loss)
""",
)


class Row(NamedTuple):
    """A task, its cells in the order of LIBRARIES (None: the library has nothing for it), what to compare.

    ``same`` is one expression for the three columns, or one each. Without one the cells make an optimizer:
    each trains on all data, and the parameters are compared.
    """

    task: str
    cells: tuple[str | None, str | None, str]
    same: str | tuple[str, str, str] | None = None


ROWS: dict[str, tuple[Row, ...]] = {
    "Data": (
        Row(
            "shuffled batches, each example once an epoch",
            (
                "loader = DataLoader(dataset, 32, shuffle=True)",
                "order = jax.random.permutation(jax.random.key(0), 64).reshape(-1, 32)",
                "order = ps.epoch_indices(64, 32, seed=0, epoch=0)",
            ),
            (
                "torch.cat([y for x, y in loader]).flatten().sort().values",
                "jnp.sort(labels[order.ravel()])",
                "labels[order.flatten()].sort().values",
            ),
        ),
        Row(
            "with replacement",
            (
                "sampler = RandomSampler(dataset, replacement=True)\n"
                "loader = DataLoader(dataset, 32, sampler=sampler)",
                "order = jax.random.randint(jax.random.key(0), (2, 32), 0, 64)",
                "order = ps.epoch_indices(64, 32, seed=0, epoch=0, replacement=True)",
            ),
            ("len(loader)", "len(order)", "len(order)"),
        ),
        Row(
            "one batch",
            (
                "loader = DataLoader(dataset, 32)\nx, y = next(iter(loader))",
                "rows = jnp.arange(32)\nx, y = features[rows], labels[rows]",
                "x, y = ps.data.take(data, torch.arange(32))",
            ),
            "x",
        ),
    ),
    "Model and loss": (
        Row(
            "a linear model",
            (
                "model = nn.Linear(5, 1)",
                'params = {"w": jnp.zeros(5), "b": jnp.zeros(())}',
                "model = ps.models.linear(5)\nparams = model.init(ps.random.key(0))",
            ),
            (
                "sum(p.numel() for p in model.parameters())",
                "sum(p.size for p in jax.tree.leaves(params))",
                "sum(p.numel() for p in ps.tree.leaves(params))",
            ),
        ),
        Row(
            "mean squared error",
            (
                "loss = F.mse_loss(model(features), labels)",
                "loss = optax.squared_error(apply(params, features), labels).mean()",
                "loss = ps.empirical_risk(example_loss)(params, data)",
            ),
            "loss",
        ),
        Row(
            "binary cross-entropy from logits",
            (
                "loss = F.binary_cross_entropy_with_logits(model(features), labels)",
                "logits = apply(params, features)\n"
                "loss = optax.sigmoid_binary_cross_entropy(logits, labels).mean()",
                "logits = torch.vmap(model.apply, (None, 0))(params, features)\n"
                "loss = ps.losses.sigmoid_binary_cross_entropy(logits, labels)",
            ),
            "loss",
        ),
        Row(
            "the gradient",
            (
                "model.zero_grad()\nF.mse_loss(model(features), labels).backward()\ng = model.weight.grad",
                'g = jax.grad(risk)(params, features, labels)["w"]',
                "loss, grads = ps.value_and_grad(risk)(params, data)\ng = grads['w']",
            ),
            "g",
        ),
        Row(
            "the gradient of each example",
            (
                "def loss(p, x, y):\n"
                "    return F.mse_loss(functional_call(model, p, x), y)\n"
                "p = dict(model.named_parameters())\n"
                "g = vmap(grad(loss), (None, 0, 0))(p, features, labels)['weight']",
                'g = jax.vmap(jax.grad(risk), (None, 0, 0))(params, features, labels)["w"]',
                "g = ps.per_example_grads(example_loss)(params, data)['w']",
            ),
            "g",
        ),
        Row(
            "the variance of the gradient",
            (
                None,
                "g = jax.vmap(jax.grad(risk), (None, 0, 0))(params, features, labels)\n"
                'v = g["w"].var(0, ddof=1)',
                "v = ps.gradient_moments(example_loss)(params, data).variance['w']",
            ),
            "v",
        ),
    ),
    "Updates": (
        Row(
            "SGD",
            (
                "optimizer = optim.SGD(model.parameters(), lr=0.1)",
                "tx = optax.sgd(0.1)",
                "tx = ps.sgd(0.1)",
            ),
        ),
        Row(
            "one step",
            (
                "optimizer = optim.SGD(model.parameters(), lr=0.1)\n"
                "optimizer.zero_grad()\n"
                "F.mse_loss(model(features), labels).backward()\n"
                "optimizer.step()\n"
                "w = model.weight",
                "tx = optax.sgd(0.1)\n"
                "opt_state = tx.init(params)\n"
                "grads = jax.grad(risk)(params, features, labels)\n"
                "updates, opt_state = tx.update(grads, opt_state, params)\n"
                'w = optax.apply_updates(params, updates)["w"]',
                "tx = ps.sgd(0.1)\n"
                "step = ps.make_step(risk, tx)\n"
                "state = ps.init_train_state(params, tx)\n"
                "state, metrics = step(state, data)\n"
                "w = state.params['w']",
            ),
            "w",
        ),
        Row(
            "momentum",
            (
                "optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)",
                "tx = optax.sgd(0.01, momentum=0.9)",
                "tx = ps.sgd(0.01, momentum=0.9)",
            ),
        ),
        Row(
            "weight decay",
            (
                "optimizer = optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-2)",
                "tx = optax.chain(optax.add_decayed_weights(1e-2), optax.sgd(0.1))",
                "tx = ps.sgd(0.1, weight_decay=1e-2)",
            ),
        ),
        Row(
            "a diagonal preconditioner, h**-p",
            (
                None,
                "scale = lambda g, h: g * h**-0.5\n"
                "precondition = optax.stateless(lambda g, p: jax.tree.map(scale, g, h))\n"
                "tx = optax.chain(precondition, optax.sgd(0.1))",
                "tx = ps.chain(ps.scale_by_preconditioner(h, power=0.5), ps.sgd(0.1))",
            ),
        ),
    ),
    "Schedules": (
        Row(
            "step decay",
            (
                "optimizer = optim.SGD(model.parameters(), lr=0.1)\n"
                "scheduler = StepLR(optimizer, step_size=8, gamma=0.5)",
                "tx = optax.sgd(optax.exponential_decay(0.1, 8, 0.5, staircase=True))",
                "tx = ps.sgd(ps.step_schedule(0.1, 8, gamma=0.5))",
            ),
        ),
        Row(
            "exponential decay",
            (
                "optimizer = optim.SGD(model.parameters(), lr=0.1)\n"
                "scheduler = ExponentialLR(optimizer, gamma=0.95)",
                "tx = optax.sgd(optax.exponential_decay(0.1, 1, 0.95))",
                "tx = ps.sgd(ps.exponential_decay(0.1, 1, 0.95))",
            ),
        ),
        Row(
            "1/t decay",
            (
                "optimizer = optim.SGD(model.parameters(), lr=0.1)\n"
                "scheduler = LambdaLR(optimizer, lambda t: 1 / (1 + 0.1 * t))",
                "tx = optax.sgd(lambda t: 0.1 / (1 + 0.1 * t))",
                "tx = ps.sgd(ps.inverse_time_decay_schedule(0.1, 0.1))",
            ),
        ),
        Row(
            "cosine annealing",
            (
                "optimizer = optim.SGD(model.parameters(), lr=0.1)\n"
                "scheduler = CosineAnnealingLR(optimizer, T_max=20, eta_min=0.001)",
                "tx = optax.sgd(optax.cosine_decay_schedule(0.1, 20, alpha=0.01))",
                "tx = ps.sgd(ps.cosine_decay_schedule(0.1, 20, alpha=0.01))",
            ),
        ),
        Row(
            "lower the rate on a plateau",
            (
                "optimizer = optim.SGD(model.parameters(), lr=0.1)\n"
                "scheduler = ReduceLROnPlateau(optimizer, factor=0.1, patience=2)\n"
                "for _ in range(5):\n"
                "    optimizer.step()\n"
                "    scheduler.step(1.0)\n"
                "rate = optimizer.param_groups[0]['lr']",
                "tx = optax.contrib.reduce_on_plateau(factor=0.1, patience=3)\n"
                "opt_state = tx.init(params)\n"
                "for _ in range(5):\n"
                "    _, opt_state = tx.update(params, opt_state, value=1.0)\n"
                "rate = 0.1 * opt_state.scale",
                "tx = ps.chain(ps.sgd(0.1), ps.reduce_on_plateau(0.1, patience=3))\n"
                "opt_state = tx.init(params)\n"
                "for _ in range(5):\n"
                "    _, opt_state = tx.update(params, opt_state, params, value=1.0)\n"
                "rate = ps.learning_rate(opt_state)",
            ),
            "rate",
        ),
        Row(
            "read the learning rate",
            (
                "optimizer = optim.SGD(model.parameters(), lr=0.1)\n"
                "scheduler = CosineAnnealingLR(optimizer, T_max=20)\n"
                "rate = scheduler.get_last_lr()[0]",
                "tx = optax.inject_hyperparams(optax.sgd)(0.1)\n"
                'rate = tx.init(params).hyperparams["learning_rate"]',
                "tx = ps.sgd(ps.cosine_decay_schedule(0.1, 20))\nrate = ps.learning_rate(tx.init(params))",
            ),
            "rate",
        ),
    ),
    "Averages": (
        Row(
            "an exponential moving average of the parameters",
            (
                "optimizer = optim.SGD(model.parameters(), lr=0.1)\n"
                "keep = lambda average, p, count: 0.9 * average + 0.1 * p\n"
                "averaged = AveragedModel(model, avg_fn=keep)\n"
                "averaged.update_parameters(model)\n"
                "for _ in range(20):\n"
                "    optimizer.zero_grad()\n"
                "    F.mse_loss(model(features), labels).backward()\n"
                "    optimizer.step()\n"
                "    averaged.update_parameters(model)\n"
                "w = averaged.module.weight",
                "tx = optax.sgd(0.1)\n"
                "opt_state, averaged = tx.init(params), params\n"
                "for _ in range(20):\n"
                "    grads = jax.grad(risk)(params, features, labels)\n"
                "    updates, opt_state = tx.update(grads, opt_state, params)\n"
                "    params = optax.apply_updates(params, updates)\n"
                "    averaged = optax.incremental_update(params, averaged, 0.1)\n"
                'w = averaged["w"]',
                "tx = ps.chain(ps.sgd(0.1), ps.params_ema(0.9))\n"
                "state, _ = ps.fit(risk, tx, params, data, steps=20)\n"
                "w = ps.eval_params(state.opt_state, state.params)['w']",
            ),
            "w",
        ),
    ),
    "All of it": (
        Row(
            "momentum, weight decay, cosine",
            (
                "optimizer = optim.SGD(\n"
                "    model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)\n"
                "scheduler = CosineAnnealingLR(optimizer, T_max=20)",
                "tx = optax.chain(\n"
                "    optax.add_decayed_weights(1e-4),\n"
                "    optax.sgd(optax.cosine_decay_schedule(0.1, 20), momentum=0.9))",
                "tx = ps.sgd(\n    ps.cosine_decay_schedule(0.1, 20), momentum=0.9, weight_decay=1e-4)",
            ),
        ),
        Row(
            "the training loop",
            (
                "optimizer = optim.SGD(model.parameters(), lr=0.1)\n"
                "for epoch in range(5):\n"
                "    for x, y in DataLoader(dataset, 32):\n"
                "        optimizer.zero_grad()\n"
                "        loss = F.mse_loss(model(x), y)\n"
                "        loss.backward()\n"
                "        optimizer.step()\n"
                "w = model.weight",
                "tx = optax.sgd(0.1)\n"
                "opt_state = tx.init(params)\n"
                "for epoch in range(5):\n"
                "    for rows in jnp.arange(64).reshape(-1, 32):\n"
                "        grads = jax.grad(risk)(params, features[rows], labels[rows])\n"
                "        updates, opt_state = tx.update(grads, opt_state)\n"
                "        params = optax.apply_updates(params, updates)\n"
                'w = params["w"]',
                "order = torch.arange(64).reshape(-1, 32)\n"
                "state, history = ps.fit(\n"
                "    risk, ps.sgd(0.1), params, data, epochs=5, order=lambda epoch: order)\n"
                "w = state.params['w']",
            ),
            "w",
        ),
        Row(
            "the risk on held-out data",
            (
                "model.eval()\nwith torch.no_grad():\n    loss = F.mse_loss(model(features), labels)",
                "loss = risk(params, features, labels)",
                "loss = ps.population_risk(example_loss)(params, data).mean",
            ),
            "loss",
        ),
        Row(
            "save, and load again",
            (
                'torch.save(model.state_dict(), "model.pt")\n'
                'model.load_state_dict(torch.load("model.pt"))\n'
                "w = model.weight",
                None,
                "state = ps.init_train_state(params, ps.sgd(0.1))\n"
                'ps.save_checkpoint("run", state, step=0)\n'
                "w = ps.load_checkpoint(\"run\", like=state).params['w']",
            ),
            "w",
        ),
    ),
}

INTRODUCTION = """\
---
hide-toc: true
---

# Cheatsheet

Each task of the lecture in `torch.optim`, in Optax and in pure_sgd. Every cell is run by a test
(`tests/test_cheatsheet.py`), and the cells of a row end at the same numbers.

Cells find [what stands at the end](#what-every-cell-finds).
"""

FOUND = """\
## What every cell finds

`features` (64, 5), `labels` and, where parameters are a tree, `params`; `h` is a tree of curvatures. In the
first column `labels` are (64, 1), and `model` holds the parameters. Besides:
"""


def code(cell: str | None) -> str:
    """The lines of a cell, in a table: each a span of code, its indentation kept."""
    if cell is None:
        return "by hand"
    lines = cell.splitlines()
    indents = [len(line) - len(line.lstrip()) for line in lines]
    return "<br>".join(f"`{chr(0xA0) * k}{line.lstrip()}`" for k, line in zip(indents, lines, strict=True))


def page() -> str:
    parts = [INTRODUCTION]
    for group, rows in ROWS.items():
        lines = [f"## {group}\n", f"| | {' | '.join(LIBRARIES)} |", "|---|---|---|---|"]
        lines += [f"| {row.task} | {' | '.join(map(code, row.cells))} |" for row in rows]
        parts.append("\n".join(lines) + "\n")
    parts.append(FOUND)
    for library, setup in zip(LIBRARIES, SETUP, strict=True):
        parts.append(f"**{library}**\n\n```py\n{setup}```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
