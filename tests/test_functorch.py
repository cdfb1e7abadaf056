"""The private parts of torch on which the package rests: a torch that changes them fails here."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from pure_sgd import functorch


def test_the_level_counts_the_transforms_around():
    levels: list[int] = []

    def inner(x: torch.Tensor) -> torch.Tensor:
        levels.append(functorch.level())
        return x.sum()

    inner(torch.ones(2))
    torch.func.vmap(inner)(torch.ones(2, 2))
    torch.func.vmap(torch.func.grad(inner))(torch.ones(2, 2))
    assert levels == [0, 1, 2]


def test_a_mapped_tensor_is_known_by_its_level():
    def loss(x: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
        here = functorch.level()
        assert functorch.is_batched(x, here)
        assert not functorch.is_batched(shared, here)
        assert functorch.is_plain(shared)
        assert not functorch.is_plain(x)
        assert not functorch.is_batched(1.0, here)

        def inner(y: torch.Tensor) -> torch.Tensor:
            assert functorch.is_batched(x, here)
            assert not functorch.is_batched(x * y, here)
            return (x * y).sum()

        return torch.func.grad(inner)(shared).sum()

    torch.func.vmap(loss, (0, None))(torch.ones(2, 3), torch.ones(3))


def test_marks_are_mapped_by_one_vmap_each():
    def inner(x: torch.Tensor) -> torch.Tensor:
        assert functorch.is_mapped_only()
        assert functorch.mapped_sizes() == [3, 2]
        outer_mark, mark = functorch.marks()
        assert [functorch.level_of(one) for one in (outer_mark, mark)] == [1, 2]
        assert [functorch.stacked(one)[0].shape for one in (outer_mark, mark)] == [(3,), (2,)]
        return x

    torch.func.vmap(torch.func.vmap(inner))(torch.ones(3, 2))
    seen: list[bool] = [functorch.is_mapped_only()]
    torch.func.grad(lambda x: seen.append(functorch.is_mapped_only()) or x)(torch.tensor(1.0))
    assert seen == [False, False]


def test_the_values_of_all_examples_and_their_axis():
    batch = torch.arange(6.0).reshape(3, 2)

    def loss(x: torch.Tensor) -> torch.Tensor:
        values, axis = functorch.stacked(x)
        assert torch.equal(values.movedim(axis, 0), batch.T)
        return x.sum()

    torch.func.vmap(loss, 1)(batch)


def test_a_gradient_can_be_asked_for_where_nothing_requires_grad_before():
    """Adding nothing to an empty part makes the output of a constant call part of the graph."""
    root = torch.zeros((), requires_grad=True)
    edges = []

    def loss(x: torch.Tensor) -> torch.Tensor:
        output = x * 2
        values, _ = functorch.stacked(output)
        values.narrow(0, 0, 0).add_(root)
        edges.append(torch.autograd.graph.get_gradient_edge(values))
        return output.relu_().square().sum()

    losses = torch.func.vmap(loss)(torch.tensor([[1.0, -1.0], [2.0, 3.0]]))
    (grads,) = torch.autograd.grad(losses, edges, torch.ones_like(losses))
    assert grads.tolist() == [[4.0, 0.0], [8.0, 12.0]]


def test_attention_shows_what_it_consists_of():
    """To a mode it hands itself over whole, and opened it calls the functions that it consists of."""
    names: list[str] = []

    class Listening(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            names.append(func.__name__)
            return func(*args, **(kwargs or {}))

    attention = torch.nn.MultiheadAttention(4, 2)
    x = torch.randn(3, 4)
    with Listening():
        attention(x, x, x)
    assert "multi_head_attention_forward" in names
    assert "linear" not in names
    opened = functorch.opened(F.multi_head_attention_forward)
    first, last = attention.in_proj_weight, attention.out_proj.weight
    biases = attention.in_proj_bias, attention.out_proj.bias
    with Listening():
        found = opened(x, x, x, 4, 2, first, biases[0], None, None, False, 0.0, last, biases[1], False)
    assert "linear" in names
    torch.testing.assert_close(found, attention(x, x, x))


def test_a_view_knows_its_base():
    base = torch.ones(4)
    assert functorch.base(base) is None
    assert functorch.base(base.view(2, 2).T) is base


def test_changes_in_place_are_counted():
    tensor = torch.ones(2)
    before = functorch.version(tensor)
    tensor.detach().add_(1)
    assert functorch.version(tensor) == before + 1
