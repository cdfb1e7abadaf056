"""Any chain as a ``torch.optim.Optimizer``: beside torch's own, under its schedulers, scaler and files."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR, ReduceLROnPlateau, StepLR

import pure_sgd as ps
from pure_sgd.bridges import in_place

X = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
Y = torch.randn(16, 1, generator=torch.Generator().manual_seed(1))

#: The same rule here and in torch.
SAME: dict[str, tuple[ps.GradientTransformation, Callable[..., torch.optim.Optimizer]]] = {
    "sgd": (ps.sgd(0.1), partial(torch.optim.SGD, lr=0.1)),
    "momentum": (
        ps.sgd(0.1, momentum=0.9, nesterov=True, weight_decay=1e-2),
        partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-2),
    ),
    "adam": (ps.adam(1e-2), partial(torch.optim.Adam, lr=1e-2)),
    "adamw": (ps.adamw(1e-2, weight_decay=0.1), partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1)),
    "rprop": (ps.rprop(1e-2), partial(torch.optim.Rprop, lr=1e-2)),
}


def network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))


def closure_of(module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], torch.Tensor]:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = ((module(X) - Y) ** 2).mean()
        loss.backward()
        return loss

    return closure


def train(
    module: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int = 5, scheduler: Any = None
) -> torch.Tensor:
    """All parameters after some steps."""
    for _ in range(steps):
        closure_of(module, optimizer)()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return torch.nn.utils.parameters_to_vector(module.parameters()).detach()


def ours(tx: ps.GradientTransformation, **options: Any) -> tuple[torch.nn.Sequential, Any]:
    module = network()
    return module, ps.to_torch_optimizer(tx, module.named_parameters(), **options)


@pytest.mark.parametrize("rule", SAME)
def test_it_takes_the_steps_of_torchs_own_optimizer_to_rounding(rule):
    tx, make = SAME[rule]
    module = network()
    torch.testing.assert_close(train(*ours(tx)), train(module, make(module.parameters())))


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "step": partial(StepLR, step_size=2, gamma=0.1),
    "cosine": partial(CosineAnnealingLR, T_max=6),
    "warm-up": partial(LambdaLR, lr_lambda=lambda step: min(1.0, step / 3)),
    "one cycle": partial(OneCycleLR, max_lr=0.5, total_steps=7, cycle_momentum=False),
}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("rule", ["momentum", "adamw"])
def test_a_scheduler_of_torch_sets_the_rate_of_the_chain(rule, scheduler):
    tx, make = SAME[rule]
    module, theirs = network(), network()
    optimizer, other = ps.to_torch_optimizer(tx, module.parameters()), make(theirs.parameters())
    a = train(module, optimizer, 6, SCHEDULERS[scheduler](optimizer))
    torch.testing.assert_close(a, train(theirs, other, 6, SCHEDULERS[scheduler](other)))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(other.param_groups[0]["lr"])


def test_a_scheduler_that_looks_at_the_loss_works_too():
    module, optimizer = ours(ps.sgd(0.1))
    scheduler = ReduceLROnPlateau(optimizer, patience=0)
    for _ in range(3):
        scheduler.step(1.0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3)
    train(module, optimizer, 1)
    assert float(ps.learning_rate(optimizer.chain_states[0])) == pytest.approx(1e-3)


def test_each_group_has_its_own_rate_and_what_else_it_names():
    def groups(module: torch.nn.Sequential) -> list[dict[str, Any]]:
        first, last = module[0].parameters(), module[2].parameters()
        return [{"params": first, "weight_decay": 0.0}, {"params": last, "lr": 0.03, "name": "head"}]

    module, theirs = network(), network()
    optimizer = ps.to_torch_optimizer(ps.adamw(1e-2, weight_decay=0.1), groups(module))
    other = torch.optim.AdamW(groups(theirs), lr=1e-2, weight_decay=0.1)
    torch.testing.assert_close(train(module, optimizer), train(theirs, other))
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.03]


def test_hyperparameters_that_the_state_holds_are_options_of_a_group():
    tx = ps.inject_hyperparams(ps.sgd)(learning_rate=0.1, momentum=0.5)
    module, optimizer = ours(tx)
    assert {name: optimizer.param_groups[0][name] for name in ("lr", "momentum")} == {
        "lr": 0.1,
        "momentum": 0.5,
    }
    optimizer.param_groups[0]["momentum"] = 0.9
    theirs = network()
    torch.testing.assert_close(
        train(module, optimizer),
        train(theirs, torch.optim.SGD(theirs.parameters(), 0.1, momentum=0.9)),
    )


def test_an_option_that_the_chain_does_not_have_is_an_error():
    groups = [{"params": network().parameters(), "momentum": 0.9}]
    with pytest.raises(ps.PureSGDError, match="'momentum': is no hyperparameter that a group of this chain"):
        ps.to_torch_optimizer(ps.sgd(0.1), groups)
    scheduled = ps.adamw(1e-2, weight_decay=ps.linear_schedule(0.1, 0.0, 10))
    with pytest.raises(ps.PureSGDError, match="'weight_decay': is no hyperparameter"):
        ps.to_torch_optimizer(scheduled, [{"params": network().parameters(), "weight_decay": 0.0}])


def test_on_a_rate_that_follows_a_schedule_lr_is_a_factor():
    schedule, drop = ps.linear_schedule(0.1, 0.0, 10), ps.step_schedule(1.0, 2, gamma=0.1)
    module, optimizer = ours(ps.sgd(schedule, momentum=0.9))
    scheduler = StepLR(optimizer, step_size=2, gamma=0.1)
    theirs, expected = ours(ps.sgd(lambda step: schedule(step) * drop(step), momentum=0.9))
    torch.testing.assert_close(train(module, optimizer, 5, scheduler), train(theirs, expected, 5))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


def test_where_the_chain_has_several_rates_lr_is_a_factor_on_each():
    def parts(factor: float) -> ps.GradientTransformation:
        rules = {"a": ps.adam(1e-2 * factor), "b": ps.lion(1e-3 * factor)}
        return ps.partition(rules, lambda path: "a" if "bias" in path else "b")

    module, optimizer = ours(parts(1.0))
    assert optimizer.param_groups[0]["lr"] == 1
    optimizer.param_groups[0]["lr"] = 0.5
    torch.testing.assert_close(train(module, optimizer), train(*ours(parts(0.5))))


def test_a_factory_that_was_not_called_is_refused():
    with pytest.raises(ps.PureSGDError, match="to_torch_optimizer: tx=<function sgd"):
        ps.to_torch_optimizer(ps.sgd, network().parameters())


def test_the_chain_sees_a_dict_by_name_so_masks_tell_parameters_apart():
    tx = ps.sgd(0.1, weight_decay=0.1, mask=lambda path: "weight" in path)
    module, theirs = network(), network()
    optimizer = ps.to_torch_optimizer(tx, module.named_parameters())
    weights = [p for name, p in theirs.named_parameters() if "weight" in name]
    biases = [p for name, p in theirs.named_parameters() if "bias" in name]
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": biases}]
    torch.testing.assert_close(train(module, optimizer), train(theirs, torch.optim.SGD(groups, lr=0.1)))


@pytest.mark.parametrize("rule", ["momentum", "adamw"])
def test_a_parameter_without_gradient_is_left_out_with_all_that_is_remembered_of_it(rule):
    tx, make = SAME[rule]
    module, theirs = network(), network()
    optimizer, other = ps.to_torch_optimizer(tx, module.parameters()), make(theirs.parameters())
    for both in ((module, optimizer), (theirs, other)):
        train(*both, 2)
        closure_of(*both)()
        both[0][2].weight.grad = None
        both[1].step()
    torch.testing.assert_close(dict(module.named_parameters()), dict(theirs.named_parameters()))
    memory = optimizer.state[module[2].weight]
    for key, name in zip(sorted(memory), sorted(set(other.state[theirs[2].weight]) - {"step"}), strict=True):
        torch.testing.assert_close(memory[key], other.state[theirs[2].weight][name])


def test_a_frozen_parameter_takes_no_memory_until_it_is_trained():
    module, theirs = network(), network()
    for each in (module, theirs):
        each[0].requires_grad_(False)
    optimizer = ps.to_torch_optimizer(ps.sgd(0.1, momentum=0.9), module.named_parameters())
    other = torch.optim.SGD(theirs.parameters(), 0.1, momentum=0.9)
    train(module, optimizer, 3)
    train(theirs, other, 3)
    assert module[0].weight not in optimizer.state
    for each in (module, theirs):
        each[0].requires_grad_(True)
    torch.testing.assert_close(train(module, optimizer, 3), train(theirs, other, 3))
    resumed = ps.to_torch_optimizer(ps.sgd(0.1, momentum=0.9), module.named_parameters())
    resumed.load_state_dict(optimizer.state_dict())
    torch.testing.assert_close(train(module, resumed, 1), train(theirs, other, 1))


def test_add_param_group_trains_further_parameters():
    module, theirs = network(), network()
    optimizer = ps.to_torch_optimizer(ps.sgd(0.1, momentum=0.9), module[2].parameters())
    other = torch.optim.SGD(theirs[2].parameters(), 0.1, momentum=0.9)
    for both in ((module, optimizer), (theirs, other)):
        train(*both, 2)
        both[1].add_param_group({"params": both[0][0].parameters(), "lr": 0.01})
    torch.testing.assert_close(train(module, optimizer), train(theirs, other))
    with pytest.raises(ps.PureSGDError, match="'nonsense'"):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "nonsense": 1.0})
    assert len(optimizer.param_groups) == 2


CHAINS = {
    "adamw": ps.adamw(1e-2, weight_decay=0.1),
    "schedule and average": ps.chain(
        ps.sgd(ps.cosine_decay_schedule(0.1, 10), momentum=0.9), ps.params_ema(0.9)
    ),
    "parts": ps.partition(
        {"a": ps.adam(1e-2), "b": ps.lion(1e-3)}, lambda path: "a" if "bias" in path else "b"
    ),
    "factored": ps.adafactor(1e-2, min_dim_size_to_factor=2),
}


@pytest.mark.parametrize("chain", CHAINS)
def test_a_run_goes_on_from_a_file_that_holds_nothing_but_tensors(chain):
    module, optimizer = ours(CHAINS[chain])
    train(module, optimizer, 3)
    file = io.BytesIO()
    torch.save({"module": module.state_dict(), "optimizer": optimizer.state_dict()}, file)
    whole = train(module, optimizer, 3)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again, resumed = ours(CHAINS[chain])
    again.load_state_dict(saved["module"])
    resumed.load_state_dict(saved["optimizer"])
    assert torch.equal(train(again, resumed, 3), whole)


def test_moments_of_bfloat16_parameters_are_loaded_as_they_were():
    module = network().bfloat16()
    optimizer = ps.to_torch_optimizer(ps.adam(1e-2), module.parameters())
    module(X.bfloat16()).sum().backward()
    optimizer.step()
    resumed = ps.to_torch_optimizer(ps.adam(1e-2), module.parameters())
    resumed.load_state_dict(optimizer.state_dict())
    for p in module.parameters():
        for key, leaf in optimizer.state[p].items():
            assert leaf.dtype == torch.float32
            assert torch.equal(resumed.state[p][key], leaf)


def test_a_state_of_another_chain_or_shape_is_refused_by_name():
    module, optimizer = ours(ps.sgd(0.1, momentum=0.9))
    train(module, optimizer, 1)
    saved, scale = optimizer.state_dict(), ps.scale_by_learning_rate(0.1)
    with pytest.raises(ps.PureSGDError, match=r"state_dict, .*mu: is missing"):
        ours(ps.adam(1e-2))[1].load_state_dict(saved)
    with pytest.raises(ps.PureSGDError, match="is nothing that this chain remembers"):
        ours(ps.chain(ps.set_to_zero(), scale))[1].load_state_dict(saved)
    saved["state"][1] = {key: torch.zeros(3) for key in saved["state"][1]}
    with pytest.raises(ps.PureSGDError, match=r"'0.bias'.*has shape \(3,\), expected \(8,\)"):
        optimizer.load_state_dict(saved)
    with pytest.raises(ValueError, match="different number of parameter groups"):
        optimizer.load_state_dict({**saved, "param_groups": []})


def test_a_closure_gives_the_chain_what_it_reads():
    seen: list[Any] = []

    def update(updates, state, params=None, *, value, grad, **extra):
        seen.append((value, grad))
        return updates, state

    spy = ps.GradientTransformation(lambda params: ps.EmptyState(), update)
    module, optimizer = ours(ps.chain(spy, ps.sgd(0.1)))
    loss = optimizer.step(closure_of(module, optimizer))
    value, grad = seen[0]
    assert torch.equal(value, loss)
    assert torch.equal(grad["0.bias"], module[0].bias.grad)
    with pytest.raises(ps.PureSGDError, match="the chain reads 'value', which a closure would tell"):
        optimizer.step()
    optimizer.step(value=torch.tensor(7.0))
    assert seen[-1][0] == 7


@pytest.mark.parametrize(
    "tx", [ps.lbfgs(), ps.polyak_sgd(), ps.sam(ps.sgd(0.1), ps.sgd(0.05), opaque_mode=True)]
)
def test_line_searches_and_their_like_walk_as_in_a_step_of_this_library(tx):
    module, optimizer = ours(tx)
    for _ in range(3):
        optimizer.step(closure_of(module, optimizer))
    apply, params = ps.models.from_module(network())
    step = ps.make_step(lambda params, batch: ((apply(params, X) - Y) ** 2).mean(), tx)
    state = ps.init_train_state(params, tx)
    for _ in range(3):
        state, _ = step(state, None)
    torch.testing.assert_close({name: p.data for name, p in module.named_parameters()}, state.params)


def test_a_closure_cannot_tell_second_derivatives_and_says_so():
    module, optimizer = ours(ps.sophia(1e-3))
    with pytest.raises(ps.PureSGDError, match="a closure has only the first"):
        optimizer.step(closure_of(module, optimizer))


def test_what_calls_the_closure_has_one_group_and_is_not_compiled():
    def groups() -> list[dict[str, Any]]:
        return [{"params": [p]} for p in network().parameters()]

    with pytest.raises(ps.PureSGDError, match="several parameter groups"):
        ps.to_torch_optimizer(ps.lbfgs(), groups())
    with pytest.raises(ps.PureSGDError, match="compile=True"):
        ps.to_torch_optimizer(ps.lbfgs(), groups()[:1], compile=True)


def test_a_gradient_scaler_skips_the_step_of_an_overflow_and_unscales_others():
    module, optimizer = ours(ps.sgd(0.1, momentum=0.9))
    theirs = network()
    plain = torch.optim.SGD(theirs.parameters(), 0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for overflow in (False, True, False):
        optimizer.zero_grad()
        scaler.scale(((module(X) - Y) ** 2).mean()).backward()
        if overflow:
            for p in module.parameters():
                p.grad = torch.full_like(p, torch.inf)
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 512
    torch.testing.assert_close(
        torch.nn.utils.parameters_to_vector(module.parameters()).detach(), train(theirs, plain, 2)
    )


def test_hooks_run_around_a_step():
    module, optimizer = ours(ps.sgd(0.1))
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    train(module, optimizer, 1)
    assert calls == ["before", "after"]


def test_the_average_that_the_chain_keeps_is_there_to_evaluate_with():
    module, optimizer = ours(ps.chain(ps.sgd(0.1), ps.params_ema(0.5)))
    first = {name: p.detach().clone() for name, p in module.named_parameters()}
    train(module, optimizer, 1)
    averaged = optimizer.eval_params()
    for name, p in module.named_parameters():
        torch.testing.assert_close(averaged[name], (first[name] + p.data) / 2)
    torch.func.functional_call(module, averaged, X)


def test_parameters_keep_their_memory_and_a_sparse_gradient_is_refused_by_name():
    module, optimizer = ours(ps.adam(0.1))
    before = [p.data_ptr() for p in module.parameters()]
    train(module, optimizer, 2)
    assert [p.data_ptr() for p in module.parameters()] == before
    embedding = torch.nn.Embedding(4, 2, sparse=True)
    optimizer = ps.to_torch_optimizer(ps.sgd(0.1), embedding.named_parameters())
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(ps.PureSGDError, match="'weight': has a sparse gradient"):
        optimizer.step()


@pytest.mark.parametrize("tx", [ps.adamw(1e-2), ps.chain(ps.adamw(1e-2), ps.params_ema(0.9))])
def test_a_deep_copy_beside_that_of_the_module_goes_on_alone(tx):
    module, optimizer = ours(tx)
    train(module, optimizer, 2)
    other, copied = copy.deepcopy((module, optimizer))
    after = train(other, copied, 2)
    assert not torch.equal(torch.nn.utils.parameters_to_vector(module.parameters()), after)
    assert torch.equal(train(module, optimizer, 2), after)


def test_what_a_chain_keeps_of_the_parameters_is_from_before_the_step():
    def update(updates, state, params=None, **extra):
        return updates, {"kept": params}

    keeper = ps.GradientTransformation(lambda params: {"kept": params}, update)
    module, optimizer = ours(ps.chain(keeper, ps.sgd(0.1)))
    train(module, optimizer, 1)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    train(module, optimizer, 1)
    kept = next(
        node["kept"]
        for _, node in ps.tree.walk(optimizer.chain_states[0])
        if isinstance(node, dict) and "kept" in node
    )
    torch.testing.assert_close(kept, before, rtol=0, atol=0)


def test_compiled_it_takes_the_same_steps(monkeypatch):
    monkeypatch.setattr(in_place, "compile_directly", partial(in_place.compile_directly, backend="aot_eager"))
    tx = ps.chain(ps.clip_by_global_norm(0.1), ps.adamw(ps.linear_schedule(0.1, 0.0, 9)), ps.params_ema(0.9))
    module, other = network(), network()
    optimizer, eager = (
        ps.to_torch_optimizer(tx, [{"params": each.parameters(), "weight_decay": 0.1}], compile=compile)
        for each, compile in ((module, True), (other, False))
    )
    compiled = train(module, optimizer, 5, StepLR(optimizer, 2, 0.5))
    torch.testing.assert_close(compiled, train(other, eager, 5, StepLR(eager, 2, 0.5)))
    for p, q in zip(module.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(dict(optimizer.state[p]), dict(eager.state[q]))
