"""BackPACK and Opacus on the layers that they know: the same variance, norms and clipped mean as here.

They are an extra: ``make test-peers`` installs them first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, NamedTuple

import noise_peers
import pytest
import torch
from torch import nn

import pure_sgd as ps

for library in ("backpack", "opacus"):
    pytest.importorskip(
        library, reason="BackPACK and Opacus are not installed; make test-peers installs them"
    )

# The first layer of a model has an input that needs no gradient.
pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")


B = 4
TOKENS = 7
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


@pytest.fixture(autouse=True)
def doubles() -> Iterator[None]:
    """By default: what BackPACK makes itself is of the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


class Case(NamedTuple):
    """A layer, the shape of one example, and who knows the layer."""

    layer: Callable[[], nn.Module]
    example: tuple[int, ...]
    known_to: str = "backpack opacus"
    pure: Callable[..., torch.Tensor] | None = None  # for modules that vmap cannot map


def rnn(params: Any, x: torch.Tensor) -> torch.Tensor:
    hidden, outputs = torch.zeros(4), []
    for step in x:
        hidden = torch.tanh(gates(params, step, hidden))
        outputs.append(hidden)
    return torch.stack(outputs)


def lstm(params: Any, x: torch.Tensor) -> torch.Tensor:
    hidden = cell = torch.zeros(4)
    outputs = []
    for step in x:
        enter, forget, new, out = gates(params, step, hidden).chunk(4)
        cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(new)
        hidden = torch.sigmoid(out) * torch.tanh(cell)
        outputs.append(hidden)
    return torch.stack(outputs)


def gates(params: Any, step: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    from_input = params["weight_ih_l0"] @ step + params["bias_ih_l0"]
    return from_input + params["weight_hh_l0"] @ hidden + params["bias_hh_l0"]


def of_opacus(name: str, *args: Any) -> nn.Module:
    return getattr(import_module("opacus.layers"), name)(*args, batch_first=True)


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = of_opacus("DPMultiheadAttention", 4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x)[0]


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 4), nn.Tanh()
    )


CASES = {
    "linear": Case(lambda: nn.Linear(3, 4), (3,)),
    "linear, positions": Case(lambda: nn.Linear(3, 4, bias=False), (5, 3)),
    "conv1d": Case(lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), (4, 9)),
    "conv2d": Case(lambda: nn.Conv2d(4, 6, (3, 2), stride=2, padding=1), (4, 7, 6)),
    "conv2d, dilated": Case(lambda: nn.Conv2d(4, 6, 3, dilation=2), (4, 7, 6)),
    "conv3d": Case(lambda: nn.Conv3d(2, 3, 2, padding=1), (2, 4, 3, 4)),
    "transposed conv1d": Case(lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1), (4, 9)),
    "transposed conv2d": Case(lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1), (4, 5, 4)),
    "transposed conv3d": Case(lambda: nn.ConvTranspose3d(2, 3, 2), (2, 3, 3, 3)),
    "embedding": Case(lambda: nn.Embedding(TOKENS, 3), (5,)),
    "batch norm, eval mode": Case(lambda: nn.BatchNorm2d(4).eval(), (4, 3, 3), "backpack"),
    "RNN": Case(lambda: nn.RNN(3, 4, batch_first=True), (5, 3), "backpack", rnn),
    "LSTM": Case(lambda: nn.LSTM(3, 4, batch_first=True), (5, 3), "backpack", lstm),
    "network": Case(network, (2, 5, 4)),
    # BackPACK is silently wrong for these two: its norms of the one, and its variance of the other.
    "conv2d, groups": Case(lambda: nn.Conv2d(4, 6, 3, groups=2), (4, 7, 6), "opacus"),
    "conv2d, same": Case(lambda: nn.Conv2d(4, 6, 3, padding="same"), (4, 7, 6), "opacus"),
    "embedding, padding": Case(lambda: nn.Embedding(TOKENS, 3, padding_idx=2), (5,), "opacus"),
    "layer norm": Case(lambda: nn.LayerNorm((5, 4)), (5, 4), "opacus"),
    "RMS norm": Case(lambda: nn.RMSNorm(4), (5, 4), "opacus"),
    "group norm": Case(lambda: nn.GroupNorm(2, 4), (4, 3, 3), "opacus"),
    "instance norm 1d": Case(lambda: nn.InstanceNorm1d(4, affine=True), (4, 6), "opacus"),
    "instance norm 2d": Case(lambda: nn.InstanceNorm2d(4, affine=True), (4, 3, 3), "opacus"),
    "instance norm 3d": Case(lambda: nn.InstanceNorm3d(4, affine=True), (4, 3, 3, 2), "opacus"),
    "attention": Case(SelfAttention, (5, 4), "opacus"),
    "DPRNN": Case(lambda: of_opacus("DPRNN", 3, 4), (5, 3), "opacus"),
    "DPGRU": Case(lambda: of_opacus("DPGRU", 3, 4), (5, 3), "opacus"),
    "DPLSTM": Case(lambda: of_opacus("DPLSTM", 3, 4), (5, 3), "opacus"),
}


class Problem(NamedTuple):
    """The same losses for this library and for a peer."""

    module: nn.Module
    losses: Callable[[nn.Module], torch.Tensor]
    loss: Callable[..., torch.Tensor]
    params: Any
    batch: tuple[torch.Tensor]

    def in_order(self, tree: Any) -> list[torch.Tensor]:
        return [tree[name] for name, _ in self.module.named_parameters()]


def problem(case: Case) -> Problem:
    torch.manual_seed(0)
    module = case.layer()
    embeds = isinstance(module, nn.Embedding)
    x = torch.randint(TOKENS, (B, *case.example)) if embeds else torch.randn(B, *case.example)
    apply, params = ps.models.from_module(module)

    def bent(output: Any) -> torch.Tensor:
        values = output[0] if isinstance(output, tuple) else output
        return values.flatten(1).sin().square().sum(1)

    def loss(params: Any, x: torch.Tensor) -> torch.Tensor:
        return bent(case.pure(params, x)[None] if case.pure else apply(params, x[None]))[0]

    return Problem(module, lambda module: bent(module(x)), loss, params, (x,))


def known_to(library: str) -> list[str]:
    return [name for name, case in CASES.items() if library in case.known_to]


@pytest.mark.parametrize("name", known_to("backpack"))
def test_backpack_agrees(name: str):
    module, losses, loss, params, batch = given = problem(CASES[name])
    variance = given.in_order(ps.gradient_moments(loss)(params, batch).variance)
    norms = ps.per_example_grad_norms(loss)(params, batch)
    torch.testing.assert_close(noise_peers.backpack_variance(module, losses)(), variance, **CLOSE)
    torch.testing.assert_close(noise_peers.backpack_squares(module, losses)(), variance, **CLOSE)
    torch.testing.assert_close(noise_peers.backpack_norms(module, losses)(), norms, **CLOSE)


@pytest.mark.parametrize("name", known_to("opacus"))
def test_opacus_agrees(name: str):
    module, losses, loss, params, batch = given = problem(CASES[name])
    variance = given.in_order(ps.gradient_moments(loss)(params, batch).variance)
    grads = given.in_order(ps.per_example_grads(loss)(params, batch))
    norms = ps.per_example_grad_norms(loss)(params, batch)
    torch.testing.assert_close(noise_peers.opacus_variance(module, losses)(), variance, **CLOSE)
    torch.testing.assert_close(noise_peers.opacus_grads(module, losses)(), grads, **CLOSE)
    torch.testing.assert_close(noise_peers.opacus_norms(module, losses)(), norms, **CLOSE)


@pytest.mark.parametrize("name", known_to("opacus"))
def test_opacus_clips_as_here(name: str):
    """But for the 1e-6 that it adds to each norm."""
    module, losses, loss, params, batch = given = problem(CASES[name])
    norms = ps.per_example_grad_norms(loss)(params, batch)
    max_norm = float(norms.median())
    clipped = ps.clipped_mean_grads(loss, max_norm)(params, batch).grads
    theirs = noise_peers.opacus_clipped(module, losses, max_norm)()
    largest = max(float(leaf.abs().max()) for leaf in theirs)
    torch.testing.assert_close(theirs, given.in_order(clipped), rtol=0, atol=largest * 2e-6 / max_norm)


def test_a_peer_says_which_layer_it_does_not_know():
    module, losses, *_ = problem(CASES["layer norm"])
    with pytest.raises(NotImplementedError, match="no Variance of LayerNorm"):
        noise_peers.backpack_variance(module, losses)
