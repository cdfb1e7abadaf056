"""The noise in the gradients of a network and of a transformer on digits, and the batch size it asks for.

Expected: the variance of the mini-batch gradient falls as b^-1 within two standard errors for both models,
and without replacement by a factor 1 - b / N more. The noise scale of the network grows from 73 to 577
examples as it learns. On the way to a training loss of 0.35 it is 133, which predicts what that target costs
at batch sizes 16, 128 and 1024: 224, 49 and 27 steps (220, 49 and 33 are measured). About 20 s. Saves
gradient_noise_*.png.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

import pure_sgd as ps

torch.set_num_threads(1)  # the same numbers however many cores there are

SIZES = (1, 4, 16, 64, 256)
DRAWS = {1: 1500, 4: 800, 16: 400, 64: 200, 256: 100, 1024: 60}
TARGET = 0.35  # training loss, in nats


class Problem(NamedTuple):
    """A model's loss of one example, where to begin, and the training examples."""

    loss: Callable[..., torch.Tensor]
    params: Any
    data: tuple[torch.Tensor, torch.Tensor]


def network(images: torch.Tensor, labels: torch.Tensor) -> Problem:
    model = ps.models.mlp((64, 32, 10))

    def loss(params: Any, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model.apply(params, image), label)

    return Problem(loss, model.init(ps.random.key(0)), (images.flatten(1), labels))


def transformer(images: torch.Tensor, labels: torch.Tensor) -> Problem:
    """It reads 16 blocks of 2 x 2 pixels, each bright or not, and answers after the last."""
    bright = (images > 0).long().reshape(-1, 4, 2, 4, 2).transpose(2, 3).flatten(3)
    tokens = (bright * torch.tensor([1, 2, 4, 8])).sum(3).flatten(1)
    model = ps.models.transformer(vocabulary=16, context=16, width=16, heads=2, layers=1)

    def loss(params: Any, blocks: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model.apply(params, blocks)[-1, :10], label)

    return Problem(loss, model.init(ps.random.key(0)), (tokens, labels))


def measured_variance(problem: Problem, mean: Any, b: int, replacement: bool) -> tuple[float, float]:
    """The mean of |gradient of b examples - mean|**2 over draws, and its standard error."""
    gradient, n = ps.value_and_grad(ps.empirical_risk(problem.loss)), len(problem.data[1])

    def distance(rows: torch.Tensor) -> torch.Tensor:
        found = gradient(problem.params, ps.data.take(problem.data, rows))[1]
        return ps.tree.norm(ps.tree.map(torch.sub, found, mean)).square()

    # Batches of one epoch without replacement depend on each other: one of each epoch.
    draws = [ps.epoch_indices(n, b, 0, epoch, replacement)[0] for epoch in range(DRAWS[b])]
    squares = torch.cat(
        [torch.func.vmap(distance)(rows) for rows in torch.stack(draws).split(max(1, 2048 // b))]
    )
    return squares.mean().item(), (squares.std() / len(squares) ** 0.5).item()


def slope(sizes: tuple[int, ...], values: list[float], errors: list[float]) -> tuple[float, float]:
    """The power of b in the variance, by least squares on logarithms, and its standard error."""
    x = torch.tensor(sizes).double().log()
    y = torch.tensor(values).double().log()
    weights = (torch.tensor(values) / torch.tensor(errors)).double() ** 2
    centre = (weights * x).sum() / weights.sum()
    spread = (weights * (x - centre) ** 2).sum()
    return ((weights * (x - centre) * y).sum() / spread).item(), spread.item() ** -0.5


def verify(name: str, problem: Problem) -> None:
    """Measure the variance for each batch size, and set it beside what the moments predict."""
    n = len(problem.data[1])
    moments = ps.gradient_moments(problem.loss, chunk_size=256)(problem.params, problem.data)
    trace = ps.tree.sum(moments.variance)
    print(f"\n{name}: variance of the gradient of b examples, measured / predicted")
    measured = [measured_variance(problem, moments.mean, b, replacement=True) for b in SIZES]
    values, errors = (list(column) for column in zip(*measured, strict=True))
    for b, value, error in zip(SIZES, values, errors, strict=True):
        predicted = ps.minibatch_variance(trace, b, n, replacement=True).item()
        print(f"  b = {b:4}, with replacement     {value / predicted:.3f} +- {error / predicted:.3f}")
    power, uncertainty = slope(SIZES, values, errors)
    print(f"  it falls as b^({power:.3f} +- {uncertainty:.3f})")
    assert abs(power + 1) < 2 * uncertainty, "the variance does not fall as 1 / b"
    without = [measured_variance(problem, moments.mean, b, replacement=False) for b in (256, 1024)]
    for b, (value, error) in zip((256, 1024), without, strict=True):
        predicted = ps.minibatch_variance(trace, b, n).item()
        print(
            f"  b = {b:4}, without replacement  {value / predicted:.3f} +- {error / predicted:.3f}, "
            f"of which 1 - b / N = {1 - b / n:.3f}"
        )
    ps.plotting.plot_minibatch_variance(
        [*SIZES, 1024], [*values, without[1][0]], trace, n, [*errors, without[1][1]]
    )
    plt.savefig(f"gradient_noise_{name}.png", dpi=150)


def steps_to_target(problem: Problem, b: int, rate: float, seeds: int = 3) -> float:
    """The median number of steps after which the loss over all examples is under TARGET."""
    loss = ps.empirical_risk(problem.loss)
    every = max(1, 64 // b)
    found = []
    for seed in range(seeds):
        _, history = ps.fit(
            loss,
            ps.sgd(rate),
            problem.params,
            problem.data,
            steps=200_000 // b,
            batch_size=b,
            seed=seed,
            replacement=True,
            record_every=every,
            evaluate=lambda params: loss(params, problem.data),
            stop_when=lambda history: history["val_loss"][-1] < TARGET,
            progress=False,
        )
        found.append(history["step"][-1])
    return sorted(found)[seeds // 2]


def choose(problem: Problem) -> None:
    """Follow the noise scale over training, pick a batch size, and see what others cost."""
    measure = ps.gradient_moments(problem.loss, chunk_size=256)
    tracker = ps.gradient_statistics(decay=0.9)
    averages = tracker.init(problem.params)
    steps, scales, smooth, losses = [], [], [], []

    def watch(record: dict[str, float], state: ps.TrainState) -> None:
        nonlocal averages
        moments = measure(state.params, problem.data)
        scale, averages = tracker.update(moments, averages)
        smooth.append(scale)
        steps.append(record["step"])
        scales.append(ps.noise_scale(moments))
        losses.append(moments.loss.item())

    state, _ = ps.fit(
        ps.empirical_risk(problem.loss),
        ps.sgd(0.1),
        problem.params,
        problem.data,
        epochs=20,
        batch_size=32,
        record_every=9,
        callbacks=[watch],
        progress=False,
    )
    until = next(i for i, loss in enumerate(losses) if loss < TARGET) + 1
    critical = ps.critical_batch_size(scales[:until]).item()
    chosen = 2 ** round(math.log2(critical))
    terms = {
        name: [getattr(scale, name) for scale in smooth] for name in ("trace_covariance", "grad_sq_norm")
    }
    ps.plotting.plot_noise({"step": steps, **terms}, batch_size=chosen)
    plt.savefig("gradient_noise_scale.png", dpi=150)
    norms = ps.per_example_grad_norms(problem.loss)(state.params, problem.data)
    ps.plotting.plot_gradient_norms(norms)
    plt.savefig("gradient_noise_norms.png", dpi=150)
    first, last = smooth[0].simple.item(), smooth[-1].simple.item()
    print(f"\nnoise scale of the network: {first:.0f} examples at first, {last:.0f} after {steps[-1]} steps,")
    print(f"{critical:.0f} on the way to a loss of {TARGET}: the batch size to choose. What others cost:")

    print(f"\n{'b':>6} {'steps':>7} {'(predicted)':>12} {'examples':>9} {'(predicted)':>12}")
    sizes = [max(1, chosen // 8), chosen, 8 * chosen]
    # The best rate, and the steps that it takes, for a quadratic (McCandlish et al. 2018, arXiv:1812.06162).
    rates = [1.0 / (1 + critical / b) for b in sizes]
    taken = [steps_to_target(problem, b, rate) for b, rate in zip(sizes, rates, strict=True)]
    fewest = taken[1] / (1 + critical / chosen)
    for b, count in zip(sizes, taken, strict=True):
        predicted = fewest * (1 + critical / b)
        print(f"{b:6} {count:7} {predicted:12.0f} {count * b:9} {predicted * b:12.0f}")


def main() -> None:
    """Verify the law on both models, after a little training, and choose a batch size for one."""
    images, labels = ps.data.digits().train
    for make in (network, transformer):
        problem = make(images, labels)
        trained, _ = ps.fit(
            ps.empirical_risk(problem.loss),
            ps.adam(1e-2),
            problem.params,
            problem.data,
            epochs=2,
            batch_size=64,
            progress=False,
        )
        verify(make.__name__, problem._replace(params=trained.params))
    choose(network(images, labels))


if __name__ == "__main__":
    main()
