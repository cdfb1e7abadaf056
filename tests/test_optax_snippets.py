"""Code as people write it for Optax: with the calls of JAX replaced by those of torch, it runs and agrees.

The snippets stand here as they run under Optax, and what each leaves in ``result`` was recorded from there
(0.2.8, in float64). Nothing else is replaced than what ``REPLACED`` names. The last tests hold what is
spelled in another way here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import pure_sgd as ps

#: What is replaced in a snippet, in this order.
REPLACED = {
    "import jax.numpy as jnp": "import torch",
    "import jax\n": "",
    "import optax": "import pure_sgd as optax",
    "optax.contrib.": "optax.",
    "jax.grad": "torch.func.grad",
    "jax.value_and_grad": "optax.value_and_grad",
    "jax.tree.map": "optax.tree.map",
    "jnp.array": "torch.tensor",
    "jnp.": "torch.",
}

HEAD = """
import jax
import jax.numpy as jnp
import optax
"""

#: name -> the snippet, and the numbers in ``result``, leaf after leaf.
SNIPPETS: dict[str, tuple[str, list[float]]] = {
    "adam, from the first page of the documentation": (
        HEAD
        + """
def compute_loss(params, x, y):
    y_pred = params['w'] * x + params['b']
    return jnp.mean(optax.losses.l2_loss(y_pred, y))

optimizer = optax.adam(learning_rate=1e-1)
params = {'w': jnp.array(1.0), 'b': jnp.array(0.0)}
opt_state = optimizer.init(params)
xs, ys = jnp.array([0.0, 1.0, 2.0]), jnp.array([1.0, 3.0, 5.0])

for _ in range(20):
    grads = jax.grad(compute_loss)(params, xs, ys)
    updates, opt_state = optimizer.update(grads, opt_state)
    params = optax.apply_updates(params, updates)
result = [params['w'], params['b']]
""",
        [2.271154096523935, 1.2711540945792803],
    ),
    "a chain of clipping, Adam, a schedule and the sign": (
        HEAD
        + """
scheduler = optax.exponential_decay(init_value=0.1, transition_steps=2, decay_rate=0.9)
gradient_transform = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.scale_by_adam(),
    optax.scale_by_schedule(scheduler),
    optax.scale(-1.0),
)
params = jnp.array([1.0, -2.0, 3.0])
opt_state = gradient_transform.init(params)
for _ in range(5):
    grads = jax.grad(lambda p: jnp.sum(p ** 4))(params)
    updates, opt_state = gradient_transform.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
result = params
""",
        [0.564884188302348, -1.5510020262767552, 2.548611281534578],
    ),
    "adamw with warm-up, cosine decay and a mask for the decay": (
        HEAD
        + """
schedule = optax.warmup_cosine_decay_schedule(
    init_value=0.0, peak_value=0.1, warmup_steps=3, decay_steps=10, end_value=0.01)
params = {'kernel': jnp.array([[0.5, -1.0], [2.0, 0.1]]), 'bias': jnp.array([0.3, -0.3])}
decay_mask = jax.tree.map(lambda p: p.ndim > 1, params)
tx = optax.adamw(schedule, b1=0.9, b2=0.95, weight_decay=0.1, mask=decay_mask)
state = tx.init(params)
for _ in range(6):
    grads = jax.tree.map(jnp.sin, params)
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
result = [params['bias'], params['kernel']]
""",
        [
            -0.054618723140277534,
            0.054618723140277534,
            0.11730564653010597,
            -0.591786774445693,
            1.5518470991945499,
            -0.11010041352915279,
        ],
    ),
    "two optimizers by label, one part frozen": (
        HEAD
        + """
params = {'encoder': jnp.array([1.0, 2.0]), 'head': jnp.array([3.0]), 'rest': jnp.array([4.0])}
tx = optax.multi_transform(
    {'fast': optax.sgd(0.5, momentum=0.9), 'slow': optax.adam(1e-2), 'none': optax.set_to_zero()},
    {'encoder': 'slow', 'head': 'fast', 'rest': 'none'},
)
state = tx.init(params)
for _ in range(3):
    updates, state = tx.update(params, state, params)
    params = optax.apply_updates(params, updates)
result = [params['encoder'], params['head'], params['rest']]
""",
        [0.97001009952905, 1.9700049116425102, -2.1900000000000004, 4.0],
    ),
    "schedules joined, as functions and as a learning rate": (
        HEAD
        + """
schedule = optax.join_schedules(
    schedules=[optax.linear_schedule(0.0, 1.0, transition_steps=4), optax.cosine_decay_schedule(1.0, 6),
               optax.constant_schedule(0.05)],
    boundaries=[4, 8],
)
tx = optax.sgd(learning_rate=schedule)
params = jnp.array([1.0])
state = tx.init(params)
seen = []
for step in range(10):
    updates, state = tx.update(jnp.array([1.0]), state)
    seen.append(updates[0])
result = [jnp.stack(seen), jnp.stack([jnp.array(float(schedule(i))) for i in (1, 5, 9)])]
""",
        [
            0.0,
            -0.25,
            -0.5,
            -0.75,
            -1.0,
            -0.9330127239227295,
            -0.75,
            -0.5,
            -0.05000000074505806,
            -0.05000000074505806,
            0.25,
            0.9330127018922194,
            0.05,
        ],
    ),
    "gradients accumulated by MultiSteps": (
        HEAD
        + """
opt = optax.MultiSteps(optax.adamw(0.1, weight_decay=0.01), every_k_schedule=4)
params = jnp.array([1.0, -1.0])
state = opt.init(params)
updated = []
for i in range(10):
    grads = jax.grad(lambda p: jnp.sum((p - i) ** 2))(params)
    updates, state = opt.update(grads, state, params=params)
    params = optax.apply_updates(params, updates)
    updated.append(1.0 if opt.has_updated(state) else 0.0)
chained = optax.chain(optax.clip(1.0), optax.MultiSteps(optax.sgd(1.0), 2).gradient_transformation())
half, _ = chained.update(params, chained.init(params), params)
result = [params, jnp.array(updated), half]
""",
        [1.1793996848712724, -0.8044118441240241, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0],
    ),
    "a learning rate written into the state": (
        HEAD
        + """
optimizer = optax.inject_hyperparams(optax.adamw)(learning_rate=0.1, weight_decay=0.0)
params = jnp.array([1.0, 2.0])
opt_state = optimizer.init(params)
for epoch in range(4):
    if epoch == 2:
        opt_state.hyperparams['learning_rate'] = jnp.array(0.01)
    grads = jax.grad(lambda p: jnp.sum(p ** 2))(params)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
result = [params, opt_state.hyperparams['learning_rate']]
""",
        [0.7806833005961095, 1.7802724177377585, 0.01],
    ),
    "steps that are not finite are left out": (
        HEAD
        + """
tx = optax.apply_if_finite(optax.sgd(0.1, momentum=0.9), max_consecutive_errors=3)
params = jnp.array([1.0, 2.0])
state = tx.init(params)
for scale in (1.0, float('nan'), float('inf'), 1.0):
    updates, state = tx.update(params * scale, state, params)
    params = optax.apply_updates(params, updates)
result = [params, state.total_notfinite * 1.0, state.notfinite_count * 1.0]
""",
        [0.72, 1.44, 2.0, 0.0],
    ),
    "an average of the parameters kept by ema, debiased": (
        HEAD
        + """
tx, average = optax.sgd(0.2), optax.ema(decay=0.9)
params = {'w': jnp.array([1.0, -4.0])}
state, ema_state = tx.init(params), average.init(params)
for _ in range(5):
    updates, state = tx.update(params, state)
    params = optax.apply_updates(params, updates)
    ema_params, ema_state = average.update(params, ema_state)
result = [params['w'], ema_params['w'], ema_state.ema['w']]
""",
        [0.32768, -1.31072, 0.5134135918536789, -2.0536543674147154, 0.210248, -0.840992],
    ),
    "a target network": (
        HEAD
        + """
online, target, frozen = {'w': jnp.array([1.0])}, {'w': jnp.array([0.0])}, {'w': jnp.array([0.0])}
for step in range(1, 8):
    online = jax.tree.map(lambda p: p * 1.1, online)
    target = optax.incremental_update(online, target, step_size=0.05)
    frozen = optax.periodic_update(online, frozen, steps=step, update_period=3)
result = [online['w'], target['w'], frozen['w']]
""",
        [1.9487171000000014, 0.4584725947656252, 1.771561000000001],
    ),
    "norms to log, and arithmetic on trees": (
        HEAD
        + """
grads = {'a': jnp.array([3.0, 0.0]), 'b': {'c': jnp.array(4.0)}}
clipped, _ = optax.clip_by_global_norm(0.5).update(grads, optax.EmptyState())
zeros = optax.tree.zeros_like(grads)
result = [optax.global_norm(grads), optax.tree.norm(clipped), optax.tree.norm(zeros),
          optax.tree.vdot(grads, clipped)]
""",
        [5.0, 0.5, 0.0, 2.5],
    ),
    "a transformation of one's own in a chain": (
        HEAD
        + """
from typing import NamedTuple

class ScaleByCountState(NamedTuple):
    count: jnp.array

def scale_by_count():
    def init_fn(params):
        return ScaleByCountState(jnp.array(0))

    def update_fn(updates, state, params=None):
        updates = jax.tree.map(lambda u: u / (state.count + 1), updates)
        return updates, ScaleByCountState(state.count + 1)

    return optax.GradientTransformation(init_fn, update_fn)

tx = optax.chain(scale_by_count(), optax.trace(decay=0.9), optax.scale_by_learning_rate(0.1))
params = jnp.array([1.0, -2.0])
state = tx.init(params)
for _ in range(4):
    updates, state = tx.update(params, state, params)
    params = optax.apply_updates(params, updates)
result = [params, state[0].count * 1.0]
""",
        [0.47024999999999995, -0.9404999999999999, 4.0],
    ),
    "a plateau that is told the loss": (
        HEAD
        + """
tx = optax.chain(
    optax.adam(0.5),
    optax.contrib.reduce_on_plateau(factor=0.5, patience=2, rtol=1e-4, accumulation_size=1),
)
loss = lambda p: jnp.sum((p - 1.0) ** 2)
params = jnp.array([0.0, 3.0])
state = tx.init(params)
for _ in range(12):
    value, grads = jax.value_and_grad(loss)(params)
    updates, state = tx.update(grads, state, params, value=value)
    params = optax.apply_updates(params, updates)
result = params
""",
        [1.1652694014415956, 0.2863302846624598],
    ),
    "sharpness-aware minimisation in opaque mode": (
        HEAD
        + """
rho = 0.1
opt = optax.contrib.sam(
    optax.sgd(0.1), optax.chain(optax.contrib.normalize(), optax.sgd(rho)), sync_period=2, opaque_mode=True)
loss = lambda p: jnp.sum(jnp.cosh(p))
grad_fn = jax.grad(lambda params, _: loss(params))
params = jnp.array([1.0, -0.5])
state = opt.init(params)
for _ in range(5):
    updates, state = opt.update(grad_fn(params, 0), state, params, grad_fn=grad_fn)
    params = optax.apply_updates(params, updates)
result = params
""",
        [0.5072396193353669, -0.2714589039210439],
    ),
    "a classifier trained on its cross entropy": (
        HEAD
        + """
x = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.5]])
y = jnp.array([0, 1, 2, 1])

def loss_fn(params):
    logits = x @ params['w'] + params['b']
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, y).mean()

params = {'w': jnp.zeros((2, 3)), 'b': jnp.zeros((3,))}
solver = optax.chain(optax.add_decayed_weights(1e-2), optax.sgd(0.5, momentum=0.9, nesterov=True))
state = solver.init(params)
for _ in range(10):
    loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, state = solver.update(grads, state, params)
    params = optax.apply_updates(params, updates)
result = [loss, params['b'], params['w']]
""",
        [
            0.15188776631605672,
            0.09316676774888083,
            0.9663074384344612,
            -1.0594742061833413,
            1.9186372260244666,
            -3.3355968851728424,
            1.4169596591483753,
            -2.3460947747885834,
            1.2563245490727761,
            1.089770225715807,
        ],
    ),
}
# end of the snippets


@pytest.fixture
def in_float64() -> Iterator[None]:
    """As the numbers were recorded."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def run(text: str) -> dict[str, Any]:
    for old, new in REPLACED.items():
        text = text.replace(old, new)
    names: dict[str, Any] = {}
    exec(text, names)
    return names


@pytest.mark.parametrize("name", SNIPPETS)
def test_a_snippet_runs_and_agrees_with_optax(name: str, in_float64: None):
    text, want = SNIPPETS[name]
    got = [number for leaf in ps.tree.leaves(run(text)["result"]) for number in leaf.reshape(-1).tolist()]
    # Optax evaluates schedules, and gathers gradients in MultiSteps, in float32.
    tolerance = 1e-6 if "schedule" in text or "MultiSteps" in text else 1e-11
    assert got == pytest.approx(want, rel=tolerance, abs=tolerance)


def test_the_parameters_of_lookahead_keep_their_type(in_float64: None):
    """Optax makes them ``LookaheadParams(fast, slow)``; here ``eval_params`` reads the slow ones."""
    tx = ps.lookahead(ps.sgd(0.5), sync_period=5, slow_step_size=0.5)
    params = torch.tensor([1.0, -3.0])
    state = tx.init(params)
    for _ in range(12):
        updates, state = tx.update(params, state, params)
        params = ps.apply_updates(params, updates)
    # Recorded: params.fast and params.slow of Optax.
    recorded: dict[str, list[float]] = {
        "fast": [0.06646728515625, -0.19940185546875],
        "slow": [0.265869140625, -0.797607421875],
    }
    assert params.tolist() == pytest.approx(recorded["fast"], rel=1e-12)
    assert ps.eval_params(state, params).tolist() == pytest.approx(recorded["slow"], rel=1e-12)


def test_a_mask_that_is_a_function_may_take_the_tree_or_the_path_of_a_leaf():
    """Optax gives it the whole tree, and takes one of the same structure."""
    params = {"kernel": torch.ones(2, 2), "bias": torch.ones(2)}
    for mask in (
        lambda params: ps.tree.map(lambda p: p.ndim > 1, params),
        lambda params: {name: name == "kernel" for name in params},
        lambda path: path.endswith("['kernel']"),
        ps.tree.map(lambda p: p.ndim > 1, params),
    ):
        tx = ps.add_decayed_weights(0.1, mask=mask)
        updates, _ = tx.update(ps.tree.map(torch.zeros_like, params), tx.init(params), params)
        assert updates["kernel"].sum() == pytest.approx(0.4)
        assert updates["bias"].sum() == 0


def test_labels_that_are_a_function_may_take_the_tree_or_the_path_of_a_leaf():
    params = {"kernel": torch.ones(2, 2), "bias": torch.ones(2)}
    for labels in (
        lambda params: ps.tree.map(lambda p: "matrix" if p.ndim > 1 else "rest", params),
        lambda params: {name: "matrix" if name == "kernel" else "rest" for name in params},
        lambda path: "matrix" if path.endswith("['kernel']") else "rest",
    ):
        tx = ps.partition({"matrix": ps.scale(2.0), "rest": ps.scale(3.0)}, labels)
        updates, _ = tx.update(params, tx.init(params), params)
        assert [float(u.mean()) for u in updates.values()] == [2.0, 3.0]


def test_a_mistake_in_such_a_function_is_shown_as_it_is():
    tx = ps.masked(ps.scale(2.0), lambda path: path.no_such_method())
    with pytest.raises(AttributeError, match="'str' object has no attribute 'no_such_method'"):
        tx.init({"kernel": torch.ones(2)})


def test_what_nobody_reads_is_an_error_here():
    """Optax leaves it out without a word, misspelled names too."""
    tx = ps.chain(ps.sgd(0.1))
    with pytest.raises(ps.PureSGDError, match="nobody reads the extra argument 'vlaue'"):
        tx.update(torch.ones(1), tx.init(torch.ones(1)), vlaue=1.0)
