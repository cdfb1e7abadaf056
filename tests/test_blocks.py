"""Rules for whole leaves: trust ratios, factored moments, noise; by closed form, loops and torch.optim."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

import pure_sgd as ps

Tree = Any


def apply(tx: ps.GradientTransformation, updates: Tree, params: Tree = None) -> Tree:
    """What ``tx`` makes of one update."""
    return tx.update(updates, tx.init(updates if params is None else params), params)[0]


def outputs(tx: ps.GradientTransformation, updates: list[Tree], params: Tree = None) -> list[Tree]:
    """What ``tx`` makes of each of ``updates`` in turn."""
    state, out = tx.init(updates[0] if params is None else params), []
    for u in updates:
        new, state = tx.update(u, state, params)
        out.append(new)
    return out


def assert_close(got: Tree, want: Tree) -> None:
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-15)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def rms(leaf: torch.Tensor) -> torch.Tensor:
    return leaf.square().mean().sqrt()


STREAM = [normal(4, 3, seed=seed) for seed in range(6)]

# Trust ratios


def test_every_leaf_gets_the_norm_of_its_parameters():
    params, updates = {"w": normal(4, 3, seed=1), "b": normal(3, seed=2)}, {"w": normal(4, 3), "b": normal(3)}
    got = apply(ps.scale_by_trust_ratio(trust_coefficient=0.1), updates, params)
    for name, p in params.items():
        assert_close(got[name].norm(), 0.1 * p.norm())
        assert_close(got[name] / got[name].norm(), updates[name] / updates[name].norm())


def test_norms_have_a_least_value_and_eps_joins_that_of_the_update():
    p, u = normal(3, seed=1), normal(3)
    got = apply(ps.scale_by_trust_ratio(5.0, 0.5, 0.25), u, p)
    assert_close(got, u * 0.5 * 5.0 / (5.0 + 0.25))
    assert_close(apply(ps.scale_by_trust_ratio(0.0, 0.5, 0.25), u, p), u * 0.5 * p.norm() / (u.norm() + 0.25))


@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_without_a_norm_there_is_no_ratio(eps: float):
    u, zero = normal(3), torch.zeros(3, dtype=torch.float64)
    tx = ps.scale_by_trust_ratio(trust_coefficient=0.1, eps=eps)
    assert_close(apply(tx, u, zero), u)
    assert_close(apply(tx, zero, u), zero)
    slope = torch.func.grad(lambda eps: apply(ps.scale_by_trust_ratio(eps=eps), zero, u).sum())
    assert slope(torch.tensor(eps)) == 0


def test_leaves_are_scaled_by_the_size_of_their_parameters():
    params, updates = (
        {"large": normal(4, 3), "small": 1e-6 * normal(5)},
        {"large": normal(4, 3), "small": normal(5)},
    )
    got = apply(ps.scale_by_param_block_norm(1e-2), updates, params)
    assert_close(got["large"], updates["large"] * params["large"].norm())
    assert_close(got["small"], updates["small"] * 1e-2)
    got = apply(ps.scale_by_param_block_rms(1e-2), updates, params)
    assert_close(got["large"], updates["large"] * rms(params["large"]))
    assert_close(got["small"], updates["small"] * 1e-2)


def test_lars_is_momentum_of_decayed_and_scaled_gradients_times_their_rates():
    rates, params = [0.5, 0.2, 0.1, 0.4], normal(4, 3, seed=9)
    tx = ps.lars(lambda step: torch.tensor(rates)[step], 0.1, trust_coefficient=0.01, eps=0.05, momentum=0.8)
    memory = torch.zeros(4, 3, dtype=torch.float64)
    for rate, u, got in zip(rates, STREAM, outputs(tx, STREAM[:4], params), strict=False):
        decayed = u + 0.1 * params
        step = 0.01 * params.norm() / (decayed.norm() + 0.05) * decayed
        memory = 0.8 * memory - rate * step
        torch.testing.assert_close(got, memory, rtol=1e-6, atol=1e-9)


def test_lars_leaves_alone_what_its_masks_leave_out():
    params, grads = {"w": normal(4, 3), "b": normal(3)}, {"w": normal(4, 3, seed=1), "b": normal(3, seed=1)}
    mask = {"w": True, "b": False}
    tx = ps.lars(0.1, 0.5, mask, trust_coefficient=0.01, trust_ratio_mask=mask, momentum=0.0)
    got = apply(tx, grads, params)
    assert_close(got["b"], -0.1 * grads["b"])
    assert_close(got["w"].norm(), 0.1 * 0.01 * params["w"].norm())


def test_the_first_step_of_lamb_is_a_sign_with_decay_of_the_size_of_the_leaf():
    params, grads = normal(4, 3, seed=1), normal(4, 3)
    direction = grads.sign() + 0.1 * params
    want = -0.05 * params.norm() / direction.norm() * direction
    assert_close(apply(ps.lamb(0.05, eps=0.0, weight_decay=0.1), grads, params), want)


def test_fromage_turns_a_leaf_and_keeps_its_norm_when_gradients_lie_across():
    params = normal(6, seed=1)
    across = normal(6)
    across = across - (across @ params) / (params @ params) * params
    moved = params + apply(ps.fromage(0.75), 100 * across, params)
    assert_close(moved.norm(), params.norm())
    assert_close(
        torch.acos(params @ moved / params.norm() ** 2).tan(), torch.tensor(0.75, dtype=torch.float64)
    )


# Factored moments


def test_a_matrix_of_rank_one_loses_nothing_by_being_factored():
    stream = [torch.outer(normal(5, seed=s), normal(7, seed=s + 50)) for s in (0, 0, 0)]
    full = outputs(ps.scale_by_factored_rms(False), stream)
    assert_close(outputs(ps.scale_by_factored_rms(min_dim_size_to_factor=5), stream), full)
    assert_close(full, [u.sign() for u in stream])


@pytest.mark.parametrize("factored", [False, True])
def test_mean_squares_are_averages_with_the_decay_of_the_step(factored: bool):
    tx = ps.scale_by_factored_rms(factored, 0.7, min_dim_size_to_factor=3, epsilon=1e-3)
    v = torch.zeros(4, 3, dtype=torch.float64)
    for step, (u, got) in enumerate(zip(STREAM, outputs(tx, STREAM), strict=True)):
        decay = 1 - (step + 1) ** -0.7
        v = decay * v + (1 - decay) * (u**2 + 1e-3)
        low_rank = torch.outer(v.mean(1), v.mean(0)) / v.mean()
        assert_close(got, u / (low_rank if factored else v).sqrt())


def test_the_decay_can_begin_later_and_be_another_function():
    later = outputs(ps.scale_by_factored_rms(step_offset=2), STREAM)
    # The first two steps are as the first: their mean squares are forgotten.
    assert_close(later[:3], [u.sign() for u in STREAM[:3]])
    assert_close(later[3], outputs(ps.scale_by_factored_rms(), STREAM[2:])[1])
    tx = ps.scale_by_factored_rms(decay_rate=0.5, decay_rate_fn=lambda step, rate: rate / (step + 1))
    assert_close(outputs(tx, STREAM)[0], STREAM[0] / (0.5 * STREAM[0] ** 2).sqrt())


@pytest.mark.parametrize(
    "shape, kept",
    [
        ((3, 5), [(3, 1), (1, 5)]),
        ((5, 3), [(1, 3), (5, 1)]),
        ((4, 4), [(4, 1), (1, 4)]),
        ((2, 5, 4), [(2, 1, 4), (2, 5, 1)]),
        ((2, 9), [(2, 9)]),
        ((9,), [(9,)]),
        ((), [()]),
    ],
)
def test_the_two_longest_axes_are_factored(shape: tuple[int, ...], kept: list[tuple[int, ...]]):
    state = ps.scale_by_factored_rms(min_dim_size_to_factor=3).init(torch.zeros(shape))
    assert [tuple(moment.shape) for moment in state.moments] == kept
    unfactored = ps.scale_by_factored_rms(False, min_dim_size_to_factor=1).init(torch.zeros(shape))
    assert [moment.shape for moment in unfactored.moments] == [shape]


def test_a_stack_of_matrices_is_factored_one_by_one():
    stack = normal(2, 5, 4)
    tx = ps.scale_by_factored_rms(min_dim_size_to_factor=4)
    assert_close(apply(tx, stack), torch.stack([apply(tx, matrix) for matrix in stack]))


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.3}, {"d": 1.2}, {"beta2_decay": -0.5}], ids=str)
@pytest.mark.parametrize("lr", [0.02, 0.6])
def test_adafactor_with_relative_steps_is_that_of_torch(settings: dict[str, Any], lr: float):
    tx = ps.adafactor(
        lambda step: torch.clamp((step + 1).double() ** -0.5, max=lr),
        min_dim_size_to_factor=1,
        decay_rate=-settings.get("beta2_decay", -0.8),
        clipping_threshold=settings.get("d", 1.0),
        weight_decay_rate=lr * settings.get("weight_decay", 0.0),
    )
    ours = {"w": normal(4, 3, seed=1), "b": normal(3, seed=2), "tiny": torch.full((2,), 1e-5).double()}
    theirs = {name: p.clone().requires_grad_() for name, p in ours.items()}
    optimizer = torch.optim.Adafactor(theirs.values(), lr=lr, **settings)
    state = tx.init(ours)
    for step in range(8):
        grads = {name: normal(*p.shape, seed=10 + step) + p.detach() for name, p in theirs.items()}
        updates, state = tx.update(grads, state, ours)
        ours = ps.apply_updates(ours, updates)
        for name, p in theirs.items():
            p.grad = grads[name]
        optimizer.step()
        want = {name: p.detach() for name, p in theirs.items()}
        torch.testing.assert_close(ours, want, rtol=1e-10, atol=1e-12)


def test_adafactor_without_its_options_is_the_bare_rule():
    tx = ps.adafactor(multiply_by_parameter_scale=False, clipping_threshold=None)
    assert_close(outputs(tx, STREAM), [-u for u in outputs(ps.scale_by_factored_rms(), STREAM)])


def test_adafactors_momentum_and_decay_come_behind_its_learning_rate():
    params, rate = normal(4, 3, seed=9), 0.1
    steps = outputs(ps.adafactor(rate), STREAM, params)
    tx = ps.adafactor(rate, momentum=0.8, weight_decay_rate=0.01)
    memory = torch.zeros(4, 3, dtype=torch.float64)
    for step, got in zip(steps, outputs(tx, STREAM, params), strict=True):
        memory = 0.8 * memory + 0.2 * step
        assert_close(got, memory - 0.01 * params)
    low = ps.adafactor(momentum=0.9, dtype_momentum=torch.bfloat16).init(params)
    assert torch.bfloat16 in {leaf.dtype for leaf in ps.tree.leaves(low)}


# SM3


def sm3_entry_by_entry(stream: list[torch.Tensor], b1: float, b2: float, eps: float) -> list[torch.Tensor]:
    """SM3 as a loop over the entries of a matrix."""
    rows, columns = [0.0] * 4, [0.0] * 3
    momentum, out = torch.zeros(4, 3, dtype=torch.float64), []
    for u in stream:
        bound = torch.zeros(4, 3, dtype=torch.float64)
        for i, j in itertools.product(range(4), range(3)):
            square = u[i, j].item() ** 2
            bound[i, j] = b2 * min(rows[i], columns[j]) + (square if b2 == 1 else (1 - b2) * square)
            momentum[i, j] = b1 * momentum[i, j] + (1 - b1) * u[i, j] / (bound[i, j] + eps).sqrt()
        rows = [bound[i].max().item() for i in range(4)]
        columns = [bound[:, j].max().item() for j in range(3)]
        out.append(momentum.clone())
    return out


@pytest.mark.parametrize("b2", [1.0, 0.9])
def test_sm3_is_its_loop_over_entries(b2: float):
    want = sm3_entry_by_entry(STREAM, 0.8, b2, 1e-3)
    assert_close(outputs(ps.scale_by_sm3(0.8, b2, 1e-3), STREAM), want)
    as_tensor = ps.scale_by_sm3(0.8, torch.tensor(b2, dtype=torch.float64), 1e-3)
    assert_close(outputs(as_tensor, STREAM), want)


def test_sm3_of_a_vector_is_adagrad():
    stream = [u[0] for u in STREAM]
    sums = itertools.accumulate(u**2 for u in stream)
    want = [u / (total + 1e-3).sqrt() for u, total in zip(stream, sums, strict=True)]
    assert_close(outputs(ps.scale_by_sm3(0.0, eps=1e-3), stream), want)


def test_sm3_never_divides_by_less_than_adagrad():
    sums = itertools.accumulate(u**2 for u in STREAM)
    got = outputs(ps.scale_by_sm3(0.0, eps=0.0), STREAM)
    assert all(
        (u.abs() <= (v / t.sqrt()).abs() + 1e-12).all() for u, v, t in zip(got, STREAM, sums, strict=True)
    )


def test_sm3_keeps_one_number_for_each_slice():
    state = ps.scale_by_sm3().init(
        {"w": torch.zeros(4, 3, 2), "b": torch.zeros(()), "empty": torch.zeros(0, 2)}
    )
    shapes = {name: [tuple(one.shape) for one in kept] for name, kept in state.slices.items()}
    assert shapes == {"w": [(4,), (3,), (2,)], "b": [()], "empty": [(0,), (2,)]}


def test_a_zero_gradient_has_no_slope_in_eps():
    def total(eps: torch.Tensor) -> torch.Tensor:
        return apply(ps.scale_by_sm3(eps=eps), torch.zeros(2, 3)).sum()

    assert torch.func.grad(total)(torch.tensor(0.0)) == 0


# Noise

# What Optax 0.2.8 with JAX 0.10.2 adds to zeros: optax.add_noise(0.5, 0.55, 42), in float32.
RECORDED = [
    {"b": [-0.526172519, 1.07601142], "w": [-0.736330748, 0.374316394, -1.76250803, 0.326899707]},
    {"b": [-0.314004481, -0.60386312], "w": [-0.148888007, -0.900993049, -0.257031292, 0.579488218]},
    {"b": [0.118533827, 0.322513103], "w": [0.609953165, -0.200127736, -0.442510724, -0.302666962]},
]


@pytest.mark.parametrize("key", [42, torch.tensor(42), ps.random.key(42)], ids=["int", "seed", "key"])
def test_noise_is_that_of_optax(key: Any):
    zeros = {"b": torch.zeros(2), "w": torch.zeros(2, 2)}
    for got, want in zip(outputs(ps.add_noise(0.5, 0.55, key), [zeros] * 3), RECORDED, strict=True):
        flat = {name: leaf.flatten() for name, leaf in got.items()}
        torch.testing.assert_close(flat, {n: torch.tensor(w) for n, w in want.items()}, rtol=3e-7, atol=0.0)


def test_a_seed_may_go_by_its_own_name():
    u = torch.zeros(3)
    draws = [tx.update(u, tx.init(u))[0] for tx in (ps.noisy_sgd(0.1, seed=3), ps.noisy_sgd(0.1, key=3))]
    assert torch.equal(*draws)
    assert not torch.equal(draws[0], ps.noisy_sgd(0.1).update(u, ps.noisy_sgd(0.1).init(u))[0])


def test_the_variance_of_noise_falls_as_it_should():
    zeros = torch.zeros(20_000, dtype=torch.float64)
    for t, noise in enumerate(outputs(ps.add_noise(0.09, 1.5, key=1), [zeros] * 4), start=1):
        assert noise.var().item() == pytest.approx(0.09 / t**1.5, rel=0.05)
        assert abs(noise.mean().item()) < 4 * (0.09 / len(zeros)) ** 0.5


def test_noise_differs_between_leaves_and_steps_and_repeats_from_a_state():
    tx, zeros = ps.add_noise(1.0, 0.0), {"a": torch.zeros(3), "b": torch.zeros(3)}
    first, after = tx.update(zeros, tx.init(zeros))
    second, _ = tx.update(zeros, after)
    drawn = [*first.values(), *second.values()]
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(drawn, 2))
    assert torch.equal(tx.update(zeros, after)[0]["a"], second["a"])
    assert not torch.equal(apply(ps.add_noise(1.0, 0.0, key=1), zeros)["a"], first["a"])


def test_noise_of_many_seeds_can_be_mapped():
    def drawn(seed: torch.Tensor) -> torch.Tensor:
        return apply(ps.noisy_sgd(0.1, key=seed), torch.ones(2))

    together = torch.func.vmap(drawn)(torch.arange(3))
    assert torch.equal(together, torch.stack([drawn(torch.tensor(seed)) for seed in range(3)]))


def test_without_variance_noisy_descent_is_descent():
    assert_close(outputs(ps.noisy_sgd(0.1, eta=0.0), STREAM), [-0.1 * u for u in STREAM])


def test_noise_does_not_keep_the_callers_key():
    key = ps.random.key(3)
    assert ps.add_noise(1.0, 0.0, key).init(torch.zeros(2)).key.data_ptr() != key.data_ptr()


# Games


def test_optimism_solves_the_bilinear_game_that_descent_flees():
    def distance(tx: ps.GradientTransformation) -> float:
        params = {"x": torch.ones((), dtype=torch.float64), "y": torch.ones((), dtype=torch.float64)}
        state = tx.init(params)
        for _ in range(300):
            # x minimizes x * y, y maximizes it.
            updates, state = tx.update({"x": params["y"], "y": -params["x"]}, state, params)
            params = ps.apply_updates(params, updates)
        return ps.tree.norm(params).item()

    assert distance(ps.sgd(0.3)) > 1e3
    assert distance(ps.optimistic_gradient_descent(0.3)) < 1e-3


def test_optimistic_adam_extrapolates_nadam():
    plain = outputs(ps.adam(0.1, nesterov=True), STREAM)
    got = outputs(ps.optimistic_adam_v2(0.1, alpha=0.6, beta=0.5), STREAM)
    later = [1.1 * now - 0.5 * before for before, now in itertools.pairwise(plain)]
    assert_close(got, [0.6 * plain[0], *later])


# Masks

DECAYING: dict[str, Callable[[Any], ps.GradientTransformation]] = {
    "adafactor": lambda mask: ps.adafactor(0.1, weight_decay_rate=0.5, weight_decay_mask=mask),
    "lamb": lambda mask: ps.lamb(0.1, weight_decay=0.5, mask=mask),
    "lion": lambda mask: ps.lion(0.1, weight_decay=0.5, mask=mask),
}


@pytest.mark.parametrize("name", DECAYING)
def test_a_mask_picks_the_leaves_that_decay(name: str):
    params, grads = {"w": normal(4, 3), "b": normal(3)}, {"w": normal(4, 3, seed=1), "b": normal(3, seed=1)}
    some, every, none = (
        apply(DECAYING[name](m), grads, params) for m in ({"w": True, "b": False}, None, False)
    )
    assert_close(some, {"w": every["w"], "b": none["b"]})
    assert not torch.equal(every["b"], none["b"])


# Bad arguments


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: ps.scale_by_trust_ratio(-1), "scale_by_trust_ratio: min_norm=-1 lies outside"),
        (
            lambda: ps.lars(0.1, trust_coefficient=-1),
            "scale_by_trust_ratio: trust_coefficient=-1 lies outside",
        ),
        (lambda: ps.lars(0.1, eps=-1), "scale_by_trust_ratio: eps=-1 lies outside"),
        (lambda: ps.scale_by_param_block_norm(-1), "scale_by_param_block_norm: min_scale=-1 lies outside"),
        (lambda: ps.scale_by_param_block_rms(-1), "scale_by_param_block_rms: min_scale=-1 lies outside"),
        (lambda: ps.shrink_by_learning_rate(-1), "shrink_by_learning_rate: learning_rate=-1 lies outside"),
        (lambda: apply(ps.scale_by_trust_ratio(), STREAM[0]), "scale_by_trust_ratio: params is None"),
        (
            lambda: apply(ps.scale_by_param_block_norm(), STREAM[0]),
            "scale_by_param_block_norm: params is None",
        ),
        (lambda: apply(ps.scale_by_param_block_rms(), STREAM[0]), "scale_by_param_block_rms: params is None"),
        (
            lambda: apply(ps.shrink_by_learning_rate(0.1), STREAM[0]),
            "shrink_by_learning_rate: params is None",
        ),
        (lambda: ps.adafactor(decay_rate=-1), "scale_by_factored_rms: decay_rate=-1 lies outside"),
        (lambda: ps.adafactor(decay_offset=-1), "scale_by_factored_rms: step_offset=-1 is not at least 0."),
        (lambda: ps.adafactor(None, 0), "scale_by_factored_rms: min_dim_size_to_factor=0 is not at least 1."),
        (lambda: ps.adafactor(eps=0.0), "scale_by_factored_rms: epsilon=0.0 lies outside (0, inf)."),
        (lambda: ps.sm3(0.1, 1.0), "scale_by_sm3: b1=1.0 lies outside [0, 1)."),
        (lambda: ps.scale_by_sm3(b2=1.5), "scale_by_sm3: b2=1.5 lies outside [0, 1]."),
        (lambda: ps.scale_by_sm3(eps=-1), "scale_by_sm3: eps=-1 lies outside [0, inf)."),
        (lambda: ps.add_noise(-1, 0), "add_noise: eta=-1 lies outside [0, inf)."),
        (lambda: ps.add_noise(1, -1), "add_noise: gamma=-1 lies outside [0, inf)."),
        (lambda: ps.add_noise(1, 1, torch.ones(3)), "random.split: key is torch.float32 (3,)"),
    ],
)
def test_what_is_wrong_is_said(call: Callable[[], Any], sentence: str):
    with pytest.raises(ps.PureSGDError) as caught:
        call()
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    "tx",
    [
        ps.scale_by_sm3(b1=0.0, eps=0.0),
        ps.scale_by_factored_rms(),
        ps.scale_by_factored_rms(min_dim_size_to_factor=2),
    ],
    ids=repr,
)
def test_the_squares_of_complex_entries_are_real(tx: ps.GradientTransformation):
    # Of rank one in magnitude, so that a row and a column hold all of it.
    grads = torch.tensor([[3 + 4j, -2j], [6 - 8j, 4 + 0j]])
    out, state = tx.update(grads, tx.init(torch.zeros_like(grads)))
    torch.testing.assert_close(out, grads / grads.abs(), rtol=1e-5, atol=0.0)
    squares = state.slices if isinstance(state, ps.ScaleBySm3State) else state.moments
    assert not any(leaf.is_complex() for leaf in ps.tree.leaves(squares))


def test_complex_noise_has_half_of_its_variance_in_each_part():
    zeros = torch.zeros(20_000, dtype=torch.complex64)
    tx = ps.add_noise(0.09, 0.0, key=1)
    noise = tx.update(zeros, tx.init(zeros))[0]
    for part in (noise.real, noise.imag):
        assert part.var().item() == pytest.approx(0.045, rel=0.05)
    assert (noise.real * noise.imag).mean().item() == pytest.approx(0.0, abs=2e-3)
