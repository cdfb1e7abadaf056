"""Averages of the parameters: closed forms, torch's AveragedModel, and what eval_params returns."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.func import grad
from torch.optim.swa_utils import AveragedModel

import pure_sgd as ps

Tree = Any

PARAMS = {
    "w": torch.tensor([0.3, -1.2, 0.7], dtype=torch.float64),
    "b": torch.tensor(0.4, dtype=torch.float64),
}


def wave(params: dict[str, torch.Tensor]) -> torch.Tensor:
    """A loss that is neither convex nor a quadratic."""
    return params["w"].sin().sum() + (params["w"].prod() - params["b"]) ** 2


def path_of(tx: ps.GradientTransformation, steps: int, params: Tree = PARAMS) -> list[tuple[Tree, Any]]:
    """The parameters and the state after each step on :func:`wave`."""
    state, seen = tx.init(params), []
    for _ in range(steps):
        updates, state = tx.update(grad(wave)(params), state, params)
        params = ps.apply_updates(params, updates)
        seen.append((params, state))
    return seen


def follow(tx: ps.GradientTransformation, numbers: list[float], start: float = 0.0) -> list[float]:
    """What to evaluate with after each step, for one parameter that takes these values in turn."""
    params, seen = torch.tensor(start, dtype=torch.float64), []
    state = tx.init(params)
    for number in numbers:
        updates, state = tx.update(number - params, state, params)
        params = ps.apply_updates(params, updates)
        seen.append(ps.eval_params(state, params).item())
    return seen


def mean(points: list[Tree]) -> Tree:
    return {name: torch.stack([point[name] for point in points]).mean(0) for name in PARAMS}


def assert_close(got: Tree, want: Tree, rtol: float = 1e-12) -> None:
    torch.testing.assert_close(got, want, rtol=rtol, atol=1e-15)


def sentence_of(call: Callable[[], Any]) -> str:
    with pytest.raises(ps.PureSGDError) as caught:
        call()
    return str(caught.value)


# The uniform averages


def test_the_polyak_average_is_the_mean_of_the_parameters_after_each_update():
    path = path_of(ps.chain(ps.sgd(0.1), ps.polyak_average()), 9)
    for t, (params, state) in enumerate(path, start=1):
        assert_close(ps.eval_params(state, params), mean([p for p, _ in path[:t]]))


def test_a_tail_average_forgets_what_came_before_it_starts():
    path = path_of(ps.chain(ps.sgd(0.1), ps.polyak_average(start=4)), 9)
    for t, (params, state) in enumerate(path, start=1):
        # Before that there is nothing to average: the parameters are those to evaluate with.
        want = params if t <= 4 else mean([p for p, _ in path[4:t]])
        assert_close(ps.eval_params(state, params), want)
    assert follow(ps.polyak_average(2), [9.0, 7.0, 1.0, 2.0, 6.0]) == [9.0, 7.0, 1.0, 1.5, 3.0]


def test_the_weight_average_takes_every_so_manieth():
    numbers = [float(k**2) for k in range(1, 12)]
    got = follow(ps.stochastic_weight_average(start=3, every=3), numbers)
    # Before the first point, the parameters themselves; then the points after 6 and 9 updates.
    want = [1.0, 4.0, 9.0, 16.0, 25.0, 36.0, 36.0, 36.0, (36 + 81) / 2, (36 + 81) / 2, (36 + 81) / 2]
    assert got == want
    assert follow(ps.stochastic_weight_average(2, 1), numbers) == follow(ps.polyak_average(2), numbers)


@pytest.mark.parametrize("start, every", [(0, 1), (0, 3), (4, 1), (5, 4)])
def test_the_weight_average_is_torchs_averaged_model(start: int, every: int):
    module = torch.nn.Linear(3, 2).double()
    average = AveragedModel(module)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.3, momentum=0.9)
    tx = ps.chain(ps.sgd(0.3, momentum=0.9), ps.stochastic_weight_average(start, every))
    params = {name: p.detach().clone() for name, p in module.named_parameters()}
    state = tx.init(params)
    for t in range(1, 15):
        x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3) * t
        optimizer.zero_grad()
        module(x).square().mean().backward()
        grads = {name: p.grad for name, p in module.named_parameters()}
        updates, state = tx.update(grads, state, params)
        params = ps.apply_updates(params, updates)
        optimizer.step()
        if t > start and (t - start) % every == 0:
            average.update_parameters(module)
        to_evaluate = average.module if average.n_averaged else module
        want = {name: p.detach() for name, p in to_evaluate.named_parameters()}
        assert_close(ps.eval_params(state, params), want, rtol=1e-10)
    assert state[-1].count == average.n_averaged


def test_a_step_that_is_not_in_the_average_leaves_no_trace():
    nan = float("nan")
    got = follow(ps.stochastic_weight_average(0, 2), [1.0, 2.0, nan, 4.0])
    assert got[1:3] == [2.0, 2.0]
    tx, params = ps.stochastic_weight_average(0, 2), torch.tensor([4.0])
    state = tx.init(params)
    for p in (torch.tensor([nan]), params, torch.tensor([nan]), params + 2):
        _, state = tx.update(torch.zeros(1), state, p)
    assert state.average == 5.0


def test_a_long_average_of_half_precision_parameters_keeps_its_digits():
    tx, params = ps.polyak_average(), torch.ones(1, dtype=torch.bfloat16)
    state = tx.init(params)
    for k in range(400):
        _, state = tx.update(torch.zeros_like(params), state, params * (1 + k % 2))
    assert_close(state.average, torch.tensor([1.5]), rtol=1e-5)
    assert ps.eval_params(state, params).dtype == torch.bfloat16


@pytest.mark.parametrize("make", [ps.polyak_average, lambda: ps.stochastic_weight_average(0, 2)])
def test_an_average_passes_the_updates_through_and_needs_the_parameters(make: Callable[[], Any]):
    tx, updates = make(), {"w": torch.ones(2)}
    assert tx.update(updates, tx.init(updates), updates)[0] is updates
    sentence = sentence_of(lambda: tx.update(updates, tx.init(updates)))
    assert sentence.endswith("params is None, and this rule reads them. Call update(updates, state, params).")


# Exponential averages


def test_a_warm_up_of_the_decay_is_a_schedule_of_it():
    path = path_of(ps.chain(ps.sgd(0.1), ps.params_ema(ps.ema_warmup_schedule(0.6))), 12)
    average = PARAMS
    for t, (params, state) in enumerate(path):
        decay = min((1 + t) / (10 + t), 0.6)
        average = {k: decay * average[k] + (1 - decay) * params[k] for k in PARAMS}
        assert_close(ps.eval_params(state, params), average)


def test_a_power_of_zero_is_the_uniform_average():
    numbers = [3.0, 5.0, 1.0, 7.0]
    uniform = ps.params_ema(ps.power_ema_schedule(0.0))
    assert follow(uniform, numbers) == pytest.approx(follow(ps.polyak_average(), numbers))


@pytest.mark.parametrize("gamma", [1.0, 6.94])
def test_a_power_average_weighs_each_point_by_the_part_of_the_run_that_it_ends(gamma: float):
    numbers = [3.0, 5.0, 1.0, 7.0, 2.0]
    for t, got in enumerate(follow(ps.params_ema(ps.power_ema_schedule(gamma)), numbers, 100.0), start=1):
        # The part from (k - 1) / t to k / t, of which x -> x**(gamma + 1) is the mass.
        weights = [(k / t) ** (gamma + 1) - ((k - 1) / t) ** (gamma + 1) for k in range(1, t + 1)]
        assert sum(weights) == pytest.approx(1.0)
        assert got == pytest.approx(sum(w * x for w, x in zip(weights, numbers[:t], strict=True)))


@pytest.mark.parametrize("gamma, width", [(6.94, 0.1), (16.97, 0.05)])
def test_the_width_of_a_power_average_is_that_of_the_paper(gamma: float, width: float):
    # The standard deviation of x on [0, 1] with a density of (gamma + 1) * x**gamma.
    x = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    density = (gamma + 1) * x**gamma
    mean = (density * x).mean()
    sigma = (density * (x - mean) ** 2).mean().sqrt().item()
    assert sigma == pytest.approx(math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2), rel=1e-6)
    assert sigma == pytest.approx(width, rel=1e-3)


def test_several_averages_are_asked_for_by_name():
    names = {"fast": ps.params_ema(0.5), "slow": ps.params_ema(0.9), "tail": ps.polyak_average(2)}
    for chained in (
        ps.named_chain(("step", ps.sgd(0.1)), *names.items()),
        ps.chain(ps.sgd(0.1), ps.multi_steps(ps.named_chain(*names.items()), 1)),
    ):
        params, state = path_of(chained, 6)[-1]
        for name, average in names.items():
            alone = path_of(ps.chain(ps.sgd(0.1), average), 6)[-1]
            assert_close(ps.eval_params(state, params, name), ps.eval_params(alone[1], alone[0]))


def test_without_a_name_several_averages_are_an_error_that_lists_their_names():
    averages = ("fast", ps.params_ema(0.5)), ("slow", ps.params_ema(0.9))
    named = ps.named_chain(("step", ps.sgd(0.1)), *averages)
    params, state = path_of(named, 2)[-1]
    assert sentence_of(lambda: ps.eval_params(state, params)) == (
        "eval_params: the state holds 2 averages: 'fast', 'slow'. "
        "Name the one you mean, as in eval_params(opt_state, params, 'fast')."
    )
    assert sentence_of(lambda: ps.eval_params(state, params, "step")) == (
        "eval_params: the state holds no average 'step', but 'fast', 'slow'. "
        "Pass one of these, as in name='fast'."
    )
    # The part of the state that holds the one that is meant will do as well.
    assert_close(ps.eval_params(state["slow"], params), ps.eval_params(state, params, "slow"))


def test_an_average_without_a_name_goes_by_its_path():
    tx = ps.chain(ps.lookahead(ps.chain(ps.sgd(0.1), ps.params_ema(0.5)), 2, 0.5), ps.params_ema(0.9))
    params, state = path_of(tx, 3)[-1]
    paths = ["opt_state[0]", "opt_state[0].inner[1]", "opt_state[1]"]
    assert sentence_of(lambda: ps.eval_params(state, params)) == (
        f"eval_params: the state holds 3 averages: {', '.join(map(repr, paths))}. "
        "Name the one you mean, as in eval_params(opt_state, params, 'opt_state[0]')."
    )
    for path, average in zip(paths, [state[0], state[0].inner[1], state[1]], strict=True):
        assert_close(ps.eval_params(state, params, path), average.average)


def test_a_name_that_does_not_tell_one_average_is_an_error():
    both = ps.named_chain(("fast", ps.params_ema(0.5)), ("slow", ps.params_ema(0.9)))
    params, state = path_of(ps.named_chain(("step", ps.sgd(0.1)), ("ema", both)), 2)[-1]
    assert sentence_of(lambda: ps.eval_params(state, params, "ema")) == (
        "eval_params: the state holds 2 averages 'ema': 'fast', 'slow'. "
        "Name the one you mean, as in eval_params(opt_state, params, 'fast')."
    )
    twice = ps.named_chain(("early", both), ("late", both))
    params, state = path_of(twice, 1)[-1]
    sentence = sentence_of(lambda: ps.eval_params(state, params, "fast"))
    paths = "opt_state['early']['fast']", "opt_state['late']['fast']"
    assert all(path in sentence for path in paths)
    assert_close(ps.eval_params(state, params, paths[1]), state["late"]["fast"].average)
    plain = ps.sgd(0.1).init(PARAMS)
    assert sentence_of(lambda: ps.eval_params(plain, PARAMS, "fast")) == (
        "eval_params: name='fast', and the state holds no average. Leave name out."
    )


def test_what_a_mask_leaves_out_of_an_average_is_taken_from_the_parameters():
    average = ps.masked(ps.params_ema(0.5), {"w": True, "b": False})
    params, state = path_of(ps.chain(ps.sgd(0.1), average), 4)[-1]
    whole = path_of(ps.chain(ps.sgd(0.1), ps.params_ema(0.5)), 4)[-1][1]
    got = ps.eval_params(state, params)
    assert got["b"] is params["b"]
    assert_close(got["w"], ps.eval_params(whole, params)["w"])
    sentence = sentence_of(lambda: ps.eval_params(state, {**params, "w": [params["w"]]}))
    assert sentence.startswith("average['w'][0]: is missing, and params['w'][0] is there.")


def test_each_part_of_the_parameters_may_have_a_decay_of_its_own():
    parts = ps.partition({"fast": ps.params_ema(0.5), "slow": ps.params_ema(0.9)}, {"w": "fast", "b": "slow"})
    params, state = path_of(ps.chain(ps.sgd(0.1), parts), 4)[-1]
    for label, decay, name in [("fast", 0.5, "w"), ("slow", 0.9, "b")]:
        whole = path_of(ps.chain(ps.sgd(0.1), ps.params_ema(decay)), 4)[-1][1]
        got = ps.eval_params(state, params, label)
        assert_close(got[name], ps.eval_params(whole, params)[name])


# Lookahead


def lookahead_by_hand(steps: int, period: int, rate: float, decay: float, alpha: float) -> list[tuple]:
    slow, fast, memory, seen = dict(PARAMS), dict(PARAMS), {k: 0 * p for k, p in PARAMS.items()}, []
    for t in range(1, steps + 1):
        g = grad(wave)(fast)
        memory = {k: g[k] + decay * memory[k] for k in PARAMS}
        fast = {k: fast[k] - rate * memory[k] for k in PARAMS}
        if t % period == 0:
            slow = {k: slow[k] + alpha * (fast[k] - slow[k]) for k in PARAMS}
            fast = slow
        seen.append((fast, slow))
    return seen


@pytest.mark.parametrize("period, alpha", [(1, 0.5), (3, 0.5), (4, 1.0), (2, 0.0)])
def test_lookahead_is_a_loop_of_fast_and_slow_parameters(period: int, alpha: float):
    got = path_of(ps.lookahead(ps.sgd(0.1, momentum=0.8), period, alpha), 9)
    for (params, state), (fast, slow) in zip(got, lookahead_by_hand(9, period, 0.1, 0.8, alpha), strict=True):
        assert_close(params, fast)
        assert_close(ps.eval_params(state, params), slow)


def test_a_slow_step_of_one_is_the_fast_optimizer():
    one = path_of(ps.lookahead(ps.adam(0.1), 3, 1.0), 7)[-1][0]
    assert_close(one, path_of(ps.adam(0.1), 7)[-1][0])


def test_lookahead_begins_the_fast_optimizer_afresh_when_asked():
    tx = ps.lookahead(ps.trace(0.9), 3, 0.5, reset_state=True)
    path = path_of(tx, 6)
    for (_, state), afresh in zip(path, [False, False, True, False, False, True], strict=True):
        assert bool((state.inner.trace["w"] == 0).all()) == afresh
    kept = path_of(ps.lookahead(ps.trace(0.9), 3, 0.5), 3)[-1][1]
    assert (kept.inner.trace["w"] != 0).all()


def test_a_nan_between_two_synchronisations_does_not_reach_the_slow_parameters():
    tx, params = ps.lookahead(ps.sgd(1.0), 3, 0.5), torch.zeros(1)
    state = tx.init(params)
    _, state = tx.update(torch.tensor([float("nan")]), state, params)
    assert ps.eval_params(state, params) == 0.0


def test_lookahead_keeps_the_type_of_half_precision_parameters_and_the_slow_ones_in_float32():
    params = {"w": torch.ones(3, dtype=torch.bfloat16)}
    tx = ps.lookahead(ps.sgd(0.001), 1, 0.5)
    state = tx.init(params)
    for _ in range(20):
        updates, state = tx.update({"w": torch.ones(3, dtype=torch.bfloat16)}, state, params)
        assert updates["w"].dtype == torch.bfloat16
    assert state.average["w"].dtype == torch.float32


def test_lookahead_hands_on_what_its_optimizer_reads():
    tx = ps.chain(ps.lookahead(ps.chain(ps.sgd(1.0), ps.reduce_on_plateau(0.5, patience=1)), 2, 0.5))
    params = torch.zeros(1)
    state = tx.init(params)
    for _ in range(3):
        updates, state = tx.update(-torch.ones(1), state, params, value=1.0)
        params = ps.apply_updates(params, updates)
    # Fast steps of 1, 1/2 and 1/4; after the second one half of the way back.
    assert params == 0.75 + 0.25
    assert ps.learning_rate(state) == 0.25


WRONG: Any = ps.sgd


@pytest.mark.parametrize(
    "call, sentence",
    [
        (
            lambda: ps.polyak_average(-1),
            "polyak_average: start=-1 is not at least 0. Pass a start at least 0.",
        ),
        (
            lambda: ps.stochastic_weight_average(0, 0),
            "stochastic_weight_average: every=0 is not at least 1. Pass a every at least 1.",
        ),
        (
            lambda: ps.lookahead(ps.sgd(0.1), 0, 0.5),
            "lookahead: sync_period=0 is not at least 1. Pass a sync_period at least 1.",
        ),
        (
            lambda: ps.lookahead(ps.sgd(0.1), 5, 1.5),
            "lookahead: slow_step_size=1.5 lies outside [0, 1]. Pass a slow_step_size within these bounds.",
        ),
        (
            lambda: ps.lookahead(WRONG, 5, 0.5),
            "lookahead: fast_optimizer is a function, expected a GradientTransformation. "
            "Pass a transform, such as sgd(0.1).",
        ),
    ],
)
def test_an_argument_out_of_range_is_refused_at_once(call: Callable[[], Any], sentence: str):
    assert sentence_of(call) == sentence
