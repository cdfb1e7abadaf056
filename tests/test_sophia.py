"""The Hessian's diagonal and Sophia: their means, Optax's numbers, and when it is estimated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import pure_sgd as ps

PARAMS = {"b": torch.tensor([0.5, -1.0]), "w": torch.arange(6.0).reshape(3, 2) / 6}


def mixed(params: dict[str, torch.Tensor]) -> torch.Tensor:
    """A loss whose Hessian has entries everywhere."""
    w, b = params["w"].sum(), params["b"]
    return b.cos().sum() + w**3 + b.sum() * w


def sentence_of(call: Callable[[], Any]) -> str:
    with pytest.raises(ps.PureSGDError) as caught:
        call()
    return str(caught.value)


def estimate(key: Any, params: Any, loss: Callable[..., torch.Tensor]) -> Any:
    tx = ps.hutchinson_estimator_diag_hessian(key)
    return tx.update(params, tx.init(params), params, value_fn=loss)[0]


def test_a_diagonal_hessian_is_found_exactly():
    params = torch.tensor([0.3, -2.0, 1.0], dtype=torch.float64)
    got = estimate(3, params, lambda p: p.cosh().sum())
    torch.testing.assert_close(got, params.cosh())


def test_the_mean_of_many_estimates_is_the_diagonal():
    matrix = torch.tensor([[3.0, 1.0, -0.5], [1.0, -2.0, 0.25], [-0.5, 0.25, 1.0]])
    many = torch.func.vmap(lambda key: estimate(key, torch.zeros(3), lambda p: p @ matrix @ p / 2))
    draws = many(ps.random.split(ps.random.key(0), 4000))
    variance = (matrix**2).sum(1) - matrix.diagonal() ** 2
    deviation = (variance / 4000).sqrt()
    assert ((draws.mean(0) - matrix.diagonal()).abs() < 4 * deviation).all()
    torch.testing.assert_close(draws.var(0), variance, rtol=0.1, atol=0)


def test_two_estimates_are_those_of_optax():
    # Recorded: hutchinson_estimator_diag_hessian(jax.random.PRNGKey(7)) of Optax 0.2.8, in float32.
    tx = ps.hutchinson_estimator_diag_hessian(7)
    state = tx.init(PARAMS)
    first, state = tx.update(PARAMS, state, PARAMS, value_fn=mixed)
    second, _ = tx.update(PARAMS, state, PARAMS, value_fn=mixed)
    torch.testing.assert_close(first, {"b": torch.tensor([-0.87758255, -0.54030228]), "w": torch.zeros(3, 2)})
    want = torch.tensor([[30.0, -30.0], [30.0, 30.0], [-30.0, 30.0]])
    torch.testing.assert_close(second, {"b": torch.tensor([-2.87758255, 1.45969772]), "w": want})


def test_a_seed_and_its_key_draw_the_same():
    a, b, c = (estimate(key, torch.ones(20), lambda p: p.sum() ** 2) for key in (5, ps.random.key(5), 6))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_the_estimator_says_what_it_lacks():
    tx = ps.hutchinson_estimator_diag_hessian()
    state = tx.init(PARAMS)
    assert "value_fn is missing" in sentence_of(lambda: tx.update(PARAMS, state, PARAMS))
    assert "params is None" in sentence_of(lambda: tx.update(PARAMS, state, value_fn=mixed))
    assert "shape (2,)" in sentence_of(lambda: tx.update(PARAMS, state, PARAMS, value_fn=lambda p: p["b"]))
    assert "expected a key" in sentence_of(lambda: ps.hutchinson_estimator_diag_hessian(torch.ones(3)))


def counted(seen: list[int]) -> ps.GradientTransformation:
    """An estimator that is exact for ``sum(cosh)`` but for a constant, and counts its calls."""

    def function(updates: Any, params: Any) -> Any:
        seen.append(1)
        return params.cosh() - 1.2

    return ps.stateless(function)


START = torch.tensor([0.3, -1.1, 2.0], dtype=torch.float64)


def test_sophia_is_that_of_optax_and_estimates_at_every_third_step():
    seen: list[int] = []
    tx = ps.sophia(
        0.05,
        b1=0.8,
        b2=0.7,
        gamma=5.0,
        eps=1e-3,
        update_interval=3,
        weight_decay=0.1,
        hessian_diagonal_fn=counted(seen),
    )
    params, state, calls = START, tx.init(START), []
    for _ in range(8):
        updates, state = tx.update(params.sinh() - 0.5, state, params)
        params = ps.apply_updates(params, updates)
        calls.append(len(seen))
    # Recorded: optax.contrib.sophia 0.2.8 in float64, with the same estimator.
    want = [0.4817774773182623, -0.6636927836873494, 1.6775931210657868]
    assert params.tolist() == pytest.approx(want, rel=1e-12)
    assert calls == [1, 1, 1, 2, 2, 2, 3, 3]


def test_sophia_is_its_rule_in_plain_python():
    b1, b2, gamma, eps, rho = 0.9, 0.6, 2.0, 0.01, 0.7
    tx = ps.scale_by_sophia(b1, b2, eps, gamma, rho, 2, counted([]))
    state, grads = tx.init(START), [[1.0, -2.0, 0.1], [0.3, 0.2, -0.4], [-0.01, 3.0, 0.0]]
    m, h = [0.0] * 3, [0.0] * 3
    for t, row in enumerate(grads, start=1):
        updates, state = tx.update(torch.tensor(row, dtype=torch.float64), state, START)
        m = [b1 * a + (1 - b1) * g for a, g in zip(m, row, strict=True)]
        ratios = [a / (1 - b1**t) / max(gamma * c, eps) for a, c in zip(m, h, strict=True)]
        assert updates.tolist() == pytest.approx([min(max(r, -rho), rho) for r in ratios])
        if t % 2:
            diagonal = (START.cosh() - 1.2).tolist()
            h = [b2 * c + (1 - b2) * d for c, d in zip(h, diagonal, strict=True)]


def test_without_a_threshold_nothing_is_cut_off():
    tx = ps.scale_by_sophia(eps=0.5, clip_threshold=None, hessian_diagonal_fn=counted([]))
    torch.testing.assert_close(tx.update(START, tx.init(START), START)[0], START / 0.5)


def test_sophia_with_hutchinson_solves_a_badly_scaled_valley():
    scales = torch.tensor([1.0, 1e4], dtype=torch.float64)
    tx = ps.sophia(0.1, b1=0.5, b2=0.0, gamma=1.0, weight_decay=0.0, update_interval=3)
    params = torch.tensor([1.0, 1.0], dtype=torch.float64)
    state, loss = tx.init(params), lambda p: (scales * p**2).sum() / 2
    for _ in range(200):
        updates, state = tx.update(scales * params, state, params, value_fn=loss)
        params = ps.apply_updates(params, updates)
    assert params.abs().max() < 1e-6


def test_a_training_step_gives_the_loss_of_its_batch_by_itself():
    tx = ps.sophia(0.1, b2=0.0, update_interval=2)
    step = ps.make_step(lambda params, center: (params - center).cosh().sum(), tx)
    state, _ = step(ps.init_train_state(START, tx), torch.ones(3))
    torch.testing.assert_close(state.opt_state[0].nu, (START - 1).cosh())


def test_gauss_newton_bartlett_is_an_estimator_like_any_other():
    # Algorithm 2 of the paper: B * g**2, g the mean gradient with labels drawn from the model.
    def update(updates: Any, state: Any, params: Any = None, *, drawn: Any = None, **extra: Any) -> Any:
        return ps.tree.map(lambda g: 32 * g**2, drawn), state

    gnb = ps.GradientTransformation(lambda params: ps.EmptyState(), update)
    tx = ps.chain(ps.scale_by_sophia(b2=0.0, hessian_diagonal_fn=gnb))
    assert ps.transforms.extra_args_of(tx) == ("drawn",)
    _, (state,) = tx.update(START, tx.init(START), START, drawn=0.1 * START)
    torch.testing.assert_close(state.nu, 0.32 * START**2)


def test_where_the_count_is_mapped_each_run_estimates_at_its_own_steps():
    tx = ps.scale_by_sophia(gamma=1.0, update_interval=2)
    state = tx.init(START)

    def nu_after(step: torch.Tensor) -> torch.Tensor:
        now = state._replace(step=step)
        return tx.update(START, now, START, value_fn=lambda p: p.cosh().sum())[1].nu

    got = torch.func.vmap(nu_after)(torch.tensor([0, 1, 2]))
    want = 0.01 * START.cosh()
    torch.testing.assert_close(got, torch.stack([want, torch.zeros(3, dtype=torch.float64), want]))


def test_bad_arguments_are_named():
    not_called: Any = ps.sgd
    for call, part in [
        (lambda: ps.scale_by_sophia(b1=1.0), "b1=1.0"),
        (lambda: ps.scale_by_sophia(eps=0.0), "eps=0.0"),
        (lambda: ps.scale_by_sophia(clip_threshold=-1.0), "clip_threshold=-1.0"),
        (lambda: ps.scale_by_sophia(update_interval=0), "update_interval=0"),
        (lambda: ps.scale_by_sophia(hessian_diagonal_fn=not_called), "Call the factory"),
        (lambda: ps.scale_by_sophia().update(START, ps.scale_by_sophia().init(START)), "params is None"),
    ]:
        assert part in sentence_of(call)
