"""Rules that find their own learning rate, held to the papers' loops over one float64 vector."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import Any

import pytest
import torch

import pure_sgd as ps

START = torch.tensor([0.3, 0.5, -1.0], dtype=torch.float64)
CURVATURE = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)

Gradient = Callable[[int, torch.Tensor], torch.Tensor]
Rule = Generator[torch.Tensor, torch.Tensor, None]


def noisy(t: int, x: torch.Tensor) -> torch.Tensor:
    """The gradient of a quadratic, disturbed, at step ``t`` from 0 on."""
    return CURVATURE * x + torch.sin(1.7 * t + torch.arange(3.0).double())


def late(t: int, x: torch.Tensor) -> torch.Tensor:
    """As ``noisy``, after two gradients of zero."""
    return noisy(t, x) if t > 1 else torch.zeros_like(x)


def value(x: torch.Tensor) -> torch.Tensor:
    """The quadratic."""
    return (CURVATURE * x * x).sum() / 2


def as_tree(x: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"b": x[0], "w": x[1:]}


def as_vector(params: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([params["b"].reshape(1), params["w"]])


def extras(tx: ps.GradientTransformation, x: torch.Tensor) -> dict[str, Any]:
    return {"value": value(x)} if "value" in ps.transforms.extra_args_of(tx) else {}


def assert_follows(tx: ps.GradientTransformation, rule: Rule, gradient: Gradient = noisy, steps: int = 12):
    """Hold an optimizer to a loop that is sent a gradient and yields the next parameters."""
    want = next(rule)
    params = as_tree(want)
    state = tx.init(params)
    for t in range(steps):
        x = as_vector(params)
        updates, state = tx.update(as_tree(gradient(t, x)), state, params, **extras(tx, x))
        params = ps.apply_updates(params, updates)
        want = rule.send(gradient(t, want))
        torch.testing.assert_close(as_vector(params), want, rtol=1e-10, atol=1e-14)


def dog(first: float, eps: float, rate: Callable[[int], float] = lambda t: 1.0, decay: float = 0.0) -> Rule:
    x, far, squares, t = START, first, 0.0, 0
    while True:
        g = (yield x) + decay * x
        far = max(far, torch.dist(x, START).item())
        squares += (g @ g).item()
        x = x - rate(t) * far / math.sqrt(squares + eps) * g
        t += 1


def test_dog():
    assert_follows(ps.dog(init_step=("distance", 0.01), eps=1e-3), dog(0.01, 1e-3))
    first = 0.01 * (1 + START.norm().item())
    tx = ps.dog(init_step=("heuristic", 0.01), eps=1e-3, weight_decay=0.1)
    assert_follows(tx, dog(first, 1e-3, decay=0.1), late)


def test_the_rate_of_dog_may_be_a_schedule():
    tx = ps.dog(ps.linear_schedule(0.0, 1.0, 4), ("distance", 0.01), 0.0)
    assert_follows(tx, dog(0.01, 0.0, lambda t: min(t / 4, 1)))


def test_dog_takes_the_first_rate_until_it_has_moved():
    def rule() -> Rule:
        x, far, squares = START, 0.0, 0.0
        while True:
            g = yield x
            far = max(far, torch.dist(x, START).item())
            squares += (g @ g).item()
            x = x - (far / math.sqrt(squares) if far else 0.1) * g

    tx = ps.dog(init_step=("learning_rate", 0.1), eps=0.0)
    assert_follows(tx, rule())
    assert_follows(tx, rule(), late)


def test_dowg():
    def rule(first: float, eps: float) -> Rule:
        x, far, weighted = START, first, 0.0
        while True:
            g = yield x
            far = max(far, torch.dist(x, START).item() ** 2)
            weighted += far * (g @ g).item()
            x = x - far / (math.sqrt(weighted) + eps) * g

    assert_follows(ps.dowg(), rule(1e-4, 1e-4))
    assert_follows(ps.dowg(init_estim_sq_dist=0.01, eps=1e-3), rule(0.01, 1e-3), late)


@pytest.mark.parametrize("param_dtype", [None, torch.float32])
def test_layerwise_dog(param_dtype: torch.dtype | None):
    kept = START.to(param_dtype or torch.float64).double()

    def rule() -> Rule:
        x, squares = START, torch.zeros(2, dtype=torch.float64)
        far = torch.stack([0.01 * (1 + x[:1].norm()), 0.01 * (1 + x[1:].norm())])
        while True:
            g = yield x
            gone = x - kept
            far = torch.maximum(far, torch.stack([gone[:1].norm(), gone[1:].norm()]))
            squares = squares + torch.stack([g[:1] @ g[:1], g[1:] @ g[1:]])
            # The first rate is that of b, the second that of both entries of w.
            x = x - 0.9 * (far / (squares + 1e-3).sqrt())[[0, 1, 1]] * g

    tx = ps.scale_by_distance_over_gradients(0.01, 1e-3, param_dtype, global_scale=-0.9)
    assert_follows(tx, rule())
    assert_follows(tx, rule(), late)


def test_layerwise_dog_keeps_the_shape_of_a_scalar():
    params = torch.tensor(2.0)
    tx = ps.scale_by_distance_over_gradients()
    updates, state = tx.update(params, tx.init(params), params)
    assert updates.shape == state.max_dist.shape == state.grad_sum_of_squares.shape == ()


def test_cocob():
    def rule(alpha: float, eps: float, rate: Callable[[int], float], decay: float) -> Rule:
        x, t = START, 0
        largest, total, reward, against = eps, 0.0, 0.0, 0.0
        while True:
            g = yield x
            g = rate(t) * (g + decay * x)
            largest = g.abs().clamp(min=largest)
            total = total + g.abs()
            reward = (reward - g * (x - START)).clamp(min=0)
            against = against - g
            fraction = against / (largest * torch.maximum(total + largest, alpha * largest))
            x = START + fraction * (largest + reward)
            t += 1

    assert_follows(ps.cocob(), rule(100.0, 1e-8, lambda t: 1.0, 0.0))
    tx = ps.cocob(ps.linear_schedule(0.5, 1.0, 4), alpha=2.0, eps=0.1, weight_decay=0.1)
    assert_follows(tx, rule(2.0, 0.1, lambda t: 0.5 + 0.5 * min(t / 4, 1), 0.1), late)


def test_the_scale_of_the_gradients_makes_no_difference_to_cocob():
    def run(tx: ps.GradientTransformation) -> torch.Tensor:
        params = START
        state = tx.init(params)
        for t in range(9):
            updates, state = tx.update(noisy(t, params), state, params)
            params = ps.apply_updates(params, updates)
        return params

    torch.testing.assert_close(run(ps.cocob(1e-3, eps=0.0)), run(ps.cocob(1e3, eps=0.0)), rtol=1e-9, atol=0.0)


PARAMETER_FREE: dict[str, ps.GradientTransformation] = {
    "cocob": ps.cocob(),
    "dadapt_adamw": ps.dadapt_adamw(),
    "dog": ps.dog(),
    "dowg": ps.dowg(),
    "mechanize": ps.mechanize(ps.sgd(1.0)),
    "mechanize adam": ps.mechanize(ps.adam(1.0)),
    "momo": ps.momo(),
    "momo_adam": ps.momo_adam(100.0),
    "prodigy": ps.prodigy(),
    "scale_by_distance_over_gradients": ps.scale_by_distance_over_gradients(global_scale=-1.0),
}


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("name", PARAMETER_FREE)
def test_the_rate_is_found_from_a_bad_scale(name: str, scale: float):
    tx, params = PARAMETER_FREE[name], scale * START
    state = tx.init(params)

    def risk() -> float:
        return value(params).item()

    first = risk()
    for _ in range(1000):
        extra = {"value": value(params)} if "value" in ps.transforms.extra_args_of(tx) else {}
        updates, state = tx.update(CURVATURE * params, state, params, **extra)
        params = ps.apply_updates(params, updates)
    assert risk() < 1e-3 * first


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", PARAMETER_FREE)
def test_zero_gradients_at_the_start_do_no_harm(name: str, dtype: torch.dtype):
    tx, params = PARAMETER_FREE[name], START.to(dtype)
    state = tx.init(params)
    for t in range(4):
        x = params.double()
        updates, state = tx.update(late(t, x).to(dtype), state, params, **extras(tx, x))
        assert torch.isfinite(updates).all()
        assert (updates == 0).all() or t > 1
        params = ps.apply_updates(params, updates)
    assert not any(torch.isnan(leaf).any() for leaf in ps.tree.leaves(state))


RATES = [
    (ps.scale_by_dog(("distance", 0.1), eps=0.0), 0.1 / START.norm()),
    (ps.scale_by_dowg(0.01, eps=0.0), 0.1 / START.norm()),
    (ps.scale_by_prodigy(0.5, estim_lr0=0.1), 0.05),
    (ps.scale_by_dadapt_adam(0.5, estim_lr0=0.1), 0.05),
    (ps.scale_by_momo(), value(START) / (START @ START)),
    (ps.scale_by_momo_adam(10.0, eps=0.0), value(START) / START.abs().sum()),
]


@pytest.mark.parametrize(("tx", "rate"), RATES, ids=str)
def test_the_state_tells_the_rate_of_the_last_update(tx: ps.GradientTransformation, rate: float):
    state: Any = tx.init(START)
    assert state.learning_rate == 0
    _, state = tx.update(START, state, START, **extras(tx, START))
    assert state.learning_rate.item() == pytest.approx(float(rate), rel=1e-12)


BAD = [
    (ps.scale_by_cocob, {"alpha": -1.0}, r"alpha=-1.0 lies outside \[0, inf\)"),
    (ps.scale_by_dog, {"init_step": 1e-6}, r"init_step=1e-06 is no pair"),
    (ps.scale_by_dog, {"init_step": ("speed", 1e-6)}, r"init_step=\('speed', 1e-06\) is no pair"),
    (ps.scale_by_dog, {"init_step": ("distance", -1.0)}, r"init_step=-1.0 lies outside \[0, inf\)"),
    (ps.scale_by_dowg, {"eps": -1.0}, r"eps=-1.0 lies outside \[0, inf\)"),
    (ps.scale_by_distance_over_gradients, {"reps_rel": -1}, r"reps_rel=-1 lies outside \[0, inf\)"),
]


@pytest.mark.parametrize(("rule", "settings", "words"), BAD, ids=lambda value: getattr(value, "__name__", ""))
def test_a_setting_out_of_range_is_an_error_that_names_it(rule: Any, settings: dict[str, Any], words: str):
    with pytest.raises(ps.PureSGDError, match=f"^{rule.__name__}: {words}"):
        rule(**settings)


@pytest.mark.parametrize(
    "rule",
    [ps.scale_by_cocob, ps.scale_by_dog, ps.scale_by_dowg, ps.scale_by_distance_over_gradients],
    ids=lambda f: f.__name__,
)
def test_the_parameters_are_needed(rule: Any):
    tx = rule()
    with pytest.raises(ps.PureSGDError, match=f"^{rule.__name__}: params is None"):
        tx.update(START, tx.init(START))
