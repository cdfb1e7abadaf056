"""L-BFGS: against the matrix that it stands for, against torch.optim.LBFGS, and to the end of a valley."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch

import pure_sgd as ps

Objective = Callable[[Any], torch.Tensor]


def vector(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def rosenbrock(x: torch.Tensor) -> torch.Tensor:
    """In any number of dimensions; its minimum 0 lies at 1, 1, ..."""
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def run(tx: ps.GradientTransformation, objective: Objective, params: Any, steps: int) -> tuple[Any, Any]:
    state = tx.init(params)
    value_and_grad = ps.value_and_grad_from_state(objective)
    for _ in range(steps):
        value, grad = value_and_grad(params, state=state)
        updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=objective)
        params = ps.apply_updates(params, updates)
    return params, state


def inverse_hessian(pairs: list[Any], gamma: torch.Tensor) -> torch.Tensor:
    """The inverse BFGS formula, one pair after the other, as a matrix."""
    identity = torch.eye(len(pairs[0][0]), dtype=torch.float64)
    matrix = gamma * identity
    for s, y in pairs:
        v = identity - torch.outer(y, s) / (s @ y)
        matrix = v.T @ matrix @ v + torch.outer(s, s) / (s @ y)
    return matrix


@pytest.mark.parametrize("memory_size", [1, 3, 20])
@pytest.mark.parametrize("scale_init_precond", [True, False])
def test_the_direction_is_that_of_the_inverse_hessian_as_a_matrix(memory_size: int, scale_init_precond: bool):
    tx = ps.scale_by_lbfgs(memory_size, scale_init_precond)
    params = vector(-1.2, 1, 0.5, 2, -1)
    state, points = tx.init(params), []
    for step in range(8):
        grad = torch.func.grad(rosenbrock)(params)
        updates, state = tx.update(grad, state, params)
        points.append((params, grad))
        pairs = [(x - x0, g - g0) for (x0, g0), (x, g) in pairwise(points)]
        if step == 0:
            expected = grad / grad.norm() if scale_init_precond else grad
        else:
            s, y = pairs[-1]
            gamma = (s @ y) / (y @ y) if scale_init_precond else vector(1)[0]
            expected = inverse_hessian(pairs[-memory_size:], gamma) @ grad
        torch.testing.assert_close(updates, expected, rtol=1e-8, atol=1e-10)
        params = params - 0.01 * updates / updates.norm()


def test_of_a_quadratic_it_learns_the_inverse_hessian():
    keys = ps.random.split(ps.random.key(0), 2)
    root = ps.random.normal(keys[0], (4, 4), dtype=torch.float64)
    hessian = root @ root.T + torch.eye(4, dtype=torch.float64)
    tx, params = ps.scale_by_lbfgs(), ps.random.normal(keys[1], (4,), dtype=torch.float64)
    state = tx.init(params)
    for index in range(5):
        updates, state = tx.update(hessian @ params, state, params)
        # Conjugate directions, each searched exactly: after as many as there are axes all is known.
        if index < 4:
            rate = (params @ hessian @ updates) / (updates @ hessian @ updates)
            params = params - rate * updates
    assert params.norm() < 1e-12
    probe = vector(1, -2, 3, 0.5)
    updates, _ = tx.update(hessian @ probe, state, probe)
    torch.testing.assert_close(updates, probe, rtol=1e-6, atol=1e-6)


def test_a_tree_is_one_vector_and_the_state_is_as_large_as_it_says():
    start = vector(-1.2, 1, 0.5, 2, -1)
    parts = {"a": start[:2].reshape(2, 1), "b": [start[2], None, start[3:]]}

    def joined(params: Any) -> torch.Tensor:
        return torch.cat([leaf.reshape(-1) for leaf in ps.tree.leaves(params)])

    tx = ps.lbfgs(memory_size=4)
    end, state = run(tx, lambda params: rosenbrock(joined(params)), parts, 6)
    whole, _ = run(tx, rosenbrock, start, 6)
    torch.testing.assert_close(joined(end), whole, rtol=1e-10, atol=0)
    assert sum(leaf.numel() for leaf in ps.tree.leaves(state[0])) == (2 * 4 + 2) * 5 + 4 + 1


@pytest.mark.parametrize("start", [(-1.2, 1.0), (92.0, 0.001), (-3.0, -4.0), (1.2, 0.7, 0.5, 2.0, 0.8, 0.3)])
def test_it_follows_the_valley_to_its_end(start: tuple[float, ...]):
    params, _ = run(ps.lbfgs(), rosenbrock, vector(*start), 200 if len(start) == 2 else 60)
    assert (params - 1).norm() < 1e-8 or torch.func.grad(rosenbrock)(params).norm() < 1e-8
    assert rosenbrock(params) < 1e-8


def test_it_ends_where_torch_optim_lbfgs_ends():
    (x, y), _ = ps.data.linear_regression(ps.random.key(0), n=40, features=3)
    x, y = x.double(), y.double()

    def loss(w: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.softplus(-y.sign() * (x @ w)).mean() + 0.05 * w.square().sum()

    theirs = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [theirs], max_iter=50, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(theirs)
        value.backward()
        return value

    optimizer.step(closure)
    ours, _ = run(ps.lbfgs(), loss, torch.zeros(3, dtype=torch.float64), 20)
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-8, atol=1e-10)


def waves(x: torch.Tensor) -> torch.Tensor:
    """A bowl with ripples: on the way down the curvature changes its sign."""
    return (x**2 / 20 - (2 * x).cos()).sum()


@pytest.mark.parametrize("objective, lr", [(rosenbrock, 0.1), (waves, 0.3)], ids=["rosenbrock", "waves"])
@pytest.mark.parametrize("memory_size", [2, 100])
def test_without_a_search_the_steps_are_those_of_torch_optim_lbfgs(
    objective: Objective, lr: float, memory_size: int
):
    theirs = vector(-1.2, 1, 0.5, 4.4).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [theirs], lr, max_iter=1, history_size=memory_size, tolerance_grad=0, tolerance_change=0
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = objective(theirs)
        value.backward()
        return value

    tx = ps.lbfgs(lr, memory_size, linesearch=None, min_curvature=1e-10, initial_norm=1)
    params = theirs.detach().clone()
    state = tx.init(params)
    for _ in range(20):
        optimizer.step(closure)
        updates, state = tx.update(torch.func.grad(objective)(params), state, params)
        params = ps.apply_updates(params, updates)
        torch.testing.assert_close(params, theirs.detach(), rtol=1e-10, atol=1e-10)
    if objective is waves and memory_size == 100:
        assert 0 < state[0].weights_memory.count_nonzero() < 19


def test_a_pair_of_negative_curvature_is_left_out_where_asked():
    # Of -cos around its maximum pi: the slope falls along the step.
    params, step = vector(3.0), vector(-0.1)
    direction = []
    for min_curvature in (None, 0.0):
        tx = ps.scale_by_lbfgs(min_curvature=min_curvature)
        _, state = tx.update(params.sin(), tx.init(params), params)
        updates, state = tx.update((params + step).sin(), state, params + step)
        direction.append((updates * (params + step).sin()).item())
        assert state.weights_memory.count_nonzero() == (min_curvature is None)
    assert direction[0] < 0 < direction[1]


def test_a_step_that_went_nowhere_teaches_nothing():
    params, grad = vector(1, 2), vector(3, 4)
    for tx in (ps.scale_by_lbfgs(), ps.scale_by_lbfgs(min_curvature=0.0)):
        _, state = tx.update(grad, tx.init(params), params)
        updates, state = tx.update(grad, state, params)
        torch.testing.assert_close(updates, grad)
        assert not state.weights_memory.any()


def test_vmap_over_starting_points_equals_a_loop():
    starts = torch.stack([vector(-1.2, 1, 0.3), vector(0.5, -2, 1), vector(3, 1, -1)])

    def end(start: torch.Tensor) -> torch.Tensor:
        return run(ps.lbfgs(memory_size=3), rosenbrock, start, 8)[0]

    torch.testing.assert_close(
        torch.func.vmap(end)(starts), torch.stack([end(start) for start in starts]), rtol=1e-8, atol=1e-12
    )


(X, Y), _ = ps.data.linear_regression(ps.random.key(0), n=40, features=3)
MODEL = ps.models.mlp((3, 6, 1))
LOSS = ps.empirical_risk(lambda params, x, y: ps.losses.squared_error(MODEL.apply(params, x), y[None]))


def test_fit_gives_the_search_what_it_asks_for():
    params = MODEL.init(ps.random.key(1))
    state, history = ps.fit(LOSS, ps.lbfgs(), params, (X, Y), steps=30, record_every=1, progress=False)
    assert all(b <= a for a, b in pairwise(history["loss"]))
    assert history["loss"][-1] < 0.2 * history["loss"][0]
    assert history["learning_rate"][-1] == ps.learning_rate(state.opt_state)
    end, _ = run(ps.lbfgs(), lambda params: LOSS(params, (X, Y)), params, 30)
    torch.testing.assert_close(state.params, end, rtol=1e-2, atol=1e-2)


def test_the_step_gives_the_loss_of_its_batch_with_buffers_and_without_what_comes_beside_it():
    def loss(params: Any, batch: Any) -> Any:
        error = params["buffers"]["scale"] * params["w"] - batch
        return error.square().mean(), {"buffers": {"scale": params["buffers"]["scale"] + 1}}

    tx = ps.chain(ps.sgd(1.0), ps.scale_by_zoom_linesearch(20))
    step = ps.make_step(loss, tx, has_aux=True)
    params: dict[str, Any] = {"w": vector(0.0), "buffers": {"scale": vector(2.0)}}
    state, metrics = step(ps.init_train_state(params, tx), vector(1, 5))
    assert state.params["w"].item() == pytest.approx(1.5)  # 2 * w is the mean of the batch
    assert state.params["buffers"]["scale"] == 3
    assert state.opt_state[1].value.item() == pytest.approx(4)
    assert metrics["loss"] == 13


def test_an_extra_that_is_given_goes_before_that_of_the_step():
    tx = ps.chain(ps.sgd(1.0), ps.scale_by_backtracking_linesearch(20, decrease_factor=0.5))
    step = ps.make_step(lambda params, batch: ((params - batch) ** 2).sum(), tx)
    state = ps.init_train_state(vector(0.0), tx)
    assert step(state, vector(1.0))[0].opt_state[1].value == 0
    seen = step(state, vector(1.0), value_fn=lambda params: ((params - 1) ** 2).sum() + 1, value=2.0)
    assert seen[0].opt_state[1].value == 1


@pytest.mark.slow
@pytest.mark.parametrize("donate, backend", [(False, "aot_eager"), (True, "inductor")])
def test_the_compiled_step_searches_as_the_eager_one(donate: bool, backend: str):
    def loss(params: Any, batch: Any) -> torch.Tensor:
        return rosenbrock(params["x"]) * batch.mean()

    tx = ps.lbfgs(memory_size=2)
    step = ps.make_step(loss, tx)
    eager = ps.init_train_state({"x": vector(-1.2, 1)}, tx)
    compiled, fast = ps.tree.map(torch.clone, eager), ps.compile_step(step, donate, backend=backend)
    for _ in range(5):
        eager, _ = step(eager, vector(1, 3))
        compiled, _ = fast(compiled, vector(1, 3))
    torch.testing.assert_close(compiled, eager, rtol=1e-9, atol=1e-12)


def test_bad_arguments_are_refused():
    for call, words in [
        (lambda: ps.lbfgs(memory_size=0), "memory_size=0 is not at least 1"),
        (lambda: ps.lbfgs(-0.1), "learning_rate=-0.1 lies outside"),
        (lambda: ps.lbfgs(min_curvature=-1.0), "min_curvature=-1.0 lies outside"),
        (lambda: ps.scale_by_lbfgs(initial_norm=3), "initial_norm=3 is unknown. Pass 1 or 2."),
        (
            lambda: ps.scale_by_lbfgs().update(vector(1), ps.scale_by_lbfgs().init(vector(1))),
            "params is None",
        ),
    ]:
        with pytest.raises(ps.PureSGDError) as caught:
            call()
        assert words in str(caught.value)
