"""The gradient of DP-SGD: no example counts for more than the bound, and the noise is what was asked for."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gradient_noise import BATCH, PARAMS, ROWS, X, Y, assert_close, example_loss, flat

import pure_sgd as ps

NORMS = ROWS.norm(dim=1)
KEY = ps.random.key(0)


def clipped_rows(bound: float) -> torch.Tensor:
    return torch.stack([row * min(1.0, bound / float(row.norm())) for row in ROWS])


@pytest.mark.parametrize("chunk_size", [None, 1, 3, 50])
@pytest.mark.parametrize("method", ["auto", "vmap"])
@pytest.mark.parametrize("bound", [1e-3, float(NORMS.median()), 1e3])
def test_it_is_the_mean_of_clipped_gradients(bound: float, method: str, chunk_size: int | None):
    found = ps.clipped_mean_grads(example_loss, bound, method=method, chunk_size=chunk_size)(PARAMS, BATCH)
    assert_close(flat(found.grads), clipped_rows(bound).mean(0))
    assert_close(found.norms, NORMS)
    losses = [example_loss(PARAMS, x, y) for x, y in zip(X, Y, strict=True)]
    assert_close(found.loss, torch.stack(losses).mean())


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_each_leaf_may_have_its_own_bound(chunk_size: int | None):
    bounds = {"w": 0.1, "out": [0.5, torch.tensor(0.02, dtype=torch.float64)], "nothing": None}
    found = ps.clipped_mean_grads(example_loss, bounds, chunk_size=chunk_size)(PARAMS, BATCH)
    start, expected = 0, []
    for leaf, bound, norms in zip(
        ps.tree.leaves(PARAMS), ps.tree.leaves(bounds), ps.tree.leaves(found.norms), strict=True
    ):
        part = ROWS[:, start : start + leaf.numel()]
        assert_close(norms, part.norm(dim=1))
        expected.append((part * (float(bound) / norms).clamp(max=1)[:, None]).mean(0))
        start += leaf.numel()
    assert_close(flat(found.grads), torch.cat(expected))


@given(scale=st.floats(1e-6, 1e6), seed=st.integers(0, 99), bound=st.floats(1e-3, 10.0), split=st.booleans())
@settings(max_examples=40, deadline=None)
def test_one_example_more_moves_the_sum_by_at_most_the_bound(
    scale: float, seed: int, bound: float, split: bool
):
    """Whatever the example: this is the sensitivity that accountants of privacy ask for."""
    generator = torch.Generator().manual_seed(seed)
    stranger = scale * torch.randn(1, 3, generator=generator, dtype=torch.float64), torch.full((1,), scale)
    max_norm = ps.tree.map(lambda p: bound / 3**0.5, PARAMS) if split else bound
    # The sums, not the means: their divisor must not depend on who is in the batch.
    total = ps.clipped_mean_grads(example_loss, max_norm, expected_batch_size=1)
    without = total(PARAMS, BATCH).grads
    more = total(PARAMS, (torch.cat([X, stranger[0]]), torch.cat([Y, stranger[1].double()]))).grads
    assert (flat(more) - flat(without)).norm() <= bound * (1 + 1e-9)


def test_the_noise_has_the_stated_deviation_and_follows_the_key():
    params, batch = torch.zeros(20_000), (torch.zeros(4, 20_000),)
    noisy = ps.clipped_mean_grads(lambda params, x: (params * x).sum(), 0.5, noise_multiplier=3.0)
    one = noisy(params, batch, KEY).grads
    assert float(one.std()) == pytest.approx(3.0 * 0.5 / 4, rel=0.03)
    assert abs(float(one.mean())) < 5 * 3.0 * 0.5 / 4 / 20_000**0.5
    assert torch.equal(one, noisy(params, batch, KEY).grads)
    assert not torch.equal(one, noisy(params, batch, ps.random.key(1)).grads)


def test_the_noise_of_leaves_is_that_of_their_joint_bound():
    bounds = {"a": 3.0, "b": 4.0}
    params = {"a": torch.zeros(10_000), "b": torch.zeros(10_000)}
    noisy = ps.clipped_mean_grads(lambda params, x: (params["a"] * x).sum(), bounds, 2.0)
    found = noisy(params, (torch.zeros(5, 10_000),), KEY).grads
    for leaf in found.values():
        assert float(leaf.std()) == pytest.approx(2.0 * 5.0 / 5, rel=0.03)
    assert not torch.equal(found["a"], found["b"])


def test_a_gradient_of_zero_is_not_stretched():
    grads = ps.clipped_mean_grads(lambda params, x: x @ params, 1.0)
    found = grads(torch.zeros(2), (torch.zeros(3, 2),))
    assert_close(found.grads, torch.zeros(2))
    assert_close(found.norms, torch.zeros(3))


def test_terms_that_cancel_within_an_example_do_not_hide_its_size():
    """The parts of a sequence nearly cancel: what is left of their sum is still cut to the bound."""
    x = torch.ones(1, 16, 64)
    v = torch.randn(1, 16, generator=torch.Generator().manual_seed(0))
    v = v - v.mean(1, keepdim=True)  # sums to rounding error
    x[0, 0, 0] += 1e-3

    def loss(params: torch.Tensor, x: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return ((x @ params) * v[:, None]).sum()

    for scale in (1.0, 1e4):
        batch = (scale * x, v)
        found = ps.clipped_mean_grads(loss, 0.01)(torch.zeros(64, 3), batch)
        assert found.grads.norm() <= 0.01 * (1 + 1e-3)


def test_a_batch_without_examples_is_all_noise():
    noisy = ps.clipped_mean_grads(example_loss, 0.5, 2.0, expected_batch_size=4.0)
    found = noisy(PARAMS, (X[:0], Y[:0]), KEY)
    still = ps.clipped_mean_grads(
        lambda p, x, y: 0.0 * example_loss(p, x, y), 0.5, 2.0, expected_batch_size=4.0
    )
    assert_close(found.grads, still(PARAMS, BATCH, KEY).grads)
    assert found.norms.shape == (0,)
    assert torch.isnan(found.loss)
    with pytest.raises(ps.PureSGDError, match="0 examples"):
        ps.clipped_mean_grads(example_loss, 0.5)(PARAMS, (X[:0], Y[:0]))


def test_a_gradient_that_is_not_finite_is_named_by_its_example():
    x = X.clone()
    x[5, 0] = torch.inf
    with pytest.raises(ps.PureSGDError, match="not finite for 1 of the examples: 5"):
        ps.clipped_mean_grads(example_loss, 0.5, chunk_size=2)(PARAMS, (x, Y))


def test_the_noise_is_no_schedule():
    with pytest.raises(ps.PureSGDError, match="clipped_mean_grads: noise_multiplier"):
        ps.clipped_mean_grads(example_loss, 0.5, cast(Any, ps.constant_schedule(0.1)))


def test_results_have_the_dtypes_of_the_parameters():
    params = {"w": torch.ones(3, dtype=torch.bfloat16)}
    found = ps.clipped_mean_grads(lambda p, x: (p["w"] * x).sum(), 1.0, 1.0)(
        params, (torch.ones(2, 3, dtype=torch.bfloat16),), KEY
    )
    assert found.grads["w"].dtype == torch.bfloat16
    assert found.norms.dtype == torch.float32


def test_the_bound_maps_and_compiles():
    def grads(bound: torch.Tensor) -> torch.Tensor:
        return flat(ps.clipped_mean_grads(example_loss, bound, 0.1)(PARAMS, BATCH, KEY).grads)

    bounds = torch.tensor([0.1, 1.0], dtype=torch.float64)
    alone = torch.stack([grads(bound) for bound in bounds])
    assert_close(torch.func.vmap(grads)(bounds), alone)
    assert_close(torch.compile(grads, backend="aot_eager", fullgraph=True)(bounds[0]), alone[0])


def test_compiled_it_is_the_same_also_by_chunks():
    for max_norm in (0.5, {"w": 0.1, "out": [0.5, 0.02], "nothing": None}):
        grads = ps.clipped_mean_grads(example_loss, max_norm, 0.1, chunk_size=3)
        params = {**PARAMS, "nothing": None}
        compiled = torch.compile(grads, backend="aot_eager", fullgraph=True)
        for got, want in zip(compiled(params, BATCH, KEY)[:2], grads(params, BATCH, KEY)[:2], strict=True):
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


def test_the_quantile_of_norms_is_found():
    """Half of lognormal norms lie under 1: there the bound comes to rest, from far above and below."""
    clipping = ps.adaptive_clipping(target_quantile=0.5, learning_rate=0.2)
    norms = torch.exp(torch.randn(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    for start in (0.01, 100.0):
        state = clipping.init(start)
        for _ in range(150):
            state = clipping.update(norms, state)
        assert float((norms <= state.max_norm).double().mean()) == pytest.approx(0.5, abs=0.01)


def test_one_step_of_the_bound_is_the_papers():
    clipping = ps.adaptive_clipping(target_quantile=0.7, learning_rate=0.1)
    state = clipping.update(torch.tensor([1.0, 2.0, 3.0, 4.0]), clipping.init(2.0))
    assert_close(state.max_norm, torch.tensor(2.0 * torch.exp(torch.tensor(-0.1 * (0.5 - 0.7))).item()))


def test_the_count_of_small_norms_may_be_noisy():
    clipping = ps.adaptive_clipping(noise_multiplier=10.0, expected_batch_size=4)
    norms, state = torch.tensor([1.0, 2.0, 3.0, 4.0]), clipping.init(2.0)
    one, other = (float(clipping.update(norms, state, ps.random.key(seed)).max_norm) for seed in (0, 1))
    assert one != other
    assert one == float(clipping.update(norms, state, ps.random.key(0)).max_norm)
    with pytest.raises(ps.PureSGDError, match="key is None"):
        clipping.update(norms, state)


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: ps.clipped_mean_grads(example_loss, 0.0), "max_norm=0.0"),
        (lambda: ps.clipped_mean_grads(example_loss, {"w": -1.0}), "max_norm=-1.0"),
        (lambda: ps.clipped_mean_grads(example_loss, 1.0, -1.0), "noise_multiplier=-1.0"),
        (lambda: ps.clipped_mean_grads(example_loss, 1.0, expected_batch_size=0), "expected_batch_size=0"),
        (lambda: ps.clipped_mean_grads(example_loss, 1.0, chunk_size=0), "chunk_size=0"),
        (lambda: ps.clipped_mean_grads(example_loss, 1.0, 1.0)(PARAMS, BATCH), "key is None"),
        (lambda: ps.clipped_mean_grads(example_loss, {"w": 1.0})(PARAMS, BATCH), "another structure"),
        (lambda: ps.adaptive_clipping(target_quantile=1.5), "target_quantile=1.5"),
        (lambda: ps.adaptive_clipping().init(0.0), "max_norm=0.0"),
        (lambda: ps.adaptive_clipping(noise_multiplier=-1.0), "noise_multiplier=-1.0"),
    ],
)
def test_what_cannot_be_is_named(call: Any, sentence: str):
    with pytest.raises(ps.PureSGDError) as error:
        call()
    assert sentence in str(error.value)
