"""Averaged SGD and sparse Adam: ``torch.optim``'s own, side by side in float64."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from test_torch_adaptive import grid, names
from test_torch_optim import STEPS, initial_params, loss, ours

import pure_sgd as ps


@pytest.fixture
def float64_scalars() -> Iterator[None]:
    """Let torch keep the rates of ASGD in float64: it does so in the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def torchs_own(settings: dict[str, Any], rates: list[float]) -> Iterator[tuple[Any, Any]]:
    """The parameters and averages of ``torch.optim.ASGD`` after each step."""
    params = {name: p.requires_grad_() for name, p in initial_params().items()}
    optimizer = torch.optim.ASGD(params.values(), **settings)
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss(params).backward()
        optimizer.step()
        averages = {name: optimizer.state[p]["ax"].clone() for name, p in params.items()}
        yield {name: p.detach().clone() for name, p in params.items()}, averages


def scheduled_rate(step: torch.Tensor) -> torch.Tensor:
    return 0.05 / (1 + 0.5 * step.double())


RATES = {
    "constant": (0.05, [0.05] * STEPS),
    # torch takes a step's rate from the learning rate of the step before.
    "scheduled": (
        lambda step: scheduled_rate((step - 1).clamp(min=0)),
        scheduled_rate(torch.arange(STEPS)).tolist(),
    ),
}


@pytest.mark.usefixtures("float64_scalars")
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(
    "settings",
    grid(
        lambd=(0, 1e-4, 0.5),
        alpha=(0.75, 1.0),
        t0=(0, 3, 1_000_000),
        weight_decay=(0, 0.1),
        maximize=(False, True),
    ),
    ids=names,
)
def test_asgd(settings: dict[str, Any], rate: str):
    learning_rate, rates = RATES[rate]
    tx = ps.asgd(learning_rate, **{name: value for name, value in settings.items() if name != "maximize"})
    if settings["maximize"]:
        tx = ps.chain(ps.scale(-1), tx)
    for (params, state), (want, average) in zip(ours(tx), torchs_own(settings, rates), strict=True):
        torch.testing.assert_close(params, want, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(ps.eval_params(state, params), average, rtol=1e-10, atol=1e-12)


def test_the_rate_of_asgd_can_be_read():
    for step, (_, state) in enumerate(ours(ps.asgd(0.1, 0.5, 0.75))):
        rate = ps.learning_rate(state)
        assert rate is not None
        assert rate.item() == pytest.approx(0.1 / (1 + 0.5 * 0.1 * step) ** 0.75)


def sparse_grads(step: int) -> torch.Tensor:
    """Two of five rows at a time, one of the entries in them zero."""
    grads = torch.zeros(5, 3, dtype=torch.float64)
    for row in ((step * 2) % 5, (step * 3 + 1) % 5):
        grads[row] = torch.sin(torch.arange(3.0, dtype=torch.float64) + 1.3 * row + 0.7 * step)
        grads[row, step % 3] = 0.0
    return grads if step != 2 else torch.zeros_like(grads)


@pytest.mark.parametrize("sparse_dim", [1, 2, None])
@pytest.mark.parametrize("settings", grid(betas=((0.9, 0.999), (0.5, 0.9)), eps=(1e-8, 1e-2)), ids=names)
def test_sparse_adam(settings: dict[str, Any], sparse_dim: int | None):
    start = torch.linspace(-1, 1, 15, dtype=torch.float64).reshape(5, 3)
    want = start.clone().requires_grad_()
    optimizer = torch.optim.SparseAdam([want], lr=0.05, **settings)
    b1, b2 = settings["betas"]
    tx, params = ps.sparse_adam(0.05, b1, b2, settings["eps"], sparse_dim=sparse_dim), start
    state = tx.init(params)
    for step in range(STEPS):
        grads = sparse_grads(step)
        want.grad = grads.to_sparse() if sparse_dim is None else grads.to_sparse(sparse_dim)
        optimizer.step()
        updates, state = tx.update(grads, state, params)
        params = ps.apply_updates(params, updates)
        torch.testing.assert_close(params, want.detach(), rtol=1e-10, atol=1e-12)


def test_sparse_adam_on_rows_that_are_never_zero_is_adam():
    got, want = ps.sparse_adam(0.05, eps=0.0), ps.adam(0.05, eps=0.0)
    for (a, _), (b, _) in zip(ours(got), ours(want), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0.0)


def test_a_row_without_a_gradient_keeps_its_moments():
    tx = ps.scale_by_sparse_adam()
    state = tx.init(torch.zeros(2, 2))
    _, first = tx.update(torch.tensor([[1.0, 2.0], [3.0, 0.0]]), state)
    updates, second = tx.update(torch.tensor([[0.0, 0.0], [0.0, torch.nan]]), first)
    assert updates[0].tolist() == [0.0, 0.0]
    assert updates[1, 1].isnan()
    for before, after in ((first.mu, second.mu), (first.nu, second.nu)):
        assert torch.equal(before[0], after[0])
        assert not torch.equal(before[1], after[1])


@pytest.mark.parametrize(
    "name, settings, words",
    [
        ("scale_by_asgd", {"learning_rate": -1.0}, r"learning_rate=-1.0 lies outside \[0, inf\)"),
        ("scale_by_asgd", {"learning_rate": 0.1, "t0": 1e6}, "t0=1000000.0 is of type float"),
        ("scale_by_sparse_adam", {"b1": 1.0}, r"b1=1.0 lies outside \[0, 1\)"),
        ("scale_by_sparse_adam", {"sparse_dim": 0}, "sparse_dim=0 is not at least 1"),
    ],
)
def test_a_number_out_of_range_is_an_error_that_names_it(name: str, settings: dict[str, Any], words: str):
    with pytest.raises(ps.PureSGDError, match=f"^{name}: {words}"):
        getattr(ps, name)(**settings)
