"""The step: pure and replayed, always the same numbers, and the choice between the ways to run it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import pure_sgd as ps
from pure_sgd.training import compile_when_it_pays, compiled
from pure_sgd.training.programs.recording import record

(X, Y), _ = ps.data.linear_regression(ps.random.key(0), n=40, features=3)
MODEL = ps.models.mlp((3, 4, 1))
LOSS = ps.empirical_risk(lambda params, x, y: ps.losses.squared_error(MODEL.apply(params, x), y[None]))
TX = ps.chain(
    ps.clip_by_global_norm(1.0),
    ps.sgd(ps.cosine_decay_schedule(0.1, 20), momentum=0.9, weight_decay=1e-3),
    ps.params_ema(0.9),
)
STEP = ps.make_step(LOSS, TX)


def batch(step: int, size: int = 8) -> Any:
    rows = ps.epoch_indices(40, size, 0, step)[0]
    return X[rows], Y[rows]


def start() -> ps.TrainState:
    return ps.init_train_state(MODEL.init(ps.random.key(1)), TX)


def run(step: Any, steps: int = 6, size: int = 8) -> tuple[ps.TrainState, list[Any]]:
    state, seen = start(), []
    for index in range(steps):
        state, metrics = step(state, batch(index, size))
        seen.append(ps.tree.map(torch.clone, metrics))
    return state, seen


def assert_same(one: Any, other: Any, atol: float = 0.0) -> None:
    assert ps.tree.structure(one) == ps.tree.structure(other)
    for (path, a), (_, b) in zip(ps.tree.named_leaves(one), ps.tree.named_leaves(other), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol, msg=lambda text, path=path: f"{path}: {text}")


def test_the_step_is_the_three_lines_it_claims_to_be():
    state = start()
    value, grads = ps.value_and_grad(LOSS)(state.params, batch(0))
    updates, opt_state = TX.update(grads, state.opt_state, state.params)
    expected = ps.TrainState(state.step + 1, ps.apply_updates(state.params, updates), opt_state)
    new, metrics = STEP(state, batch(0))
    assert_same(new, expected)
    assert metrics["loss"] == value
    torch.testing.assert_close(metrics["grad_norm"], ps.tree.norm(grads))
    assert metrics["learning_rate"].item() == pytest.approx(0.1)


def test_the_step_changes_none_of_its_arguments():
    state, data = start(), batch(0)
    before = ps.tree.map(torch.clone, (state, data))
    STEP(state, data)
    assert_same((state, data), before)


def test_the_state_owns_its_memory():
    params = MODEL.init(ps.random.key(1))
    state = ps.init_train_state(params, TX)
    assert not {p.data_ptr() for p in ps.tree.leaves(params)} & {p.data_ptr() for p in ps.tree.leaves(state)}


def test_an_nn_parameter_leaves_no_graph_behind():
    module = torch.nn.Linear(3, 1)
    params = {"w": module.weight, "b": module.bias}
    loss = ps.empirical_risk(lambda p, x, y: (x @ p["w"][0] + p["b"][0] - y) ** 2)
    state, metrics = ps.make_step(loss, TX)(ps.init_train_state(params, TX), (X, Y))
    assert not any(leaf.requires_grad for leaf in ps.tree.leaves((state, metrics)))


def test_a_run_differentiates_with_respect_to_where_it_began_and_how_fast_it_went():
    data = X.double(), Y.double()

    def final(params: Any, rate: torch.Tensor) -> torch.Tensor:
        tx = ps.sgd(rate, momentum=0.9)
        step, state = ps.make_step(LOSS, tx), ps.init_train_state(params, tx)
        for index in range(3):
            state, _ = step(state, ps.data.take(data, slice(index, None, 5)))
        return LOSS(state.params, data)

    params, rate = MODEL.init(ps.random.key(1), torch.float64), torch.tensor(0.05, dtype=torch.float64)
    grads, slope = torch.func.grad(final, argnums=(0, 1))(params, rate)
    eps = 1e-6
    numeric = (final(params, rate + eps) - final(params, rate - eps)) / (2 * eps)
    torch.testing.assert_close(slope, numeric, rtol=1e-6, atol=1e-9)
    up, down = (ps.tree.map(lambda p, g, s=s: p + s * eps * g, params, grads) for s in (1, -1))
    numeric = (final(up, rate) - final(down, rate)) / (2 * eps)
    torch.testing.assert_close(ps.tree.norm(grads) ** 2, numeric, rtol=1e-6, atol=1e-9)


def test_a_value_that_nobody_gives_is_the_loss():
    tx = ps.chain(ps.sgd(0.1), ps.reduce_on_plateau(accumulation_size=2))
    step = ps.make_step(LOSS, tx)
    state, metrics = step(ps.init_train_state(start().params, tx), batch(0))
    torch.testing.assert_close(state.opt_state[1].avg_value.float(), metrics["loss"])
    state, _ = step(ps.init_train_state(start().params, tx), batch(0), value=7.0)
    assert state.opt_state[1].avg_value == 7.0


def test_buffers_are_passed_to_the_loss_and_stay():
    buffers = {"count": torch.tensor(5), "scale": torch.tensor(2.0)}
    params: dict[str, Any] = {"w": torch.zeros(3), "buffers": buffers}

    def loss(params: Any, data: Any) -> torch.Tensor:
        return ((data[0] @ params["w"] * params["buffers"]["scale"] - data[1]) ** 2).mean()

    tx = ps.chain(ps.sgd(0.1, momentum=0.9, weight_decay=0.5), ps.params_ema(0.9))
    state = ps.init_train_state(params, tx)
    for step in (ps.make_step(loss, tx), ps.replay_step(ps.make_step(loss, tx))):
        state, _ = step(state, (X, Y))
        assert_same(state.params["buffers"], params["buffers"])
    assert state.params["w"].abs().min() > 0
    assert ps.eval_params(state.opt_state, state.params)["buffers"]["count"] == 5


def test_a_loss_may_return_metrics_and_new_buffers():
    params = {"w": torch.zeros(3), "buffers": {"seen": torch.tensor(0)}}

    def loss(params: Any, data: Any) -> Any:
        error = data[0] @ params["w"] - data[1]
        seen = params["buffers"]["seen"] + len(data[1])
        return error.square().mean(), {"largest_error": error.abs().max(), "buffers": {"seen": seen}}

    tx = ps.sgd(0.1)
    state, metrics = ps.make_step(loss, tx, has_aux=True)(ps.init_train_state(params, tx), (X, Y))
    assert state.params["buffers"]["seen"] == 40
    assert metrics["largest_error"] == Y.abs().max()
    assert "buffers" not in metrics


class TestReplay:
    """A replayed step runs the operations of the step itself."""

    def test_it_equals_the_step_bit_for_bit(self):
        assert_same(run(ps.replay_step(STEP)), run(STEP))

    def test_it_runs_python_twice_and_then_no_more(self):
        calls = []

        def loss(params: Any, data: Any) -> torch.Tensor:
            calls.append(len(data[0]))
            return LOSS(params, data)

        step = ps.replay_step(ps.make_step(loss, TX))
        run(step)
        assert calls == [8, 8]  # once to record, once to check
        run(step, size=5)
        assert calls == [8, 8, 5, 5]

    def test_it_keeps_few_recordings(self):
        step = ps.replay_step(STEP)
        for size in range(1, 9):
            assert_same(run(step, steps=3, size=size), run(STEP, steps=3, size=size))

    def test_it_changes_none_of_its_arguments(self):
        step = ps.replay_step(STEP)
        for _ in range(4):
            state, data = start(), batch(0)
            before = ps.tree.map(torch.clone, (state, data))
            step(state, data)
            assert_same((state, data), before)

    def test_extra_arguments_are_read_anew(self):
        tx = ps.chain(ps.sgd(0.1), ps.reduce_on_plateau(factor=0.5, patience=1))
        calls = []

        def loss(params: Any, data: Any) -> torch.Tensor:
            calls.append(None)
            return LOSS(params, data)

        plain, replayed = ps.make_step(LOSS, tx), ps.replay_step(ps.make_step(loss, tx))
        states = [ps.init_train_state(start().params, tx) for _ in range(2)]
        for index, value in enumerate([3.0, 3.0, 2.0, 2.5, 2.6]):
            states[0] = plain(states[0], batch(index), value=value)[0]
            states[1] = replayed(states[1], batch(index), value=value)[0]
        assert_same(states[1], states[0])
        assert states[0].opt_state[1].learning_rate_scale == 0.125
        assert len(calls) == 2

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda value, data: value * (2 if data[1].mean() > 0 else 1),
            lambda value, data: value * (1 + torch.rand(())),
            lambda value, data: value * float(data[1].sum()),
        ],
        ids=["branches on a value", "draws from the global generator", "reads a value"],
    )
    def test_what_cannot_be_recorded_runs_as_it_is(self, spoil: Any):
        def loss(params: Any, data: Any) -> torch.Tensor:
            return spoil(LOSS(params, data), data)

        step = ps.make_step(loss, TX)
        torch.manual_seed(5)
        expected = run(step)
        torch.manual_seed(5)
        assert_same(run(ps.replay_step(step)), expected)

    def test_a_recording_that_does_not_hold_is_dropped(self):
        """A loss that counts its own calls is not pure: the second call shows it."""
        calls = iter(range(100))

        def loss(params: Any, data: Any) -> torch.Tensor:
            return LOSS(params, data) * (1 + next(calls))

        seen = run(ps.replay_step(ps.make_step(loss, TX)))[1]
        calls = iter(range(100))
        assert [m["loss"] for m in seen] == [m["loss"] for m in run(ps.make_step(loss, TX))[1]]

    def test_in_place_work_inside_the_loss_is_repeated(self):
        def loss(params: Any, data: Any) -> torch.Tensor:
            total = torch.tensor([0.0])
            total.add_(LOSS(params, data).detach()).mul_(2)
            return LOSS(params, data) * total[0]

        state, data, step = start(), batch(0), ps.make_step(loss, TX)
        leaves, restore = ps.tree.flatten((state, data))
        recording, results = record(lambda *leaves: ps.tree.leaves(step(*restore(list(leaves)))), leaves)
        assert recording is not None
        for _ in range(2):
            assert_same(list(recording.program()(*leaves, *recording.constants)), list(results))

    def test_a_module_with_batch_statistics(self):
        module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
        apply, params = ps.from_module(module, mutable=True)

        def loss(params: Any, data: Any) -> Any:
            prediction, buffers = apply(params, data[0])
            return ((prediction[:, 0] - data[1]) ** 2).mean(), {"buffers": buffers}

        tx = ps.adam(0.01)
        step = ps.make_step(loss, tx, has_aux=True)
        states = [ps.init_train_state(params, tx) for _ in range(2)]
        replayed = ps.replay_step(step)
        for index in range(5):
            states = [step(states[0], batch(index))[0], replayed(states[1], batch(index))[0]]
        assert_same(states[1], states[0])
        assert states[0].params["buffers"]["1.num_batches_tracked"] == 5


class TestWhenItPays:
    """The automatic choice: recorded from 30 steps on, compiled when 3 minutes of steps are left."""

    def choice(
        self, monkeypatch: Any, seconds: float, steps: int | None, calls: int, odd: int | None = None
    ) -> list[str]:
        """Which step each call took, when every one takes ``seconds``; call ``odd`` has a smaller batch."""
        seen: list[str] = []

        def marked(mark: str) -> Any:
            return lambda step, **_: lambda *args: (seen.append(mark), step(*args))[1]

        times = (time for _ in range(calls + 5) for time in (0.0, seconds))
        monkeypatch.setattr(compiled, "compile_step", marked("c"))
        monkeypatch.setattr(compiled, "replay_step", marked("r"))
        monkeypatch.setattr(compiled.time, "perf_counter", lambda: next(times))
        step, state, expected = compile_when_it_pays(STEP, steps), start(), start()
        for index in range(calls):
            data = batch(index, 5 if index == odd else 8)
            state, expected = step(state, data)[0], STEP(expected, data)[0]
        assert_same(state, expected)
        return seen

    def test_a_short_run_is_left_alone(self, monkeypatch: Any):
        assert self.choice(monkeypatch, 1.0, steps=20, calls=20) == []

    def test_a_run_of_a_minute_is_recorded_and_not_compiled(self, monkeypatch: Any):
        assert self.choice(monkeypatch, 0.001, steps=50_000, calls=20) == ["r"] * 20

    def test_a_long_run_is_compiled_after_ten_timed_steps(self, monkeypatch: Any):
        assert self.choice(monkeypatch, 0.01, steps=50_000, calls=20) == ["r"] * 13 + ["c"] * 7

    def test_a_batch_of_another_shape_stays_uncompiled(self, monkeypatch: Any):
        assert self.choice(monkeypatch, 0.01, 50_000, 16, odd=14) == ["r"] * 13 + ["c", "r", "c"]

    def test_a_run_of_unknown_length_is_compiled_once_three_minutes_are_spent(self, monkeypatch: Any):
        assert self.choice(monkeypatch, 30.0, steps=None, calls=10) == ["r"] * 7 + ["c"] * 3
