"""Real problems as noisy quadratics: what is measured at a point, and what runs then settle at."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import pure_sgd as ps

th = ps.theory
N, B, RATE = 50, 2, 0.1


def correlated_features(key: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """50 examples of 3 features of unlike scales, which depend on each other, and targets with noise."""
    keys = ps.random.split(ps.random.key(key), 3)
    x = ps.random.normal(keys[0], (N, 3), torch.float64)
    x = x @ torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 0.3], [0.0, 0.0, 0.4]], dtype=torch.float64)
    return x, x @ torch.tensor([1.0, -1.0, 2.0], dtype=x.dtype) + ps.random.normal(keys[1], (N,), x.dtype)


def squared_error(w: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x @ w - y) ** 2 / 2


LOSS = ps.empirical_risk(squared_error)


def optimum(data: Any) -> torch.Tensor:
    return torch.linalg.lstsq(*data).solution


def test_linear_regression_is_measured_exactly():
    data = correlated_features()
    x, y = data
    w = torch.ones(3, dtype=x.dtype)
    found = th.local_quadratic(LOSS, w, data, batch_size=B)
    hessian = x.T @ x / N
    values, v = found.problem.curvature, found.basis
    torch.testing.assert_close(v @ hessian @ v.T, values.diag())
    assert (values.diff() < 0).all()
    gradients = (x @ w - y)[:, None] * x
    covariance = torch.cov(gradients.T, correction=0)
    torch.testing.assert_close(found.noise_covariance, v @ covariance @ v.T)
    torch.testing.assert_close(found.problem.noise, found.noise_covariance.diagonal())
    torch.testing.assert_close(found.problem.variance, found.problem.noise / B)
    torch.testing.assert_close(found.start, v @ (w - optimum(data)))
    torch.testing.assert_close(LOSS(w, data) - LOSS(optimum(data), data), found.problem.risk(found.start))
    assert found.example_curvatures is not None
    torch.testing.assert_close(v.T @ found.example_curvatures[7] @ v, torch.outer(x[7], x[7]) - hessian)


def test_logistic_regression_is_measured_exactly():
    x, y = correlated_features()
    labels = (y > 0).double()
    loss = ps.empirical_risk(
        lambda params, x, y: torch.nn.functional.softplus(-(2 * y - 1) * (x @ params["w"] + params["b"]))
    )
    params = {"b": torch.tensor(0.1, dtype=x.dtype), "w": torch.tensor([0.5, 0.0, 0.2], dtype=x.dtype)}
    found = th.local_quadratic(loss, params, (x, labels))
    z = torch.cat([torch.ones(N, 1, dtype=x.dtype), x], 1)
    p = torch.sigmoid(x @ params["w"] + params["b"])
    basis = torch.cat([found.basis["b"][:, None], found.basis["w"]], 1)
    torch.testing.assert_close(
        basis @ (z.T * (p * (1 - p))) @ z @ basis.T / N, found.problem.curvature.diag()
    )
    covariance = torch.cov(((p - labels)[:, None] * z).T, correction=0)
    torch.testing.assert_close(basis @ covariance @ basis.T, found.noise_covariance)


def test_the_leading_directions_of_a_network_are_those_of_its_whole_hessian():
    pytest.importorskip("scipy")
    model = ps.models.mlp([3, 4, 1])
    params = ps.tree.map(torch.Tensor.double, model.init(ps.random.key(0)))
    data = correlated_features()
    loss = ps.empirical_risk(lambda params, x, y: (model.apply(params, x)[..., 0] - y) ** 2 / 2)
    found = th.local_quadratic(loss, params, data, leading=4)
    leaves, rebuild = ps.tree.flatten(params)
    sizes = [leaf.numel() for leaf in leaves]
    flat = torch.cat([leaf.reshape(-1) for leaf in leaves])

    def of_flat(flat: torch.Tensor, *batch: Any) -> torch.Tensor:
        parts = zip(flat.split(sizes), leaves, strict=True)
        return loss(rebuild([part.reshape(leaf.shape) for part, leaf in parts]), batch)

    values, vectors = torch.linalg.eigh(torch.func.hessian(of_flat)(flat, *data))
    torch.testing.assert_close(found.problem.curvature, values.flip(0)[:4])
    basis = torch.cat([leaf.flatten(1) for leaf in ps.tree.leaves(found.basis)], 1)
    torch.testing.assert_close((basis @ vectors.flip(1)[:, :4]).abs(), torch.eye(4, dtype=flat.dtype))
    gradients = torch.func.vmap(
        torch.func.grad(lambda flat, *e: of_flat(flat, *(p[None] for p in e))), (None, 0, 0)
    )
    along = gradients(flat, *data) @ basis.T
    torch.testing.assert_close(found.noise_covariance, torch.cov(along.T, correction=0))
    torch.testing.assert_close(found.start, along.mean(0) / values.flip(0)[:4])
    assert found.example_curvatures is None
    with pytest.raises(ps.PureSGDError, match="local holds leading directions only"):
        th.steady_state_noise(ps.sgd(0.1), found)


def whole_covariance(data: Any, rate: float) -> torch.Tensor:
    """The stationary covariance of SGD on linear regression: its linear equation, solved as a system of 9."""
    x, y = data
    n, eye = len(x), torch.eye(x.shape[1], dtype=x.dtype)
    hessian, gradients = x.T @ x / n, (x @ optimum(data) - y)[:, None] * x
    spread = x[:, :, None] * x[:, None, :] - hessian
    mixed = torch.einsum("eij,ekl->ikjl", spread, spread).reshape(9, 9) / n
    step = eye - rate * hessian
    system = torch.eye(9, dtype=x.dtype) - torch.kron(step, step) - rate**2 / B * mixed
    noise = torch.cov(gradients.T, correction=0)
    return torch.linalg.solve(system, rate**2 / B * noise.reshape(9)).reshape(3, 3)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.3])
def test_noise_that_grows_with_the_distance_is_accounted_for_exactly(rate: float):
    data = correlated_features()
    local = th.local_quadratic(LOSS, optimum(data), data, batch_size=B)
    problem = th.steady_state_noise(ps.sgd(rate), local)
    found = th.steady_state_risk(ps.sgd(rate), problem)
    covariance = whole_covariance(data, rate)
    torch.testing.assert_close(
        found.variance, (local.basis @ covariance @ local.basis.T).diagonal(), rtol=1e-9, atol=0
    )
    # Its share is of the order of rate / B * tr(H), and vanishes with it.
    share = found.params / th.steady_state_risk(ps.sgd(rate), local.problem).params - 1
    size = rate / B * local.problem.curvature.sum()
    assert 0.3 * size < share < 4 * size


TXS = {
    "sgd": lambda: ps.sgd(RATE),
    "momentum": lambda: ps.sgd(RATE / 4, momentum=0.75),
    "averaged": lambda: ps.chain(ps.sgd(RATE), ps.params_ema(0.98)),
}


def settled(loss: Any, best: Any, data: Any, tx: ps.GradientTransformation, steps: int, read: Any) -> Any:
    """``read`` of 1000 runs from the optimum, of each the mean over the second half of the steps."""
    step, keys = ps.make_step(loss, tx), ps.random.split(ps.random.key(5), 1000)

    def after(state: Any, key: torch.Tensor) -> Any:
        rows = (ps.random.uniform(key, (B,), torch.float64) * N).long()
        return step(state, ps.data.take(data, rows))[0]

    states = torch.func.vmap(lambda key: ps.init_train_state(best, tx))(keys)
    found = []
    for k in range(steps):
        states = torch.func.vmap(lambda state, key, k=k: after(state, ps.random.fold_in(key, k)))(
            states, keys
        )
        if k >= steps // 2 and k % 10 == 0:
            found.append(torch.func.vmap(read)(states))
    return torch.stack(found).mean(0)


def mean_and_error(runs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return runs.mean(0), runs.std(0) / len(runs) ** 0.5


@pytest.mark.parametrize("name", TXS)
def test_runs_of_linear_regression_settle_where_theory_says(name: str):
    """After four times the memory of the slowest direction."""
    data, tx = correlated_features(), TXS[name]()
    best = optimum(data)
    local = th.local_quadratic(LOSS, best, data, batch_size=B)
    floor = LOSS(best, data)

    def excess(state: Any) -> torch.Tensor:
        return LOSS(ps.eval_params(state.opt_state, state.params), data) - floor

    steps = 2 * int(4 / (RATE * local.problem.curvature.min()))
    found, error = mean_and_error(settled(LOSS, best, data, tx, steps, excess))
    expected = th.steady_state_risk(tx, th.steady_state_noise(tx, local)).averaged
    assert (found - expected).abs() < 3 * error
    additive = th.steady_state_risk(tx, local.problem).averaged
    assert found - additive > 3 * error  # the noise at the optimum alone is not enough


def test_runs_of_logistic_regression_settle_where_theory_says():
    """Its curvature changes with the distance, which at this rate is hardly seen."""
    x, y = correlated_features()
    data, tx = (x, (y > 0).double()), ps.sgd(2 * RATE)

    def example_loss(w: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.softplus(-(2 * y - 1) * (x @ w)) + 0.05 * (w @ w)

    loss, best = ps.empirical_risk(example_loss), torch.zeros(3, dtype=x.dtype)
    for _ in range(30):  # Newton's method
        slope, hessian = (of(loss)(best, data) for of in (torch.func.grad, torch.func.hessian))
        best = best - torch.linalg.solve(hessian, slope)
    local = th.local_quadratic(loss, best, data, batch_size=B)
    steps = 2 * int(4 / (2 * RATE * local.problem.curvature.min()))
    runs = settled(loss, best, data, tx, steps, lambda state: loss(state.params, data) - loss(best, data))
    found, error = mean_and_error(runs)
    expected = th.steady_state_risk(tx, th.steady_state_noise(tx, local)).params
    assert (found - expected).abs() < 3 * error
    assert error < 0.02 * expected


@pytest.mark.slow
def test_a_network_settles_where_its_leading_directions_say():
    """Within 7 %, of which 1 % is chance: the curvatures of a network change with the parameters."""
    pytest.importorskip("scipy")
    model = ps.models.mlp([3, 4, 1], activation=torch.tanh)
    start = ps.tree.map(torch.Tensor.double, model.init(ps.random.key(0)))
    data, tx = correlated_features(), ps.sgd(0.005)
    loss = ps.empirical_risk(
        lambda params, x, y: (model.apply(params, x)[..., 0] - y) ** 2 / 2 + 5e-4 * ps.tree.norm(params) ** 2
    )
    best = minimum(loss, start, data)
    local = th.local_quadratic(loss, best, data, batch_size=B, leading=4)
    assert local.start.abs().max() < 1e-6

    def squares(state: Any) -> torch.Tensor:
        away = ps.tree.leaves(ps.tree.map(torch.sub, state.params, best))
        parts = zip(ps.tree.leaves(local.basis), away, strict=True)
        return torch.stack([b.flatten(1) @ a.flatten() for b, a in parts]).sum(0) ** 2

    steps = 2 * int(4 / (0.005 * local.problem.curvature.min()))
    found, error = mean_and_error(settled(loss, best, data, tx, steps, squares))
    expected = th.steady_state_risk(tx, local.problem).variance
    assert (found / expected - 1).abs().max() < 0.07
    assert (error / expected).max() < 0.025


def minimum(loss: Any, start: Any, data: Any) -> Any:
    from scipy.optimize import minimize

    leaves, rebuild = ps.tree.flatten(start)
    sizes = [leaf.numel() for leaf in leaves]

    def of_flat(flat: torch.Tensor) -> Any:
        parts = zip(flat.split(sizes), leaves, strict=True)
        return rebuild([part.reshape(leaf.shape) for part, leaf in parts])

    def slope_and_value(flat: Any) -> Any:
        slope, value = torch.func.grad_and_value(lambda v: loss(of_flat(v), data))(torch.from_numpy(flat))
        return value.item(), slope.numpy()

    flat = torch.cat([leaf.flatten() for leaf in leaves]).numpy()
    return of_flat(torch.from_numpy(minimize(slope_and_value, flat, jac=True, options={"gtol": 1e-10}).x))


def test_bad_input_is_named():
    data = correlated_features()
    w = torch.zeros(3, dtype=torch.float64)
    not_of_examples: Any = torch.sum
    with pytest.raises(ps.PureSGDError, match="expected EmpiricalRisk"):
        th.local_quadratic(not_of_examples, w, data)
    with pytest.raises(ps.PureSGDError, match=r"the smallest of 3 curvatures is -"):
        th.local_quadratic(ps.empirical_risk(lambda w, x, y: -((x @ w - y) ** 2)), w, data)
    with pytest.raises(ps.PureSGDError, match="leading=3 is not from 1 to 2"):
        th.local_quadratic(LOSS, w, data, leading=3)
    local = th.local_quadratic(LOSS, optimum(data), data)
    with pytest.raises(ps.PureSGDError, match="grows without end"):
        th.steady_state_noise(ps.sgd(0.8), local)
    with pytest.raises(ps.PureSGDError, match=r"the steps of .* differ"):
        th.steady_state_noise(ps.sgd(ps.linear_schedule(0.1, 0.2, 10)), local)
