"""Line searches: what they promise of a step, what they say when they fail, and Optax's steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

import pure_sgd as ps
from pure_sgd.transforms.search.bracket import Bracket, middle
from pure_sgd.transforms.search.line import Point, repeat

Objective = Callable[[Any], torch.Tensor]


def vector(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def rosenbrock(x: torch.Tensor) -> torch.Tensor:
    return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


OBJECTIVES: dict[str, tuple[Objective, torch.Tensor]] = {
    "quadratic": (lambda x: (vector(1, 10, 0.1) * x**2).sum(), vector(1, 2, 3)),
    "rosenbrock": (rosenbrock, vector(-1.2, 1)),
    "barrier": (lambda x: (x**2 - x.log()).sum(), vector(3, 0.5)),
    "flat": (lambda x: (x**2).log1p().sum(), vector(30, -5)),
    "steep": (lambda x: (x**4).sum() * 1e3, vector(3, -2)),
}


def searching(search: ps.GradientTransformation, rate: float = 1.0) -> ps.GradientTransformation:
    return ps.chain(ps.sgd(rate), search)


def run(
    tx: ps.GradientTransformation, objective: Objective, params: Any, steps: int
) -> tuple[Any, list[Any]]:
    """The last parameters, and the state of the search after each step."""
    state, seen = tx.init(params), []
    for _ in range(steps):
        value, grad = ps.value_and_grad(objective)(params)
        updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=objective)
        params = ps.apply_updates(params, updates)
        seen.append(state[-1])
    return params, seen


def zoom_keep() -> ps.GradientTransformation:
    return searching(ps.scale_by_zoom_linesearch(15))


def zoom_one() -> ps.GradientTransformation:
    search = ps.scale_by_zoom_linesearch(8, initial_guess_strategy="one", approx_dec_rtol=None, curv_rtol=0.1)
    return searching(search, 0.1)


def zoom_bounded() -> ps.GradientTransformation:
    return searching(ps.scale_by_zoom_linesearch(10, 2.5, increase_factor=1.5, slope_rtol=0.1), 0.01)


def backtracking() -> ps.GradientTransformation:
    return searching(ps.scale_by_backtracking_linesearch(40))


def backtracking_tolerant() -> ps.GradientTransformation:
    return searching(ps.scale_by_backtracking_linesearch(6, 0.1, 0.5, 3.0, 0.7, 1e-3, 1e-2, True), 2.0)


def lbfgs_tamed() -> ps.GradientTransformation:
    return ps.lbfgs(0.5, 3, False)


# The first learning rates of Optax 0.2.8 in float64, from the starting points above.
OPTAX = [
    (
        "rosenbrock",
        zoom_keep,
        [0.000938310275875, 0.000938310275875, 0.000938310275875, 0.120103715312, 0.00121813531749],
    ),
    ("flat", zoom_keep, [12.7871460646, 0.581306424622, 0.581306424622, 37.2036111758, 0.52711765556]),
    ("steep", zoom_one, [0.00473408997368, 0.00448184249386, 0.00448085136182]),
    ("quadratic", zoom_bounded, [1, 1, 1, 1, 1]),
    (
        "rosenbrock",
        backtracking,
        [0.0115292150461, 0.00118842243771, 0.000912708432164, 0.0010952501186, 0.00105144011385],
    ),
    (
        "steep",
        backtracking,
        [0.000132922799578, 3.5917864239e-06, 4.31014370869e-06, 6.46521556303e-06, 9.69782334454e-06],
    ),
    ("quadratic", backtracking_tolerant, [0.04375, 0.0328125, 0.024609375, 0.073828125, 0.221484375]),
    ("rosenbrock", ps.lbfgs, [0.306401911711, 1, 1, 1, 1]),
    ("flat", ps.lbfgs, [12.7871460646, 0.025569985238, 98.8718422191, 0.000487267107948, 1]),
    ("rosenbrock", lbfgs_tamed, [0.00205942943142, 0.252060759803, 1, 4, 0.578596362203]),
]


@pytest.mark.parametrize("name, make, rates", OPTAX)
def test_the_steps_are_those_of_optax(name: str, make: Any, rates: list[float]):
    seen = run(make(), *OBJECTIVES[name], len(rates))[1]
    assert [state.learning_rate.item() for state in seen] == pytest.approx(rates, rel=1e-9)


def random_problem(seed: int) -> tuple[Objective, torch.Tensor, torch.Tensor]:
    """An objective that is not convex, a starting point, and a direction downhill."""
    keys = ps.random.split(ps.random.key(seed), 4)
    matrix = ps.random.normal(keys[0], (5, 5), dtype=torch.float64)
    shift, start, tilt = (ps.random.normal(key, (5,), dtype=torch.float64) for key in keys[1:])

    def objective(x: torch.Tensor) -> torch.Tensor:
        return (matrix @ x - shift).square().sum() / 2 + (3 * x).cos().sum()

    grad = torch.func.grad(objective)(3 * start)
    direction = -grad * tilt.exp() * 10 ** (seed % 4 - 2)
    return objective, 3 * start, direction


@pytest.mark.parametrize("seed", range(24))
def test_zoom_falls_enough_and_is_flat_enough(seed: int):
    objective, params, direction = random_problem(seed)
    c1, c2 = 1e-3, 0.2
    tx = ps.scale_by_zoom_linesearch(30, slope_rtol=c1, curv_rtol=c2, approx_dec_rtol=None)
    updates, state = tx.update(direction, tx.init(params), params, value_fn=objective)
    rate, slope = state.learning_rate, torch.func.grad(objective)(params) @ direction
    value, grad = ps.value_and_grad(objective)(params + rate * direction)
    torch.testing.assert_close(updates, rate * direction)
    torch.testing.assert_close((state.value, state.grad), (value, grad))
    assert slope < 0
    assert value <= objective(params) + c1 * rate * slope
    assert (grad @ direction).abs() <= c2 * slope.abs()
    assert state.info.decrease_error == state.info.curvature_error == 0


@pytest.mark.parametrize("seed", range(12))
def test_backtracking_takes_the_first_step_that_falls_enough(seed: int):
    objective, params, direction = random_problem(seed)
    tx = ps.scale_by_backtracking_linesearch(200, slope_rtol=0.3, decrease_factor=0.7)
    updates, state = tx.update(direction, tx.init(params), params, value_fn=objective)
    slope, rate, count = torch.func.grad(objective)(params) @ direction, 1.0, 1
    while objective(params + rate * direction) > objective(params) + 0.3 * rate * slope:
        rate, count = 0.7 * rate, count + 1
    torch.testing.assert_close(updates, rate * direction)
    assert state.learning_rate.item() == pytest.approx(rate)
    assert state.value == objective(params + state.learning_rate * direction)
    assert (state.info.num_linesearch_steps, state.info.decrease_error) == (count, 0)


def test_the_cubic_finds_the_minimum_of_a_cubic_and_the_parabola_that_of_a_parabola():
    def point(objective: Objective, step: float) -> Point:
        value, slope = ps.value_and_grad(objective)(vector(step)[0])
        return Point(vector(step)[0], value, slope)

    def found(objective: Objective, low: float, high: float, other: float) -> torch.Tensor:
        return middle(Bracket(*(point(objective, step) for step in (low, high, other))))

    torch.testing.assert_close(found(lambda t: t**3 - 3 * t, 0.2, 2, 0), vector(1)[0])
    torch.testing.assert_close(found(lambda t: (t - 0.7) ** 2, 0, 2, 0), vector(0.7)[0])
    torch.testing.assert_close(found(lambda t: (t - 0.7) ** 2, 2, 0, 2), vector(0.7)[0])
    # Too near to an end, or nowhere: the middle.
    torch.testing.assert_close(found(lambda t: (t - 0.1) ** 2, 0, 2, 0), vector(1)[0])
    torch.testing.assert_close(found(lambda t: 1 - t, 0, 2, 0), vector(1)[0])
    torch.testing.assert_close(found(lambda t: 0 * t, 1, 1, 1), vector(1)[0])


def bowl(x: Any) -> torch.Tensor:
    return torch.stack([ps.tree.widened(leaf).square().sum() for leaf in ps.tree.leaves(x)]).sum()


def test_a_step_that_may_not_be_long_enough_is_reported():
    tx = ps.scale_by_zoom_linesearch(10, max_learning_rate=4.0)
    params = vector(1, 1)
    _, state = tx.update(-1e-3 * params, tx.init(params), params, value_fn=bowl)
    assert (state.learning_rate, state.info.num_linesearch_steps) == (4, 3)
    assert state.info.decrease_error == 0
    slopes = [-2e-3 * 2 * (1 - 1e-3 * step) for step in (0, 4)]
    assert state.info.curvature_error.item() == pytest.approx(abs(slopes[1]) - 0.9 * abs(slopes[0]))


def test_where_values_agree_to_the_last_digit_slopes_tell_the_way():
    params = vector(1e-3)
    rates = []
    for approx_dec_rtol in (1e-6, None):
        tx = ps.scale_by_zoom_linesearch(10, curv_rtol=0.65, approx_dec_rtol=approx_dec_rtol)
        _, state = tx.update(-0.2 * params, tx.init(params), params, value_fn=lambda x: 1e12 + bowl(x))
        rates.append(state.learning_rate)
    assert rates[1] < 1
    assert rates[0] == 2


@pytest.mark.parametrize("speed, increase_factor", [(0.3, 10.0), (0.7, 2.0)], ids=["rises", "falls less"])
def test_a_search_that_gives_up_takes_the_best_step_and_tells_of_that_one(
    speed: float, increase_factor: float
):
    # The second and last step goes too far; Optax tells of that one, and takes it if it falls at all.
    params, increase = vector(1), {"increase_factor": increase_factor}
    tx = ps.scale_by_zoom_linesearch(2, curv_rtol=1e-6, approx_dec_rtol=None, **increase)
    _, state = tx.update(-speed * params, tx.init(params), params, value_fn=lambda x: (x**6).sum())
    assert (state.learning_rate, state.info.num_linesearch_steps) == (1, 2)
    assert state.value.item() == pytest.approx((1 - speed) ** 6)
    assert state.grad.item() == pytest.approx(6 * (1 - speed) ** 5)
    assert state.info.decrease_error == 0
    slopes = [speed * 6 * x**5 for x in (1, 1 - speed)]
    assert state.info.curvature_error.item() == pytest.approx(slopes[1] - 1e-6 * slopes[0])


@pytest.mark.parametrize("search", [ps.scale_by_zoom_linesearch(30), ps.scale_by_backtracking_linesearch(30)])
def test_uphill_there_is_only_a_tiny_step_and_a_report(search: ps.GradientTransformation):
    params = vector(1, 2)
    updates, state = search.update(params, search.init(params), params, value_fn=bowl)
    assert 0 < state.learning_rate < 0.01
    assert state.info.decrease_error > 0
    assert state.value == bowl(params + updates)


def cliff(x: torch.Tensor) -> torch.Tensor:
    """Finite where it starts, and beside it only once x[1] is positive."""
    return torch.where(x[1] > 0, (x[0] - 3) ** 2, torch.where(x[0] == 1, 4.0, math.nan))


@pytest.mark.parametrize(
    "search",
    [ps.scale_by_zoom_linesearch(4), ps.scale_by_backtracking_linesearch(4, store_grad=True)],
    ids=["zoom", "backtracking"],
)
def test_where_nothing_is_finite_no_step_is_taken_and_the_next_search_begins_anew(search: Any):
    direction, params = vector(1, 0), vector(1, -1)
    grad = vector(-4, 0)
    updates, state = search.update(
        direction, search.init(params), params, value=4.0, grad=grad, value_fn=cliff
    )
    assert updates.tolist() == [0, 0]
    assert (state.learning_rate, state.value, state.info.decrease_error) == (0, 4, math.inf)
    params = vector(1, 1)
    updates, state = search.update(direction, state, params, value=4.0, grad=grad, value_fn=cliff)
    assert state.learning_rate > 0
    assert state.info.decrease_error == 0


@pytest.mark.parametrize("make", [zoom_keep, backtracking, backtracking_tolerant, ps.lbfgs])
def test_vmap_over_starting_points_equals_a_loop(make: Any):
    starts = torch.stack([vector(-1.2, 1), vector(0.5, -2), vector(3, 1)])
    counts = []

    def end(start: torch.Tensor) -> Any:
        params, seen = run(make(), rosenbrock, start, 4)
        return params, seen[-1].learning_rate, seen[-1].info.num_linesearch_steps

    mapped = torch.func.vmap(end)(starts)
    for index, start in enumerate(starts):
        alone = end(start)
        counts.append(alone[-1].item())
        torch.testing.assert_close(
            ps.tree.map(lambda leaf, i=index: leaf[i], mapped), alone, rtol=1e-9, atol=0
        )
    assert len(set(counts)) > 1


@pytest.mark.parametrize("make", [zoom_keep, backtracking, ps.lbfgs])
def test_it_differentiates_with_respect_to_the_starting_point(make: Any):
    def end(start: torch.Tensor) -> torch.Tensor:
        return rosenbrock(run(make(), rosenbrock, start, 2)[0])

    start, eps = vector(-1.2, 1), 1e-6
    slope = torch.func.grad(end)(start)
    for axis, direction in enumerate(eps * torch.eye(2, dtype=torch.float64)):
        numeric = (end(start + direction) - end(start - direction)) / (2 * eps)
        torch.testing.assert_close(slope[axis], numeric, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [zoom_keep, backtracking])
def test_eagerly_the_objective_is_evaluated_no_more_often_than_needed(make: Any):
    calls = 0

    def counted(x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return rosenbrock(x)

    tx, params = make(), vector(-1.2, 1)
    value, grad = ps.value_and_grad(rosenbrock)(params)
    _, state = tx.update(grad, tx.init(params), params, value=value, grad=grad, value_fn=counted)
    assert calls == state[-1].info.num_linesearch_steps > 1


@pytest.mark.parametrize("make", [zoom_keep, backtracking])
def test_a_value_and_a_gradient_that_are_not_given_are_computed(make: Any):
    tx, params = make(), vector(-1.2, 1)
    value, grad = ps.value_and_grad(rosenbrock)(params)
    state = tx.init(params)
    want = tx.update(grad, state, params, value=value, grad=grad, value_fn=rosenbrock)
    for known in ({}, {"value": value}, {"grad": grad}):
        torch.testing.assert_close(
            tx.update(grad, state, params, value_fn=rosenbrock, **known), want, rtol=0, atol=0
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", [zoom_keep, backtracking_tolerant])
def test_low_precision_parameters_are_searched_in_float32(make: Any, dtype: torch.dtype):
    params, seen = run(make(), bowl, {"w": torch.tensor([1.0, 2.0], dtype=dtype)}, 3)
    assert params["w"].dtype == dtype
    assert {leaf.dtype for leaf in ps.tree.leaves(seen[-1])} == {torch.float32, torch.int64}
    assert bowl(params) < 0.05


@pytest.mark.parametrize("make", [zoom_keep, backtracking, ps.lbfgs])
def test_complex_parameters_move_as_their_real_and_imaginary_parts(make: Any):
    start = vector(-1.2, 1)

    def as_complex(z: torch.Tensor) -> torch.Tensor:
        return rosenbrock(torch.stack([z.real, z.imag]))

    end, seen = run(make(), as_complex, torch.complex(*start), 4)
    real_end, real_seen = run(make(), rosenbrock, start, 4)
    torch.testing.assert_close(torch.stack([end.real, end.imag]), real_end, rtol=1e-9, atol=0)
    torch.testing.assert_close(seen[-1].learning_rate, real_seen[-1].learning_rate, rtol=1e-9, atol=0)


def halved(x: torch.Tensor) -> torch.Tensor:
    """How often x can be halved before it is under 1, at most 5 times, and what is left."""
    carry = (x, torch.zeros_like(x, dtype=torch.int64))
    left, count = repeat(lambda c: (c[0] >= 1) & (c[1] < 5), lambda c: (c[0] / 2, c[1] + 1), carry, 5)
    return torch.stack([left, count.to(left.dtype)])


def test_a_loop_gives_the_same_numbers_however_it_runs():
    xs, compiled = vector(0.5, 3, 7, 100), torch.compile(halved, backend="aot_eager", fullgraph=True)
    want = [[0.5, 0], [0.75, 2], [0.875, 3], [3.125, 5]]
    mapped = torch.func.vmap(halved)
    assert [halved(x).tolist() for x in xs] == want
    assert [compiled(x).tolist() for x in xs] == want
    assert mapped(xs).tolist() == want
    assert torch.compile(mapped, backend="aot_eager", fullgraph=True)(xs).tolist() == want
    assert torch.func.grad(lambda x: halved(x)[0])(xs[2]) == 1 / 8


@pytest.mark.parametrize("search", [zoom_keep, backtracking_tolerant, ps.lbfgs])
def test_what_the_search_evaluated_last_is_not_evaluated_again(search: Any):
    tx, params, calls = search(), vector(-1.2, 1), 0

    def counted(x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return rosenbrock(x)

    value_and_grad, state = ps.value_and_grad_from_state(counted), tx.init(params)
    for step in range(4):
        calls = 0
        known = value_and_grad(params, state=state)
        assert calls == (step == 0)
        torch.testing.assert_close(known, ps.value_and_grad(rosenbrock)(params), rtol=1e-12, atol=0)
        updates, state = tx.update(
            known[1], state, params, value=known[0], grad=known[1], value_fn=rosenbrock
        )
        params = ps.apply_updates(params, updates)


def test_a_stored_value_that_is_not_finite_is_computed_also_under_vmap():
    tx = zoom_keep()
    state = tx.init(vector(0, 0))
    starts = torch.stack([vector(1, 2), vector(3, 4)])
    stored = state[1]._replace(value=vector(7, math.nan), grad=torch.ones(2, 2, dtype=torch.float64))
    value, grad = torch.func.vmap(
        lambda value, grad, x: ps.value_and_grad_from_state(bowl)(
            x, state=(state[0], stored._replace(value=value, grad=grad))
        )
    )(stored.value, stored.grad, starts)
    assert value.tolist() == [7, 25]
    assert grad.tolist() == [[1, 1], [6, 8]]


PARAMS = vector(1, 2)


def complaint(call: Callable[[], Any]) -> str:
    with pytest.raises(ps.PureSGDError) as caught:
        call()
    return str(caught.value)


def test_bad_arguments_are_refused():
    zoom, back = ps.scale_by_zoom_linesearch, ps.scale_by_backtracking_linesearch
    assert "max_linesearch_steps=0 is not at least 1" in complaint(lambda: zoom(0))
    assert "initial_guess_strategy='two' is unknown. Pass 'keep' or 'one'." in complaint(
        lambda: zoom(5, initial_guess_strategy="two")
    )
    assert "increase_factor=1.0 lies outside (1, inf)" in complaint(lambda: zoom(5, increase_factor=1.0))
    assert "curv_rtol=-1 lies outside" in complaint(lambda: zoom(5, curv_rtol=-1))
    assert "max_learning_rate=-1 lies outside" in complaint(lambda: zoom(5, -1))
    assert "max_backtracking_steps='5' is of type str" in complaint(lambda: back("5"))
    assert "decrease_factor=1 lies outside (0, 1)" in complaint(lambda: back(5, decrease_factor=1))


@pytest.mark.parametrize("tx", [ps.scale_by_zoom_linesearch(5), ps.scale_by_backtracking_linesearch(5)])
def test_what_the_search_needs_is_asked_for(tx: ps.GradientTransformation):
    state = tx.init(PARAMS)
    assert "params is None" in complaint(lambda: tx.update(PARAMS, state, value_fn=bowl))
    assert "value_fn is None, expected the objective" in complaint(lambda: tx.update(PARAMS, state, PARAMS))
    assert "grad: shape (1,) does not match shape (2,) of params" in complaint(
        lambda: tx.update(PARAMS, state, PARAMS, grad=vector(1), value_fn=bowl)
    )
    assert "value has shape (2,), expected one number" in complaint(
        lambda: tx.update(PARAMS, state, PARAMS, value=PARAMS, value_fn=bowl)
    )


@pytest.mark.parametrize("tx", [ps.sgd(0.1), backtracking()])
def test_a_state_that_stores_no_gradient_is_named(tx: ps.GradientTransformation):
    value_and_grad = ps.value_and_grad_from_state(bowl)
    assert "of 0 line searches, expected one" in complaint(
        lambda: value_and_grad(PARAMS, state=tx.init(PARAMS))
    )
