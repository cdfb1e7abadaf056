"""256 runs as one call: 16 learning rates, without and with momentum, from 8 seeds.

Expected: with momentum 0.9 a tenth of the learning rate gives the same risk. Both curves are valleys: on
the left runs have not arrived, on the right the gradient's noise keeps them away. Each run ends
where it does alone. About 3 s. Saves sweep.png.
"""

from __future__ import annotations

import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import pure_sgd as ps

EPOCHS, BATCH_SIZE = 20, 32
torch.set_num_threads(1)  # on tensors this small, threads wait for one another

data, truth = ps.data.linear_regression(ps.random.key(42), n=1000, features=5, noise=0.5)
model = ps.models.linear(5)
loss = ps.empirical_risk(lambda params, x, y: ps.losses.squared_error(model.apply(params, x), y))


def run(rate, momentum, seed):
    """Train from a random start, in a random order: the expected loss above that of the true weights."""
    tx = ps.sgd(rate, momentum=momentum, weight_decay=1e-4)
    step = ps.make_step(loss, tx)
    state = ps.init_train_state(model.init(ps.random.key(seed)), tx)
    for epoch in range(EPOCHS):
        for rows in ps.epoch_indices(len(data[1]), BATCH_SIZE, seed, epoch):
            state, _ = step(state, ps.data.take(data, rows))
    # Features are independent and of variance 1: the excess is the squared distance.
    return ps.tree.norm(ps.tree.map(torch.sub, state.params, truth)) ** 2


def main() -> None:
    start = time.perf_counter()
    rates = 0.3 * torch.logspace(-3, 0, 16, dtype=torch.float64)  # 5 to a factor of 10
    grids, risk = ps.sweep(run, rate=rates, momentum=[0.0, 0.9], seed=range(8))
    seconds = time.perf_counter() - start
    steps = EPOCHS * -(-len(data[1]) // BATCH_SIZE)
    print(
        f"{risk.numel()} runs of {steps} steps in {seconds:.1f} s, {seconds / risk.numel() * 1e3:.0f} ms each"
    )

    print(f"{'rate':>8}{'no momentum':>22}{'momentum 0.9':>22}")
    for i, rate in enumerate(rates.tolist()):
        cells = [f"{risk[i, j].mean():.5f} ± {risk[i, j].std():.5f}" for j in range(2)]
        print(f"{rate:8.4f}{cells[0]:>22}{cells[1]:>22}")
    ps.plotting.plot_sweep(grids, risk, label="risk above that of the true weights")
    plt.savefig("sweep.png", dpi=150)
    print(f"picture: {Path('sweep.png').resolve()}")

    torch.testing.assert_close(risk[9, 1, 3], run(rates[9], 0.9, 3), rtol=1e-4, atol=0)
    plain, heavy = risk.mean(2).unbind(1)
    assert (plain.argmin() - heavy.argmin() - 5).abs() <= 2, (plain, heavy)
    assert torch.maximum(plain[5:11] / heavy[:6], heavy[:6] / plain[5:11]).max() < 1.5, (plain, heavy)


if __name__ == "__main__":
    main()
