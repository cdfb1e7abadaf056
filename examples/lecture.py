"""The lecture's experiment: linear regression by momentum SGD with weight decay, cosine and EMA.

Expected: every weight of the lecture's own run to four decimals, w4 learned as -1.1252 and averaged as
-1.1260 (true -1.1229); about 1 s, no compilation. Saves lecture.png.
"""

from __future__ import annotations

import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import pure_sgd as ps

EPOCHS, BATCH_SIZE, STEPS_PER_EPOCH = 50, 32, 25

#: What a plain PyTorch run of the lecture's program learns with torch 2.13.
LEARNED = (0.3380, 0.1040, 0.2313, 0.2367, -1.1252, -0.1665)
AVERAGED = (0.3380, 0.1040, 0.2314, 0.2339, -1.1260, -0.1654)


def problem() -> tuple[tuple[torch.Tensor, torch.Tensor], dict[str, torch.Tensor]]:
    """The lecture's data: 1000 examples of 5 features, drawn from seed 42."""
    torch.manual_seed(42)
    w, b = torch.randn(5, 1), torch.randn(1)
    x = torch.randn(1000, 5)
    y = x @ w + b + 0.5 * torch.randn(1000, 1)
    return (x, y[:, 0]), {"w": w[:, 0], "b": b[0]}


def lecture_order(epochs: int) -> list[torch.Tensor]:
    """The rows of every batch, as the lecture's DataLoader drew them: an (25, 32) tensor an epoch."""
    order = []
    for _ in range(epochs):
        torch.empty((), dtype=torch.int64).random_()  # every pass of a DataLoader draws a base seed,
        seed = int(torch.empty((), dtype=torch.int64).random_())  # and a shuffled one a sampler seed
        rows = torch.randperm(800, generator=torch.Generator().manual_seed(seed))
        order.append(rows.reshape(STEPS_PER_EPOCH, BATCH_SIZE))
        for _ in range(2):  # the passes over the held-out data
            torch.empty((), dtype=torch.int64).random_()
    return order


def prepare() -> dict:
    """Everything that is set up before the first step: the arguments of ``ps.fit``."""
    (x, y), _ = problem()
    layer = torch.nn.Linear(5, 1)  # the lecture's initialisation
    params = {"w": layer.weight.detach()[0], "b": layer.bias.detach()[0]}
    order = lecture_order(EPOCHS)

    model = ps.models.linear(5)
    loss = ps.empirical_risk(lambda params, x, y: ps.losses.squared_error(model.apply(params, x), y))
    cosine = ps.cosine_decay_schedule(0.1, EPOCHS, alpha=0.01)
    tx = ps.chain(
        ps.add_decayed_weights(1e-4),
        ps.trace(0.9),
        ps.scale_by_learning_rate(lambda step: cosine(step // STEPS_PER_EPOCH)),
        ps.params_ema(0.99),
    )
    held_out = (x[800:], y[800:])
    return {
        "loss": loss,
        "tx": tx,
        "params": params,
        "data": (x[:800], y[:800]),
        "epochs": EPOCHS,
        "order": lambda epoch: order[epoch],
        "evaluate": lambda params: loss(params, held_out),
    }


def main() -> None:
    """Train, print true, learned and averaged weights, and save the picture."""
    _, truth = problem()
    arguments = prepare()
    start = time.perf_counter()
    state, history = ps.fit(**arguments)
    seconds = time.perf_counter() - start

    averaged = ps.eval_params(state.opt_state, state.params)
    rows = [[*params["w"].tolist(), params["b"].item()] for params in (truth, state.params, averaged)]
    print(f"{'':6}{'true':>9}{'learned':>9}{'averaged':>10}")
    for name, *row in zip(["w0", "w1", "w2", "w3", "w4", "bias"], *rows, strict=True):
        print(f"{name:6}{row[0]:9.4f}{row[1]:9.4f}{row[2]:10.4f}")
    print(f"{len(history['loss'])} epochs in {seconds:.2f} s, held-out loss {history['val_loss'][-1]:.4f}")

    history.plot()
    plt.savefig("lecture.png", dpi=150)
    print(f"picture: {Path('lecture.png').resolve()}")

    for got, expected in ((rows[1], LEARNED), (rows[2], AVERAGED)):
        assert all(f"{a:.4f}" == f"{b:.4f}" for a, b in zip(got, expected, strict=True)), got


if __name__ == "__main__":
    main()
