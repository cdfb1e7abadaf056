"""The compiled step: the numbers of the step itself, in memory that stays where it is."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from catalogue import CATALOGUE

import pure_sgd as ps

(X, Y), _ = ps.data.linear_regression(ps.random.key(0), n=40, features=3)
MODEL = ps.models.mlp((3, 4, 1))
LOSS = ps.empirical_risk(lambda params, x, y: ps.losses.squared_error(MODEL.apply(params, x), y[None]))
TX = ps.chain(
    ps.clip_by_global_norm(1.0),
    ps.sgd(ps.cosine_decay_schedule(0.1, 20), momentum=0.9, weight_decay=1e-3),
    ps.params_ema(0.9),
)
STEP = ps.make_step(LOSS, TX)

#: More numbers than are copied when a state is taken over.
LARGE = 5000


def batch(step: int, size: int = 8) -> Any:
    rows = ps.epoch_indices(40, size, 0, step)[0]
    return X[rows], Y[rows]


def start(seed: int = 1) -> ps.TrainState:
    return ps.init_train_state(MODEL.init(ps.random.key(seed)), TX)


def run(step: Any, steps: int = 6, size: int = 8) -> tuple[ps.TrainState, list[Any]]:
    """Metrics are kept as they are: no later call may change them."""
    state, seen = start(), []
    for index in range(steps):
        state, metrics = step(state, batch(index, size))
        seen.append(metrics)
    return state, seen


def large_problem() -> tuple[Any, ps.TrainState]:
    """A step whose state has a leaf that is taken over, and one that is copied."""
    tx = ps.sgd(0.1, momentum=0.9)
    step = ps.make_step(lambda params, x: ((params["w"] * x).sum() + params["b"]) ** 2 * 1e-4, tx)
    return step, ps.init_train_state({"w": torch.linspace(0, 1, LARGE), "b": torch.tensor(1.0)}, tx)


def compiled(step: Any, donate: bool = True) -> Any:
    return ps.compile_step(step, donate, backend="aot_eager")


def assert_same(one: Any, other: Any, atol: float = 0.0) -> None:
    assert ps.tree.structure(one) == ps.tree.structure(other)
    for (path, a), (_, b) in zip(ps.tree.named_leaves(one), ps.tree.named_leaves(other), strict=True):
        torch.testing.assert_close(
            a, b, rtol=0, atol=atol, equal_nan=True, msg=lambda text, path=path: f"{path}: {text}"
        )


@pytest.mark.parametrize("donate", [False, True])
def test_it_equals_the_step(donate: bool):
    """Inductor, one compilation for a run whose learning rate changes at every step."""
    step = ps.compile_step(STEP, donate=donate)
    with torch._dynamo.config.patch(error_on_recompile=True):
        found = run(step)
    assert_same(found, run(STEP), atol=1e-6)


@pytest.mark.parametrize("donate", [False, True])
@pytest.mark.parametrize("name", ["adamw", "adafactor", "lookahead", "schedule_free_sgd", "shampoo", "lion"])
def test_it_equals_the_step_bit_for_bit_where_the_backend_does(name: str, donate: bool):
    """Eager kernels in both: nothing is lost on the way into memory and out of it.

    Adam alone runs uncompiled in a kernel of its own, which rounds otherwise.
    """
    atol = 2e-6 if name == "adamw" else 0.0
    entry = CATALOGUE[name]
    tx = entry.build(**entry.hyperparams)
    step = ps.make_step(lambda params, x: ((params["w"] @ x - params["b"]) ** 2).sum(), tx)
    params = {"w": torch.linspace(-1, 1, 12).reshape(4, 3), "b": torch.ones(4)}
    expected = state = ps.init_train_state(params, tx)
    fast = compiled(step, donate)
    for index in range(4):
        x = torch.tensor([1.0, -2.0, index])
        state, metrics = fast(state, x)
        expected, expected_metrics = step(expected, x)
        assert_same(metrics, expected_metrics, atol)
    assert_same(state, expected, atol)


def test_every_dtype_and_no_number_at_all():
    params = {
        "half": torch.linspace(0, 1, 3, dtype=torch.bfloat16),
        "double": torch.tensor(0.5, dtype=torch.float64),
        "complex": torch.tensor([1 + 2j, 3 - 1j]),
        "empty": torch.zeros(0, 2),
        "matrix": torch.ones(2, 3).T,
        "buffers": {"flag": torch.tensor(True), "count": torch.tensor(3)},
    }

    def loss(params: Any, x: Any) -> Any:
        terms = [(leaf.abs().double() ** 2).sum() for leaf in ps.tree.leaves({**params, "buffers": None})]
        buffers = {"flag": ~params["buffers"]["flag"], "count": params["buffers"]["count"] + 1}
        return x * torch.stack(terms).sum(), {"buffers": buffers}

    tx = ps.sgd(0.1, momentum=0.9)
    step = ps.make_step(loss, tx, has_aux=True)
    fast = compiled(step)
    state = expected = ps.init_train_state(params, tx)
    for _ in range(3):
        state, _ = fast(state, torch.tensor(1.0))
        expected, _ = step(expected, torch.tensor(1.0))
    assert_same(state, expected)


def test_a_donated_state_keeps_its_memory():
    step, state = large_problem()
    taken_over = [state.params["w"].data_ptr(), state.opt_state[0].trace["w"].data_ptr()]
    fast = compiled(step)
    state, _ = fast(state, torch.tensor(0.1))
    addresses = [leaf.data_ptr() for leaf in ps.tree.leaves(state)]
    assert set(taken_over) <= set(addresses)
    for _ in range(3):
        state, _ = fast(state, torch.tensor(0.1))
    assert [leaf.data_ptr() for leaf in ps.tree.leaves(state)] == addresses


def test_without_donation_the_old_state_stays():
    state = start()
    compiled(STEP, donate=False)(state, batch(0))
    assert_same(state, start())


def test_metrics_of_a_donated_state_stay():
    """Also those that are a part of it."""
    tx = ps.sgd(0.1)
    for size in (1, LARGE):
        step = ps.make_step(lambda p, x: (((p - x) ** 2).sum(), {"old": p}), tx, has_aux=True)
        fast, state, seen = compiled(step), ps.init_train_state(torch.ones(size), tx), []
        for _ in range(3):
            state, metrics = fast(state, torch.tensor(0.0))
            seen.append(metrics["old"][0])
        torch.testing.assert_close(torch.stack(seen), torch.tensor([1.0, 0.8, 0.64]))


@pytest.mark.parametrize("size", [6, LARGE])
def test_old_leaves_become_others_and_parts_of_metrics(size: int):
    """Inductor drops copies: what is read has to be read before it is written over."""

    def step(state: ps.TrainState, x: torch.Tensor) -> Any:
        (a, b, *history), state = state.params, state._replace(step=state.step + 1)
        metrics = {"part": a[1:3], "flipped": b.flip(0), "last": history[-1].view(2, -1)[0], "old": a}
        return state._replace(params=[b, a.clone(), x, *history[:-1]]), metrics

    params = list(torch.arange(5.0 * size).reshape(5, size).clone().unbind())
    state, expected = (ps.TrainState(torch.tensor(0), ps.tree.map(torch.clone, params), ()) for _ in range(2))
    fast, seen, wanted = ps.compile_step(step, donate=True), [], []
    for k in range(4):
        x = torch.full((size,), -1.0 - k)
        (state, metrics), (expected, expected_metrics) = fast(state, x), step(expected, x)
        seen.append(metrics)
        wanted.append(ps.tree.map(torch.clone, expected_metrics))
    assert_same((state, seen), (expected, wanted))


class TestDonatedTwice:
    """What was donated is an error, however it comes back."""

    def refused(self, step: Any, state: ps.TrainState, leaf: str) -> None:
        with pytest.raises(ps.PureSGDError, match=leaf + ": was donated to an earlier call") as caught:
            step(state, torch.tensor(0.1))
        assert "Go on from the state that the last call returned" in str(caught.value)

    def test_the_first_state(self):
        step, first = large_problem()
        fast = compiled(step)
        fast(first, torch.tensor(0.1))
        self.refused(fast, first, r"state\.step")

    def test_a_later_state(self):
        step, state = large_problem()
        fast = compiled(step)
        old, _ = fast(state, torch.tensor(0.1))
        fast(old, torch.tensor(0.1))
        self.refused(fast, old, r"state\.step")
        self.refused(fast, old._replace(params=large_problem()[1].params), r"state\.step")

    def test_its_parameters_in_another_state(self):
        step, first = large_problem()
        fast = compiled(step)
        fast(first, torch.tensor(0.1))
        self.refused(fast, large_problem()[1]._replace(params=first.params), r"state\.params\['w'\]")

    def test_but_a_state_that_could_not_be_used_was_not_donated(self):
        fast, state = compiled(STEP), start()
        with pytest.raises(ps.PureSGDError, match=r"batch\[1\]: holds 3 examples"):
            fast(state, (X, Y[:3]))
        assert_same(fast(state, batch(0)), STEP(start(), batch(0)))


class TestOtherStates:
    """A state that is not the one returned last is taken over anew."""

    def test_the_newest_with_other_parameters(self):
        fast, other = compiled(STEP), start(2).params
        state, expected = fast(start(), batch(0))[0], STEP(start(), batch(0))[0]
        state, expected = state._replace(params=other), expected._replace(params=other)
        assert_same(fast(state, batch(1)), STEP(expected, batch(1)))
        assert_same(other, start(2).params)

    def test_the_average_in_place_of_the_parameters(self):
        tx = ps.chain(ps.sgd(0.1), ps.params_ema(0.5))
        step = ps.make_step(lambda params, x: ((params - x) ** 2).sum(), tx)
        state, expected = (ps.init_train_state(torch.linspace(0, 1, LARGE), tx) for _ in range(2))
        fast, zero = compiled(step), torch.tensor(0.0)
        for _ in range(3):
            state, expected = fast(state, zero)[0], step(expected, zero)[0]
            state = state._replace(params=ps.eval_params(state.opt_state, state.params))
            expected = expected._replace(params=ps.eval_params(expected.opt_state, expected.params))
        assert_same(state, expected)

    def test_two_in_turn(self):
        fast = compiled(STEP)
        states, expected = [start(1), start(2)], [start(1), start(2)]
        for index in range(6):
            states[index % 2], _ = fast(states[index % 2], batch(index))
            expected[index % 2], _ = STEP(expected[index % 2], batch(index))
        assert_same(states, expected)

    def test_a_copy(self):
        fast = compiled(STEP)
        state, _ = fast(start(), batch(0))
        kept = copy.deepcopy(state)
        expected = fast(state, batch(1))[0].params["layers"][0]["w"].clone()
        assert torch.equal(fast(kept, batch(1))[0].params["layers"][0]["w"], expected)

    def test_of_another_structure(self):
        fast = compiled(ps.make_step(lambda params, x: ps.tree.norm(params) ** 2 * x, ps.sgd(0.25)))
        for params in ({"a": torch.ones(2)}, {"a": torch.ones(3), "b": torch.ones(1)}):
            state = ps.init_train_state(params, ps.sgd(0.25))
            for _ in range(2):
                state, _ = fast(state, torch.tensor(1.0))
            assert_same(state.params, ps.tree.map(lambda leaf: leaf / 4, params))

    @pytest.mark.parametrize("size", [3, LARGE])
    def test_leaves_that_share_memory_are_parted(self, size: int):
        params = torch.ones(size)
        state = ps.TrainState(torch.tensor(0), {"a": params, "b": params.expand(size)}, ())
        step = compiled(
            lambda state, x: (
                ps.TrainState(state.step + 1, {"a": state.params["a"] + x, "b": state.params["b"] * 3}, ()),
                {},
            )
        )
        state, _ = step(state, torch.tensor(1.0))
        assert_same(state.params, {"a": torch.full((size,), 2.0), "b": torch.full((size,), 3.0)})


class TestCallsPastTorch:
    """From the second call on the program is called directly, where it is the right one."""

    def test_batches_of_several_shapes(self):
        fast = compiled(STEP)
        for donate in (True, False):
            fast, state, expected = compiled(STEP, donate), start(), start()
            for index, size in enumerate([8, 8, 5, 8, 5, 3, 3, 7, 7, 8]):
                state, metrics = fast(state, batch(index, size))
                expected, expected_metrics = STEP(expected, batch(index, size))
                assert_same(metrics, expected_metrics, atol=1e-6)
            assert_same(state, expected, atol=1e-6)

    @pytest.mark.parametrize(
        "change",
        [
            lambda x: x.double(),
            lambda x: torch.randn(3, 4).T,
            lambda x: torch.randn(8, 3)[::2],
            lambda x: x.to(torch.complex64).conj().imag,
        ],
        ids=["dtype", "strides", "gaps", "negative bit"],
    )
    def test_batches_that_lie_otherwise(self, change: Any):
        step = ps.make_step(lambda params, x: ((x * params) ** 2).sum().float(), ps.sgd(0.1))
        fast = ps.compile_step(step, backend="aot_eager")
        state = ps.init_train_state(torch.ones(3), ps.sgd(0.1))
        x = torch.randn(4, 3)
        for data in (x, change(x), x, change(x)):
            assert_same(fast(state, data), step(state, data), atol=1e-6)

    def test_the_same_tensor_twice_and_then_two(self):
        step = ps.make_step(lambda params, data: (params * data[0] * data[1]).sum(), ps.sgd(0.1))
        state, fast = ps.init_train_state(torch.ones(2), ps.sgd(0.1)), compiled(step, donate=False)
        x, y = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
        for data in ((x, x), (x, x), (x, y), (y, x), (y, y)):
            assert_same(fast(state, data), step(state, data))

    def test_a_batch_that_lies_in_the_state(self):
        step = ps.make_step(lambda params, near: ((params - near) ** 2 + params).sum(), ps.sgd(0.1))
        fast = compiled(step)
        for size in (2, LARGE):
            state, expected = (ps.init_train_state(torch.ones(size), ps.sgd(0.1)) for _ in range(2))
            for _ in range(4):
                state, metrics = fast(state, state.params)
                expected, expected_metrics = step(expected, expected.params)
                assert_same(metrics, expected_metrics)
            assert_same(state, expected)

    def test_extra_arguments(self):
        tx = ps.chain(ps.sgd(0.1), ps.reduce_on_plateau(factor=0.5, patience=1))
        step = ps.make_step(LOSS, tx)
        for donate in (True, False):
            fast = compiled(step, donate)
            state = expected = ps.init_train_state(start().params, tx)
            for index, value in enumerate([3.0, 3.0, 2.0, 2.5, 2.6]):
                value = torch.tensor(value)
                state, _ = fast(state, batch(index), value=value)
                expected, _ = step(expected, batch(index), value=value)
            assert_same(state, expected)

    def test_python_runs_once(self):
        seen = []

        def loss(params: Any, data: Any) -> torch.Tensor:
            seen.append(None)
            return LOSS(params, data)

        run(ps.compile_step(ps.make_step(loss, TX), donate=True, backend="eager"))
        assert len(seen) <= 1

    def test_within_vmap_and_within_what_is_compiled_it_is_the_step(self):
        step = ps.make_step(lambda params, x: ((params - x) ** 2).sum(), ps.sgd(0.1))
        fast, state = compiled(step), ps.init_train_state(torch.ones(2), ps.sgd(0.1))
        many = torch.func.vmap(lambda x: fast(state, x)[0].params)
        assert_same(
            many(torch.arange(3.0)),
            torch.stack([step(state, torch.tensor(x))[0].params for x in (0.0, 1.0, 2.0)]),
        )
        around = torch.compile(lambda x: fast(state, x), backend="eager", fullgraph=True)
        assert_same(around(torch.tensor(2.0)), step(state, torch.tensor(2.0)))

    def test_steps_of_which_there_are_many(self):
        """One piece of code torch compiles a few times only."""
        for rate in range(12):
            tx = ps.sgd(0.01 * rate)
            step = ps.make_step(lambda params, x: (params * x).sum(), tx)
            state, _ = compiled(step)(ps.init_train_state(torch.ones(1), tx), torch.tensor(1.0))
            torch.testing.assert_close(state.params, torch.tensor([1 - 0.01 * rate]))


@pytest.mark.slow
def test_two_programs_may_differ_in_a_number():
    """As in two runs with two learning rates; dynamo would make the number of the second an input."""
    for rate in (0.1, 0.2):
        tx = ps.multi_steps(ps.sgd(rate, momentum=rate), 2)
        step = ps.make_step(lambda params, x: ((params - x) ** 2).sum(), tx)
        state = expected = ps.init_train_state(torch.ones(3), tx)
        fast = ps.compile_step(step)
        for _ in range(2):
            state, _ = fast(state, torch.zeros(3))
            expected, _ = step(expected, torch.zeros(3))
        assert_same(state, expected, atol=1e-6)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_autograd_is_as_it_was(backend):
    step, state = ps.compile_step(STEP, donate=True, backend=backend), start()
    for index in range(3):
        state, _ = step(state, batch(index))
        assert torch.is_grad_enabled()
