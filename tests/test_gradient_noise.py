"""Noise scale, variance of a mini-batch, signal, directions and covariance, against a loop over examples."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

import pure_sgd as ps

GENERATOR = torch.Generator().manual_seed(0)
COUNT = 7
X = torch.randn(COUNT, 3, generator=GENERATOR, dtype=torch.float64)
Y = torch.randn(COUNT, generator=GENERATOR, dtype=torch.float64)
BATCH = (X, Y)
PARAMS = {
    "w": torch.randn(3, 2, generator=GENERATOR, dtype=torch.float64),
    "out": [torch.randn(2, generator=GENERATOR, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)],
    "nothing": None,
}


def example_loss(params: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    weights, shift = params["out"]
    return (torch.tanh(x @ params["w"]) @ weights + shift - y) ** 2 / 2


def flat(tree: Any) -> torch.Tensor:
    return torch.cat([leaf.reshape(-1) for leaf in ps.tree.leaves(tree)])


def rows() -> torch.Tensor:
    """The gradient of each example by autograd, one at a time: (B, n)."""
    found = []
    for x, y in zip(X, Y, strict=True):
        params = ps.tree.map(lambda p: p.clone().requires_grad_(), PARAMS)
        grads = torch.autograd.grad(example_loss(params, x, y), ps.tree.leaves(params))
        found.append(torch.cat([g.reshape(-1) for g in grads]))
    return torch.stack(found)


ROWS = rows()
MEAN = ROWS.mean(0)
COVARIANCE = torch.cov(ROWS.T)


def moments(of: Any = BATCH) -> ps.GradientMoments:
    return ps.gradient_moments(example_loss)(PARAMS, of)


def assert_close(got: Any, want: Any) -> None:
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("first", [2, 3, 5])
def test_merged_moments_keep_all_digits(first: int):
    merged = ps.merge_moments(moments((X[:first], Y[:first])), moments((X[first:], Y[first:])))
    torch.testing.assert_close(merged, moments(), rtol=1e-13, atol=1e-15)


def test_the_noise_scale_is_trace_over_signal():
    scale = ps.noise_scale(moments())
    assert_close(scale.trace_covariance, COVARIANCE.trace())
    assert_close(scale.grad_sq_norm, MEAN @ MEAN - COVARIANCE.trace() / COUNT)
    assert_close(scale.simple, scale.trace_covariance / scale.grad_sq_norm)


def test_its_two_terms_are_unbiased():
    """Over all pairs that can be drawn with replacement they have the mean of all examples."""
    pairs = [moments((X[list(i)], Y[list(i)])) for i in itertools.product(range(COUNT), repeat=2)]
    scales = [ps.noise_scale(pair) for pair in pairs]
    assert_close(torch.stack([s.grad_sq_norm for s in scales]).mean(), MEAN @ MEAN)
    population = COVARIANCE.trace() * (COUNT - 1) / COUNT
    assert_close(torch.stack([s.trace_covariance for s in scales]).mean(), population)
    assert_close(ps.critical_batch_size(scales), population / (MEAN @ MEAN))


def test_two_batch_sizes_give_the_same():
    """From the mean squared norms over all draws, which no single pair of batches has."""

    def mean_sq_norm(size: int) -> torch.Tensor:
        draws = itertools.product(range(COUNT), repeat=size)
        return torch.stack([ROWS[list(draw)].mean(0).square().sum() for draw in draws]).mean()

    scale = ps.noise_scale_from_batch_sizes(mean_sq_norm(1), mean_sq_norm(3), 1, 3)
    assert_close(scale.grad_sq_norm, MEAN @ MEAN)
    assert_close(scale.trace_covariance, COVARIANCE.trace() * (COUNT - 1) / COUNT)


def test_measurements_may_be_stacked():
    scales = ps.NoiseScale(torch.tensor([8.0, 4.0]), torch.tensor([-0.5, 2.5]), torch.tensor([-16.0, 1.6]))
    assert_close(ps.critical_batch_size(scales), torch.tensor(6.0))
    nothing_left = ps.NoiseScale(torch.tensor(1.0), torch.tensor(-0.5), torch.tensor(-2.0))
    assert math.isnan(ps.critical_batch_size([nothing_left]))


@pytest.mark.parametrize("size", [1, 2, 3, COUNT])
def test_the_variance_of_a_mini_batch_is_that_of_all_draws(size: int):
    without = torch.stack([ROWS[list(i)].mean(0) for i in itertools.combinations(range(COUNT), size)])
    variance = moments().variance
    found = ps.minibatch_variance(variance, size, COUNT)
    assert_close(flat(found), without.var(0, correction=0))
    if size <= 3:
        draws = itertools.product(range(COUNT), repeat=size)
        with_replacement = torch.stack([ROWS[list(i)].mean(0) for i in draws])
        found = ps.minibatch_variance(variance, size, COUNT, replacement=True)
        assert_close(flat(found), with_replacement.var(0, correction=0))
    assert_close(flat(ps.minibatch_variance(variance, size)), ROWS.var(0) / size)


def test_it_takes_a_trace_and_many_sizes_at_once():
    sizes = torch.tensor([1.0, 2.0, 7.0], dtype=torch.float64)
    trace = COVARIANCE.trace()
    assert_close(ps.minibatch_variance(trace, sizes, COUNT), trace / sizes * (1 - sizes / COUNT))


def test_signal_to_noise_diversity_and_fisher():
    found = ps.gradient_signal_to_noise(moments())
    assert_close(flat(found.parameters), MEAN**2 / ROWS.var(0))
    assert_close(found.tree, MEAN @ MEAN / COVARIANCE.trace())
    start = 0
    by_leaf = zip(ps.tree.leaves(found.leaves), ps.tree.leaves(PARAMS), strict=True)
    for ratio, leaf in by_leaf:
        part = slice(start, start + leaf.numel())
        assert_close(ratio, (MEAN[part] ** 2).sum() / ROWS.var(0)[part].sum())
        start += leaf.numel()
    diversity = ROWS.square().sum() / ROWS.sum(0).square().sum()
    assert_close(ps.gradient_diversity(moments()), diversity)
    assert_close(flat(ps.empirical_fisher_diagonal(moments())), ROWS.square().mean(0))


def test_agreeing_examples_have_infinite_signal_and_no_gradient_has_none():
    equal = ps.GradientMoments(torch.tensor(3), torch.tensor(0.0), torch.tensor([1.0, 0.0]), torch.zeros(2))
    assert ps.gradient_signal_to_noise(equal).parameters.tolist() == [math.inf, 0.0]


def test_slopes_and_cosines_are_those_of_the_gradients():
    direction = ps.tree.map(torch.cos, PARAMS)
    assert_close(ps.per_example_slopes(example_loss)(PARAMS, BATCH, direction), ROWS @ flat(direction))
    cosines = ROWS @ MEAN / (ROWS.norm(dim=1) * MEAN.norm())
    assert_close(ps.per_example_cosines(example_loss)(PARAMS, BATCH), cosines)


def test_a_gradient_of_zero_has_a_cosine_of_zero():
    cosines = ps.per_example_cosines(lambda params, x: x @ params)
    assert_close(cosines(torch.zeros(2), (torch.tensor([[0.0, 0.0], [0.0, 2.0]]),)), torch.tensor([0.0, 1.0]))


def test_the_top_examples_are_the_largest():
    norms = ps.per_example_grad_norms(example_loss)(PARAMS, BATCH)
    found = ps.top_examples(norms, 3)
    assert found.indices.tolist() == sorted(range(COUNT), key=lambda i: -float(ROWS[i].norm()))[:3]
    assert_close(found.norms, ROWS.norm(dim=1)[found.indices])


def test_covariance_times_a_vector():
    vector = ps.tree.map(torch.sin, PARAMS)
    found = ps.covariance_vector_product(example_loss)(PARAMS, BATCH, vector)
    assert_close(flat(found), COVARIANCE @ flat(vector))


@pytest.mark.parametrize("chunk_size", [None, 1, 3, COUNT, 50])
def test_the_gram_matrix_holds_all_inner_products(chunk_size: int | None):
    assert_close(ps.gradient_gram_matrix(example_loss, chunk_size)(PARAMS, BATCH), ROWS @ ROWS.T)


def test_the_spectrum_is_that_of_the_covariance():
    found = ps.covariance_spectrum(example_loss, k=4, chunk_size=2)(PARAMS, BATCH)
    assert_close(found.eigenvalues, torch.linalg.eigvalsh(COVARIANCE).flip(0)[:4])
    assert_close(found.trace, COVARIANCE.trace())
    vectors = torch.stack([flat(ps.tree.map(lambda v, i=i: v[i], found.eigenvectors)) for i in range(4)])
    assert_close(vectors @ vectors.T, torch.eye(4, dtype=torch.float64))
    assert_close(vectors @ COVARIANCE, found.eigenvalues[:, None] * vectors)


def test_directions_without_variance_are_zero():
    spectrum = ps.covariance_spectrum(lambda params, x: x @ params, k=2)
    found = spectrum(torch.zeros(2), (torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 0.0]]),))
    assert_close(found.eigenvalues, torch.tensor([9.0, 0.0]))
    assert_close(found.eigenvectors[1], torch.zeros(2))


def test_the_tracker_divides_debiased_averages():
    tracker, decay = ps.gradient_statistics(0.8), 0.8
    state = tracker.init(PARAMS)
    noise, signal = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for step in range(1, 5):
        half = moments((X[step - 1 : step + 3], Y[step - 1 : step + 3]))
        now = ps.noise_scale(half)
        scale, state = tracker.update(half, state)
        noise = decay * noise + (1 - decay) * now.trace_covariance
        signal = decay * signal + (1 - decay) * now.grad_sq_norm
        assert_close(scale.trace_covariance, noise / (1 - decay**step))
        assert_close(scale.grad_sq_norm, signal / (1 - decay**step))
        assert_close(scale.simple, noise / signal)
    assert state.step == 4


def test_the_tracker_maps_over_its_decay():
    def final(decay: torch.Tensor) -> torch.Tensor:
        tracker = ps.gradient_statistics(decay)
        state = tracker.update(moments(), tracker.init(PARAMS))[1]
        return tracker.update(moments((X[:3], Y[:3])), state)[0].simple

    decays = torch.tensor([0.5, 0.9], dtype=torch.float64)
    assert_close(torch.func.vmap(final)(decays), torch.stack([final(d) for d in decays]))


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: ps.minibatch_variance(torch.ones(2), 0), "batch_size=0"),
        (lambda: ps.minibatch_variance(torch.ones(2), 8, 7), "more than the population of 7"),
        (lambda: ps.minibatch_variance(torch.ones(2), 8, replacement=True), "needs a population"),
        (lambda: ps.noise_scale_from_batch_sizes(1.0, 2.0, 8, 4), "are 8 and 4, expected 0 < small < large"),
        (lambda: ps.critical_batch_size([]), "scales is empty"),
        (lambda: ps.top_examples(torch.ones(3), 4), "k=4 is not from 1 to 3"),
        (lambda: ps.top_examples(torch.ones(3, 1), 1), "has shape (3, 1), expected (B,)"),
        (lambda: ps.gradient_statistics(1.0), "decay=1.0"),
        (
            lambda: ps.covariance_vector_product(example_loss)(PARAMS, (X[:1], Y[:1]), PARAMS),
            "the batch has 1 example",
        ),
        (lambda: ps.covariance_spectrum(example_loss, 7)(PARAMS, BATCH), "k=7 is not from 1 to 6"),
        (
            lambda: ps.covariance_spectrum(lambda p, x: x / p, 1)(torch.tensor(0.0), (torch.ones(5),)),
            "covariance_spectrum: the gradient is not finite for 5 of the examples: 0, 1, 2, 3, 4",
        ),
        (
            lambda: ps.per_example_slopes(lambda p, x: None)(PARAMS, (torch.ones(5),), PARAMS),
            "example_loss: returned",
        ),
        (
            lambda: ps.per_example_slopes(example_loss)(PARAMS, BATCH, {"w": PARAMS["w"]}),
            "direction",
        ),
    ],
)
def test_what_cannot_be_is_named(call: Any, sentence: str):
    with pytest.raises(ps.PureSGDError) as error:
        call()
    assert sentence in str(error.value)
