"""Handwritten digits, read by a perceptron and by a convolutional network with averaged parameters.

Expected: of the 359 digits that are held out the perceptron reads 98.3 % and the convolutional
network 98.9 %, each give or take 0.6 %; about 10 s, no compilation. The settings were chosen by held-out
accuracy, on this split among others, so it flatters them a little. Saves digits.png.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

import pure_sgd as ps

torch.set_num_threads(1)  # on tensors this small, threads wait for one another

EPOCHS, BATCH_SIZE, WARMUP = 20, 32, 90
#: The least held-out accuracy that counts as success.
AT_LEAST = {"perceptron": 0.97, "convnet": 0.98}


def classifiers() -> dict[str, ps.models.Model]:
    """Both models; each takes one image (1, 8, 8) and gives ten logits."""
    dense = ps.models.mlp((64, 256, 128, 10))
    perceptron = dense._replace(apply=lambda params, image: dense.apply(params, image.flatten()))
    return {"perceptron": perceptron, "convnet": ps.models.convnet(channels=(32, 64))}


def train(
    model: ps.models.Model, split: ps.data.Split, seed: int = 0
) -> tuple[Any, ps.RiskEstimate, dict[str, list[float]]]:
    """Train: the averaged parameters, their error rate on held-out digits, the history."""

    def smoothed(params: Any, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        # A tenth of the probability is spread over all classes, so that certainty does not pay
        # (Szegedy et al. 2016, arXiv:1512.00567).
        target = 0.9 * (label == torch.arange(10)) + 0.1 / 10
        return ps.losses.softmax_cross_entropy(model.apply(params, image), target)

    def cross_entropy(params: Any, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        logits = model.apply(params, image)
        return ps.losses.softmax_cross_entropy_with_integer_labels(logits, label)

    def mistake(params: Any, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return ps.losses.zero_one_loss(model.apply(params, image), label)

    held_out_loss, error_rate = ps.empirical_risk(cross_entropy), ps.population_risk(mistake)

    def evaluate(params: Any) -> dict[str, torch.Tensor]:
        accuracy = 1 - error_rate(params, split.held_out).mean
        return {"loss": held_out_loss(params, split.held_out), "accuracy": accuracy}

    steps = EPOCHS * -(-len(split.train[1]) // BATCH_SIZE)
    rate = ps.warmup_cosine_decay_schedule(0.0, 0.1, WARMUP, steps)
    state, history = ps.fit(
        ps.empirical_risk(smoothed),
        ps.chain(ps.sgd(rate, momentum=0.9, weight_decay=1e-3), ps.params_ema(0.98)),
        model.init(ps.random.key(seed)),
        split.train,
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        seed=seed,
        evaluate=evaluate,
    )
    averaged = ps.eval_params(state.opt_state, state.params)
    return averaged, error_rate(averaged, split.held_out), history


def draw(
    histories: dict[str, dict[str, list[float]]],
    read_as: dict[str, torch.Tensor],
    held_out: tuple[torch.Tensor, torch.Tensor],
) -> Figure:
    """Accuracy and loss by epoch, and below them digits that one model or the other gets wrong."""
    figure = Figure(figsize=(9.0, 6.8), layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.9, 1))[:, 0]
    panels = above.subplots(1, 2)
    for axes, quantity in zip(panels, ("accuracy", "loss"), strict=True):
        for color, (name, history) in zip(("C0", "C1"), histories.items(), strict=True):
            learned, averaged = history[f"val_{quantity}"], history[f"val_{quantity}_averaged"]
            axes.plot(range(1, EPOCHS + 1), learned, ":", color=color, label=name)
            axes.plot(range(1, EPOCHS + 1), averaged, color=color, label=f"{name}, averaged")
        axes.set(xlabel="epoch", xticks=range(0, EPOCHS + 1, 5))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set(ylabel="held-out accuracy", ylim=(0.9, 1.0))
    panels[1].set(ylabel="held-out cross-entropy", ylim=(0.1, 0.4))
    panels[0].legend(frameon=False)

    images, labels = held_out
    wrong = torch.stack([guess != labels for guess in read_as.values()]).any(0).nonzero()[:8, 0]
    below.suptitle("held-out digits that at least one of them misreads")
    pictures = below.subplots(1, len(wrong), squeeze=False)[0]
    for axes, row in zip(pictures, wrong.tolist(), strict=True):
        axes.imshow(images[row, 0].numpy(), cmap="gray_r")
        axes.set(xticks=[], yticks=[], title=f"true {labels[row]}")
        axes.set_xlabel("\n".join(f"{name} {guess[row]}" for name, guess in read_as.items()))
    return figure


def main() -> None:
    """Train both, print the table of epochs and the final accuracies, save the picture."""
    split = ps.data.digits()
    images, labels = split.held_out
    errors, histories, read_as = {}, {}, {}
    print(f"{'':12}{'held-out loss':>23}{'held-out accuracy':>23}")
    print(f"{'':6}{'epoch':>6}{'learned':>13}{'averaged':>10}{'learned':>13}{'averaged':>10}")
    for name, model in classifiers().items():
        start = time.perf_counter()
        params, errors[name], history = train(model, split)
        seconds = time.perf_counter() - start
        histories[name] = history
        read_as[name] = torch.func.vmap(model.apply, (None, 0))(params, images).argmax(-1)

        count = sum(leaf.numel() for leaf in ps.tree.leaves(params))
        print(f"{name}, {count} parameters, {seconds:.1f} s")
        columns = [f"val_{q}{s}" for q in ("loss", "accuracy") for s in ("", "_averaged")]
        for epoch in (1, 2, 5, 10, EPOCHS):
            a, b, c, d = (history[column][epoch - 1] for column in columns)
            print(f"{epoch:12}{a:13.4f}{b:10.4f}{c:13.2%}{d:10.2%}")
    for name, error in errors.items():
        print(f"{name}: {1 - error.mean:.2%} +- {error.standard_error:.2%} of {error.count} digits")

    draw(histories, read_as, (images, labels)).savefig("digits.png", dpi=150)
    print(f"picture: {Path('digits.png').resolve()}")

    for name, least in AT_LEAST.items():
        assert 1 - errors[name].mean >= least, (name, errors[name])
        losses, averaged = histories[name]["val_loss"], histories[name]["val_loss_averaged"]
        # While the learning rate is high, the average lies lower than what it averages.
        middle = slice(3, EPOCHS // 2)
        assert sum(averaged[middle]) < sum(losses[middle]), name


if __name__ == "__main__":
    main()
