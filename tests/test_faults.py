"""Steps that are not finite: found, told of, written down, run again; or left out and counted."""

from __future__ import annotations

import math
import re
import sys
from typing import Any, NamedTuple

import pytest
import torch

import pure_sgd as ps

(X, Y), _ = ps.data.linear_regression(ps.random.key(0), n=40, features=3)
BAD_ROW = 17
X_BAD = X.clone()
X_BAD[BAD_ROW, 1] = torch.nan
MODEL = ps.models.linear(3)
PARAMS = MODEL.init(ps.random.key(1))
LOSS = ps.empirical_risk(lambda params, x, y: ps.losses.squared_error(MODEL.apply(params, x), y))
TX = ps.adam(0.01)
MODES = ["eager", "replayed", "donated"]


def fit(data: Any = (X_BAD, Y), how: str = "eager", loss: Any = LOSS, tx: Any = TX, **options: Any) -> Any:
    options = {"epochs": 4, "batch_size": 8, "seed": 3, "progress": False, **options}
    options["compile"] = {"eager": False, "replayed": "auto", "donated": True}[how]
    return ps.fit(loss, tx, PARAMS, data, **options)


@pytest.fixture(autouse=True)
def quick_compiler(monkeypatch: Any):
    """The structure is tested: operations run one by one."""
    from pure_sgd.training import loop

    def compile_step(step: Any, **options: Any) -> Any:
        return ps.compile_step(step, **options, backend="aot_eager")

    monkeypatch.setattr(loop, "compile_step", compile_step)


def stopped(**options: Any) -> Any:
    with pytest.raises(ps.NonFiniteError) as caught:
        fit(**options)
    return caught.value


def batches(epochs: int = 4) -> list[list[int]]:
    return [row.tolist() for e in range(epochs) for row in ps.epoch_indices(40, 8, 3, e)]


def by_hand(rows: list[list[int]], x: torch.Tensor = X_BAD) -> ps.TrainState:
    step, state = ps.make_step(LOSS, TX), ps.init_train_state(PARAMS, TX)
    for row in rows:
        state, _ = step(state, (x[row], Y[row]))
    return state


def assert_same(one: Any, other: Any, atol: float = 0.0) -> None:
    assert ps.tree.structure(one) == ps.tree.structure(other)
    for a, b in zip(ps.tree.leaves(one), ps.tree.leaves(other), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol, equal_nan=True)


@pytest.mark.parametrize("how", MODES)
def test_a_run_stops_at_the_step_and_names_the_row(how: str, tmp_path: Any):
    error = stopped(how=how, checkpoint=tmp_path, epochs=8)
    bad = next(k for k, rows in enumerate(batches()) if BAD_ROW in rows)
    assert error.step == bad
    assert error.rows == batches()[bad]
    fault = error.fault
    assert fault == ps.Fault("loss", ("params['b']", "params['w']"), error.rows.index(BAD_ROW), ("batch[0]",))
    assert error.path.is_relative_to(tmp_path)
    assert str(error) == (
        f"fit: step {bad} (epoch 0, batch {bad}) is not finite: the first that is not is the loss at "
        f"params['b'], params['w'] of example {fault.example} of the batch, row {BAD_ROW} of the data and "
        f"batch[0] was not to begin with; replay_fault('{error.path}', loss, tx, params) runs it again. "
        "nonfinite='skip' leaves such steps out and counts them."
    )


@pytest.mark.parametrize("how", MODES)
def test_the_state_before_the_step_and_its_batch_come_back(how: str, tmp_path: Any):
    error = stopped(how=how, checkpoint=tmp_path, epochs=8)
    state, batch, extra = ps.load_fault(error.path, TX, PARAMS)
    rows = batches()
    assert_same(state, by_hand(rows[: error.step]), atol=1e-6)
    assert_same(batch, (X_BAD[error.rows], Y[error.rows]))
    assert extra == {}
    assert ps.replay_fault(error.path, LOSS, TX, PARAMS) == error.fault
    assert ps.checkpoint_metadata(error.path)["rows"] == error.rows


def test_the_file_is_an_ordinary_checkpoint(tmp_path: Any):
    error = stopped(checkpoint=tmp_path)
    like: dict[str, Any] = {"state": ps.init_train_state(PARAMS, TX), "batch": (X[:8], Y[:8]), "extra": {}}
    assert int(ps.load_checkpoint(error.path, like)["state"].step) == error.step


def test_without_a_checkpoint_it_lies_in_a_temporary_directory(monkeypatch: Any, tmp_path: Any):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert stopped().path.parent == tmp_path


def test_the_run_itself_is_not_among_the_faults(tmp_path: Any):
    """The same run goes on once the cause is gone, from its last checkpoint."""
    stopped(data=(X_BAD, Y), checkpoint=tmp_path, checkpoint_every=1)
    assert ps.checkpoint_steps(tmp_path)
    assert_same(fit((X, Y), checkpoint=tmp_path, resume=True).state, by_hand(batches(), X))


@pytest.mark.parametrize("how", MODES)
def test_a_step_that_is_skipped_leaves_no_trace(how: str):
    rows = batches(8)
    with pytest.warns(UserWarning, match=r"fit: 8 of 40 steps were not finite and are left out"):
        state, history = fit(how=how, nonfinite="skip", epochs=8)
    good = by_hand([row for row in rows if BAD_ROW not in row])
    assert_same(state[1:], good[1:], atol=1e-6)
    assert int(state.step) == 40
    assert history["skipped"] == [1] * 8
    assert all(map(math.isfinite, history["loss"]))


def test_skipped_steps_are_counted_through_a_resumed_run(tmp_path: Any):
    with pytest.warns(UserWarning, match="2 of 10"):
        whole = fit(nonfinite="skip", epochs=None, steps=10)
    bad = next(k for k, rows in enumerate(batches()) if BAD_ROW in rows)
    with pytest.warns(UserWarning, match=f"1 of {bad + 1}"):
        fit(nonfinite="skip", epochs=None, steps=bad + 1, checkpoint=tmp_path, checkpoint_every=1)
    with pytest.warns(UserWarning, match="2 of 10"):
        again = fit(nonfinite="skip", epochs=None, steps=10, checkpoint=tmp_path, resume=True)
    assert_same(again.state, whole.state)


def test_skipping_is_counted_in_the_progress_bar(capsys: Any, monkeypatch: Any):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with pytest.warns(UserWarning, match="left out"):
        fit(nonfinite="skip", progress=True)
    assert "skipped=1" in capsys.readouterr().err


def test_a_finite_run_is_as_if_nobody_looked():
    assert_same(fit((X, Y)), fit((X, Y), nonfinite="allow"))
    history = fit((X, Y), nonfinite="skip").history
    assert history.pop("skipped") == [0] * 4
    assert history == fit((X, Y)).history


def test_allow_goes_on():
    state, history = fit(nonfinite="allow")
    assert state.params["w"].isnan().all()
    assert "skipped" not in history


def weighted(params: Any, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return ((params["w"] * x).sum() * scale).abs().sqrt() + params["b"] ** 2


def test_a_gradient_may_be_the_first_that_is_not_finite():
    """The square root at 0 has a finite value and an infinite slope; only one leaf sees it."""
    scale = torch.ones(40)
    scale[BAD_ROW] = 0.0
    error = stopped(loss=ps.empirical_risk(weighted), data=(X, scale))
    fault = error.fault
    assert (fault.stage, fault.leaves, fault.inputs) == ("gradient", ("params['w']",), ())
    assert error.rows[fault.example] == BAD_ROW
    leaf_only = stopped(loss=ps.empirical_risk(weighted), data=(X, scale), detect="leaf").fault
    assert leaf_only == fault._replace(example=None)


def test_a_loss_of_batches_names_the_leaf_and_the_rows():
    def batch_loss(params: Any, batch: Any) -> torch.Tensor:
        return ((batch[0] @ params["w"] + params["b"] - batch[1]) ** 2).mean()

    error = stopped(loss=batch_loss)
    assert error.fault == ps.Fault("loss", ("params['b']", "params['w']"), None, ("batch[0]",))
    assert f"of rows {', '.join(map(str, error.rows))} of the data" in str(error)


def overflowing(at: int) -> ps.GradientTransformation:
    """An optimizer of which one update overflows while the gradient is finite."""
    huge = ps.scale_by_schedule(
        lambda step: torch.where(step == at, 3e38, 0.1) * torch.where(step == at, 2e3, 1.0)
    )
    return ps.chain(ps.sgd(0.1), huge)


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("how", MODES)
@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_an_update_is_traced_to_its_step(how: str, policy: Any, checkpoint: bool, tmp_path: Any):
    """By the time anybody sees it the state before is gone; the steps are taken again."""
    options: dict[str, Any] = {"checkpoint": tmp_path} if checkpoint else {}
    tx = overflowing(7)
    error = stopped(data=(X, Y), tx=tx, how=how, nonfinite=policy, epochs=8, **options)
    assert error.step == 7
    assert error.fault.stage == "update"
    assert error.fault.leaves == ("params['b']", "params['w']")
    assert error.rows == batches()[7]
    assert ps.replay_fault(error.path, LOSS, tx, PARAMS) == error.fault


def test_the_last_update_of_a_run_is_looked_at_too():
    error = stopped(data=(X, Y), tx=overflowing(7), epochs=None, steps=8)
    assert (error.step, error.fault.stage) == (7, "update")


def test_an_update_that_cannot_be_traced_is_told_of_all_the_same():
    stream = ((X[i : i + 8], Y[i : i + 8]) for i in range(0, 40, 8))
    with pytest.raises(ps.NonFiniteError, match=r"params\['b'\], params\['w'\] is not finite after 5 steps"):
        ps.fit(LOSS, overflowing(4), PARAMS, stream, epochs=1, progress=False)


class Pair(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


@pytest.mark.parametrize(
    "batch",
    [
        {"x": X_BAD, "y": Y},
        Pair(X_BAD, Y),
        ({"x": [X_BAD, None]}, {"more": (Y, 3, 0.5, "text", True)}),
    ],
    ids=["dict", "fields", "nested"],
)
def test_any_batch_of_an_iterable_is_kept(batch: Any):
    def loss(params: Any, batch: Any) -> torch.Tensor:
        x, y = [leaf for leaf in ps.tree.leaves(batch) if isinstance(leaf, torch.Tensor)]
        return ((x @ params["w"] + params["b"] - y) ** 2).mean()

    with pytest.raises(ps.NonFiniteError) as caught:
        ps.fit(loss, TX, PARAMS, [batch], epochs=1, progress=False)
    error: Any = caught.value
    assert error.rows is None
    found = ps.load_fault(error.path, TX, PARAMS).batch
    assert [type(node) for _, node in ps.tree.walk(found)][1:] == [type(n) for _, n in ps.tree.walk(batch)][
        1:
    ]
    assert ps.replay_fault(error.path, loss, TX, PARAMS) == error.fault


def test_extra_arguments_are_kept():
    tx = ps.chain(ps.sgd(0.1), ps.reduce_on_plateau())
    error = stopped(tx=tx, extra_args=lambda record: {"value": torch.tensor(2.0)})
    assert ps.load_fault(error.path, tx, PARAMS).extra == {"value": torch.tensor(2.0)}


def test_a_batch_that_no_checkpoint_holds_is_told_of():
    class Row:
        x = X_BAD[BAD_ROW]

    def loss(params: Any, batch: Any) -> torch.Tensor:
        return (batch[0].x @ params["w"]) ** 2

    with pytest.raises(ps.NonFiniteError, match="it could not be saved") as caught:
        ps.fit(loss, TX, PARAMS, [(Row(),)], epochs=1, progress=False)
    assert caught.value.path is None


def test_other_files_are_refused(tmp_path: Any):
    ps.save_checkpoint(tmp_path, {}, 1)
    with pytest.raises(ps.PureSGDError, match="holds no faulty step"):
        ps.load_fault(tmp_path, TX, PARAMS)
    error = stopped()
    with pytest.raises(ps.PureSGDError, match=re.escape("['state'].params['w'] is float32 (3,) in the file")):
        ps.load_fault(error.path, TX, {**PARAMS, "w": torch.ones(4)})


@pytest.mark.parametrize("option", [{"nonfinite": "ignore"}, {"detect": True}])
def test_a_choice_that_is_none_is_refused(option: dict[str, Any]):
    with pytest.raises(ps.PureSGDError, match="Pass one of"):
        fit((X, Y), **option)


def test_a_finite_step_has_no_fault():
    assert ps.find_fault(LOSS, TX, ps.init_train_state(PARAMS, TX), (X, Y)) is None
