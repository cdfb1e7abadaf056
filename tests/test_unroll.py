"""A run with checkpoints: the numbers and gradients of the plain loop, in less memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch.func import grad, vmap
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

import pure_sgd as ps

STEPS, D = 10, torch.float64
KEYS = ps.random.split(ps.random.key(0), 4)
BATCHES = ps.random.normal(KEYS[0], (STEPS, 8, 3), D), ps.random.normal(KEYS[1], (STEPS, 8), D)
PARAMS = {"w": ps.random.normal(KEYS[2], (3, 4), D), "v": ps.random.normal(KEYS[3], (4,), D)}
HYPER = {"rate": torch.tensor(0.1, dtype=D), "momentum": torch.tensor(0.8, dtype=D)}
LOSS = ps.empirical_risk(lambda params, x, y: (torch.tanh(x @ params["w"]) @ params["v"] - y) ** 2)


def optimizer(hyper: Any) -> ps.GradientTransformation:
    return ps.chain(ps.sgd(hyper["rate"], momentum=hyper["momentum"]), ps.params_ema(0.9))


def step(state: ps.TrainState, batch: Any, hyper: Any) -> Any:
    return ps.make_step(LOSS, optimizer(hyper))(state, batch)


def loop(step: Any, state: Any, batches: Any, *args: Any) -> Any:
    rows = []
    for index in range(len(batches[0])):
        state, metrics = step(state, ps.data.take(batches, index), *args)
        rows.append(metrics)
    return state, ps.tree.map(lambda *row: torch.stack(row), *rows)


def unrolled(every: int | None = None) -> Callable[..., Any]:
    return lambda *args: ps.unroll(*args, checkpoint_every=every)


def final(many: Callable[..., Any], hyper: Any, params: Any, batches: Any) -> torch.Tensor:
    """A number that the whole run makes: its last parameters, their average, its metrics."""
    state = ps.init_train_state(params, optimizer(hyper))
    state, metrics = many(step, state, batches, hyper)
    averaged = ps.eval_params(state.opt_state, state.params)
    first = ps.data.take(batches, 0)
    return LOSS(averaged, first) + LOSS(state.params, first) + metrics["loss"].mean()


def of_rate(many: Callable[..., Any]) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda rate: final(many, {**HYPER, "rate": rate}, PARAMS, BATCHES)


def assert_same(one: Any, other: Any, tolerance: float = 1e-12) -> None:
    assert ps.tree.structure(one) == ps.tree.structure(other)
    for (path, a), (_, b) in zip(ps.tree.named_leaves(one), ps.tree.named_leaves(other), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=lambda m, p=path: f"{p}: {m}")


@pytest.mark.parametrize("every", [None, 1, 3, STEPS, 99])
def test_states_metrics_and_gradients_are_those_of_the_loop(every: int | None):
    state = ps.init_train_state(PARAMS, optimizer(HYPER))
    assert_same(
        ps.unroll(step, state, BATCHES, HYPER, checkpoint_every=every), loop(step, state, BATCHES, HYPER)
    )
    arguments = HYPER, PARAMS, BATCHES
    expected = grad(partial(final, loop), argnums=(0, 1, 2))(*arguments)
    assert_same(grad(partial(final, unrolled(every)), argnums=(0, 1, 2))(*arguments), expected)


def test_gradients_are_those_of_finite_differences():
    rate, eps = HYPER["rate"], 1e-6
    run = of_rate(unrolled())
    numeric = (run(rate + eps) - run(rate - eps)) / (2 * eps)
    torch.testing.assert_close(grad(run)(rate), numeric, rtol=1e-6, atol=1e-9)
    slopes = grad(lambda params: final(unrolled(), HYPER, params, BATCHES))(PARAMS)
    up, down = (ps.tree.map(lambda p, g, s=s: p + s * eps * g, PARAMS, slopes) for s in (1, -1))
    numeric = (final(unrolled(), HYPER, up, BATCHES) - final(unrolled(), HYPER, down, BATCHES)) / (2 * eps)
    torch.testing.assert_close(ps.tree.norm(slopes) ** 2, numeric, rtol=1e-6, atol=1e-9)


def test_it_differentiates_twice_and_maps_in_any_order():
    rate, rates = HYPER["rate"], torch.linspace(0.01, 0.2, 3, dtype=D)
    ours, theirs = of_rate(unrolled()), of_rate(loop)
    assert_same(grad(grad(ours))(rate), grad(grad(theirs))(rate), 1e-11)
    assert_same(vmap(ours)(rates), vmap(theirs)(rates))
    assert_same(vmap(grad(ours))(rates), vmap(grad(theirs))(rates))
    over = [grad(lambda r, f=f: vmap(lambda s: f(r * s))(rates).sum())(rate) for f in (ours, theirs)]
    assert_same(*over)
    swept = ps.sweep(lambda rate: grad(ours)(rate), rate=rates)
    assert_same(swept.results, vmap(grad(theirs))(rates))


def test_backward_works_too():
    rate = HYPER["rate"].clone().requires_grad_()
    (slope,) = torch.autograd.grad(of_rate(unrolled())(rate), rate, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, rate)
    assert_same(slope.detach(), grad(of_rate(loop))(HYPER["rate"]))
    assert_same(curvature, grad(grad(of_rate(loop)))(HYPER["rate"]), 1e-11)


def test_buffers_of_whole_numbers_pass_through():
    params = {"w": torch.zeros(3, dtype=D), "buffers": {"count": torch.tensor(5)}}
    loss = ps.empirical_risk(lambda params, x, y: (x @ params["w"] - y) ** 2)

    def last(many: Any, rate: torch.Tensor) -> torch.Tensor:
        state = ps.init_train_state(params, ps.sgd(rate))
        state, _ = many(lambda s, b, r: ps.make_step(loss, ps.sgd(r))(s, b), state, BATCHES, rate)
        assert state.params["buffers"]["count"].dtype == torch.int64
        return ps.tree.norm(state.params["w"])

    assert_same(*(grad(lambda r, m=many: last(m, r))(HYPER["rate"]) for many in (unrolled(), loop)))


class PeakMemory(TorchDispatchMode):
    """The most bytes that tensors made inside this block have held at once."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in ps.tree.leaves(result):
            if isinstance(leaf, torch.Tensor):
                reference = StorageWeakRef(leaf.untyped_storage())
                self.held[reference.cdata] = (reference, leaf.untyped_storage().nbytes())
        self.held = {name: pair for name, pair in self.held.items() if not pair[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.held.values()))
        return result


def test_memory_grows_as_the_root_of_the_number_of_steps():
    params = {"w": torch.zeros(1000)}
    loss = ps.empirical_risk(lambda params, x: ((params["w"] - x) ** 2).mean())

    def one(state: Any, batch: Any, rate: Any) -> Any:
        return ps.make_step(loss, ps.sgd(rate, momentum=0.9))(state, batch)

    def peak(many: Any, steps: int) -> int:
        def last(rate: torch.Tensor) -> torch.Tensor:
            state = ps.init_train_state(params, ps.sgd(rate, momentum=0.9))
            return many(one, state, (torch.ones(steps, 1),), rate)[0].params["w"].sum()

        with PeakMemory() as memory:
            grad(last)(torch.tensor(0.1))
        return memory.peak

    # Four times the steps: four times the memory for the loop, twice for the segments.
    assert peak(loop, 64) > 3.5 * peak(loop, 16)
    assert peak(unrolled(), 64) < 2.2 * peak(unrolled(), 16)
    assert peak(unrolled(), 64) < peak(loop, 64) / 3


@pytest.mark.parametrize(
    "wrap",
    [
        lambda run: grad(run)(HYPER["rate"]),
        lambda run: grad(grad(run))(HYPER["rate"]),
        lambda run: run(HYPER["rate"].clone().requires_grad_()),
        lambda run: vmap(run)(HYPER["rate"].repeat(3)),
        lambda run: grad(lambda r: vmap(lambda s: run(r * s))(torch.ones(3, dtype=D)).sum())(HYPER["rate"]),
    ],
    ids=["grad", "grad of grad", "backward", "vmap", "vmap in grad"],
)
def test_what_is_differentiated_or_mapped_must_be_an_argument(wrap: Any):
    """A gradient through a closure would be zero, and nobody would notice."""

    def run(rate: torch.Tensor) -> torch.Tensor:
        tx = ps.sgd(rate)
        return ps.unroll(ps.make_step(LOSS, tx), ps.init_train_state(PARAMS, tx), BATCHES)[1]["loss"].sum()

    with pytest.raises(
        ps.PureSGDError, match=r"none of its arguments\. Pass it on: unroll\(step, state, batches"
    ):
        wrap(run)


def test_a_constant_made_inside_two_gradients_is_told_too():
    def run(rate: torch.Tensor) -> torch.Tensor:
        momentum = rate.detach() * 0 + 0.5
        tx = ps.sgd(rate, momentum=momentum)
        state = ps.init_train_state(PARAMS, tx)
        many = ps.unroll(
            lambda s, b, r: ps.make_step(LOSS, ps.sgd(r, momentum=momentum))(s, b), state, BATCHES, rate
        )
        return many[1]["loss"].sum()

    with pytest.raises(ps.PureSGDError, match=r"made inside torch\.func\.grad and is none of its arguments"):
        grad(grad(run))(HYPER["rate"])


def test_arguments_that_cannot_be():
    state = ps.init_train_state(PARAMS, optimizer(HYPER))
    with pytest.raises(ps.PureSGDError, match="checkpoint_every=0 is not at least 1"):
        ps.unroll(step, state, BATCHES, HYPER, checkpoint_every=0)
    with pytest.raises(ps.PureSGDError, match="batches"):
        ps.unroll(step, state, (BATCHES[0], BATCHES[1][:3]), HYPER)
