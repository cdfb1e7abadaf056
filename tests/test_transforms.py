"""The mathematics of each transform by closed form, and how transforms go together."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch.func import grad

import pure_sgd as ps

Tree = Any


def f64(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def sentence_of(call: Callable[[], Any]) -> str:
    with pytest.raises(ps.PureSGDError) as caught:
        call()
    return str(caught.value)


def assert_close(got: Tree, want: Tree, rtol: float = 1e-12) -> None:
    torch.testing.assert_close(got, want, rtol=rtol, atol=1e-15)


def outputs(
    tx: ps.GradientTransformation, updates: list[Tree], params: Tree = None, **extra: Any
) -> tuple[list[Tree], Any]:
    """What ``tx`` makes of each of ``updates`` in turn, and its last state."""
    state, out = tx.init(updates[0] if params is None else params), []
    for u in updates:
        new, state = tx.update(u, state, params, **extra)
        out.append(new)
    return out, state


def descend(
    tx: ps.GradientTransformation, loss: Callable[[Tree], torch.Tensor], params: Tree, steps: int
) -> tuple[list[Tree], Any]:
    """The parameters after each step of gradient descent on ``loss``, and the last state."""
    state, seen = tx.init(params), []
    for _ in range(steps):
        updates, state = tx.update(grad(loss)(params), state, params)
        params = ps.apply_updates(params, updates)
        seen.append(params)
    return seen, state


def wave(params: dict[str, torch.Tensor]) -> torch.Tensor:
    """A loss that is neither convex nor a quadratic."""
    return params["w"].sin().sum() + (params["w"].prod() - params["b"]) ** 2


PARAMS = {"w": f64(0.7, -1.2, 0.4), "b": torch.tensor(0.3, dtype=torch.float64)}
STREAM = [f64(1.0, -2.0), f64(0.5, 0.25), f64(-3.0, 1.0), f64(0.1, 0.2), f64(2.0, -0.7)]


# Momentum


def test_trace_is_a_geometric_sum():
    got, _ = outputs(ps.trace(0.8), STREAM)
    assert_close(got, [sum(0.8 ** (n - k) * STREAM[k] for k in range(n + 1)) for n in range(5)])


def test_trace_of_a_constant_tends_to_its_geometric_limit():
    got, _ = outputs(ps.trace(0.9), [f64(1.0)] * 400)
    assert_close(got[-1], f64(1 / (1 - 0.9)))


def test_nesterov_looks_one_step_ahead():
    heavy, _ = outputs(ps.trace(0.8), STREAM)
    got, _ = outputs(ps.trace(0.8, nesterov=True), STREAM)
    assert_close(got, [u + 0.8 * m for u, m in zip(STREAM, heavy, strict=True)])


def test_dampening_spares_the_first_update():
    got, _ = outputs(ps.trace(0.8, dampening=0.3), STREAM)
    weights = [1.0, 0.7, 0.7, 0.7, 0.7]
    want = [sum(0.8 ** (n - k) * weights[k] * STREAM[k] for k in range(n + 1)) for n in range(5)]
    assert_close(got, want)


def test_the_accumulator_has_the_dtype_that_was_asked_for():
    tx = ps.trace(0.5, accumulator_dtype=torch.bfloat16)
    (first, second), state = outputs(tx, [torch.tensor([1.0]), torch.tensor([1 + 2**-8])])
    assert state.trace.dtype == torch.bfloat16
    assert (first.dtype, second.item()) == (torch.float32, 1.5)


# Adam


def test_adam_moves_by_one_whatever_the_scale_of_a_constant_gradient():
    gradient = f64(1e-3, -5.0, 1e4)
    got, _ = outputs(ps.scale_by_adam(eps=1e-6), [gradient] * 20)
    assert_close(got, [gradient / (gradient.abs() + 1e-6)] * 20)


def test_adam_is_its_two_moving_averages():
    b1, b2, eps, eps_root = 0.8, 0.95, 1e-3, 1e-2
    got, _ = outputs(ps.scale_by_adam(b1, b2, eps, eps_root), STREAM)
    for n, update in enumerate(got):
        # Bias correction makes each moment a weighted mean: weights b**(age) over their sum.
        mean, square = torch.zeros_like(update), torch.zeros_like(update)
        for k, u in enumerate(STREAM[: n + 1]):
            mean += b1 ** (n - k) * u * (1 - b1) / (1 - b1 ** (n + 1))
            square += b2 ** (n - k) * u**2 * (1 - b2) / (1 - b2 ** (n + 1))
        assert_close(update, mean / ((square + eps_root).sqrt() + eps))


# Weight decay


@pytest.mark.parametrize("momentum", [None, 0.9])
def test_weight_decay_before_momentum_is_a_penalty_in_the_objective(momentum: float | None):
    def penalised(params: dict[str, torch.Tensor]) -> torch.Tensor:
        return wave(params) + 0.3 / 2 * sum((p**2).sum() for p in params.values())

    decayed, _ = descend(ps.sgd(0.1, momentum, weight_decay=0.3), wave, PARAMS, 20)
    want, _ = descend(ps.sgd(0.1, momentum), penalised, PARAMS, 20)
    assert_close(decayed, want)


def test_weight_decay_shrinks_the_parameters_by_a_factor_before_the_gradient_step():
    seen, _ = descend(ps.sgd(0.1, weight_decay=0.3), wave, PARAMS, 20)
    for before, after in zip([PARAMS, *seen], seen, strict=False):
        g = grad(wave)(before)
        assert_close(after, {k: (1 - 0.1 * 0.3) * p - 0.1 * g[k] for k, p in before.items()})


HEAD_W, HEAD_B, W = "['head']['w']", "['head']['b']", "['w']"

MASKS: dict[str, tuple[Any, set[str]]] = {
    "none": (None, {HEAD_W, HEAD_B, W}),
    "all": (True, {HEAD_W, HEAD_B, W}),
    "nothing": (False, set()),
    "full tree": ({"head": {"w": True, "b": False}, "w": True}, {HEAD_W, W}),
    "prefix": ({"head": False, "w": True}, {W}),
    "predicate": (lambda path: not path.endswith("['b']"), {HEAD_W, W}),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_picks_the_leaves_that_decay(name: str):
    mask, decaying = MASKS[name]
    params = {"head": {"w": f64(1.0, 2.0), "b": f64(3.0)}, "w": f64(4.0)}
    updates = ps.tree.map(torch.ones_like, params)
    for tx in (
        ps.add_decayed_weights(0.5, mask),
        ps.add_decayed_weights(lambda step: 0.5, mask),
        ps.sgd(1.0, weight_decay=0.5, mask=mask),
    ):
        (got,), _ = outputs(tx, [updates], params)
        sign = -1 if "learning_rate" in repr(tx) else 1
        for (path, u), p in zip(ps.tree.named_leaves(got), ps.tree.leaves(params), strict=True):
            assert_close(u, sign * (1 + (0.5 * p if path in decaying else 0 * p)))


def test_a_mask_that_does_not_fit_is_refused():
    tx = ps.add_decayed_weights(0.5, {"w": True})
    assert sentence_of(lambda: tx.update(PARAMS, tx.init(PARAMS), PARAMS)) == (
        """add_decayed_weights: mask is ["['w']"] where the tree holds ["['b']", "['w']"]. """
        "Pass a bool for every leaf or subtree, or a predicate on the leaf's path."
    )


@pytest.mark.parametrize("make", [ps.add_decayed_weights, ps.params_ema], ids=lambda f: f.__name__)
def test_a_rule_that_reads_the_parameters_asks_for_them(make: Any):
    tx = make(0.5)
    assert sentence_of(lambda: tx.update(PARAMS, tx.init(PARAMS))) == (
        f"{make.__name__}: params is None, and this rule reads them. Call update(updates, state, params)."
    )


# Preconditioning


@pytest.mark.parametrize("power", [0, 0.5, 0.8, 1, f64(0.3).squeeze()], ids=str)
def test_the_preconditioner_balances_the_rates_of_a_quadratic(power: Any):
    h, start, rate = f64(8.0, 1.0, 0.05), f64(1.0, -2.0, 3.0), 0.1
    tx = ps.chain(ps.scale_by_preconditioner(h, power), ps.sgd(rate))
    seen, _ = descend(tx, lambda w: 0.5 * (h * w**2).sum(), start, 25)
    for k, w in enumerate(seen, start=1):
        assert_close(w, (1 - rate * h ** (1 - power)) ** k * start, rtol=1e-10)


def test_with_power_1_all_coordinates_converge_alike_and_with_power_0_nothing_happens():
    h = {"w": f64(8.0, 1.0, 0.05), "b": f64(2.0).squeeze()}
    (whole,), _ = outputs(ps.scale_by_preconditioner(h, 1.0), [h])
    assert_close(whole, ps.tree.map(torch.ones_like, h))
    (none,), _ = outputs(ps.scale_by_preconditioner(h, 0.0), [h])
    assert_close(none, h)


def test_a_curvature_unlike_the_updates_is_refused():
    tx = ps.scale_by_preconditioner({"w": f64(1.0, 1.0)})
    assert sentence_of(lambda: tx.update({"w": f64(1.0)}, ps.EmptyState())) == (
        "curvature['w']: shape (2,) does not match shape (1,) of updates['w']. "
        "Nothing is broadcast here: reshape or reduce it first."
    )


# Clipping


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=4),
    st.lists(st.floats(-1e6, 1e6), min_size=0, max_size=3),
    st.floats(1e-3, 1e6),
)
def test_clipped_updates_are_no_longer_than_max_norm_and_point_the_same_way(
    w: list[float], b: list[float], max_norm: float
):
    updates = {"w": f64(*w), "b": [f64(number) for number in b]}
    clipped, _ = ps.clip_by_global_norm(max_norm).update(updates, ps.EmptyState())
    norm = ps.tree.norm(updates).item()
    assert ps.tree.norm(clipped).item() <= max_norm * (1 + 1e-12)
    if norm <= max_norm:
        assert all(map(torch.equal, ps.tree.leaves(clipped), ps.tree.leaves(updates)))
    else:
        assert ps.tree.norm(clipped).item() == pytest.approx(max_norm)
        assert_close(clipped, ps.tree.map(lambda u: u * (max_norm / norm), updates))


def test_clipping_to_zero_gives_zero_even_of_zero():
    for updates in (f64(0.0, 0.0), f64(3.0, 4.0)):
        clipped, _ = ps.clip_by_global_norm(0.0).update(updates, ps.EmptyState())
        assert clipped.tolist() == [0.0, 0.0]


def test_clipping_has_a_slope_at_zero():
    def clipped(updates: torch.Tensor, max_norm: torch.Tensor) -> torch.Tensor:
        return ps.clip_by_global_norm(max_norm).update(updates, ps.EmptyState())[0].sum()

    zero, none = f64(0.0, 0.0), torch.zeros((), dtype=torch.float64)
    assert grad(clipped)(zero, none + 1.0).tolist() == [1.0, 1.0]
    assert grad(clipped, argnums=1)(zero, none) == 0.0


# Scaling


def test_scale_keeps_the_sign_and_scale_by_learning_rate_turns_it():
    u = f64(1.0, -2.0)
    assert_close(outputs(ps.scale(0.5), [u])[0][0], 0.5 * u)
    assert_close(outputs(ps.scale(-0.5), [u])[0][0], -0.5 * u)
    assert_close(outputs(ps.scale_by_learning_rate(0.5), [u])[0][0], -0.5 * u)
    assert_close(outputs(ps.scale_by_learning_rate(0.5, flip_sign=False), [u])[0][0], 0.5 * u)


def test_schedules_count_updates_from_zero():
    schedule = ps.linear_schedule(1.0, 0.0, 4)
    for tx, sign in [
        (ps.scale(schedule), 1),
        (ps.scale_by_schedule(schedule), 1),
        (ps.scale_by_learning_rate(schedule), -1),
    ]:
        got, state = outputs(tx, [f64(2.0)] * 6)
        assert_close(torch.cat(got), sign * 2 * f64(1.0, 0.75, 0.5, 0.25, 0.0, 0.0))
        assert (state.step.item(), state.step.dtype) == (6, torch.int64)


def test_a_learning_rate_is_not_negative_and_a_schedule_is_a_function():
    assert sentence_of(lambda: ps.sgd(-0.1)) == (
        "scale_by_learning_rate: learning_rate=-0.1 lies outside [0, inf). "
        "Pass a learning_rate within these bounds."
    )
    number: Any = 0.1
    assert sentence_of(lambda: ps.scale_by_schedule(number)) == (
        "scale_by_schedule: step_size_fn=0.1 is not a function of the step. "
        "Pass a schedule, or use scale for a constant."
    )


def test_the_learning_rate_can_be_read_off_the_state():
    updates = [f64(1.0)] * 3

    def rate(tx: ps.GradientTransformation, steps: int, **extra: Any) -> Any:
        state = outputs(tx, updates[:steps], **extra)[1] if steps else tx.init(updates[0])
        found = ps.learning_rate(state)
        return found if found is None else found.item()

    halving = ps.exponential_decay(0.8, 1, 0.5)
    assert [rate(ps.sgd(0.3, 0.9), steps) for steps in range(3)] == [0.3, 0.3, 0.3]
    # Before the first update the rate of the first, then that of the last.
    assert [rate(ps.adam(halving), steps) for steps in range(4)] == [0.8, 0.8, 0.4, 0.2]
    assert rate(ps.sgd(torch.tensor(0.25)), 1) == 0.25
    plateau = ps.chain(ps.sgd(halving), ps.reduce_on_plateau(0.5, patience=1))
    assert [rate(plateau, steps, value=1.0) for steps in range(1, 4)] == [0.8, 0.2, 0.05]
    assert rate(ps.named_chain(("a", ps.trace(0.9)), ("b", ps.chain(ps.sgd(0.3)))), 1) == 0.3
    assert rate(ps.trace(0.9), 1) is None
    assert rate(ps.identity(), 0) is None


# Averages of the parameters


def test_params_ema_is_a_weighted_mean_of_the_parameters_that_begins_at_the_first():
    path, state = descend(ps.chain(ps.sgd(0.1), ps.params_ema(0.8)), wave, PARAMS, 7)
    points, n = [PARAMS, *path], 7
    weights = [0.8**n] + [0.2 * 0.8 ** (n - k) for k in range(1, n + 1)]
    assert sum(weights) == pytest.approx(1.0)
    want = {k: sum(w * p[k] for w, p in zip(weights, points, strict=True)) for k in PARAMS}
    assert_close(ps.eval_params(state, path[-1]), want)


def test_a_debiased_average_is_the_zero_initialised_one_over_its_weight():
    path, state = descend(ps.chain(ps.sgd(0.1), ps.params_ema(0.8, debias=True)), wave, PARAMS, 7)
    zero_initialised = {k: torch.zeros_like(p) for k, p in PARAMS.items()}
    for p in path:
        zero_initialised = {k: 0.8 * a + 0.2 * p[k] for k, a in zero_initialised.items()}
    want = {k: a / (1 - 0.8**7) for k, a in zero_initialised.items()}
    assert_close(ps.eval_params(state, path[-1]), want)


def test_a_debiased_average_forgets_where_it_began():
    tx, zero = ps.params_ema(0.8, debias=True), f64(0.0)
    one, other = tx.init(f64(1e6)), tx.init(f64(-3.0))
    for params in (f64(1.0), f64(2.0), f64(4.0)):
        _, one = tx.update(zero, one, params)
        _, other = tx.update(zero, other, params)
    assert_close(one.average, other.average, rtol=1e-10)
    # After the first step the average is the first point.
    _, first = tx.update(zero, tx.init(f64(1e6)), f64(1.0))
    assert_close(first.average, f64(1.0), rtol=1e-10)


def test_an_average_of_half_precision_parameters_moves_by_less_than_they_can():
    tx, params = ps.params_ema(0.999), torch.ones(1, dtype=torch.bfloat16)
    _, state = tx.update(torch.ones(1, dtype=torch.bfloat16), tx.init(params), params)
    assert_close(state.average, torch.tensor([1.001]), rtol=1e-6)
    assert ps.eval_params(state, params).dtype == torch.bfloat16


def test_without_an_average_the_parameters_are_those_to_evaluate_with():
    assert ps.eval_params(ps.adam(0.1).init(PARAMS), PARAMS) is PARAMS
    assert ps.eval_params((), PARAMS) is PARAMS


def test_eval_params_finds_the_average_however_deep_it_lies():
    tx = ps.named_chain(("outer", ps.chain(ps.sgd(0.1), ps.chain(ps.params_ema(0.5)))))
    path, state = descend(tx, wave, PARAMS, 1)
    want = {k: (PARAMS[k] + path[0][k]) / 2 for k in PARAMS}
    assert_close(ps.eval_params(state, path[0]), want)


def test_a_scheduled_average_is_found_too():
    _, state = descend(ps.params_ema(lambda step: 0.5), wave, PARAMS, 1)
    assert_close(ps.eval_params(state, PARAMS), {k: p + grad(wave)(PARAMS)[k] / 2 for k, p in PARAMS.items()})


def test_eval_params_takes_buffers_from_the_parameters():
    _, state = descend(ps.chain(ps.sgd(0.1), ps.params_ema(0.5)), wave, PARAMS, 1)
    buffers = {"count": torch.tensor(7)}
    got = ps.eval_params(state, {**PARAMS, "buffers": buffers})
    assert got["buffers"] is buffers
    assert_close({k: got[k] for k in PARAMS}, ps.eval_params(state, PARAMS))


def test_two_averages_are_named_rather_than_chosen_from():
    tx = ps.chain(ps.params_ema(0.5), ps.named_chain(("slow", ps.params_ema(0.99))))
    state = tx.init(PARAMS)
    assert sentence_of(lambda: ps.eval_params(state, PARAMS)) == (
        "eval_params: the state holds 2 averages: 'opt_state[0]', 'slow'. "
        "Name the one you mean, as in eval_params(opt_state, params, 'opt_state[0]')."
    )
    assert_close(ps.eval_params(state[1], PARAMS), PARAMS)


def test_an_average_of_other_parameters_is_refused():
    state = ps.params_ema(0.5).init(PARAMS)
    assert sentence_of(lambda: ps.eval_params(state, {"w": PARAMS["w"]})) == (
        "average['b']: is there, and params['b'] is not. Give average the structure of params."
    )
    assert sentence_of(lambda: ps.eval_params(state, {**PARAMS, "w": f64(1.0)})) == (
        "average['w']: shape (3,) does not match shape (1,) of params['w']. "
        "Nothing is broadcast here: reshape or reduce it first."
    )


# Plateau


def scales(tx: ps.GradientTransformation, values: list[float]) -> list[float]:
    state, seen = tx.init(f64(1.0)), []
    for value in values:
        updates, state = tx.update(f64(1.0), state, value=value)
        seen.append(updates.item())
        assert ps.learning_rate(state) == state.learning_rate_scale == updates.item()
    return seen


PLATEAUS: dict[str, tuple[dict[str, Any], list[float], list[float]]] = {
    "waits for patience": (
        {"factor": 0.5, "patience": 3},
        [5, 5, 5, 5, 5, 5, 5],
        [1, 1, 1, 0.5, 0.5, 0.5, 0.25],
    ),
    "an improvement starts again": (
        {"factor": 0.5, "patience": 2},
        [5, 5, 4, 4, 3, 3, 3, 3],
        [1, 1, 1, 1, 1, 1, 0.5, 0.5],
    ),
    "a rise is no improvement": (
        {"factor": 0.5, "patience": 2},
        [5, 6, 5.5, 5.2, 5.1],
        [1, 1, 0.5, 0.5, 0.25],
    ),
    "nothing counts in the cooldown": (
        {"factor": 0.5, "patience": 1, "cooldown": 2},
        [5, 5, 5, 5, 5, 5, 5, 5],
        [1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125],
    ),
    "what is best improves in the cooldown too": (
        {"factor": 0.5, "patience": 1, "cooldown": 1},
        [5, 5, 3, 4, 2],
        [1, 0.5, 0.5, 0.25, 0.25],
    ),
    "never below min_scale": (
        {"factor": 0.5, "patience": 1, "min_scale": 0.3},
        [5, 5, 5, 5],
        [1, 0.5, 0.3, 0.3],
    ),
    "one decision for each group of values": (
        {"factor": 0.5, "patience": 1, "accumulation_size": 2},
        [4, 2, 1, 5, 2, 2, 0, 4],  # means 3, 3, 2, 2
        [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25],
    ),
    "an improvement by less than rtol is none": (
        {"factor": 0.5, "patience": 1, "rtol": 0.1},
        [10, 9.1, 8.9, 8.1],
        [1, 0.5, 0.5, 0.25],
    ),
    "an improvement by less than atol is none": (
        {"factor": 0.5, "patience": 1, "rtol": 0.0, "atol": 2.0},
        [10, 8.5, 7.5, 6],
        [1, 0.5, 0.5, 0.25],
    ),
    "negative values fall and stop falling as others do": (
        {"factor": 0.5, "patience": 1, "rtol": 0.1},
        [-10, -10.5, -11.5, -13, -13, 0],
        [1, 0.5, 0.5, 0.5, 0.25, 0.125],
    ),
    "through zero": (
        {"factor": 0.5, "patience": 1},
        [1, 0, -1, -1],
        [1, 1, 1, 0.5],
    ),
    "by default": ({}, [1.0] * 12, [1] * 10 + [0.1, 0.1]),
}


@pytest.mark.parametrize("name", PLATEAUS)
def test_the_scale_falls_as_by_hand(name: str):
    settings, values, want = PLATEAUS[name]
    assert scales(ps.reduce_on_plateau(**settings), values) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("name", PLATEAUS)
def test_nan_means_that_nothing_was_measured(name: str):
    settings, values, want = PLATEAUS[name]
    with_gaps = [number for value in values for number in (value, torch.nan)]
    twice = [scale for scale in want for _ in range(2)]
    tx = ps.reduce_on_plateau(**settings)
    assert scales(tx, with_gaps) == pytest.approx(twice, rel=1e-12)
    first = tx.init(f64(1.0))
    _, after = tx.update(f64(1.0), first, value=torch.nan)
    assert_close(after, first)


def test_the_value_is_any_single_number():
    for value in (2, 2.0, torch.tensor(2.0), torch.tensor(2), torch.tensor(2.0).half()):
        assert scales(ps.reduce_on_plateau(0.5, 1), [value] * 2) == [1.0, 0.5]
    tx = ps.reduce_on_plateau()
    state = tx.init(f64(1.0))
    assert sentence_of(lambda: tx.update(f64(1.0), state)) == (
        "reduce_on_plateau: the extra argument value is missing. Call update(..., value=loss)."
    )
    assert sentence_of(lambda: tx.update(f64(1.0), state, value=f64(1.0, 2.0))) == (
        "reduce_on_plateau: value has shape (2,), expected one number. Pass its mean."
    )


# Schedules in place of hyperparameters

RISING = ps.linear_schedule(0.2, 0.8, 6)

SCHEDULED: dict[str, tuple[str, Callable[[Any], ps.GradientTransformation]]] = {
    "trace": ("decay", lambda value: ps.trace(decay=value)),
    "trace by position": ("decay", lambda value: ps.trace(value, True)),
    "dampening": ("dampening", lambda value: ps.trace(0.9, dampening=value)),
    "scale": ("step_size", ps.scale),
    "add_decayed_weights": ("weight_decay", ps.add_decayed_weights),
    "clip_by_global_norm": ("max_norm", ps.clip_by_global_norm),
    "scale_by_adam": ("b1", ps.scale_by_adam),
    "scale_by_preconditioner": ("power", lambda value: ps.scale_by_preconditioner(PARAMS_SQ, value)),
    "params_ema": ("decay", ps.params_ema),
    "params_ema debiased": ("decay", lambda value: ps.params_ema(value, debias=True)),
    "reduce_on_plateau": ("factor", lambda value: ps.reduce_on_plateau(value, 1)),
}
PARAMS_SQ = {k: p**2 for k, p in PARAMS.items()}


@pytest.mark.parametrize("name", SCHEDULED)
def test_a_scheduled_hyperparameter_is_a_transform_rebuilt_at_every_step(name: str):
    argument, make = SCHEDULED[name]
    scheduled, params = make(RISING), PARAMS
    extra = {"value": 1.0} if ps.transforms.extra_args_of(scheduled) else {}
    state, by_hand = scheduled.init(params), make(0.2).init(params)
    assert isinstance(state, ps.ScheduledState)
    for step in range(8):
        value = RISING(step).item()
        grads = grad(wave)(params)
        updates, state = scheduled.update(grads, state, params, **extra)
        want, by_hand = make(value).update(grads, by_hand, params, **extra)
        assert_close(updates, want)
        assert_close(state.inner, by_hand)
        assert state.hyperparams[argument] == value
        assert state.step == step + 1
        params = ps.apply_updates(params, ps.tree.map(lambda u: -0.1 * u, updates))


def test_several_hyperparameters_follow_schedules_of_their_own():
    tx = ps.scale_by_adam(RISING, b2=lambda step: 0.9, eps=1e-3)
    state = outputs(tx, [PARAMS] * 3, PARAMS)[1]
    shown = {name: value.item() for name, value in state.hyperparams.items()}
    assert shown == pytest.approx({"b1": 0.4, "b2": 0.9})
    (tail,), _ = outputs(ps.scale_by_adam(0.2, 0.9, 1e-3), [PARAMS], PARAMS)
    assert_close(outputs(tx, [PARAMS], PARAMS)[0][0], tail, rtol=1e-6)


def test_a_call_that_is_wrong_stays_wrong_with_a_schedule():
    scale: Any = ps.scale
    with pytest.raises(TypeError, match="positional"):
        scale(RISING, 0.1)
    make: Any = ps.trace
    for decay in (0.9, RISING):
        with pytest.raises(TypeError, match="positional"):
            make(decay, False, None, 0.3)
        with pytest.raises(TypeError, match="no_such"):
            make(decay, no_such=1)
        with pytest.raises(TypeError, match="multiple values"):
            make(decay, decay=0.9)


# Chains


def test_a_chain_applies_its_transforms_in_order():
    first, second = ps.stateless_with_tree_map(lambda u, p: u + 1), ps.scale(3.0)
    assert_close(outputs(ps.chain(first, second), [f64(2.0)])[0][0], f64(9.0))
    assert_close(outputs(ps.chain(second, first), [f64(2.0)])[0][0], f64(7.0))


def test_a_nested_chain_is_the_flat_one():
    parts = [
        ps.clip_by_global_norm(1.0),
        ps.add_decayed_weights(0.1),
        ps.trace(0.9),
        ps.scale_by_learning_rate(RISING),
        ps.params_ema(0.5),
    ]
    flat, flat_state = descend(ps.chain(*parts), wave, PARAMS, 6)
    nested = ps.chain(parts[0], ps.chain(ps.chain(*parts[1:3]), parts[3]), ps.chain(parts[4]))
    named = ps.named_chain(*((str(i), part) for i, part in enumerate(parts)))
    for tx in (nested, named):
        seen, state = descend(tx, wave, PARAMS, 6)
        assert_close(seen, flat)
        assert_close(ps.tree.leaves(state), ps.tree.leaves(flat_state))


def test_the_state_of_a_named_chain_goes_by_name():
    tx = ps.named_chain(("rate", ps.scale_by_learning_rate(0.1)), ("memory", ps.trace(0.9)))
    state = outputs(tx, [f64(2.0)])[1]
    assert list(state) == ["rate", "memory"]
    assert_close(state["memory"].trace, f64(-0.2))
    assert state["rate"].learning_rate == 0.1


def reads(name: str) -> ps.GradientTransformation:
    """Add the extra argument ``name``, and complain of any other."""

    def update(updates: Tree, state: Any, params: Tree = None, **extra: Any) -> tuple[Tree, Any]:
        assert set(extra) <= {name}
        return ps.tree.map(lambda u: u + extra.get(name, 0.0), updates), state

    return ps.GradientTransformation(lambda params: ps.EmptyState(), update, (name,))


def test_extra_arguments_reach_only_those_that_read_them():
    tx = ps.chain(reads("a"), ps.chain(ps.scale(2.0), ps.named_chain(("b", reads("b")))), reads("a"))
    assert set(ps.transforms.extra_args_of(tx)) == {"a", "b"}
    state = tx.init(f64(1.0))
    assert_close(tx.update(f64(1.0), state, a=1.0, b=10.0)[0], f64((1 + 1) * 2 + 10 + 1))
    assert_close(tx.update(f64(1.0), state, b=10.0)[0], f64(12.0))
    assert_close(tx.update(f64(1.0), state)[0], f64(2.0))


def test_an_extra_argument_is_a_keyword_of_update():
    def update(
        updates: Tree, state: Any, params: Tree = None, *, noise: float = 0.0, **extra: Any
    ) -> tuple[Tree, Any]:
        assert not extra
        return ps.tree.map(lambda u: u + noise, updates), state

    noisy = ps.GradientTransformation(lambda params: ps.EmptyState(), update)
    assert ps.transforms.extra_args_of(noisy) == ("noise",)
    tx = ps.chain(noisy, ps.reduce_on_plateau())
    got, _ = tx.update(f64(1.0), tx.init(f64(1.0)), noise=2.0, value=1.0)
    assert_close(got, f64(3.0))


def test_the_extra_arguments_of_what_is_no_python_function_are_named():
    identity = ps.identity()
    tx = ps.GradientTransformation(identity.init, functools.partial(identity.update))
    assert sentence_of(lambda: ps.chain(tx)) == (
        "extra_args: update is a partial, whose extra arguments cannot be seen. "
        "Name them, as in GradientTransformation(init, update, extra_args=('value',))."
    )
    named = ps.chain(tx._replace(extra_args=()))
    assert_close(outputs(named, [f64(2.0)])[0][0], f64(2.0))


def test_an_extra_argument_that_nobody_reads_is_an_error():
    tx = ps.chain(ps.sgd(0.1), ps.reduce_on_plateau())
    state = tx.init(f64(1.0))
    assert sentence_of(lambda: tx.update(f64(1.0), state, value=1.0, vaule=2.0)) == (
        "chain: nobody reads the extra argument 'vaule'; this chain reads ['value']. "
        "Leave it out, or add the transform that needs it."
    )
    bare = ps.named_chain(("rate", ps.scale(0.1)))
    assert sentence_of(lambda: bare.update(f64(1.0), bare.init(f64(1.0)), value=1.0)) == (
        "named_chain: nobody reads the extra argument 'value'; this chain reads none. "
        "Leave it out, or add the transform that needs it."
    )


ANY_FACTORY: Any = ps.trace
ANY_NUMBER: Any = 0.1


@pytest.mark.parametrize(
    "call, sentence",
    [
        (ps.chain, "chain: got no transform. Pass at least one, or identity()."),
        (ps.named_chain, "named_chain: got no transform. Pass at least one, or identity()."),
        (
            lambda: ps.chain(ps.identity(), ANY_FACTORY),
            "chain[1]: is a function, expected a GradientTransformation. Call the factory, as in trace(0.9).",
        ),
        (
            lambda: ps.chain(ANY_NUMBER),
            "chain[0]: is a float, expected a GradientTransformation. Pass a transform.",
        ),
        (
            lambda: ps.named_chain(("memory", ANY_FACTORY)),
            "named_chain[memory]: is a function, expected a GradientTransformation. "
            "Call the factory, as in trace(0.9).",
        ),
        (
            lambda: ps.named_chain(("a", ps.identity()), ("a", ps.identity())),
            "named_chain: the name 'a' comes twice. Name each transform once.",
        ),
        (
            lambda: ps.chain(ps.identity()).update(PARAMS, (), PARAMS),
            "chain: the state holds 0 states, expected 1 states. Pass the state that this chain's init gave.",
        ),
        (
            lambda: ps.chain(ps.identity()).update(PARAMS, {}, PARAMS),
            "chain: the state holds dict, expected 1 states. Pass the state that this chain's init gave.",
        ),
        (
            lambda: ps.named_chain(("a", ps.identity())).update(PARAMS, {"b": ()}, PARAMS),
            "named_chain: the state holds ['b'], expected ['a']. Pass the state that this chain's init gave.",
        ),
        (
            lambda: ps.named_chain(("a", ps.identity())).update(PARAMS, ((),), PARAMS),
            "named_chain: the state holds tuple, expected ['a']. Pass the state that this chain's init gave.",
        ),
        (
            lambda: ps.sgd(0.1).update({"w": f64(1.0)}, ps.sgd(0.1).init(PARAMS), PARAMS),
            "updates['b']: is missing, and params['b'] is there. Give updates the structure of params.",
        ),
        (
            lambda: ps.apply_updates({"w": f64(1.0)}, {"w": f64(1.0, 2.0)}),
            "updates['w']: shape (2,) does not match shape (1,) of params['w']. "
            "Nothing is broadcast here: reshape or reduce it first.",
        ),
    ],
)
def test_a_chain_says_what_is_wrong_with_it(call: Callable[[], Any], sentence: str):
    assert sentence_of(call) == sentence


# Functions as transforms


def test_identity_returns_what_it_is_given():
    updates, state = ps.identity().update(PARAMS, ps.EmptyState())
    assert updates is PARAMS
    assert state == ps.EmptyState()


def test_stateless_sees_the_whole_tree_and_the_parameters():
    def centred(updates: Tree, params: Tree) -> Tree:
        total = sum(leaf.sum() for leaf in ps.tree.leaves(updates))
        return ps.tree.map(lambda u, p: u - total + 0 * p, updates, params)

    updates = {"w": f64(1.0, 2.0, 3.0), "b": f64(4.0).squeeze()}
    (got,), state = outputs(ps.stateless(centred), [updates], PARAMS)
    assert_close(got, {"w": f64(-9.0, -8.0, -7.0), "b": f64(-6.0).squeeze()})
    assert state == ps.EmptyState()


def test_stateless_with_tree_map_sees_one_leaf_and_none_without_parameters():
    tx = ps.stateless_with_tree_map(lambda u, p: 2 * u if p is None else u * p)
    assert_close(outputs(tx, [f64(3.0)], f64(5.0))[0][0], f64(15.0))
    assert_close(tx.update({"w": f64(3.0), "n": None}, ps.EmptyState())[0]["w"], f64(6.0))


def test_updates_are_added_in_the_wider_dtype_and_parameters_keep_their_own():
    params = torch.tensor([256.0], dtype=torch.bfloat16)
    # 256 + 1 is halfway to the next bfloat16, 258, and rounds to even: the 0.001 must count.
    new = ps.apply_updates(params, torch.tensor([1.001]))
    assert (new.item(), new.dtype) == (258.0, torch.bfloat16)


# Half precision

HALF: dict[str, ps.GradientTransformation] = {
    "trace": ps.trace(0.9),
    "nesterov": ps.trace(0.9, nesterov=True),
    "dampened": ps.trace(0.9, dampening=0.3),
    # With a tensor torch's own kernel, which is for wide leaves and rounds otherwise, stays out of it.
    "adam": ps.scale_by_adam(b2=torch.tensor(0.999)),
    "nadam": ps.scale_by_adam(nesterov=True),
    "scheduled rate": ps.scale_by_learning_rate(RISING),
    "clip": ps.clip_by_global_norm(0.1),
    "decay": ps.add_decayed_weights(0.1),
    "scheduled decay": ps.add_decayed_weights(RISING),
    "preconditioner": ps.scale_by_preconditioner(torch.linspace(0.1, 2.0, 64), 0.3),
    "plateau": ps.reduce_on_plateau(0.3, patience=1),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", HALF)
def test_half_precision_is_computed_in_float32_and_rounded_once(name: str, dtype: torch.dtype):
    tx = HALF[name]
    extra = {"value": 1.0} if ps.transforms.extra_args_of(tx) else {}
    params, *stream = [torch.randn(64).to(dtype) for _ in range(6)]
    half, half_state = outputs(tx, stream, params, **extra)
    single, single_state = outputs(tx, [u.float() for u in stream], params.float(), **extra)
    assert all(map(torch.equal, half, [u.to(dtype) for u in single]))
    assert all(map(torch.equal, ps.tree.leaves(half_state), ps.tree.leaves(single_state)))


def test_parameters_may_bear_the_names_of_state_fields():
    class Model(NamedTuple):
        average: torch.Tensor
        learning_rate: torch.Tensor

    params = Model(torch.ones(2), torch.full((3,), 7.0))
    state = ps.sgd(0.1, momentum=0.9).init(params)
    rate = ps.learning_rate(state)
    assert rate is not None
    assert rate.item() == pytest.approx(0.1)
    assert ps.eval_params(state, params) is params
