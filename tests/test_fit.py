"""The loop: every source of batches, records, stopping, and the same numbers as the loop by hand."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import pure_sgd as ps

(X, Y), _ = ps.data.linear_regression(ps.random.key(0), n=50, features=3)
MODEL = ps.models.linear(3)
PARAMS = MODEL.init(ps.random.key(1))
LOSS = ps.empirical_risk(lambda params, x, y: ps.losses.squared_error(MODEL.apply(params, x), y))
TX = ps.chain(ps.sgd(ps.linear_schedule(0.1, 0.0, 60), momentum=0.9), ps.params_ema(0.9))


def fit(data: Any = (X, Y), tx: Any = TX, **options: Any) -> ps.FitResult:
    return ps.fit(LOSS, tx, PARAMS, data, progress=False, **options)


def by_hand(batches: Any) -> ps.TrainState:
    step, state = ps.make_step(LOSS, TX), ps.init_train_state(PARAMS, TX)
    for batch in batches:
        state, _ = step(state, batch)
    return state


def assert_same(one: Any, other: Any) -> None:
    assert ps.tree.structure(one) == ps.tree.structure(other)
    assert all(torch.equal(a, b) for a, b in zip(ps.tree.leaves(one), ps.tree.leaves(other), strict=True))


def rows_of(epochs: int, size: int, **options: Any) -> list[torch.Tensor]:
    return [row for epoch in range(epochs) for row in ps.epoch_indices(50, size, 7, epoch, **options)]


@pytest.mark.parametrize("compile", ["auto", False])
@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("size", [1, 8, 25])
def test_data_in_memory_is_visited_in_the_order_of_epoch_indices(size: int, replacement: bool, compile: Any):
    state, _ = fit(epochs=2, batch_size=size, seed=7, replacement=replacement, compile=compile)
    rows = rows_of(2, size, replacement=replacement)
    assert_same(state, by_hand([(X[row], Y[row]) for row in rows]))


def test_no_batch_size_is_full_gradient_descent():
    assert_same(fit(epochs=5).state, by_hand([(X, Y)] * 5))
    assert_same(fit(epochs=5, batch_size=50).state, by_hand([(X, Y)] * 5))


def test_n_draws_with_replacement_are_not_the_data_set():
    state, _ = fit(epochs=1, batch_size=50, seed=7, replacement=True)
    assert_same(state, by_hand([(X[row], Y[row]) for row in rows_of(1, 50, replacement=True)]))


def test_compiled_from_the_start_gives_the_same_run():
    state, history = fit(epochs=3, batch_size=10, compile=True)
    expected, expected_history = fit(epochs=3, batch_size=10, compile=False)
    for a, b in zip(ps.tree.leaves(state), ps.tree.leaves(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    assert history["loss"] == pytest.approx(expected_history["loss"], abs=1e-6)


def test_a_data_loader_and_a_list_give_their_own_batches():
    """A last batch that is shorter, too; the loader's fields come as a list."""
    loader = DataLoader(TensorDataset(X, Y), batch_size=16)
    batches = [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 50, 16)]
    expected = by_hand(batches * 9)
    assert_same(fit(loader, epochs=9).state, expected)
    assert_same(fit(batches, epochs=9).state, expected)


def test_a_stream_of_unknown_length():
    stream = ((X[i : i + 5], Y[i : i + 5]) for i in range(0, 50, 5))
    state, history = fit(stream, epochs=1)
    assert_same(state, by_hand([(X[i : i + 5], Y[i : i + 5]) for i in range(0, 50, 5)]))
    assert history["step"] == [10]


def test_an_order_of_ones_own():
    order = [torch.arange(50).reshape(5, 10), torch.arange(49, -1, -1).reshape(5, 10)]
    state, _ = fit(epochs=2, order=lambda epoch: order[epoch])
    assert_same(state, by_hand([(X[row], Y[row]) for rows in order for row in rows]))


def test_steps_end_a_run_in_the_middle_of_an_epoch():
    state, history = fit(steps=12, batch_size=10, seed=7)
    assert_same(state, by_hand([(X[row], Y[row]) for row in rows_of(3, 10)[:12]]))
    assert history["step"] == [5, 10, 12]
    assert history["epoch"] == [0, 1, 2]


def test_the_caller_keeps_his_parameters():
    before = ps.tree.map(torch.clone, PARAMS)
    fit(epochs=2, batch_size=10)
    assert_same(PARAMS, before)


@pytest.mark.parametrize("compile", ["auto", False])
def test_a_run_that_is_over_holds_nothing(compile: Any, tmp_path):
    """Not even until the next round of the garbage collector: a batch, a process group may be large."""
    fit(epochs=8, batch_size=10)  # what torch imports at its first step stays
    loss = ps.empirical_risk(lambda params, x, y: (MODEL.apply(params, x) - y) ** 2)
    held = weakref.ref(loss)
    gc.collect()
    gc.disable()
    try:
        ps.fit(loss, TX, PARAMS, (X, Y), batch_size=10, epochs=8, compile=compile, checkpoint=tmp_path)
        del loss
        assert held() is None
    finally:
        gc.enable()


def test_the_history_is_a_plain_dict_of_lists():
    def risk(params: Any) -> dict[str, torch.Tensor]:
        return {"loss": LOSS(params, (X, Y)), "b": params["b"]}

    state, history = fit(epochs=3, batch_size=10, evaluate=risk)
    averaged = ps.eval_params(state.opt_state, state.params)
    assert list(history) == [
        "epoch", "step", "loss", "grad_norm", "learning_rate",
        "val_loss", "val_b", "val_loss_averaged", "val_b_averaged",
    ]  # fmt: skip
    assert {len(values) for values in history.values()} == {3}
    assert {type(value) for values in history.values() for value in values} == {int, float}
    assert history["val_loss"][-1] == pytest.approx(LOSS(state.params, (X, Y)).item())
    assert history["val_loss_averaged"][-1] == pytest.approx(LOSS(averaged, (X, Y)).item())
    assert history["val_b_averaged"][-1] == pytest.approx(averaged["b"].item())
    # The rate of the last step of each epoch of 5 steps.
    assert history["learning_rate"] == pytest.approx([0.1 * (1 - k / 60) for k in (4, 9, 14)])


def test_the_recorded_loss_is_the_mean_over_the_steps():
    step, state, losses = ps.make_step(LOSS, TX), ps.init_train_state(PARAMS, TX), []
    for row in rows_of(2, 10):
        state, metrics = step(state, (X[row], Y[row]))
        losses.append(metrics["loss"])
    history = fit(epochs=2, batch_size=10, seed=7).history
    assert history["loss"] == pytest.approx(torch.stack(losses).reshape(2, 5).mean(1).tolist())


def test_records_may_come_more_often_than_epochs():
    history = fit(steps=13, batch_size=10, record_every=4).history
    assert history["step"] == [4, 8, 12, 13]
    assert history["epoch"] == [0, 1, 2, 2]


def test_a_number_from_evaluate_is_the_loss():
    history = fit(tx=ps.sgd(0.1), epochs=1, evaluate=lambda params: LOSS(params, (X, Y)).item()).history
    assert "val_loss" in history
    assert "val_loss_averaged" not in history


def test_each_of_several_averages_is_evaluated_under_its_name():
    tx = ps.chain(ps.sgd(0.1), ps.named_chain(("fast", ps.params_ema(0.5)), ("slow", ps.params_ema(0.9))))
    state, history = fit(tx=tx, epochs=2, evaluate=lambda params: LOSS(params, (X, Y)))
    for name in ("fast", "slow"):
        averaged = ps.eval_params(state.opt_state, state.params, name)
        assert history[f"val_loss_{name}"][-1] == pytest.approx(LOSS(averaged, (X, Y)).item())
    assert [key for key in history if key.startswith("val")] == ["val_loss", "val_loss_fast", "val_loss_slow"]


def test_early_stopping_ends_the_run():
    values = iter([5.0, 4.0, 4.5, 4.2, 1.0])
    history = fit(
        tx=ps.sgd(0.1), epochs=9, evaluate=lambda _: next(values), stop_when=ps.early_stopping("val_loss", 2)
    ).history
    assert history["val_loss"] == [5.0, 4.0, 4.5, 4.2]


def test_early_stopping_wants_more_than_min_delta():
    history = {"val_loss": [5.0, 4.95, 4.92]}
    assert ps.early_stopping("val_loss", patience=2, min_delta=0.1)(history)
    assert not ps.early_stopping("val_loss", patience=2, min_delta=0.05)(history)


def test_early_stopping_in_the_middle_of_an_epoch():
    history = fit(steps=40, batch_size=5, record_every=2, stop_when=lambda h: len(h["step"]) == 3).history
    assert history["step"] == [2, 4, 6]


def test_callbacks_see_each_record_and_the_state():
    seen = []
    fit(epochs=2, batch_size=10, callbacks=[lambda r, s: seen.append((r["step"], int(s.step), sorted(r)))])
    assert seen == [(step, step, ["epoch", "grad_norm", "learning_rate", "loss", "step"]) for step in (5, 10)]


def test_the_plateau_may_follow_the_held_out_loss():
    """One decision an epoch of 5 steps; nothing is measured before the first record."""
    tx = ps.chain(ps.sgd(0.1), ps.reduce_on_plateau(factor=0.5, patience=2, accumulation_size=5))
    values = iter([3.0, 2.0, 2.5, 2.5, 2.5, 2.5, 2.5])
    history = fit(
        tx=tx,
        epochs=7,
        batch_size=10,
        evaluate=lambda _: next(values),
        extra_args=lambda record: {"value": record["val_loss"] if record else torch.nan},
    ).history
    assert history["learning_rate"] == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.025])


def test_full_mini_batch_and_pure_sgd_are_one_setting():
    """The closer to full gradient descent, the closer the end to the least squares solution."""
    best = ps.models.least_squares(X, Y)

    def error(size: int) -> float:
        state, _ = fit(tx=ps.sgd(0.05), steps=1500, batch_size=size)
        return ps.tree.norm(ps.tree.map(torch.sub, state.params, best)).item()

    errors = [error(size) for size in (50, 10, 1)]
    assert errors[0] < 1e-5 < errors[1] < errors[2]
