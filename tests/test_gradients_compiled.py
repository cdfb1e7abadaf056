"""What ``torch.compile`` makes of the one pass: the same numbers, in a program without B x P."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from example_loop import loop_gradients
from torch._dynamo.backends.common import aot_autograd

import pure_sgd as ps

PARAMS = {"table": torch.randn(7, 5).double(), "w": torch.randn(5, 6).double(), "v": torch.randn(6).double()}


def example_loss(params: Any, index: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.tanh((F.embedding(index, params["table"]).sum(0) + x) @ params["w"]) @ params["v"]


def batch_of(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randint(7, (count, 3)), torch.randn(count, 5).double()


def assert_of_loop(moments: ps.GradientMoments, loss: Any, params: Any, batch: Any) -> None:
    grads = loop_gradients(loss, params, batch)
    found = zip(grads, ps.tree.leaves(moments.mean), ps.tree.leaves(moments.variance), strict=True)
    for expected, mean, variance in found:
        torch.testing.assert_close(mean, expected.mean(0))
        torch.testing.assert_close(variance, expected.var(0))


def shapes_in_program(function: Any, *args: Any) -> set[torch.Size]:
    """The shapes of all tensors of the compiled program, which is also run."""
    found: set[torch.Size] = set()

    def compiler(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        found.update(
            node.meta["val"].shape for node in graph.graph.nodes if hasattr(node.meta.get("val"), "shape")
        )
        return graph.forward

    backend = aot_autograd(fw_compiler=compiler)
    torch.compile(function, backend=backend, fullgraph=True)(*args)
    return found


def test_one_program_for_each_size_of_batch():
    compiled = torch.compile(ps.gradient_moments(example_loss), backend="aot_eager", fullgraph=True)
    for count in (9, 9, 5, 4):
        batch = batch_of(count)
        assert_of_loop(compiled(PARAMS, batch), example_loss, PARAMS, batch)


def test_no_gradients_of_all_examples_are_formed():
    batch = batch_of(9)
    assert torch.Size([9, 5, 6]) not in shapes_in_program(ps.gradient_moments(example_loss), PARAMS, batch)
    assert torch.Size([9, 5, 6]) in shapes_in_program(
        ps.gradient_moments(example_loss, "vmap"), PARAMS, batch
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_variance_in_which_digits_cancel_is_formed_again(dtype: torch.dtype):
    large = 1e3 if dtype == torch.float32 else 1e6
    x, w = large + torch.randn(9, 5).to(dtype), torch.ones(5, 3, dtype=dtype)

    def loss(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return (x @ w).sum()

    compiled = torch.compile(ps.gradient_moments(loss), backend="aot_eager", fullgraph=True)
    expected = x.double().var(0)[:, None].expand(5, 3)
    torch.testing.assert_close(compiled(w, (x,)).variance.double(), expected, rtol=1e-5, atol=0)


def test_what_one_pass_cannot_do_is_read_by_the_compiler():
    batch = batch_of(9)
    with_none = {**PARAMS, "none": None}
    compiled = torch.compile(ps.gradient_moments(example_loss), backend="aot_eager", fullgraph=True)
    assert_of_loop(compiled(with_none, batch), example_loss, PARAMS, batch)
    params = ps.tree.map(lambda leaf: leaf.clone().requires_grad_(), PARAMS)
    assert compiled(params, batch).variance["w"].requires_grad


@pytest.mark.slow
def test_by_inductor():
    batch = batch_of(9)
    compiled = torch.compile(ps.gradient_moments(example_loss), fullgraph=True)
    assert_of_loop(compiled(PARAMS, batch), example_loss, PARAMS, batch)
