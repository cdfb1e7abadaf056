"""What a call came to: products as sums of the same value and slopes, and what a recording keeps."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import pure_sgd as ps
from pure_sgd.random.once import once
from pure_sgd.training.programs.products import products_as_sums
from pure_sgd.training.programs.recording import record

KEYS = iter(ps.random.split(ps.random.key(0), 100))


def drawn(*shape: int) -> torch.Tensor:
    return ps.random.normal(next(KEYS), shape, torch.float64)


class Calls(TorchDispatchMode):
    """Counts the calls of BLAS."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__ in ("mm", "bmm", "mv", "dot", "addmm", "baddbmm", "addmv")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "function, arguments",
    [
        (torch.matmul, (drawn(3), drawn(3))),
        (torch.matmul, (drawn(2, 3), drawn(3))),
        (torch.matmul, (drawn(3), drawn(3, 4))),
        (torch.matmul, (drawn(5, 2, 3), drawn(3, 4))),
        (torch.matmul, (drawn(2, 3), drawn(5, 3, 4))),
        (torch.matmul, (drawn(3), drawn(5, 3, 4))),
        (torch.Tensor.__matmul__, (drawn(5, 2, 3), drawn(3))),
        (torch.bmm, (drawn(5, 2, 3), drawn(5, 3, 4))),
        (F.linear, (drawn(7, 3), drawn(4, 3), drawn(4))),
        (F.linear, (drawn(3), drawn(4, 3))),
        (F.linear, (drawn(2, 3), drawn(3))),
        (torch.einsum, ("bi,ij->bj", drawn(2, 3), drawn(3, 4))),
        (torch.einsum, ("bi,bj->bij", drawn(2, 3), drawn(2, 4))),
        (torch.einsum, ("b h q d, b h k d -> b h q k", drawn(2, 2, 3, 4), drawn(2, 2, 5, 4))),
        (torch.einsum, ("a,a->", drawn(3), drawn(3))),
    ],
)
def test_a_small_product_is_a_sum_and_so_are_its_slopes(function: Any, arguments: tuple[Any, ...]):
    places = tuple(i for i, argument in enumerate(arguments) if isinstance(argument, torch.Tensor))

    def both(*arguments: Any) -> Any:
        slopes = torch.func.grad(lambda *a: (function(*a) ** 2).sum(), places)
        return function(*arguments), slopes(*arguments)

    expected = both(*arguments)
    with Calls() as calls, products_as_sums():
        found = both(*arguments)
    assert not calls.count
    for one, other in zip(ps.tree.leaves(found), ps.tree.leaves(expected), strict=True):
        torch.testing.assert_close(one, other)


def test_a_large_product_stays_one_and_what_vmap_repeats_counts():
    def called(size: int, most: int, inside: bool) -> int:
        def product(x: torch.Tensor) -> torch.Tensor:
            with nullcontext() if inside else products_as_sums(most):
                return torch.ones(2, 3) @ x

        with Calls() as calls, products_as_sums(most) if inside else nullcontext():
            torch.func.vmap(product)(torch.ones(size, 3))
        return calls.count

    assert called(10, most=60, inside=True) == 0
    assert called(11, most=60, inside=True) == 1
    assert called(1000, most=6, inside=False) == 0
    assert called(1000, most=5, inside=False) == 1


def test_what_should_be_computed_once_is_recorded_as_that_under_vmap_too():
    def function(x: torch.Tensor) -> list[torch.Tensor]:
        return [once(torch.func.vmap(lambda row: once(row.sin()) * 2, 1)(x)), x.as_strided((2,), (1,))]

    x = drawn(3, 4)
    recording, results = record(function, [x])
    assert recording is not None
    targets = [node.target for node in recording.graph.nodes]
    assert targets.count(once) == 2
    assert targets.count(torch.ops.aten.as_strided.default) == 1
    for one, other in zip(recording.program()(x), results, strict=True):
        assert torch.equal(one, other)
