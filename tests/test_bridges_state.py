"""A run that moves over in the middle, from ``torch.optim`` to here and back."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

import pure_sgd as ps

X = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
Y = torch.randn(16, 1, generator=torch.Generator().manual_seed(1))

SCHEDULE = ps.cosine_decay_schedule(0.1, 20)
#: The same rule here and in torch.
RULES: dict[str, tuple[ps.GradientTransformation, Callable[..., torch.optim.Optimizer]]] = {
    "sgd": (ps.sgd(0.1), partial(torch.optim.SGD, lr=0.1)),
    "momentum": (
        ps.sgd(0.1, momentum=0.9, dampening=0.5, weight_decay=1e-2),
        partial(torch.optim.SGD, lr=0.1, momentum=0.9, dampening=0.5, weight_decay=1e-2),
    ),
    "nesterov": (
        ps.sgd(0.1, momentum=0.9, nesterov=True),
        partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
    ),
    "sgd uphill": (
        ps.chain(ps.scale(-1.0), ps.sgd(0.01, momentum=0.9)),
        partial(torch.optim.SGD, lr=0.01, momentum=0.9, maximize=True),
    ),
    "adam": (ps.adam(1e-2), partial(torch.optim.Adam, lr=1e-2)),
    "adam with L2": (
        ps.chain(ps.add_decayed_weights(0.1), ps.adam(1e-2)),
        partial(torch.optim.Adam, lr=1e-2, weight_decay=0.1),
    ),
    "amsgrad": (
        ps.amsgrad(1e-2, max_before_correction=True),
        partial(torch.optim.Adam, lr=1e-2, amsgrad=True),
    ),
    "adam uphill": (
        ps.chain(ps.scale(-1.0), ps.adam(1e-3)),
        partial(torch.optim.Adam, lr=1e-3, maximize=True),
    ),
    "adamw": (ps.adamw(1e-2, weight_decay=0.1), partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1)),
}


def network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))


def train_there(module: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int = 10) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        ((module(X) - Y) ** 2).mean().backward()
        optimizer.step()


def train_here(tx: ps.GradientTransformation, params: Any, opt_state: Any, steps: int = 10) -> ps.TrainState:
    apply, _ = ps.models.from_module(network())
    step = ps.make_step(lambda params, batch: ((apply(params, X) - Y) ** 2).mean(), tx)
    state = ps.init_train_state(params, tx)._replace(opt_state=opt_state)
    for _ in range(steps):
        state, _ = step(state, None)
    return state


def named(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in module.named_parameters()}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("by_name", [False, True])
def test_ten_steps_there_and_ten_here_are_twenty_there(rule, by_name):
    tx, make = RULES[rule]
    module, whole = network(), network()
    train_there(whole, make(whole.parameters()), 20)
    optimizer = make(module.named_parameters() if by_name else module.parameters())
    train_there(module, optimizer)
    _, params = ps.models.from_module(module)
    if by_name:
        params = dict(reversed(params.items()))
    state = train_here(tx, params, ps.from_torch_state(optimizer.state_dict(), tx, params, steps=10))
    torch.testing.assert_close(state.params, named(whole))


@pytest.mark.parametrize("rule", RULES)
def test_ten_steps_here_and_ten_there_are_twenty_there(rule):
    tx, make = RULES[rule]
    module, whole = network(), network()
    train_there(whole, make(whole.parameters()), 20)
    _, params = ps.models.from_module(module)
    state = train_here(tx, params, tx.init(params))
    optimizer = make(module.parameters())
    ps.models.write_back(module, state.params)
    optimizer.load_state_dict(ps.to_torch_state(state.opt_state, state.params, optimizer))
    train_there(module, optimizer)
    torch.testing.assert_close(named(module), named(whole))


@pytest.mark.parametrize("rule", RULES)
def test_there_and_back_is_the_same_state_through_a_file(rule):
    tx, make = RULES[rule]
    module = network()
    _, params = ps.models.from_module(module)
    state = train_here(tx, params, tx.init(params), 3)
    file = io.BytesIO()
    torch.save(ps.to_torch_state(state.opt_state, params, make(module.parameters())), file)
    file.seek(0)
    again = ps.from_torch_state(torch.load(file, weights_only=True), tx, params, steps=3)
    torch.testing.assert_close(again, state.opt_state, rtol=0, atol=0)


def test_a_schedule_goes_on_where_the_run_stands():
    tx = ps.chain(ps.clip_by_global_norm(1.0), ps.adam(SCHEDULE, b1=ps.linear_schedule(0.5, 0.9, 20)))
    _, params = ps.models.from_module(network())
    state = train_here(tx, params, tx.init(params))
    saved = ps.to_torch_state(state.opt_state, params, torch.optim.Adam(network().parameters()))
    moved = ps.from_torch_state(saved, tx, params)
    torch.testing.assert_close(
        train_here(tx, state.params, moved).params, train_here(tx, state.params, state.opt_state).params
    )


GROUPS = {
    "sgd": (partial(ps.sgd, momentum=0.9), partial(torch.optim.SGD, momentum=0.9)),
    "adamw": (ps.adamw, partial(torch.optim.AdamW, weight_decay=1e-4)),
}


@pytest.mark.parametrize("rule", GROUPS)
def test_groups_with_rates_of_their_own_move_over_and_back(rule):
    """Torch has the head first; here the parts of a partition have it last."""

    def groups(module: torch.nn.Sequential) -> list[dict[str, Any]]:
        return [
            {"params": [(f"2.{name}", p) for name, p in module[2].named_parameters()], "lr": 0.03},
            {"params": [(f"0.{name}", p) for name, p in module[0].named_parameters()], "lr": 0.01},
        ]

    ours, theirs = GROUPS[rule]
    tx = ps.partition(
        {"head": ours(0.03), "rest": ours(0.01)}, lambda path: "head" if "2." in path else "rest"
    )
    module, whole = network(), network()
    train_there(whole, theirs(groups(whole)), 30)
    optimizer = theirs(groups(module))
    train_there(module, optimizer, 10)
    params = named(module)
    state = train_here(tx, params, ps.from_torch_state(optimizer.state_dict(), tx, params, steps=10))
    ps.write_back(module, state.params)
    optimizer.load_state_dict(ps.to_torch_state(state.opt_state, state.params, optimizer))
    train_there(module, optimizer, 10)
    torch.testing.assert_close(named(module), named(whole))


def test_before_the_first_step_there_is_nothing_to_move():
    params = {"w": torch.zeros(2)}
    optimizer = torch.optim.Adam([torch.nn.Parameter(params["w"])])
    state = ps.from_torch_state(optimizer.state_dict(), ps.adam(0.1), params, steps=0)
    torch.testing.assert_close(state, ps.adam(0.1).init(params))


def moved(tx: ps.GradientTransformation, make: Callable[..., torch.optim.Optimizer], **options: Any) -> Any:
    module = network()
    optimizer = make(module.parameters())
    train_there(module, optimizer, 1)
    return ps.from_torch_state(optimizer.state_dict(), tx, named(module), **options)


@pytest.mark.parametrize(
    "tx, make, options, message",
    [
        (RULES["momentum"][0], RULES["momentum"][1], {}, "torch has not counted the steps"),
        (RULES["adam"][0], RULES["adam"][1], {"steps": 7}, r"params\['0.weight'\]: has taken 1 steps"),
        (RULES["adam"][0], RULES["momentum"][1], {"steps": 1}, r"params\['0.bias'\]: torch has no 'exp_avg'"),
        (RULES["sgd"][0], RULES["momentum"][1], {"steps": 1}, "torch remembers 'momentum_buffer' of it"),
        (
            RULES["adam"][0],
            partial(torch.optim.Adam, amsgrad=True),
            {},
            "torch remembers 'max_exp_avg_sq' of it",
        ),
        (
            ps.chain(RULES["adam"][0], ps.params_ema(0.9)),
            RULES["adam"][1],
            {},
            r"state\[1\]\.average.* torch remembers nothing of the kind",
        ),
        (RULES["adam"][0], RULES["adam"][1], {"steps": -1}, "steps=-1"),
    ],
)
def test_what_does_not_fit_is_named(tx, make, options, message):
    with pytest.raises(ps.PureSGDError, match=message):
        moved(tx, make, **options)


def test_parameters_of_another_module_are_refused():
    tx, make = RULES["adam"]
    module = network()
    optimizer = make(module.parameters())
    train_there(module, optimizer, 1)
    params = named(module)
    with pytest.raises(ps.PureSGDError, match="holds 3 parameters, and the optimizer 4"):
        ps.from_torch_state(optimizer.state_dict(), tx, {k: v for k, v in params.items() if k != "2.bias"})
    other = {**params, "0.bias": torch.zeros(3)}
    with pytest.raises(ps.PureSGDError, match=r"params\['0.bias'\]: has shape \(3,\), and in torch \(8,\)"):
        ps.from_torch_state(optimizer.state_dict(), tx, other)
    with pytest.raises(ps.PureSGDError, match=r"params\['0.bias'\]: has shape \(3,\), and in torch \(8,\)"):
        ps.to_torch_state(tx.init(other), other, optimizer)
