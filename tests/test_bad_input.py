"""Every mistake gets one sentence: where, what was got against what was expected, the remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import pure_sgd as ps

X, Y = torch.ones(4, 2), torch.ones(4)
PARAMS = {"layers": [{"w": torch.ones(2), "b": torch.zeros(())}]}


def example_loss(params: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    layer = params["layers"][0]
    return (x @ layer["w"] + layer["b"] - y) ** 2


LOSS = ps.empirical_risk(example_loss)
SGD = ps.sgd(0.1)


def one_step(tx: Any = SGD, loss: Any = LOSS, **extra: Any) -> Any:
    return ps.make_step(loss, tx)(ps.init_train_state(PARAMS, tx), (X, Y), **extra)


def updated(updates: Any) -> Any:
    tx = ps.sgd(0.1, momentum=0.9)
    return tx.update(updates, tx.init(PARAMS), PARAMS)


def fitted(data: Any = (X, Y), epochs: int | None = 1, **options: Any) -> Any:
    return ps.fit(LOSS, ps.sgd(0.1), PARAMS, data, epochs=epochs, progress=False, **options)


CASES: list[tuple[str, Callable[[], Any], str]] = [
    (
        "wrong shape",
        lambda: ps.apply_updates(PARAMS, {"layers": [{"w": torch.ones(2, 1), "b": torch.zeros(())}]}),
        "updates['layers'][0]['w']: shape (2, 1) does not match shape (2,) of params['layers'][0]['w']. "
        "Nothing is broadcast here: reshape or reduce it first.",
    ),
    (
        "wrong shape in a chain",
        lambda: updated({"layers": [{"w": torch.ones(2, 1), "b": torch.zeros(())}]}),
        "updates['layers'][0]['w']: shape (2, 1) does not match shape (2,) of params['layers'][0]['w']. "
        "Nothing is broadcast here: reshape or reduce it first.",
    ),
    (
        "missing leaf",
        lambda: updated({"layers": [{"w": torch.ones(2)}]}),
        "updates['layers'][0]['b']: is missing, and params['layers'][0]['b'] is there. "
        "Give updates the structure of params.",
    ),
    (
        "extra leaf",
        lambda: updated({"layers": [{"w": torch.ones(2), "b": torch.zeros(()), "c": torch.ones(1)}]}),
        "updates['layers'][0]['c']: is there, and params['layers'][0]['c'] is not. "
        "Give updates the structure of params.",
    ),
    (
        "wrong structure",
        lambda: updated({"layers": ({"w": torch.ones(2), "b": torch.zeros(())},)}),
        "updates['layers']: is of type tuple, and params['layers'] of type list. "
        "Give updates the structure of params.",
    ),
    (
        "wrong dtype",
        lambda: ps.init_train_state({"count": torch.tensor([1, 2])}, ps.sgd(0.1)),
        "params['count']: has dtype torch.int64, and only floating-point leaves can be trained. "
        "Convert it, or put it under the key 'buffers'.",
    ),
    (
        "wrong dtype in a gradient",
        lambda: ps.value_and_grad(lambda p: p["count"].sum())({"count": torch.tensor([1, 2])}),
        "params['count']: has dtype torch.int64, and only floating-point leaves have a gradient. "
        "Convert it, or keep it out of params: close over it, or put it under 'buffers'.",
    ),
    (
        "a number for a tensor",
        lambda: ps.init_train_state({"w": 1.0}, ps.sgd(0.1)),
        "params['w']: is a float, expected a tensor. Convert it with torch.as_tensor.",
    ),
    (
        "no parameters",
        lambda: ps.init_train_state({}, ps.sgd(0.1)),
        "params: holds no tensor. Pass a tree with at least one tensor.",
    ),
    (
        "a factory for a transform",
        lambda: ps.chain(ps.trace(0.9), ps.identity),
        "chain[1]: is a function, expected a GradientTransformation. Call the factory, as in trace(0.9).",
    ),
    (
        "non-scalar loss of a batch",
        lambda: one_step(loss=lambda params, batch: batch[0] @ params["layers"][0]["w"]),
        "loss: returned shape (4,), expected shape (). "
        "Return the mean over the batch, as empirical_risk does.",
    ),
    (
        "non-scalar loss of an example",
        lambda: ps.empirical_risk(lambda params, x, y: x * y)(PARAMS, (X, Y)),
        "example_loss: returned shape (2,), expected shape (). "
        "Let it return the loss of one example: a mean over that example's own axes.",
    ),
    (
        "a loss that is a number",
        lambda: one_step(loss=lambda params, batch: 1.0),
        "loss: returned a float, expected a tensor of shape (). "
        "Return the mean over the batch, as empirical_risk does.",
    ),
    (
        "an integer loss",
        lambda: one_step(loss=lambda params, batch: torch.tensor(1)),
        "loss: returned dtype torch.int64, expected a floating-point one. "
        "Return the mean over the batch, as empirical_risk does.",
    ),
    (
        "batch leaves that disagree",
        lambda: LOSS(PARAMS, (X, Y[:3])),
        "batch[1]: holds 3 examples where batch[0] holds 4. Give every leaf the same leading length.",
    ),
    (
        "data leaves that disagree",
        lambda: fitted((X, {"label": Y[:3]})),
        "data[1]['label']: holds 3 examples where data[0] holds 4. Give every leaf the same leading length.",
    ),
    (
        "empty data set",
        lambda: fitted((X[:0], Y[:0])),
        "data[0]: holds 0 examples: an empty data set has no mean loss. Pass at least one.",
    ),
    (
        "empty iterable",
        lambda: fitted([]),
        "data: gave no batch in epoch 0. Pass something that can be iterated over again "
        "(a generator cannot), or fewer epochs.",
    ),
    (
        "generator for two epochs",
        lambda: fitted(((X, Y) for _ in range(2)), epochs=2),
        "data: gave no batch in epoch 1. Pass something that can be iterated over again "
        "(a generator cannot), or fewer epochs.",
    ),
    (
        "batch size 0",
        lambda: fitted(batch_size=0),
        "fit: batch_size=0 is not at least 1. Pass a batch_size at least 1.",
    ),
    (
        "batch size larger than n",
        lambda: fitted(batch_size=5),
        "fit: batch_size=5 is more than the n=4 examples. "
        "Pass at most n; batch_size=n is full gradient descent.",
    ),
    (
        "batch size for an iterable",
        lambda: fitted([(X, Y)], batch_size=2),
        "batch_size: was given for data of type list, which makes its own batches. "
        "Leave it out, or pass a tuple of tensors.",
    ),
    (
        "data of no kind",
        lambda: fitted(3),
        "data: is a int, expected tensors or an iterable of batches. "
        "Pass a tuple of tensors, a DataLoader or a list of batches.",
    ),
    (
        "epochs and steps",
        lambda: fitted(steps=3),
        "fit: got epochs=1 and steps=3. Pass exactly one of them.",
    ),
    (
        "records more often than steps",
        lambda: fitted(record_every=0),
        "fit: record_every=0 is not at least 1. Pass a record_every at least 1.",
    ),
    (
        "compile mode",
        lambda: fitted(compile="fast"),
        "fit: compile='fast'. Pass True, False or 'auto'.",
    ),
    (
        "negative learning rate",
        lambda: ps.sgd(-0.1),
        "scale_by_learning_rate: learning_rate=-0.1 lies outside [0, inf). "
        "Pass a learning_rate within these bounds.",
    ),
    (
        "momentum of 1",
        lambda: ps.sgd(0.1, momentum=1.0),
        "trace: decay=1.0 lies outside [0, 1). Pass a decay within these bounds.",
    ),
    (
        "negative momentum",
        lambda: ps.sgd(0.1, momentum=-0.5),
        "trace: decay=-0.5 lies outside [0, 1). Pass a decay within these bounds.",
    ),
    (
        "a rate that is text",
        lambda: ps.sgd("0.1"),
        "scale_by_learning_rate: learning_rate='0.1' is of type str, expected a number, a 0-d tensor "
        "or a schedule. Pass learning_rate as one of these.",
    ),
    (
        "a rate for each coordinate",
        lambda: ps.sgd(torch.ones(3)),
        "scale_by_learning_rate: learning_rate is a tensor of shape (3,), expected a 0-d tensor. "
        "Map over its axis with torch.func.vmap, or pass one of its elements.",
    ),
    (
        "Nesterov with dampening",
        lambda: ps.sgd(0.1, momentum=0.9, nesterov=True, dampening=0.1),
        "trace: nesterov=True with dampening=0.1. Nesterov's rule has none: leave it at 0.",
    ),
    (
        "Nesterov without momentum",
        lambda: ps.sgd(0.1, nesterov=True),
        "sgd: nesterov=True and dampening=0.0 without momentum. Pass momentum=0.9, say.",
    ),
    (
        "an extra argument nobody reads",
        lambda: one_step(value=1.0),
        "step: nobody reads the extra argument 'value'; the optimizer reads none. "
        "Leave it out, or add the transform that needs it.",
    ),
    (
        "an extra argument nobody in a chain reads",
        lambda: ps.chain(ps.reduce_on_plateau()).update(
            PARAMS, ps.chain(ps.reduce_on_plateau()).init(PARAMS), PARAMS, valu=1.0
        ),
        "chain: nobody reads the extra argument 'valu'; this chain reads ['value']. "
        "Leave it out, or add the transform that needs it.",
    ),
    (
        "a plateau without value",
        lambda: ps.reduce_on_plateau().update(PARAMS, ps.reduce_on_plateau().init(PARAMS)),
        "reduce_on_plateau: the extra argument value is missing. Call update(..., value=loss).",
    ),
    (
        "a schedule that returns a vector",
        lambda: one_step(ps.sgd(lambda step: torch.ones(3) * step)),
        "scale_by_learning_rate: the schedule of learning_rate returned a tensor of shape (3,) at one "
        "step, expected shape (). Let it return one number; use a transform of its own for each part of "
        "the parameters.",
    ),
    (
        "weight decay without params",
        lambda: ps.add_decayed_weights(0.1).update(PARAMS, ps.EmptyState()),
        "add_decayed_weights: params is None, and this rule reads them. Call update(updates, state, params).",
    ),
    (
        "the state of another chain",
        lambda: ps.sgd(0.1).update(PARAMS, ps.sgd(0.1, momentum=0.9).init(PARAMS), PARAMS),
        "chain: the state holds 2 states, expected 1 states. Pass the state that this chain's init gave.",
    ),
    (
        "stopping by what is not recorded",
        lambda: fitted(stop_when=ps.early_stopping("val_los")),
        "early_stopping: 'val_los' is not recorded. Choose one of "
        "['epoch', 'grad_norm', 'learning_rate', 'loss', 'step'].",
    ),
    (
        "a curvature of another shape",
        lambda: ps.scale_by_preconditioner(torch.ones(3)).update(torch.ones(2), ps.EmptyState()),
        "curvature: shape (3,) does not match shape (2,) of updates. "
        "Nothing is broadcast here: reshape or reduce it first.",
    ),
]


@pytest.mark.parametrize("call, sentence", [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_the_sentence(call: Callable[[], Any], sentence: str):
    with pytest.raises(ps.PureSGDError) as caught:
        call()
    assert str(caught.value) == sentence


def test_a_compiled_step_says_the_same_sentence():
    tx = ps.sgd(0.1)
    step = ps.compile_step(ps.make_step(LOSS, tx), backend="eager")
    with pytest.raises(ps.PureSGDError, match=r"batch\[1\]: holds 3 examples where batch\[0\] holds 4"):
        step(ps.init_train_state(PARAMS, tx), (X, Y[:3]))


def test_a_replayed_step_says_the_same_sentence():
    tx = ps.sgd(0.1)
    step = ps.replay_step(ps.make_step(LOSS, tx))
    with pytest.raises(ps.PureSGDError, match=r"batch\[1\]: holds 3 examples where batch\[0\] holds 4"):
        step(ps.init_train_state(PARAMS, tx), (X, Y[:3]))
