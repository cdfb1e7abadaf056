"""Empirical and population risk, and gradients of a batch and of each example."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch

import pure_sgd as ps

X = torch.linspace(-1, 2, 12, dtype=torch.float64).reshape(6, 2)
Y = torch.linspace(1, -2, 6, dtype=torch.float64)
PARAMS = {"w": torch.tensor([0.5, -1.0], dtype=torch.float64), "b": torch.tensor(0.25, dtype=torch.float64)}


def example_loss(params: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x @ params["w"] + params["b"] - y) ** 2 / 2


def loop(params: Any) -> tuple[torch.Tensor, list[Any]]:
    """Losses and gradients one example at a time, by autograd itself."""
    losses, grads = [], []
    for x, y in zip(X, Y, strict=True):
        leaves = {name: leaf.clone().requires_grad_() for name, leaf in params.items()}
        loss = example_loss(leaves, x, y)
        loss.backward()
        losses.append(loss.detach())
        grads.append({name: leaf.grad for name, leaf in leaves.items()})
    return torch.stack(losses), grads


def test_empirical_risk_is_the_mean_over_examples():
    losses, _ = loop(PARAMS)
    torch.testing.assert_close(ps.empirical_risk(example_loss)(PARAMS, (X, Y)), losses.mean())


def test_value_and_grad_is_that_of_autograd():
    losses, grads = loop(PARAMS)
    value, grad = ps.value_and_grad(ps.empirical_risk(example_loss))(PARAMS, (X, Y))
    torch.testing.assert_close(value, losses.mean())
    for name in PARAMS:
        torch.testing.assert_close(grad[name], torch.stack([g[name] for g in grads]).mean(0))


@pytest.mark.parametrize("chunk_size", [None, 1, 4, 6, 100])
def test_per_example_gradients_equal_a_loop(chunk_size: int | None):
    _, grads = loop(PARAMS)
    found = ps.per_example_grads(example_loss, chunk_size)(PARAMS, (X, Y))
    for name in PARAMS:
        torch.testing.assert_close(found[name], torch.stack([g[name] for g in grads]))


def test_their_mean_is_the_gradient_of_the_risk():
    found = ps.per_example_grads(example_loss)(PARAMS, (X, Y))
    mean = ps.value_and_grad(ps.empirical_risk(example_loss))(PARAMS, (X, Y))[1]
    for name in PARAMS:
        torch.testing.assert_close(found[name].mean(0), mean[name])


def test_population_risk_is_a_mean_with_its_standard_error():
    losses, _ = loop(PARAMS)
    estimate = ps.population_risk(example_loss, chunk_size=4)(PARAMS, (X, Y))
    assert estimate.count == 6
    torch.testing.assert_close(estimate.mean, losses.mean())
    torch.testing.assert_close(estimate.standard_error, losses.std() / 6**0.5)


def test_the_standard_error_covers_the_truth_as_often_as_it_should():
    """Of 400 held-out sets, about 95 % lie within 1.96 standard errors of the expected loss."""
    risk = ps.population_risk(lambda params, x: (x - params) ** 2)
    draws = torch.randn(400, 200, dtype=torch.float64)
    estimates = [risk(torch.tensor(0.0, dtype=torch.float64), (x,)) for x in draws]
    covered = [abs(e.mean - 1) < 1.96 * e.standard_error for e in estimates]
    assert 0.91 < sum(covered) / 400 < 0.98


def test_one_example_has_no_standard_error():
    with pytest.raises(ps.PureSGDError, match="held_out: holds 1 example, and a standard error needs two"):
        ps.population_risk(example_loss)(PARAMS, (X[:1], Y[:1]))


class Pair(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


@pytest.mark.parametrize(
    "batch, loss",
    [
        ([X, Y], example_loss),
        ({"x": X, "y": Y}, lambda params, e: example_loss(params, e["x"], e["y"])),
        (Pair(X, Y), lambda params, e: example_loss(params, e.x, e.y)),
        (({"x": X}, [Y, None]), lambda params, a, b: example_loss(params, a["x"], b[0])),
    ],
    ids=["list", "dict", "NamedTuple", "nested"],
)
def test_a_batch_may_be_any_tree(batch: Any, loss: Any):
    expected = ps.empirical_risk(example_loss)(PARAMS, (X, Y))
    torch.testing.assert_close(ps.empirical_risk(loss)(PARAMS, batch), expected)
    assert ps.per_example_grads(loss)(PARAMS, batch)["w"].shape == (6, 2)


def test_a_none_among_the_parameters_is_an_empty_tree():
    params = {"w": PARAMS["w"], "b": PARAMS["b"], "skip": None}
    assert ps.value_and_grad(ps.empirical_risk(example_loss))(params, (X, Y))[1]["skip"] is None
    assert ps.per_example_grads(example_loss)(params, (X, Y))["skip"] is None


def test_aux_comes_beside_the_value():
    (value, aux), grads = ps.value_and_grad(lambda p: (p.square().sum(), {"norm": p.norm()}), has_aux=True)(
        torch.tensor([3.0, 4.0])
    )
    assert (value.item(), aux["norm"].item(), grads.tolist()) == (25.0, 5.0, [6.0, 8.0])


def test_linear_regression_reaches_its_closed_form():
    """Full gradient descent ends at the least squares solution, with and without the L2 penalty."""
    (x, y), _ = ps.data.linear_regression(ps.random.key(3), n=60, features=3)
    model = ps.models.linear(3)
    loss = ps.empirical_risk(lambda params, x, y: ps.losses.l2_loss(model.apply(params, x), y))
    for weight_decay in (0.0, 0.1):
        tx = ps.sgd(0.3, momentum=0.5, weight_decay=weight_decay)
        state, _ = ps.fit(loss, tx, model.init(ps.random.key(0)), (x, y), epochs=300)
        expected = ps.models.least_squares(x, y, weight_decay)
        for name in expected:
            torch.testing.assert_close(state.params[name], expected[name], rtol=0, atol=2e-6)


BUFFERED = {**PARAMS, "buffers": {"shift": torch.tensor(0.3, dtype=torch.float64), "seen": torch.tensor(7)}}


def buffered_loss(params: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return example_loss(params, x, y + params["buffers"]["shift"])


@pytest.mark.parametrize(
    "measure",
    [
        lambda loss: lambda params, batch: ps.value_and_grad(ps.empirical_risk(loss))(params, batch),
        ps.per_example_grads,
        ps.gradient_moments,
        lambda loss: ps.gradient_moments(loss, method="vmap"),
        ps.per_example_grad_norms,
        lambda loss: ps.clipped_mean_grads(loss, 0.1),
        lambda loss: lambda params, batch: ps.per_example_slopes(loss)(params, batch, params),
        lambda loss: lambda params, batch: ps.covariance_vector_product(loss)(params, batch, params),
        lambda loss: ps.covariance_spectrum(loss, k=2),
        lambda loss: lambda params, batch: len(ps.gradient_paths(loss)(params, batch)),
    ],
)
def test_buffers_are_constants_in_all_that_is_made_of_gradients(measure: Any):
    """The results are those of the loss that has them within."""
    shift = BUFFERED["buffers"]["shift"]
    bound = measure(lambda params, x, y: example_loss(params, x, y + shift))(PARAMS, (X, Y))
    torch.testing.assert_close(measure(buffered_loss)(BUFFERED, (X, Y)), bound)
