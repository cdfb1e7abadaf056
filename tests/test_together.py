"""Rules that all leaves go through together: the numbers of leaf after leaf, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import pure_sgd as ps
from pure_sgd import tree
from pure_sgd.tree import together
from pure_sgd.tree.together import Leaves

RULES: dict[str, Callable[..., Any]] = {
    "sum": lambda a, b: a + b,
    "with numbers": lambda a, b: 0.1 + 3 * a - b / 7 - 0.3,
    "with 0-d tensors": lambda a, b: torch.tensor(0.1, dtype=torch.float64) * a + b / torch.tensor(3.3),
    "root": lambda a, b: (a * a + b * b).sqrt(),
    "widened": lambda a, b: (tree.widened(a) + tree.widened(b)).to(a.dtype),
    "difference": lambda a, b: (a - 2 * b).to(a.dtype),
}

HALVES = torch.bfloat16


def leaves_of(*dtypes: torch.dtype) -> dict[str, Any]:
    """A tree whose leaves differ in shape, one without a number, and have these dtypes in turn."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(37, 5), (3,), (0, 2), (1,), (129,)]
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    typed = [leaf.to(dtypes[index % len(dtypes)]) for index, leaf in enumerate(drawn)]
    return {"z": typed[:2], "none": None, "a": {"w": typed[2], "b": tuple(typed[3:])}}


TREES: dict[str, tuple[Any, Any]] = {
    "float32": (leaves_of(torch.float32), leaves_of(torch.float32)),
    "float64": (leaves_of(torch.float64), leaves_of(torch.float64)),
    "bfloat16": (leaves_of(HALVES), leaves_of(HALVES)),
    "float32 beside bfloat16": (leaves_of(torch.float32), leaves_of(HALVES)),
    "several dtypes in a tree": (leaves_of(torch.float32, HALVES), leaves_of(torch.float32, HALVES)),
    "complex": (leaves_of(torch.complex64), leaves_of(torch.complex64)),
    "no axes": ([torch.tensor(0.7), torch.ones(2)], [torch.tensor(0.3), torch.ones(2)]),
    "parameters": ([torch.nn.Parameter(torch.ones(2))], [torch.ones(2)]),
    "a transpose": ([torch.arange(6.0).reshape(2, 3).T], [torch.ones(3, 2)]),
    "nothing": ({}, {}),
    "one leaf": (torch.arange(3.0), torch.ones(3)),
}


def leaf_after_leaf(rule: Callable[..., Any], one: Any, other: Any) -> Any:
    return tree.map(rule, one, other)


def assert_same(got: Any, expected: Any) -> None:
    assert tree.structure(got) == tree.structure(expected)
    for a, b in zip(tree.leaves(got), tree.leaves(expected), strict=True):
        assert (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride())
        assert torch.equal(a.nan_to_num(), b.nan_to_num())


@pytest.mark.parametrize("many", [together.MANY, 100], ids=["in one group", "in several"])
@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("rule", RULES)
def test_the_numbers_are_those_of_leaf_after_leaf(
    rule: str, name: str, many: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(together, "MANY", many)
    one, other = TREES[name]
    before = tree.map(torch.clone, (one, other))
    assert_same(tree.elementwise(RULES[rule], one, other), leaf_after_leaf(RULES[rule], one, other))
    assert_same((one, other), before)


def kinds_seen(*columns: Any) -> set[type]:
    seen: set[type] = set()

    def rule(*leaves: Any) -> Any:
        seen.update(map(type, leaves))
        return leaves[0] * 2

    tree.elementwise(rule, *columns)
    return seen


def test_wide_real_leaves_go_together_and_others_one_by_one():
    assert kinds_seen(*TREES["float32"]) == {Leaves}
    for name in ("bfloat16", "float32 beside bfloat16", "several dtypes in a tree", "complex", "no axes"):
        assert kinds_seen(*TREES[name]) == {torch.Tensor}


def test_inside_torch_func_leaves_go_one_by_one():
    leaf = torch.ones(3, 2)
    assert torch.func.vmap(lambda u: tree.elementwise(lambda x: x * u, [u])[0])(leaf).shape == (3, 2)
    factors = torch.tensor([1.0, 2.0])
    mapped = torch.func.vmap(lambda c: tree.elementwise(lambda x: x * c, [leaf])[0])(factors)
    assert torch.equal(mapped, torch.stack([leaf, 2 * leaf]))


def test_autograd_sees_the_derivatives_of_leaf_after_leaf():
    def slopes(apply: Callable[..., Any]) -> tuple[torch.Tensor, ...]:
        x, y = (torch.linspace(0.5, 2, 4, requires_grad=True) for _ in range(2))
        rate = torch.tensor(0.3, requires_grad=True)
        out = apply(lambda a, b: (a * a + rate * b).sqrt() / rate, [x], [y])
        return torch.autograd.grad(out[0].sum(), (x, y, rate))

    for got, expected in zip(slopes(tree.elementwise), slopes(leaf_after_leaf), strict=True):
        torch.testing.assert_close(got, expected)


def test_while_compiling_leaves_go_one_by_one():
    one, other = TREES["float32"]
    rule = RULES["difference"]
    compiled = torch.compile(lambda a, b: tree.elementwise(rule, a, b), backend="eager", fullgraph=True)
    assert_same(compiled(one, other), leaf_after_leaf(rule, one, other))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_adam_by_one_kernel_is_adam_by_its_rule(dtype: torch.dtype):
    params = leaves_of(dtype)
    grads = [tree.map(lambda p, k=k: torch.sin(p * k), params) for k in range(1, 6)]
    by_kernel, by_rule = ps.scale_by_adam(0.8, 0.99, 1e-6), ps.scale_by_adam(0.8, torch.tensor(0.99), 1e-6)
    state, other = by_kernel.init(params), by_rule.init(params)
    for grad in grads:
        before = tree.map(torch.clone, (grad, state))
        updates, new = by_kernel.update(grad, state)
        expected, other = by_rule.update(grad, other)
        assert_same((grad, state), before)
        state = new
        torch.testing.assert_close(
            tree.leaves((updates, state)), tree.leaves((expected, other)), rtol=2e-5, atol=1e-7
        )


def test_adam_of_a_transposed_gradient_is_that_of_its_copy():
    params = torch.zeros(3, 2)
    grad = torch.arange(6.0).reshape(2, 3).T
    tx = ps.scale_by_adam()
    updates, state = tx.update(grad, tx.init(params))
    expected, expected_state = tx.update(grad.contiguous(), tx.init(params))
    torch.testing.assert_close(updates, expected)
    torch.testing.assert_close(state.mu, expected_state.mu)


def test_adam_is_differentiable_by_autograd_in_the_gradients():
    grad = torch.tensor([0.5, -2.0], requires_grad=True)
    tx = ps.scale_by_adam(eps=1.0)
    updates, _ = tx.update(grad, tx.init(torch.zeros(2)))
    (slope,) = torch.autograd.grad(updates.sum(), grad)
    torch.testing.assert_close(slope, 1 / (1 + grad.detach().abs()) ** 2)
