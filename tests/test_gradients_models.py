"""Random small models of all kinds of layers, with shared weights: one pass is a loop over examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis
import torch
import torch.nn.functional as F
from example_loop import assert_moments_of_loop
from hypothesis import strategies as st

Params = dict[str, torch.Tensor]
Layer = Callable[[Params, torch.Tensor], torch.Tensor]
VOCABULARY = 6

# What follows a layer, in place or not.
BENDS: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (
    torch.tanh,
    lambda x: F.relu(x, inplace=True),
    lambda x: x.mul_(0.5),
    lambda x: x.flatten().tanh_().view_as(x),
    lambda x: x + x[..., :1].sigmoid_(),
)


class Builder:
    """A model that grows layer by layer, together with the shapes of its parameters."""

    def __init__(self, draw: Callable[..., Any], shape: tuple[int, ...]) -> None:
        self.draw, self.shape = draw, shape
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.layers: list[Layer] = []

    def choose(self, *options: Any) -> Any:
        return self.draw(st.sampled_from(options))

    def parameter(self, *shape: int) -> str:
        """A new parameter, or one of that shape which is used already."""
        alike = [name for name, other in self.shapes.items() if other == shape]
        if alike and self.choose(True, False):
            return self.choose(*alike)
        name = f"p{len(self.shapes)}"
        self.shapes[name] = shape
        return name

    def add(self, layer: Layer, *shape: int) -> None:
        self.layers.append(layer)
        self.shape = shape

    def add_bent(self, layer: Layer, *shape: int) -> None:
        bend = self.choose(*BENDS)
        self.add(lambda p, x: bend(layer(p, x)), *shape)

    def loss(self, params: Params, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(params, x)
        return (x.sin() * x).sum()


def dense(model: Builder) -> None:
    *front, inputs = model.shape
    outputs = model.choose(1, 2, 3, inputs)
    spelling = model.choose("matmul", "transposed", "linear", "einsum", "functional")
    if spelling == "matmul":
        w = model.parameter(inputs, outputs)
        model.add_bent(lambda p, x: x @ p[w], *front, outputs)
    elif spelling == "transposed":
        w = model.parameter(outputs, inputs)
        model.add_bent(lambda p, x: x @ p[w].T, *front, outputs)
    elif spelling == "linear":
        w, b = model.parameter(outputs, inputs), model.parameter(outputs)
        model.add_bent(lambda p, x: F.linear(x, p[w], p[b]), *front, outputs)
    elif spelling == "einsum":
        w, letters = model.parameter(inputs, outputs), "abc"[: len(front)]
        equation = f"{letters}i,io->{letters}o"
        model.add_bent(lambda p, x: torch.einsum(equation, x, p[w]), *front, outputs)
    else:
        v, s = model.parameter(inputs, outputs), model.parameter()
        model.add_bent(lambda p, x: x @ (p[s] * p[v] / (1 + p[v].norm())), *front, outputs)


def elementwise(model: Builder) -> None:
    kind, shape = model.choose("shift", "scale", "scalar", "clamp", "all"), model.shape
    if kind in ("shift", "scale"):
        b = model.parameter(shape[-1])
        model.add((lambda p, x: x + p[b]) if kind == "shift" else (lambda p, x: x * p[b]), *shape)
    elif kind == "scalar":
        s, t = model.parameter(), model.parameter()
        model.add(lambda p, x: p[s] * x - p[t], *shape)
    elif kind == "clamp":
        s = model.parameter()
        model.add(lambda p, x: torch.maximum(x, p[s]), *shape)
    else:
        w = model.parameter(*shape)
        model.add(lambda p, x: torch.where(x > 0, x, x * p[w]), *shape)


def normalization(model: Builder) -> None:
    width = model.shape[-1]
    w = model.parameter(width)
    if model.choose(True, False):
        b = model.parameter(width)
        model.add_bent(lambda p, x: F.layer_norm(x, (width,), p[w], p[b], eps=0.1), *model.shape)
    else:
        model.add_bent(lambda p, x: F.rms_norm(x, (width,), p[w], eps=0.1), *model.shape)


def recurrence(model: Builder) -> None:
    _, width = model.shape
    w, b = model.parameter(width, width), model.parameter(width)

    def layer(p: Params, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.zeros_like(x[0])
        for step in x.unbind(0):
            hidden = torch.tanh(step + hidden @ p[w] + p[b])
        return hidden

    model.add(layer, width)


def attention(model: Builder) -> None:
    length, width = model.shape
    w = model.parameter(width, 3 * width)

    def layer(p: Params, x: torch.Tensor) -> torch.Tensor:
        if model_splits:
            query, key, value = (x @ part for part in p[w].chunk(3, 1))
        else:
            query, key, value = (x @ p[w]).chunk(3, 1)
        return x + torch.softmax(query @ key.T, -1) @ value

    model_splits = model.choose(True, False)
    model.add(layer, length, width)


def convolution1d(model: Builder) -> None:
    channels, length = model.shape
    w, b = model.parameter(2, channels, 2), model.parameter(2)
    model.add_bent(lambda p, x: F.conv1d(x, p[w], p[b], padding=1), 2, length + 1)


def convolution2d(model: Builder) -> None:
    channels, height, width = model.shape
    stride, padding, dilation = model.choose(1, 2), model.choose(1, 2), model.choose(1, 2)
    groups = model.choose(1, channels)
    w = model.parameter(2 * channels, channels // groups, 2, 3)
    b = model.parameter(2 * channels)

    def size(length: int, window: int) -> int:
        return (length + 2 * padding - dilation * (window - 1) - 1) // stride + 1

    hypothesis.assume(size(height, 2) > 0 and size(width, 3) > 0 and channels < 5)
    model.add_bent(
        lambda p, x: F.conv2d(x, p[w], p[b], stride, padding, dilation, groups),
        *(2 * channels, size(height, 2), size(width, 3)),
    )


def transposed_convolution(model: Builder) -> None:
    channels, height, width = model.shape
    w = model.parameter(channels, 2, 2, 2)
    model.add_bent(lambda p, x: F.conv_transpose2d(x, p[w], stride=2), 2, 2 * height, 2 * width)


def group_norm(model: Builder) -> None:
    channels = model.shape[0]
    w, b = model.parameter(channels), model.parameter(channels)
    groups = model.choose(1, channels)
    model.add_bent(lambda p, x: F.group_norm(x[None], groups, p[w], p[b], eps=0.1)[0], *model.shape)


def flatten(model: Builder) -> None:
    first, *rest = model.shape
    model.add(lambda p, x: x.flatten(1), first, torch.Size(rest).numel())


def mean(model: Builder) -> None:
    model.add(lambda p, x: x.mean(0), *model.shape[1:])


ANYWHERE = (dense, dense, elementwise, normalization)
BY_AXES = {
    1: ANYWHERE,
    2: (*ANYWHERE, recurrence, attention, convolution1d, mean),
    3: (*ANYWHERE, convolution2d, convolution2d, transposed_convolution, group_norm, flatten),
}


def normal(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator)


@st.composite
def models(draw: Any) -> tuple[Builder, torch.Tensor]:
    count = draw(st.integers(2, 5))
    shape = draw(st.sampled_from([(4,), (3, 4), (2, 4, 5), None]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    if shape is None:
        model = Builder(draw, (3, 4))
        table = model.parameter(VOCABULARY, 4)
        model.add(lambda p, tokens: F.embedding(tokens, p[table]), 3, 4)
        batch = torch.randint(VOCABULARY, (count, 3), generator=generator)
    else:
        model = Builder(draw, shape)
        batch = normal((count, *shape), generator)
    for _ in range(draw(st.integers(1, 5))):
        draw(st.sampled_from(BY_AXES[len(model.shape)]))(model)
    # Where widths agree the first weights are the last ones too.
    first = next((name for name, size in model.shapes.items() if size[1:] == model.shape[-1:]), None)
    if first and draw(st.booleans()):
        model.add(lambda p, x: x @ p[first].T, *model.shape[:-1], model.shapes[first][0])
    return model, batch


@hypothesis.given(models(), st.integers(0, 2**16))
@hypothesis.settings(max_examples=150, suppress_health_check=list(hypothesis.HealthCheck))
def test_any_model(drawn: tuple[Builder, torch.Tensor], seed: int):
    model, batch = drawn
    generator = torch.Generator().manual_seed(seed)
    params = {
        name: torch.randn(shape, dtype=torch.float64, generator=generator)
        for name, shape in model.shapes.items()
    }
    hypothesis.assume(params)
    assert_moments_of_loop(model.loss, params, (batch,), "fast")
