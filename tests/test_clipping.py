"""Bounds on updates, by closed form and by torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import pure_sgd as ps

Tree = Any


def apply(tx: ps.GradientTransformation, updates: Tree, params: Tree = None) -> Tree:
    """What ``tx`` makes of one update."""
    return tx.update(updates, tx.init(updates if params is None else params), params)[0]


def assert_close(got: Tree, want: Tree) -> None:
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-15)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def rms(leaf: torch.Tensor) -> torch.Tensor:
    return leaf.square().mean().sqrt()


# Entries


def test_clip_is_that_of_torch():
    leaf = torch.zeros(50, dtype=torch.float64, requires_grad=True)
    leaf.grad = normal(50)
    got = apply(ps.clip(0.4), leaf.grad.clone())
    torch.nn.utils.clip_grad_value_([leaf], 0.4)
    assert_close(got, leaf.grad)


def test_clip_lets_nan_and_what_fits_through():
    got = apply(ps.clip(1.0), torch.tensor([torch.nan, torch.inf, 1.0, -0.5]))
    torch.testing.assert_close(got, torch.tensor([torch.nan, 1.0, 1.0, -0.5]), equal_nan=True)
    assert not apply(ps.clip(0.0), normal(3)).any()


def test_only_nan_becomes_zero_and_the_state_names_the_leaf():
    updates = {"a": torch.tensor([torch.nan, torch.inf]), "b": torch.tensor(2.0)}
    tx = ps.zero_nans()
    got, state = tx.update(updates, tx.init(updates))
    assert_close(got, {"a": torch.tensor([0.0, torch.inf]), "b": torch.tensor(2.0)})
    assert_close(state.found_nan, {"a": torch.tensor(True), "b": torch.tensor(False)})
    assert not tx.update(got, state)[1].found_nan["a"]


def test_parameters_stop_at_zero():
    params, tx = torch.tensor([1.0, 0.0, 2.0, -1.0]), ps.keep_params_nonnegative()
    got = ps.apply_updates(params, apply(tx, torch.tensor([-3.0, 1.0, -0.5, 0.25]), params))
    assert_close(got, torch.tensor([0.0, 1.0, 1.5, 0.0]))


def test_projected_descent_finds_the_corner():
    tx = ps.chain(ps.sgd(0.3), ps.keep_params_nonnegative())
    params, target = torch.ones(2), torch.tensor([-1.0, 0.5])
    state = tx.init(params)
    for _ in range(60):
        updates, state = tx.update(params - target, state, params)
        params = ps.apply_updates(params, updates)
    torch.testing.assert_close(params, torch.tensor([0.0, 0.5]))


def test_nothing_moves_behind_set_to_zero():
    assert_close(apply(ps.set_to_zero(), {"w": torch.tensor([torch.nan, 1.0])}), {"w": torch.zeros(2)})


# Leaves


def test_a_leaf_of_large_root_mean_square_is_shrunk_and_another_is_not():
    updates = {"large": 5 * normal(4, 3), "small": 0.1 * normal(7), "empty": normal(0, 3)}
    got = apply(ps.clip_by_block_rms(0.7), updates)
    assert_close(rms(got["large"]), torch.tensor(0.7, dtype=torch.float64))
    assert_close(got["large"], updates["large"] * (0.7 / rms(updates["large"])))
    assert_close(got["small"], updates["small"])


def test_rows_lose_their_mean_and_vectors_do_not():
    updates = {"kernel": normal(3, 2, 4), "matrix": normal(3, 2), "vector": normal(5), "number": normal()}
    got = apply(ps.centralize(), updates)
    assert_close(got["kernel"].sum((1, 2)), torch.zeros(3, dtype=torch.float64))
    assert_close(got["kernel"][1], updates["kernel"][1] - updates["kernel"][1].mean())
    assert_close(got["matrix"], updates["matrix"] - updates["matrix"].mean(1, keepdim=True))
    assert_close([got["vector"], got["number"]], [updates["vector"], updates["number"]])


def test_all_updates_together_get_the_norm_that_was_asked_for():
    updates = {"w": normal(4, 3), "b": normal(2)}
    got = apply(ps.normalize_by_update_norm(2.0, eps=1e-3), updates)
    norm = ps.tree.norm(updates)
    assert_close(got, ps.tree.map(lambda u: u * 2.0 / (norm + 1e-3), updates))


# Units


def unit_by_unit(updates: torch.Tensor, params: torch.Tensor, clipping: float, eps: float) -> torch.Tensor:
    """Adaptive clipping of units that lie along the first axis, one at a time."""
    rows = []
    for u, p in zip(updates, params, strict=True):
        allowed = clipping * max(p.norm().item(), eps)
        rows.append(u * min(1.0, allowed / u.norm().item()))
    return torch.stack(rows)


@pytest.mark.parametrize("shape", [(4, 3, 5), (4, 3, 2, 2), (4, 2, 2, 2, 2)])
def test_the_unit_of_a_kernel_lies_along_its_first_axis(shape: tuple[int, ...]):
    # Those whose parameters are small are held to eps.
    scales = torch.tensor([1.0, 1e-6, 10.0, 0.1], dtype=torch.float64).reshape(4, *[1] * (len(shape) - 1))
    params, updates = normal(*shape, seed=1) * scales, normal(*shape)
    want = unit_by_unit(updates, params, 0.3, 0.01)
    assert_close(apply(ps.adaptive_grad_clip(0.3, 0.01), updates, params), want)
    assert_close(apply(ps.adaptive_grad_clip(0.3, 0.01, axis=(1, 2, 3, 4)), updates, params), want)


def test_the_unit_of_a_matrix_is_a_column_or_what_axis_says():
    params, updates = normal(5, 3, seed=1), normal(5, 3)
    columns = unit_by_unit(updates.T, params.T, 0.2, 1e-3).T
    rows = unit_by_unit(updates, params, 0.2, 1e-3)
    assert_close(apply(ps.adaptive_grad_clip(0.2), updates, params), columns)
    assert_close(apply(ps.adaptive_grad_clip(0.2, axis=0), updates, params), columns)
    assert_close(apply(ps.adaptive_grad_clip(0.2, axis=1), updates, params), rows)
    assert_close(apply(ps.adaptive_grad_clip(0.2, axis=(1, 2, 3, 4)), updates, params), rows)
    # Without any of the axes an entry is its own unit.
    entries = updates.sign() * torch.minimum(updates.abs(), 0.2 * params.abs().clamp(min=1e-3))
    assert_close(apply(ps.adaptive_grad_clip(0.2, axis=2), updates, params), entries)


@pytest.mark.parametrize("shape", [(), (6,), (1, 6), (6, 1), (1, 6, 1)])
@pytest.mark.parametrize("axis", [None, 0, (1, 2)])
def test_a_leaf_with_one_axis_is_one_unit(shape: tuple[int, ...], axis: Any):
    params, updates = normal(*shape, seed=1), normal(*shape)
    want = unit_by_unit(updates.reshape(1, -1), params.reshape(1, -1), 0.1, 1e-3).reshape(shape)
    assert_close(apply(ps.adaptive_grad_clip(0.1, axis=axis), updates, params), want)


def test_the_units_of_a_module_are_its_outputs():
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 2), torch.nn.Flatten(), torch.nn.Linear(3, 4))
    params = {name: p.detach().double() for name, p in model.named_parameters()}
    updates = {name: normal(*p.shape) for name, p in params.items()}
    got = apply(ps.adaptive_grad_clip(0.1, axis=(1, 2, 3, 4)), updates, params)
    for name in ("0.weight", "2.weight"):
        assert_close(got[name], unit_by_unit(updates[name], params[name], 0.1, 1e-3))


# Degenerate input

ZERO_SAFE: dict[str, Callable[[torch.Tensor], ps.GradientTransformation]] = {
    "clip": ps.clip,
    "clip_by_block_rms": ps.clip_by_block_rms,
    "clip_by_global_norm": ps.clip_by_global_norm,
    "adaptive_grad_clip": lambda number: ps.adaptive_grad_clip(number, eps=0.0),
    "normalize_by_update_norm": ps.normalize_by_update_norm,
}


@pytest.mark.parametrize("name", ZERO_SAFE)
def test_zero_updates_stay_zero_and_have_finite_slopes(name: str):
    def total(number: torch.Tensor, updates: torch.Tensor) -> torch.Tensor:
        return apply(ZERO_SAFE[name](number), updates, torch.zeros(2, 3)).sum()

    number, zeros = torch.tensor(0.5), torch.zeros(2, 3)
    assert total(number, zeros) == 0
    slopes = torch.func.grad(total, argnums=(0, 1))(number, zeros)
    assert all(slope.isfinite().all() for slope in slopes)


@pytest.mark.parametrize("name", ["clip", "clip_by_block_rms", "adaptive_grad_clip"])
def test_half_precision_is_computed_in_float32_and_rounded_once(name: str):
    params, updates = torch.full((4, 4), 300.0), 300 * normal(4, 4).float().half().float()
    tx = ZERO_SAFE[name](torch.tensor(0.3))
    got = apply(tx, updates.half(), params.half())
    assert torch.equal(got, apply(tx, updates.half().float(), params).half())


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: ps.clip(-1.0), "clip: max_delta=-1.0 lies outside [0, inf)."),
        (lambda: ps.clip_by_block_rms(0), "clip_by_block_rms: threshold=0 lies outside (0, inf)."),
        (lambda: ps.adaptive_grad_clip(-1), "adaptive_grad_clip: clipping=-1 lies outside [0, inf)."),
        (lambda: ps.adaptive_grad_clip(1, -1), "adaptive_grad_clip: eps=-1 lies outside [0, inf)."),
        (lambda: ps.adaptive_grad_clip(1, axis=-1), "adaptive_grad_clip: axis=-1 is not at least 0."),
        (lambda: ps.adaptive_grad_clip(1, axis=()), "adaptive_grad_clip: axis=() names no axis."),
        (lambda: ps.normalize_by_update_norm(eps=0.0), "normalize_by_update_norm: eps=0.0 lies outside"),
        (lambda: apply(ps.adaptive_grad_clip(1), normal(2)), "adaptive_grad_clip: params is None"),
        (lambda: apply(ps.keep_params_nonnegative(), normal(2)), "keep_params_nonnegative: params is None"),
    ],
)
def test_what_is_wrong_is_said(call: Callable[[], Any], sentence: str):
    with pytest.raises(ps.PureSGDError) as caught:
        call()
    assert str(caught.value).startswith(sentence)
