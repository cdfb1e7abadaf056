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


@pytest.mark.parametrize("name", TXS)
def test_runs_of_linear_regression_settle_where_theory_says(name: str):
    """1000 runs from the optimum; after four times the memory of the slowest direction, their mean risk."""
    data, runs = correlated_features(), 1000
    best, tx = optimum(data), TXS[name]()
    local = th.local_quadratic(LOSS, best, data, batch_size=B)
    expected = th.steady_state_risk(tx, th.steady_state_noise(tx, local)).averaged
    step, floor = ps.make_step(LOSS, tx), LOSS(best, data)
    risks = []

    def many(state: Any, key: torch.Tensor) -> Any:
        rows = (ps.random.uniform(key, (B,), torch.float64) * N).long()
        return step(state, ps.data.take(data, rows))[0]

    def excess(state: Any) -> torch.Tensor:
        return LOSS(ps.eval_params(state.opt_state, state.params), data) - floor

    keys = ps.random.split(ps.random.key(5), runs)
    states = torch.func.vmap(lambda key: ps.init_train_state(best, tx))(keys)
    steps = int(4 / (RATE * local.problem.curvature.min()))
    for k in range(2 * steps):
        states = torch.func.vmap(lambda state, key, k=k: many(state, ps.random.fold_in(key, k)))(states, keys)
        if k >= steps and k % 10 == 0:
            risks.append(torch.func.vmap(excess)(states))
    means = torch.stack(risks).mean(0)  # of each run, which are independent
    error = means.std() / runs**0.5
    assert (means.mean() - expected).abs() < 3 * error
    additive = th.steady_state_risk(tx, local.problem).averaged
    assert means.mean() - additive > 3 * error  # the noise at the optimum alone is not enough


def test_bad_input_is_named():
    data = correlated_features()
    w = torch.zeros(3, dtype=torch.float64)
    not_of_examples: Any = torch.sum
    with pytest.raises(ps.PureSGDError, match="the loss knows none"):
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
