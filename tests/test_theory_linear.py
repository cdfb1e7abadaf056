"""The linear maps of chains: against the chains themselves, run step by step."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from catalogue import CATALOGUE
from theory_chains import CHAINS, CURVATURE, Setting, run

import pure_sgd as ps
from pure_sgd import theory

STEPS = 20
VARIANCE = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
PROBLEM = theory.NoisyQuadratic(CURVATURE, 4 * VARIANCE, batch_size=4)


@pytest.mark.parametrize("name", CHAINS)
def test_the_maps_take_the_numbers_of_a_run_from_step_to_step(name):
    setting, key = Setting(3), ps.random.key(1)
    noise = ps.random.normal(key, (STEPS, 3), torch.float64)
    tx = CHAINS[name](setting, CURVATURE)
    maps = theory.linearize(tx, CURVATURE, STEPS)
    params, averaged = run(tx, CURVATURE, torch.full((3,), 2.0, dtype=torch.float64), noise)
    z = 2 * maps.start
    for step in range(STEPS):
        z = (maps.transition[step] @ z[..., None])[..., 0] + maps.noise[step] * noise[step][:, None]
        torch.testing.assert_close(z[:, 0], params[step + 1], rtol=1e-10, atol=1e-12)
        read = (maps.average[step] * z).sum(-1)
        torch.testing.assert_close(read, averaged[step + 1], rtol=1e-10, atol=1e-12)
    assert maps.names[0] == "params"
    assert not maps.local


@pytest.mark.parametrize("name", [name for name, entry in CATALOGUE.items() if not entry.extra])
def test_every_transform_is_what_its_map_says_or_told_to_be_not_linear(name):
    entry = CATALOGUE[name]
    tx = entry.build(**entry.hyperparams)
    h = CURVATURE[:2]
    try:
        found = theory.moments(tx, theory.NoisyQuadratic(h, 0.0), 8, initial=3.0)
    except ps.PureSGDError:
        return
    params, averaged = run(tx, h, torch.full((2,), 3.0, dtype=torch.float64), torch.zeros(8, 2))
    torch.testing.assert_close((found.mean, found.averaged_mean), (params, averaged), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "tx, guilty",
    [
        (ps.adam(0.1), "scale_by_adam()"),
        (ps.adamw(0.1, b1=0.8), "scale_by_adam(0.8)"),
        (ps.chain(ps.clip_by_global_norm(1.0), ps.sgd(0.1)), "clip_by_global_norm(1.0)"),
        (ps.chain(ps.trace(0.9), ps.clip(1e6), ps.sgd(1e-12)), "clip(1000000.0)"),
        (ps.sign_sgd(0.1), "scale_by_sign()"),
        (ps.lookahead(ps.lion(0.1), 5, 0.5), "scale_by_lion()"),
        (ps.multi_steps(ps.named_chain(("a", ps.sgd(0.1)), ("b", ps.normalize())), 3), "normalize()"),
        (ps.adagrad(0.1), "scale_by_rss()"),
        (ps.chain(ps.sgd(0.1), ps.add_noise(0.1, 0.5, ps.random.key(0))), "add_noise(0.1, 0.5"),
        (ps.conditionally_transform(ps.clip(1.0), lambda step: step > 20), "clip(1.0)"),
        (ps.stateless(lambda u, p: ps.tree.map(lambda x: x - x.mean(), u)), "stateless(<lambda>)"),
        (ps.chain(ps.trace(0.9, accumulator_dtype=torch.float32)), "trace(0.9, accumulator_dtype=torch.floa"),
        (ps.chain(ps.sgd(0.1), ps.keep_params_nonnegative()), "keep_params_nonnegative()"),
    ],
)
def test_what_is_not_linear_is_named(tx, guilty):
    with pytest.raises(ps.PureSGDError) as told:
        theory.linearize(tx, CURVATURE, steps=40)
    assert str(told.value).startswith(f"linearize: {guilty}")
    assert "is not linear" in str(told.value)


def counting() -> ps.GradientTransformation:
    """Each step is linear, but for the number of large gradients before it."""

    def update(updates, state, params=None, **extra):
        return ps.tree.map(lambda u: u / (1 + state), updates), state + (updates.abs() > 1).sum()

    return ps.GradientTransformation(lambda params: torch.zeros((), dtype=torch.int64), update)


def beginning_at_one() -> ps.GradientTransformation:
    """Momentum that does not begin at 0."""

    def update(updates, state, params=None, **extra):
        return updates + 0.9 * state, updates + 0.9 * state

    return ps.GradientTransformation(torch.ones_like, update)


@pytest.mark.parametrize("factory", [counting, beginning_at_one])
def test_steps_that_are_linear_do_not_make_a_linear_run(factory):
    with pytest.raises(ps.PureSGDError, match=f"{factory.__name__}.*is not linear"):
        theory.linearize(ps.chain(factory(), ps.sgd(0.1)), CURVATURE)


def test_what_a_quadratic_does_not_give_is_named():
    with pytest.raises(
        ps.PureSGDError, match=r"risk: reduce_on_plateau\(\) reads the extra argument 'value'"
    ):
        theory.risk(ps.chain(ps.sgd(0.1), ps.reduce_on_plateau()), PROBLEM, 3)
    with pytest.raises(ps.PureSGDError, match="reads the gradients of examples"):
        theory.linearize(ps.dpsgd(0.1, 1.0, 1.0, ps.random.key(0)), 1.0)
    with pytest.raises(ps.PureSGDError, match=r"linearize: tx=.* expected GradientTransformation"):
        theory.linearize(ps.sgd, 1.0)


def test_a_map_that_the_clock_does_not_move_is_held_once():
    constant = theory.linearize(ps.sgd(0.1, momentum=0.9), CURVATURE, steps=10**9)
    assert constant.transition.shape == (10**9, 3, 2, 2)
    assert not constant.varies
    assert theory.linearize(ps.sgd(0.1, 0.9, dampening=0.5), CURVATURE, steps=3).varies


def test_accumulation_is_periodic():
    found = theory.linearize(ps.multi_steps(ps.sgd(0.1), 3), 1.0, steps=6)
    assert found.varies
    for maps in found[:3]:
        torch.testing.assert_close(maps[:3], maps[3:])
    assert found.transition[:, 0, 0, 0].tolist() == pytest.approx([1, 1, 1 - 0.1 / 3] * 2)


def test_maps_are_differentiable_and_can_be_mapped_over():
    def corner(momentum):
        return theory.linearize(ps.sgd(0.5, momentum), 2.0).transition[0, 0, 0, 1]  # -rate * momentum

    betas = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    assert torch.func.grad(corner)(betas[0]).item() == pytest.approx(-0.5)
    torch.testing.assert_close(torch.func.vmap(corner)(betas), -0.5 * betas)


@pytest.mark.parametrize("tx_of", [ps.adam, lambda rate: ps.chain(beginning_at_one(), ps.sgd(rate))])
def test_mapped_over_what_is_not_linear_is_nan(tx_of):
    rates = torch.tensor([0.1, 0.2])
    found = torch.func.vmap(lambda rate: theory.final_risk(tx_of(rate), PROBLEM, 3))(rates)
    assert found.isnan().all()


def test_steps_are_joined_from_parts_that_fit_into_memory(monkeypatch):
    tx = ps.chain(ps.sgd(ps.cosine_decay_schedule(0.1, 20), 0.9), ps.polyak_average())
    whole, risk = theory.linearize(tx, CURVATURE, 20), theory.risk(tx, PROBLEM, 20)
    for name, held in (("linear", 800), ("risk", 100)):
        monkeypatch.setattr(import_module(f"pure_sgd.theory.{name}"), "HELD", held)
    torch.testing.assert_close(theory.linearize(tx, CURVATURE, 20)[:4], whole[:4])
    torch.testing.assert_close(theory.risk(tx, PROBLEM, 20), risk)
    assert theory.final_risk(tx, PROBLEM, 20).item() == pytest.approx(risk.averaged.total[-1].item())


def test_linearize_at_gives_the_derivatives_at_a_point():
    """Adam at the minimum, with second moments that stay: SGD with momentum and a rate of its own."""
    tx, params = ps.adam(0.1, b1=0.8, b2=0.9, eps=0.0), torch.zeros(3, dtype=torch.float64)
    variance = torch.tensor([0.25, 1.0, 4.0], dtype=torch.float64)
    adam, rate = tx.init(params)
    adam = adam._replace(step=torch.tensor(10_000), nu=variance / 0.9)
    found = theory.linearize_at(tx, CURVATURE, params, (adam, rate))
    assert found.local
    mu, nu = (found.names.index(f"opt_state[0].{name}") for name in ("mu", "nu"))
    own = 0.1 / variance.sqrt()
    torch.testing.assert_close(found.noise[0, :, 0], -own * 0.2)
    torch.testing.assert_close(found.transition[0, :, 0, 0], 1 - own * 0.2 * CURVATURE)
    torch.testing.assert_close(found.transition[0, :, 0, mu], -own * 0.8)
    assert not found.transition[0, :, 0, nu].any()
    steady = theory.steady_state_risk(found, theory.NoisyQuadratic(CURVATURE, 1.0))
    alike = ps.chain(ps.ema(0.8, debias=False), ps.stateless(lambda u, p: u * own), ps.scale(-1.0))
    expected = theory.steady_state_risk(alike, theory.NoisyQuadratic(CURVATURE, 1.0))
    torch.testing.assert_close(steady.variance, expected.variance)


def test_linearize_at_refuses_coordinates_that_depend_on_each_other():
    params = torch.ones(3, dtype=torch.float64)
    tx = ps.chain(ps.clip_by_global_norm(0.1), ps.sgd(0.1))
    with pytest.raises(ps.PureSGDError, match="coordinates depend on each other"):
        theory.linearize_at(tx, CURVATURE, params, tx.init(params))
    found = theory.linearize_at(
        ps.chain(ps.clip(0.1), ps.sgd(0.1)), CURVATURE, params, ((), tx.init(params)[1])
    )
    assert found.transition[0, :, 0, 0].tolist() == pytest.approx([1.0, 1.0, 0.995])


@pytest.mark.parametrize("curvature", [torch.ones(2, 2), torch.ones(0)])
def test_curvatures_are_one_number_a_coordinate(curvature):
    with pytest.raises(ps.PureSGDError, match=r"curvature has shape"):
        theory.linearize(ps.sgd(0.1), curvature)


def test_one_of_several_averages_is_asked_for_by_name():
    tx = ps.named_chain(("step", ps.sgd(0.1)), ("fast", ps.params_ema(0.5)), ("slow", ps.params_ema(0.9)))
    with pytest.raises(ps.PureSGDError, match="2 averages"):
        theory.risk(tx, PROBLEM, 5)
    for name, decay in (("fast", 0.5), ("slow", 0.9)):
        alone = ps.chain(ps.sgd(0.1), ps.params_ema(decay))
        found = theory.risk(tx, PROBLEM, 5, average=name)
        torch.testing.assert_close(found.averaged, theory.risk(alone, PROBLEM, 5).averaged)
        steady = theory.steady_state_risk(tx, PROBLEM, average=name)
        torch.testing.assert_close(steady.averaged, theory.steady_state_risk(alone, PROBLEM).averaged)
