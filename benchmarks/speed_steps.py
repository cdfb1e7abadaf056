"""A full training step: forward, backward, SGD with momentum and weight decay, average of the parameters.

The same models with the same first parameters in three libraries; one call takes STEPS steps, and the losses
of the first of them and the parameters after it are compared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from growth import growth
from noise_cases import Case, Transformer, fill, layers, make_case
from rounds import Group, Line, Results, Row, Settings, Way
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

import pure_sgd as ps

STEPS = 5
RATE, MOMENTUM, WEIGHT_DECAY, AVERAGE = 0.05, 0.9, 1e-4, 0.99

Losses = list[Any]


class Trained(NamedTuple):
    """What a call gives."""

    losses: Losses  # before each of its steps
    params: Any


class Language(Transformer):
    """Its positions are added as they are."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.blocks(self.tokens(tokens) + self.positions.weight[: tokens.shape[-1]])
        return self.head(self.norm(hidden))


def digits() -> Case:
    """The convolutional network of examples/digits.py, and one of its batches."""
    model = ps.models.convnet(channels=(32, 64))
    convolutions = [
        part
        for into, out in ((1, 32), (32, 64))
        for part in (nn.Conv2d(into, out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    ]
    module = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(256, 10))
    params = model.init(ps.random.key(0))
    images, labels = ps.data.digits().train

    def loss(params: Any, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return ps.losses.softmax_cross_entropy_with_integer_labels(model.apply(params, image), label)

    places = fill(module, layers("cnn", params), params)
    return Case("cnn", params, (images[:32], labels[:32]), loss, module, places)


def language() -> Case:
    """A transformer of width 128 and two layers at 64 sequences of 32 tokens."""
    case = make_case("transformer", 64)
    module = Language()
    return case._replace(module=module, places=fill(module, layers(case.kind, case.params), case.params))


CASES: dict[str, Callable[[], Case]] = {
    "step/mlp128": partial(make_case, "mlp", 128),
    "step/digits cnn": digits,
    "step/transformer": language,
}


def ours(case: Case) -> Callable[[], Trained]:
    tx = ps.chain(ps.sgd(RATE, MOMENTUM, weight_decay=WEIGHT_DECAY), ps.params_ema(AVERAGE))
    step = ps.compile_step(ps.make_step(ps.empirical_risk(case.loss), tx), donate=True)
    state = ps.init_train_state(case.params, tx)

    def work() -> Trained:
        nonlocal state
        losses: Losses = []
        for _ in range(STEPS):
            state, metrics = step(state, case.batch)
            losses.append(metrics["loss"])
        return Trained(losses, state)

    return work


def torch_loop(case: Case, forward: bool = False, update: bool = False) -> Callable[[], Trained]:
    """The loop as one writes it in PyTorch; ``forward`` and ``update`` say what is compiled."""
    module = copy.deepcopy(case.module)
    parameters: list[torch.Tensor] = list(module.parameters())
    average = [parameter.detach().clone() for parameter in parameters]
    how = {"foreach": True} if update else {"fused": True}
    optimizer = torch.optim.SGD(parameters, RATE, MOMENTUM, weight_decay=WEIGHT_DECAY, **how)
    follow = get_ema_multi_avg_fn(AVERAGE)  # torch._foreach_lerp_
    x, labels = case.batch

    def loss_of_batch(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(module(x).flatten(0, -2), labels.flatten())

    @torch.no_grad()
    def updated() -> None:
        optimizer.step()
        follow(average, parameters, None)

    evaluate = torch.compile(loss_of_batch, fullgraph=True) if forward else loss_of_batch
    finish = torch.compile(updated) if update else updated

    def work() -> Trained:
        losses: Losses = []
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = evaluate(x, labels)
            loss.backward()
            finish()
            losses.append(loss.detach())
        return Trained(losses, (parameters, average))

    return work


def jax_loop(case: Case) -> Callable[[], Trained]:
    import steps_jax

    work = steps_jax.loop(case, STEPS, RATE, MOMENTUM, WEIGHT_DECAY, AVERAGE)
    return lambda: Trained(*work())


def read_ours(trained: Trained) -> Results:
    params = trained.params.params
    average = ps.eval_params(trained.params.opt_state, params)
    return results(trained.losses, ps.tree.leaves(params), ps.tree.leaves(average))


def read_torch(case: Case, trained: Trained) -> Results:
    params, average = (case.in_order([p.detach() for p in values]) for values in trained.params)
    return results(trained.losses, params, average)


def read_jax(trained: Trained) -> Results:
    import noise_jax

    return results(*map(noise_jax.read, (trained.losses, *trained.params)))


def results(losses: Losses, params: list[torch.Tensor], average: list[torch.Tensor]) -> Results:
    values = {"params": params, "average": average}
    cpu = {name: [leaf.detach().cpu().clone() for leaf in leaves] for name, leaves in values.items()}
    return {"losses": [torch.stack([torch.as_tensor(loss).cpu() for loss in losses])], **cpu}


def threads(
    name: str, way: Callable[[], Callable[[], Any]], read: Callable[[Any], Results]
) -> dict[str, Way]:
    """With one thread and with all of them, of which the faster counts."""
    return {
        f"{name}, {count} thread{'s' * (count > 1)}": Way(way, read, count)
        for count in sorted({1, torch.get_num_threads()})
    }


def group(name: str, settings: Settings) -> Group:
    case = CASES[name]()
    case = case._replace(
        params=ps.tree.map(lambda leaf: leaf.to(settings.device), case.params),
        batch=tuple(leaf.to(settings.device) for leaf in case.batch),
        module=case.module.to(settings.device),
    )
    of_torch = partial(read_torch, case)
    ways = [
        threads("compiled step", partial(ours, case), read_ours),
        threads("torch loop", partial(torch_loop, case), of_torch),
        {
            **threads("torch.compile, update fused", partial(torch_loop, case, True), of_torch),
            **threads("torch.compile, update too", partial(torch_loop, case, True, True), of_torch),
        },
        {"JAX jit": Way(partial(jax_loop, case), read_jax)},
    ]
    first, *others = (tuple(way) for way in ways)
    rows = [Row(first, other, 1.0, faster=True) for other in others]
    return Group(name, {name: way for some in ways for name, way in some.items()}, rows, STEPS)


GROUPS: dict[str, Callable[[Settings], Group | list[Line]]] = {
    **{name: partial(group, name) for name in CASES},
    "growth": growth,
}
