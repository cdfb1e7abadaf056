"""The list of operations that a compiler is given: what it holds, and what is more than a list."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

import pure_sgd as ps
from pure_sgd.training.programs.direct import compile_directly
from pure_sgd.training.programs.listed import listed


def compiled(function: Any, backend: Any = "aot_eager") -> Any:
    return partial(compile_directly(lambda memory, *trees: function(*trees), backend=backend), [])


def counted() -> tuple[list[int], Any]:
    """A backend, and the number of operations of each graph that it is given."""
    sizes: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        sizes.append(sum(node.op == "call_function" for node in graph.graph.nodes))
        return graph.forward

    return sizes, backend


@pytest.fixture
def no_dynamo(monkeypatch: pytest.MonkeyPatch) -> None:
    """``torch.compile`` fails when it is called."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("torch.compile was called")

    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: refuse)


@pytest.mark.usefixtures("no_dynamo")
class TestAList:
    def test_has_no_number_of_its_example(self):
        double = compiled(lambda x: {"twice": 2 * x})
        for number in (3.0, 5.0):
            assert double(torch.tensor(number)) == {"twice": torch.tensor(2 * number)}

    def test_takes_a_step_of_an_optimizer(self):
        tx = ps.chain(ps.clip_by_global_norm(1.0), ps.adamw(ps.cosine_decay_schedule(0.1, 9)))
        step = ps.make_step(ps.empirical_risk(lambda params, x: (params["w"] @ x) ** 2), tx)
        fast = ps.compile_step(step, donate=True, backend="aot_eager")
        state = expected = ps.init_train_state({"w": torch.ones(3)}, tx)
        for k in range(3):
            batch = torch.linspace(-1, k, 6).reshape(2, 3)
            (state, metrics), (expected, wanted) = fast(state, batch), step(expected, batch)
            torch.testing.assert_close((metrics, state), (wanted, expected))

    def test_reads_tensors_besides_its_arguments(self):
        """With what they hold at each call."""
        besides = torch.tensor(1.0)
        add = compiled(lambda x: x + besides)
        assert add(torch.tensor(1.0)) == 2
        besides.fill_(3.0)
        assert add(torch.tensor(1.0)) == 4

    def test_keeps_numbers_that_python_makes_tensors_of(self):
        add = compiled(lambda x: x + torch.tensor([1.0, 2.0]))
        for _ in range(2):
            assert add(torch.zeros(2)).tolist() == [1, 2]

    def test_gives_arguments_back(self):
        same = compiled(lambda x, y: (x, y + 1, x))
        for _ in range(2):
            x = torch.ones(2)
            first, _, last = same(x, torch.zeros(2))
            torch.testing.assert_close((first, last), (x, x))

    def test_is_read_as_a_compiler_reads_it(self):
        double = compiled(lambda x: 2 * x if torch.compiler.is_compiling() else x)
        assert double(torch.tensor(2.0)) == 4
        assert not torch.compiler.is_compiling()

    def test_takes_leaves_that_require_a_gradient(self):
        double = compiled(lambda x: 2 * x)
        for _ in range(2):
            assert not double(torch.ones(2, requires_grad=True)).requires_grad

    def test_leaves_memory_alone_until_it_is_run(self):
        memory, rest = [torch.zeros(2)], torch.ones(2)
        run = compile_directly(lambda memory, x: memory[0].copy_(memory[0] + x) * 0, backend="aot_eager")
        for expected in (1, 2):
            run(memory, rest)
            assert memory[0].tolist() == [expected, expected]


def drawn(x: torch.Tensor) -> list[torch.Tensor]:
    return [x + torch.rand(2)]


def chosen(x: torch.Tensor) -> list[torch.Tensor]:
    return [x if x.sum() > 0 else 2 * x]


def branched(x: torch.Tensor) -> list[torch.Tensor]:
    return [torch.cond(x.sum() > 0, lambda: x + 1, lambda: x + 2, ())]


def failing(x: torch.Tensor) -> list[torch.Tensor]:
    return [x @ torch.ones(7)]


@pytest.mark.parametrize("function", [drawn, chosen, branched, failing, lambda x: [1.0]])
def test_what_is_no_list(function: Any):
    assert listed(function, [torch.ones(2)]) is None
    assert not torch.compiler.is_compiling()


def test_a_branch_stays_one():
    """A list would take both sides: it is left to the compiler, at once and in later calls."""
    sizes, backend = counted()
    tx = ps.apply_if_finite(ps.sgd(0.1), 3)
    step = ps.make_step(lambda params, x: ((params - x) ** 2).sum(), tx)
    fast, state = ps.compile_step(step, backend=backend), ps.init_train_state(torch.ones(2), tx)
    for x in (torch.zeros(2), torch.full((2,), torch.nan), torch.zeros(2)):
        expected = step(state, x)[0]
        state = fast(state, x)[0]
        torch.testing.assert_close(state, expected)
    assert len(sizes) == 1


def test_another_shape_is_a_program_of_its_own():
    sizes, backend = counted()
    double = compiled(lambda x: 2 * x, backend)
    for size in (2, 3, 2, 3):
        assert double(torch.ones(size)).tolist() == [2] * size
    assert len(sizes) == 2
