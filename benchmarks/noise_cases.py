"""Models of several benchmarks: as pure functions of one example, and as modules for a whole batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

import pure_sgd as ps

SIZES = (784, 512, 512, 10)
IMAGE, CHANNELS, CLASSES = (3, 32, 32), (32, 64), 10
VOCABULARY, CONTEXT, WIDTH, HEADS, LAYERS = 256, 32, 128, 4, 2


class Case(NamedTuple):
    """One model with the same weights in both forms, and a batch."""

    kind: str  # "mlp", "cnn" or "transformer"
    params: Any
    batch: tuple[torch.Tensor, torch.Tensor]
    loss: Callable[..., torch.Tensor]  # of one example
    module: nn.Module
    places: list[tuple[int, bool]]  # for each leaf of params its place in module.parameters(), if transposed

    def losses(self, module: nn.Module) -> torch.Tensor:
        """The losses (B,) of the whole batch, as one writes them without this library."""
        x, labels = self.batch
        each = F.cross_entropy(module(x).flatten(0, -2), labels.flatten(), reduction="none")
        return each.view(len(x), -1).mean(1)

    def in_order(self, of_module: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Values in the order of ``module.parameters()``, with or without an example axis, as leaves."""
        return [of_module[i].mT if transposed else of_module[i] for i, transposed in self.places]


CPU = torch.device("cpu")


def make_case(kind: str, count: int, device: torch.device = CPU) -> Case:
    """A case with ``count`` examples, the same at each call."""
    generator = torch.Generator().manual_seed(0)
    if kind == "mlp":
        model, module = ps.models.mlp(SIZES), mlp()
        x = torch.randn(count, SIZES[0], generator=generator)
        labels = torch.randint(SIZES[-1], (count,), generator=generator)
    elif kind == "cnn":
        model, module = ps.models.convnet(IMAGE, CHANNELS, CLASSES), cnn()
        x = torch.randn(count, *IMAGE, generator=generator)
        labels = torch.randint(CLASSES, (count,), generator=generator)
    else:
        model = ps.models.transformer(VOCABULARY, CONTEXT, WIDTH, HEADS, LAYERS)
        module = Transformer()
        x, labels = torch.randint(VOCABULARY, (2, count, CONTEXT), generator=generator).unbind()
    params = ps.tree.map(lambda leaf: leaf.to(device), model.init(ps.random.key(0)))
    module, x, labels = module.to(device), x.to(device), labels.to(device)

    def loss(params: Any, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return ps.losses.softmax_cross_entropy_with_integer_labels(model.apply(params, x), label)

    return Case(kind, params, (x, labels), loss, module, fill(module, layers(kind, params), params))


def layers(kind: str, params: Any) -> list[dict[str, torch.Tensor]]:
    """The layers of ``params`` in the order in which the module has them."""
    if kind == "mlp":
        return params["layers"]
    if kind == "cnn":
        return [*params["convolutions"], params["head"]]
    names = ("attention_norm", "attention_in", "attention_out", "mlp_norm", "expand", "contract")
    blocks = [block[name] for block in params["blocks"] for name in names]
    return [params["tokens"], params["positions"], *blocks, params["norm"], params["head"]]


def fill(module: nn.Module, layers: list[dict[str, torch.Tensor]], params: Any) -> list[tuple[int, bool]]:
    """Copy the layers into the module, and say where each leaf went."""
    order = {id(parameter): place for place, parameter in enumerate(module.parameters())}
    places: dict[int, tuple[int, bool]] = {}
    holders = [part for part in module.modules() if any(True for _ in part.parameters(recurse=False))]
    for part, layer in zip(holders, layers, strict=True):
        for name, leaf in (("weight", layer["w"]), ("bias", layer.get("b"))):
            if leaf is not None:
                parameter = part.get_parameter(name)
                transposed = isinstance(part, nn.Linear) and name == "weight"
                with torch.no_grad():
                    parameter.copy_(leaf.mT if transposed else leaf)
                places[id(leaf)] = (order[id(parameter)], transposed)
    return [places[id(leaf)] for leaf in ps.tree.leaves(params)]


def mlp() -> nn.Module:
    first, second, third, last = SIZES
    return nn.Sequential(
        nn.Linear(first, second), nn.ReLU(), nn.Linear(second, third), nn.ReLU(), nn.Linear(third, last)
    )


def cnn() -> nn.Module:
    parts: list[nn.Module] = []
    for inputs, outputs in zip((IMAGE[0], *CHANNELS), CHANNELS, strict=False):
        parts += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(CHANNELS[-1] * 8 * 8, CLASSES))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention_norm, self.attention_in = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH)
        self.attention_out, self.mlp_norm = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)
        self.expand, self.contract = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        together = self.attention_in(self.attention_norm(hidden))
        query, key, value = together.unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.attention_out(mixed.transpose(1, 2).flatten(2))
        return hidden + self.contract(F.gelu(self.expand(self.mlp_norm(hidden))))


class Transformer(nn.Module):
    """Its positions are an embedding of numbers that are written out for each example, as Opacus needs."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(CONTEXT, device=tokens.device).repeat(len(tokens), 1)
        hidden = self.blocks(self.tokens(tokens) + self.positions(positions))
        return self.head(self.norm(hidden))
