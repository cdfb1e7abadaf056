"""What a user writes, as a strict type checker reads it: types of parameters and data stay."""

from typing import NamedTuple, assert_type

import torch
from torch import Tensor

import pure_sgd as ps


class Params(NamedTuple):
    w: Tensor
    b: Tensor


def example_loss(params: Params, x: Tensor, y: Tensor) -> Tensor:
    return ps.losses.squared_error(x @ params.w + params.b, y)


def log(record: dict[str, float], state: ps.TrainState) -> None:
    print(record["loss"], int(state.step))


data, truth = ps.data.linear_regression(ps.random.key(0), n=64)
assert_type(data, tuple[Tensor, Tensor])
assert_type(truth, dict[str, Tensor])
train, held_out = ps.data.train_test_split(data, test_fraction=0.25)
assert_type(train, tuple[Tensor, Tensor])

loss = ps.empirical_risk(example_loss)
params = Params(torch.zeros(5), torch.zeros(()))
assert_type(loss(params, train), Tensor)
tx = ps.chain(ps.clip_by_global_norm(1.0), ps.adamw(ps.cosine_decay_schedule(1e-2, 100)), ps.params_ema(0.9))
assert_type(tx, ps.GradientTransformation)

step = ps.make_step(loss, tx)
state = ps.init_train_state(params, tx)
assert_type(state, ps.TrainState[Params])
for rows in ps.epoch_indices(48, batch_size=8, seed=0, epoch=0):
    batch = ps.data.take(train, rows)
    assert_type(batch, tuple[Tensor, Tensor])
    state, metrics = step(state, batch)
    assert_type(state, ps.TrainState[Params])
    assert_type(state.params.w, Tensor)
    assert_type(metrics, dict[str, Tensor])
again, metrics = ps.compile_step(step, backend="eager")(state, train)
assert_type(again.params, Params)
again, stacked = ps.scan_indices(step, state, train, ps.epoch_indices(48, 8, 0, 0), compile=False)
assert_type(again.params, Params)
assert_type(stacked["loss"], Tensor)

fitted, history = ps.fit(
    loss,
    tx,
    params,
    train,
    epochs=2,
    batch_size=8,
    statistics=2,
    evaluate=lambda params: loss(params, held_out),
    callbacks=[log],
)
assert_type(fitted, ps.TrainState[Params])
assert_type(history, ps.History)
assert_type(history["val_loss"][-1], float)
assert_type(ps.eval_params(fitted.opt_state, fitted.params), Params)

moments = ps.gradient_moments(example_loss)(params, train)
assert_type(moments, ps.GradientMoments[Params])
assert_type(moments.variance.w, Tensor)
assert_type(ps.noise_scale(moments).simple, Tensor)
assert_type(ps.per_example_grads(example_loss)(params, train), Params)
assert_type(ps.per_example_grad_norms(example_loss)(params, train), Tensor)
value, grads = ps.value_and_grad(loss)(params, train)
assert_type(grads, Params)
updates, opt_state = tx.update(grads, tx.init(params), params)
assert_type(ps.apply_updates(params, updates), Params)
print(ps.describe(fitted), tx)
