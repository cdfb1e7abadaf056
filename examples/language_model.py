"""A transformer that learns English letter by letter, from "Alice's Adventures in Wonderland".

Expected: 1.68 nats (2.42 bits) per character on the last tenth of the book, where the frequencies
of single characters, of pairs and of triples give 3.13, 2.42 and 2.01; about 20 s, no compilation.
Prints what it writes by itself, and saves language_model.png.
"""

from __future__ import annotations

import math
import textwrap
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch

import pure_sgd as ps

torch.set_num_threads(1)  # the same numbers however many cores there are

BOOK = Path(__file__).with_name("alice.txt")
CONTEXT, BATCH_SIZE, STEPS, WARMUP = 32, 16, 800, 80
RATE = ps.warmup_cosine_decay_schedule(0.0, 6e-3, WARMUP, STEPS, end_value=2e-3)


def frequency_loss(train: torch.Tensor, held_out: torch.Tensor, order: int, characters: int) -> float:
    """Nats per held-out character, told by how often ``order`` in a row came in ``train``, plus 1."""

    def numbered(text: torch.Tensor) -> torch.Tensor:
        place = characters ** torch.arange(order).flip(0)
        return (text.unfold(0, order, 1) * place).sum(1)

    counts = 1.0 + torch.bincount(numbered(train), minlength=characters**order).double()
    counts = counts.reshape(-1, characters)
    probabilities = (counts / counts.sum(1, keepdim=True)).flatten()
    return -probabilities[numbered(held_out)].log().mean().item()


def windows(text: torch.Tensor, stride: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Examples: CONTEXT characters in a row, and for each of them the one that follows."""
    rows = text.unfold(0, CONTEXT + 1, stride)
    return rows[:, :-1], rows[:, 1:]


def write(model: ps.models.Model, params: Any, text: torch.Tensor, length: int) -> torch.Tensor:
    """``text`` and ``length`` more characters, drawn from the softmax at a temperature of 0.7."""
    for key in ps.random.split(ps.random.key(0), length):
        logits = model.apply(params, text[-CONTEXT:])[-1]
        # The largest of logits plus Gumbel noise is a draw from their softmax.
        noise = -(-ps.random.uniform(key, logits.shape).log()).log()
        text = torch.cat([text, (logits / 0.7 + noise).argmax()[None]])
    return text


def draw(history: ps.History, baselines: dict[str, float]) -> None:
    """The losses against what frequencies tell, above the learning rate of every step."""
    losses, rates = history.plot(by="step")
    for name, value in baselines.items():
        losses.axhline(value, color="0.4", linestyle="--", linewidth=1)
        losses.text(STEPS * 0.99, value + 0.02, f"frequencies of {name}", ha="right", color="0.3")
    losses.set(ylabel="nats per character", xlim=(0, STEPS), ylim=(1.5, 3.4))
    losses.legend(frameon=False, loc="lower left")
    rates.lines[0].set_data(range(STEPS), RATE(torch.arange(STEPS)).tolist())
    rates.set_ylim(bottom=0)
    plt.savefig("language_model.png", dpi=150)


def main() -> None:
    """Train, compare with the baselines, write a few lines, and save the picture."""
    book = " ".join(BOOK.read_text(encoding="ascii").split())  # line ends are no part of English
    alphabet = sorted(set(book))
    text = torch.tensor([alphabet.index(character) for character in book])
    train, held_out = text[: len(text) * 9 // 10], text[len(text) * 9 // 10 :]
    baselines = {
        name: frequency_loss(train, held_out, order, len(alphabet))
        for order, name in enumerate(("characters", "pairs", "triples"), start=1)
    }

    model = ps.models.transformer(len(alphabet), CONTEXT, width=128, heads=4, layers=1)

    def next_characters(params: Any, past: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        logits = model.apply(params, past)
        return ps.losses.softmax_cross_entropy_with_integer_labels(logits, following)

    loss, check = ps.empirical_risk(next_characters), windows(held_out, stride=CONTEXT)
    tx = ps.chain(
        ps.clip_by_global_norm(1.0),
        ps.adamw(RATE, b2=0.99, weight_decay=0.01),
        ps.params_ema(0.98),
    )
    start = time.perf_counter()
    state, history = ps.fit(
        loss,
        tx,
        model.init(ps.random.key(0)),
        windows(train, stride=1),
        steps=STEPS,
        batch_size=BATCH_SIZE,
        record_every=50,
        evaluate=lambda params: loss(params, check),
    )
    seconds = time.perf_counter() - start
    averaged = ps.eval_params(state.opt_state, state.params)
    risk, learned = ps.population_risk(next_characters)(averaged, check), history["val_loss"][-1]

    count = sum(leaf.numel() for leaf in ps.tree.leaves(averaged))
    print(f"{model}: {count} parameters, {STEPS} steps in {seconds:.1f} s\n")
    print(f"{'held-out loss per character':28}{'nats':>8}{'bits':>8}")
    rows = {f"frequencies of {name}": value for name, value in baselines.items()}
    rows |= {"transformer, learned": learned, "transformer, averaged": risk.mean.item()}
    rows |= {f"  standard error ({risk.count})": risk.standard_error.item()}
    for name, value in rows.items():
        print(f"{name:28}{value:8.3f}{value / math.log(2):8.3f}")

    prompt = torch.tensor([alphabet.index(character) for character in "Alice "])
    written = "".join(alphabet[i] for i in write(model, averaged, prompt, 400))
    print(f"\n{textwrap.fill(written, 79)}\n")
    draw(history, baselines)
    print(f"picture: {Path('language_model.png').resolve()}")

    assert risk.mean < baselines["pairs"] - 0.6, risk
    assert risk.mean < baselines["triples"] - 0.2, risk
    assert risk.mean < learned - 0.01, (risk, learned)


if __name__ == "__main__":
    main()
