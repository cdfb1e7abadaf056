"""Programs whose last copies go into their inputs: what they take is read before the first of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pure_sgd.training.programs.read_first import read_first


def program(value: Any) -> torch.fx.GraphModule:
    """Writes ``value(a, b)`` over ``a``, and then what ``a`` was over ``b``."""

    def write(a: torch.Tensor, b: torch.Tensor) -> None:
        new = value(a, b)
        a.copy_(new)
        b.copy_(a)

    return read_first(torch.fx.symbolic_trace(write))


def reads(found: torch.fx.GraphModule) -> int:
    return sum(node.target is torch.where for node in found.graph.nodes)


@pytest.mark.parametrize(
    "value",
    [lambda a, b: a + b, lambda a, b: (a * b).to(a.dtype), lambda a, b: (a / b).reshape(2)],
    ids=["sum", "cast", "reshaped"],
)
def test_what_arithmetic_made_is_not_read_again(value: Any):
    found = program(value)
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    expected = value(a, b)
    old = a.clone()
    found(a, b)
    assert reads(found) == 1  # what a was
    assert torch.equal(a, expected)
    assert torch.equal(b, old)


@pytest.mark.parametrize(
    "value",
    [
        lambda a, b: b,
        lambda a, b: b.clone(),
        lambda a, b: b.flip(0),
        lambda a, b: b * 1,
        lambda a, b: b.to("cpu"),
    ],
    ids=["itself", "copy", "view", "times one", "cast"],
)
def test_what_may_be_an_input_is(value: Any):
    found = program(value)
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    expected = value(a, b).clone(), a.clone()
    found(a, b)
    assert reads(found) == 2
    assert torch.equal(a, expected[0])
    assert torch.equal(b, expected[1])


def test_other_tensors_are_written_where_they_are():
    def write(a: torch.Tensor) -> torch.Tensor:
        fresh = torch.zeros(2)
        fresh.copy_(a)
        return fresh

    assert reads(read_first(torch.fx.symbolic_trace(write))) == 0
