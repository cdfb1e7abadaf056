"""Clipped sums over examples, one at a time; the noise of DP-SGD, and that it is Optax's; norms of units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import pure_sgd as ps

GRADS = {
    "b": torch.sin(torch.arange(8.0)).reshape(4, 2),
    "w": torch.cos(torch.arange(24.0)).reshape(4, 3, 2),
}
PARAMS = ps.tree.map(lambda leaf: torch.zeros_like(leaf[0]), GRADS)


def sentence_of(call: Callable[[], Any]) -> str:
    with pytest.raises(ps.PureSGDError) as caught:
        call()
    return str(caught.value)


def one_by_one(grads: Any, bound: float) -> tuple[Any, int]:
    """The sum of the clipped gradients, and how many were clipped, in a plain loop."""
    total, clipped = ps.tree.map(lambda leaf: torch.zeros_like(leaf[0]), grads), 0
    for i in range(4):
        example = ps.tree.map(lambda leaf, i=i: leaf[i], grads)
        norm = ps.tree.norm(example).item()
        clipped += norm > bound
        factor = min(1.0, bound / norm) if norm else 1.0
        total = ps.tree.map(lambda t, g, f=factor: t + f * g, total, example)
    return total, clipped


@pytest.mark.parametrize("bound", [0.0, 1.7, 2.0, 100.0, float("inf")])
def test_each_example_is_clipped_by_itself(bound: float):
    got, count = ps.per_example_global_norm_clip(GRADS, bound)
    want, clipped = one_by_one(GRADS, bound)
    torch.testing.assert_close(got, want)
    assert count.item() == clipped


def test_the_examples_of_optax():
    grads = [torch.tensor([[0.0, 0, 0], [0, 3, 4], [4, 0, 3], [3, 4, 0]])]
    for bound, each, clipped in [(float("inf"), 7.0, 0), (0.0, 0.0, 3), (1.25, 1.75, 3)]:
        for clip in (ps.per_example_global_norm_clip, ps.per_example_layer_norm_clip):
            got, count = clip(grads, bound)
            assert got[0].tolist() == [each] * 3
            assert ps.tree.leaves(count)[0].item() == clipped


def test_each_leaf_has_its_share_of_the_bound():
    for uniform, shares in [(True, {"b": 1 / 2, "w": 1 / 2}), (False, {"b": 2 / 8, "w": 6 / 8})]:
        got, counts = ps.per_example_layer_norm_clip(GRADS, 1.5, uniform)
        for name, share in shares.items():
            want, clipped = one_by_one(GRADS[name], 1.5 * share**0.5)
            torch.testing.assert_close(got[name], want)
            assert counts[name].item() == clipped


def test_a_sum_in_half_precision_is_rounded_once():
    grads = torch.full((3000, 1), 1.0, dtype=torch.float16)
    total, _ = ps.per_example_global_norm_clip(grads, 0.5)
    assert total.dtype == torch.float16
    assert total.item() == 1500.0


def test_the_clipped_sum_maps_and_differentiates_in_the_bound():
    def first(bound: torch.Tensor) -> torch.Tensor:
        return ps.per_example_global_norm_clip(GRADS, bound)[0]["b"][0]

    bounds = torch.tensor([0.5, 1.0, 9.0])
    mapped = torch.func.vmap(first)(bounds)
    torch.testing.assert_close(mapped, torch.stack([first(bound) for bound in bounds]))
    zeros = ps.tree.map(torch.zeros_like, GRADS)
    slopes = torch.func.grad(lambda g: ps.per_example_global_norm_clip(g, 1.0)[0]["b"].sum())(zeros)
    assert torch.equal(slopes["b"], torch.ones(4, 2))


def test_without_noise_the_update_is_the_mean_of_the_clipped_gradients():
    tx = ps.differentially_private_aggregate(1.7, 0.0, key=0)
    got, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    torch.testing.assert_close(got, ps.tree.map(lambda t: t / 4, one_by_one(GRADS, 1.7)[0]))


def test_the_second_update_of_dpsgd_is_that_of_optax():
    # Recorded: optax.contrib.dpsgd(0.5, 1.2, 0.7, seed=11, momentum=0.9) of Optax 0.2.8, in float32.
    tx = ps.dpsgd(0.5, 1.2, 0.7, seed=11, momentum=0.9)
    _, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    got, _ = tx.update(GRADS, state, PARAMS)
    b = [0.09354335, 0.37361378]
    w = [[-0.32876894, -0.51327068], [-0.28491473, 0.43996352], [0.79359388, -0.11982995]]
    torch.testing.assert_close(got, {"b": torch.tensor(b), "w": torch.tensor(w)})


def test_the_noise_has_the_deviation_that_was_asked_for_and_is_new_at_each_step():
    tx = ps.differentially_private_aggregate(3.0, 2.0, key=5)
    grads, params = torch.zeros(8, 20_000), torch.zeros(20_000)
    first, state = tx.update(grads, tx.init(params), params)
    second, _ = tx.update(grads, state, params)
    assert first.std().item() == pytest.approx(3.0 * 2.0 / 8, rel=0.02)
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1].item()) < 0.03
    again, _ = tx.update(grads, tx.init(params), params)
    assert torch.equal(first, again)


def test_a_bound_that_falls_with_a_schedule_scales_the_noise_too():
    bound = ps.piecewise_constant_schedule(2.0, {1: 0.5})
    tx = ps.chain(ps.differentially_private_aggregate(bound, 1.0, key=5), ps.scale(-1.0))
    fixed = ps.chain(ps.differentially_private_aggregate(1.0, 1.0, key=5), ps.scale(-1.0))
    zeros = ps.tree.map(torch.zeros_like, GRADS)
    got, state = tx.update(zeros, tx.init(PARAMS), PARAMS)
    want, _ = fixed.update(zeros, fixed.init(PARAMS), PARAMS)
    torch.testing.assert_close(got, ps.tree.map(lambda u: 2 * u, want))
    assert state[0].hyperparams["l2_norm_clip"].item() == 2.0


def test_it_may_stand_first_in_chains_of_chains_and_nowhere_else():
    aggregate = ps.differentially_private_aggregate(1.0, 1.0, key=0)
    for tx in (
        ps.chain(ps.chain(aggregate, ps.trace(0.9)), ps.scale(-1.0)),
        ps.named_chain(("private", aggregate), ("rate", ps.scale(-1.0))),
        ps.chain(ps.inject_hyperparams(ps.dpsgd)(0.1, 1.0, 1.0, key=0), ps.identity()),
    ):
        updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS)
        assert ps.tree.map(torch.Tensor.size, updates) == ps.tree.map(torch.Tensor.size, PARAMS)
    late = ps.chain(ps.trace(0.9), aggregate)
    assert "does not match" in sentence_of(lambda: late.update(GRADS, late.init(PARAMS), PARAMS))


def test_gradients_without_an_axis_of_examples_are_named():
    tx = ps.dpsgd(0.1, 1.0, 1.0, key=0)
    state = tx.init(PARAMS)
    mean = {"b": torch.zeros(2), "w": torch.zeros(2, 2)}
    text = sentence_of(lambda: tx.update(mean, state, PARAMS))
    assert text.startswith("updates['b']: has shape (2,), expected (B, 2): a gradient for each of B examples")
    uneven = {**GRADS, "w": GRADS["w"][:3]}
    assert "updates['w']: holds 3 examples where updates['b'] holds 4" in sentence_of(
        lambda: tx.update(uneven, state, PARAMS)
    )
    assert "updates['w']: is missing" in sentence_of(lambda: tx.update({"b": GRADS["b"]}, state, PARAMS))
    assert "expected a leading axis" in sentence_of(
        lambda: ps.per_example_global_norm_clip(torch.tensor(1.0), 1.0)
    )
    assert "grads['w']: holds 3" in sentence_of(lambda: ps.per_example_layer_norm_clip(uneven, 1.0))


def test_a_key_or_a_seed_is_needed():
    assert "neither key nor seed" in sentence_of(lambda: ps.dpsgd(0.1, 1.0, 1.0))
    assert "both a key and a seed" in sentence_of(lambda: ps.dpsgd(0.1, 1.0, 1.0, 1, seed=2))
    for same in (
        ps.dpsgd(0.1, 1.0, 1.0, 3),
        ps.dpsgd(0.1, 1.0, 1.0, ps.random.key(3)),
        ps.dpsgd(0.1, 1.0, 1.0, seed=3),
    ):
        assert same.init(PARAMS)[0].key.tolist() == [0, 3]
    assert "l2_norm_clip=-1.0" in sentence_of(lambda: ps.dpsgd(0.1, -1.0, 1.0, 3))
    assert "noise_multiplier=-1.0" in sentence_of(lambda: ps.dpsgd(0.1, 1.0, -1.0, 3))


def test_every_entry_is_told_the_norm_of_its_unit():
    x = torch.arange(1.0, 25.0).reshape(2, 3, 4)
    torch.testing.assert_close(ps.unitwise_norm(x[0]), x[0].norm(dim=0, keepdim=True).expand(3, 4))
    torch.testing.assert_close(ps.unitwise_norm(x), x.norm(dim=(1, 2), keepdim=True).expand(2, 3, 4))
    torch.testing.assert_close(ps.unitwise_norm(x, axis=2), x.norm(dim=2, keepdim=True).expand(2, 3, 4))
    torch.testing.assert_close(ps.unitwise_norm(x[0, 0]), x[0, 0].norm().expand(4))
    assert ps.unitwise_norm(torch.tensor(-2.0)).item() == 2.0
    assert "axis=()" in sentence_of(lambda: ps.unitwise_norm(x, axis=()))


def test_units_above_their_bound_are_shrunk_to_it():
    grad = torch.tensor([[3.0, 0.3, 0.0], [4.0, 0.4, 0.0]])
    got = ps.unitwise_clip(ps.unitwise_norm(grad), torch.ones(2, 3), grad)
    torch.testing.assert_close(got, torch.tensor([[0.6, 0.3, 0.0], [0.8, 0.4, 0.0]]))
    zero = ps.unitwise_clip(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3))
    assert torch.equal(zero, torch.zeros(2, 3))
    assert "does not match" in sentence_of(lambda: ps.unitwise_clip(grad, torch.ones(1), grad))
