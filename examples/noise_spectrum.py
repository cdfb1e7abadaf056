"""From full gradient descent to pure SGD: cost, gradient noise and steady-state error, measured.

Expected, on 354 patients and 11 weights: the variance of the gradient falls as b^-1, the distance
from the solution at which SGD stays as b^-0.5 and a^0.5 (batch size b, learning rate a), near what
theory predicts. Full gradient descent ends at rounding error, shuffled epochs at under half the
distance of sampling with replacement. About 25 s. Saves noise_spectrum.png.
"""

from __future__ import annotations

import timeit
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.func import vmap

import pure_sgd as ps

SIZES, RATES = np.array([32, 8, 2, 1]), np.array([0.02, 0.005])
STEPS, CHAINS = 6000, 4
COLOURS = ("#D55E00", "#0072B2", "#009E73")  # told apart by the colour-blind too
torch.set_num_threads(1)  # on tensors this small, threads wait for one another
ROW = "{:>4} {:>8} {:>4} {:>15} {:>4} {:>17} {:>17} {:>10}"

x, y = ps.data.diabetes().train
data = (torch.cat([x, torch.ones(len(x), 1)], dim=1), y)  # a constant feature instead of a bias
n, features = data[0].shape


def squared_error(w: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return ps.losses.l2_loss(x @ w, y)


loss = ps.empirical_risk(squared_error)


def step_time(b: int, w: torch.Tensor) -> str:
    """The shortest time of a step on a batch at hand; at this size it is all overhead."""
    step = ps.replay_step(ps.make_step(loss, ps.sgd(0.01)))
    state, batch = ps.init_train_state(w, ps.sgd(0.01)), ps.data.take(data, slice(b))
    times = timeit.repeat(lambda: step(state, batch), number=50, repeat=9)
    return f"{min(times) / 50 * 1e6:.0f} us"


def gradient_variance(b: int, w: torch.Tensor, draws: int = 4000) -> float:
    """The trace of the covariance of the mini-batch gradient, from at least ``draws`` batches."""
    epochs = range(draws * b // n + 1)
    rows = torch.cat([ps.epoch_indices(n, b, 1, epoch, replacement=True) for epoch in epochs])
    gradient = ps.value_and_grad(loss)
    return vmap(lambda r: gradient(w, ps.data.take(data, r))[1])(rows).var(0).sum().item()


def steady_state_errors(b: int, w: torch.Tensor, replacement: bool = True) -> np.ndarray:
    """The RMS distance from ``w``, where all runs begin, over their last half: one for each rate."""

    def step(rate, state, batch):
        return ps.make_step(loss, ps.sgd(rate))(state, batch)

    # All runs are one program: mapped over the learning rate outside, over the batches inside.
    rates, over_both = torch.from_numpy(RATES), vmap(vmap(step, (None, 0, 0)), (0, 0, None))
    replayed = ps.replay_step(lambda state, batch: over_both(rates, state, batch))
    one = ps.init_train_state(w, ps.sgd(0.0))
    state = ps.tree.map(lambda leaf: leaf.expand(len(rates), CHAINS, *leaf.shape), one)
    squares = []
    for epoch in range(STEPS * b // n + 1):
        orders = [ps.epoch_indices(n, b, seed, epoch, replacement) for seed in range(CHAINS)]
        for rows in torch.stack(orders, dim=1):
            state, _ = replayed(state, ps.data.take(data, rows))
            squares.append((state.params - w).square().sum(-1))
    return torch.stack(squares[STEPS // 2 :]).mean((0, 2)).sqrt().numpy()


def excess_risk(b: int, w: torch.Tensor) -> tuple[list[int], list[float]]:
    """The gradients evaluated so far, and how far the training loss is above its minimum."""
    _, history = ps.fit(
        loss,
        ps.sgd(0.02),
        torch.zeros(features),
        data,
        steps=30 * n // b,
        batch_size=b,
        record_every=max(1, 128 // b),
        evaluate=lambda params: loss(params, data) - loss(w, data),
    )
    return [int(step) * b for step in history["step"]], history["val_loss"]


def draw(variances, variances_theory, errors, errors_theory, curves) -> None:
    figure = Figure(figsize=(12.5, 4), layout="constrained")
    variance, error, risk = panels = figure.subplots(1, 3)
    variance.plot(SIZES, variances_theory, color="black", lw=1, label="predicted: tr C / b")
    variance.plot(SIZES, variances, "o", color=COLOURS[1], label="measured")
    error.plot([], [], color="black", lw=1, label=r"predicted: $\propto\sqrt{a/b}$")
    for i, rate in enumerate(RATES):
        error.plot(SIZES, errors_theory[:, i], color=COLOURS[i], lw=1)
        error.plot(SIZES, errors[:, i], "os"[i], color=COLOURS[i], label=f"measured, a = {rate}")
    for (name, curve), colour in zip(curves.items(), COLOURS, strict=True):
        risk.plot(*curve, color=colour, lw=1.2, label=name)
    variance.set(xlabel="batch size b", ylabel="variance of the gradient")
    error.set(xlabel="batch size b", ylabel="distance from the solution")
    risk.set(xlabel="gradients evaluated", ylabel="training loss above its minimum")
    for axes in panels:
        axes.loglog()
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    for axes, values in ((variance, (0.2, 0.5, 1, 2, 5)), (error, (0.02, 0.05, 0.1, 0.2))):
        axes.set_xticks(SIZES, [str(size) for size in SIZES])
        axes.set_yticks(values, [str(value) for value in values])
        axes.minorticks_off()
    figure.savefig("noise_spectrum.png", dpi=150)


def main() -> None:
    x, y = data
    w = torch.linalg.lstsq(x.double(), y.double()).solution.float()
    covariance = torch.cov(ps.per_example_grads(squared_error)(w, data).T, correction=0)
    over_curvature = torch.linalg.solve(x.T @ x / n, covariance).trace().item()
    variances_theory = covariance.trace().item() / SIZES
    errors_theory = np.sqrt(RATES / 2 / SIZES[:, None] * over_curvature)

    descended, _ = ps.fit(loss, ps.sgd(0.4), torch.zeros(features), data, steps=4000)
    rest = (descended.params - w).norm().item()
    variances = np.array([gradient_variance(b, w) for b in SIZES.tolist()])
    errors = np.array([steady_state_errors(b, w) for b in SIZES.tolist()])
    grows = ((SIZES, variances), (SIZES, errors), (RATES, errors.T))
    powers = [np.polyfit(np.log(by), np.log(what), 1)[0].round(2) for by, what in grows]
    shuffled = steady_state_errors(32, w, replacement=False)
    print("Measured (predicted); under O how each grows with b, n and a. For b = 354, a = 0.4.")
    print(ROW.format("b", "step", "O", "variance", "O", *[f"error, a = {a}" for a in RATES], "O"))
    print(ROW.format(n, step_time(n, w), "n m", "0 (0)", "0", *[f"{rest:.1e} (0)"] * 2, "0"))
    for i, b in enumerate(SIZES.tolist()):
        orders = ("b m", "1/b", "sqrt(a/b)") if b > 1 else ("m", "1", "sqrt(a)")
        variance = f"{variances[i]:.3f} ({variances_theory[i]:.3f})"
        error = [f"{e:.4f} ({t:.4f})" for e, t in zip(errors[i], errors_theory[i], strict=True)]
        print(ROW.format(b, step_time(b, w), orders[0], variance, orders[1], *error, orders[2]))
    print("b = 32, shuffled epochs: error {:.4f} and {:.4f}".format(*shuffled))
    print("measured powers: variance b^{}, error b^{} and a^{}".format(*powers))

    names = {"full gradient, b = n": n, "mini-batch, b = 32": 32, "pure SGD, b = 1": 1}
    curves = {name: excess_risk(b, w) for name, b in names.items()}
    draw(variances, variances_theory, errors, errors_theory, curves)
    print(f"picture: {Path('noise_spectrum.png').resolve()}")

    assert rest < 1e-5, rest
    for measured, predicted in zip(powers, (-1, -0.5, 0.5), strict=True):
        assert (abs(measured - predicted) < 0.1).all(), powers
    assert (abs(errors / errors_theory - 1) < 0.15).all(), errors / errors_theory
    assert (shuffled < errors[0] / 2).all(), shuffled


if __name__ == "__main__":
    main()
