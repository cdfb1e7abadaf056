"""A state whose rows are spread over ranks goes where the whole one goes, with every transform there is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from catalogue import CATALOGUE, grads_of, params_of
from ranks import (
    CLOSE,
    Failure,
    batch_of,
    difference,
    disagreement,
    example_loss,
    mesh_of,
    rows_of,
    start,
)
from torch.distributed.tensor import DTensor

import pure_sgd as ps
from pure_sgd.distributed.placement import spread

STEPS = 3
WORLD = 2

#: Entries that are refused, by the name that the sentence gives.
REFUSED = {
    "lbfgs": "scale_by_lbfgs",
    "scale_by_lbfgs": "scale_by_lbfgs",
    "scale_by_lbfgs torch": "scale_by_lbfgs",
}
#: One of each kind, for a test that is quick: what adds a number to a sum over rows is among them.
KINDS = (
    "adafactor",
    "adamw",
    "clip_by_global_norm",
    "dog",
    "flatten",
    "lamb",
    "lbfgs",
    "muon",
    "params_ema",
    "soap",
)
REST = sorted(set(CATALOGUE) - set(KINDS))


def walk(names: tuple[str, ...], plan: str) -> dict[str, Any]:
    """By name, how far some updates of a spread state are from those of the whole one, or the refusal."""
    found: dict[str, Any] = {}
    for name in names:
        try:
            found[name] = apart(name, plan)
        except ps.PureSGDError as error:
            found[name] = str(error)
    return found


def apart(name: str, plan: str) -> float:
    entry, mesh = CATALOGUE[name], mesh_of(WORLD)
    tx = entry.build(**entry.hyperparams)

    def step(state: ps.TrainState, grads: Any) -> tuple[ps.TrainState, Any]:
        updates, opt_state = tx.update(grads, state.opt_state, state.params, **entry.extra)
        params = ps.apply_updates(state.params, updates)
        return ps.TrainState(state.step + 1, params, opt_state), {"norm": ps.tree.norm(updates)}

    state = alone = ps.init_train_state(params_of(torch.float64), tx)
    state, on_shards = ps.distributed.shard(state, mesh, plan), ps.distributed.on_shards(step)
    worst = 0.0
    for index in range(STEPS):
        grads = grads_of(alone.params, index)
        alone, expected = step(alone, grads)
        if plan == "all":
            grads = ps.tree.map(lambda leaf: spread(leaf, mesh), grads)
        state, metrics = on_shards(state, grads)
        worst = max(worst, difference((ps.distributed.gather(state), metrics), (alone, expected)))
    return worst


def assert_right_or_refused(answers: list[dict[str, Any]]) -> None:
    for answer in answers:
        for name, found in answer.items():
            if name in REFUSED:
                assert found.startswith(f"{REFUSED[name]}: cannot be done to leaves that are spread"), found
            else:
                assert isinstance(found, float), f"{name}: {found}"
                assert found < 1e-11, name


@pytest.mark.parametrize("plan", ["optimizer", "all"])
def test_a_transform_of_each_kind_is_right_on_shards_or_refused(ranks, plan):
    assert_right_or_refused(ranks(walk, KINDS, plan))


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["optimizer", "all"])
@pytest.mark.parametrize("part", range(4))
def test_every_other_transform_is_right_on_shards_or_refused(ranks, plan, part):
    assert_right_or_refused(ranks(walk, tuple(REST[part::4]), plan))


TRANSFORMS = {
    "momentum": lambda: ps.sgd(0.1, momentum=0.9),
    "adamw": lambda: ps.chain(ps.clip_by_global_norm(0.5), ps.adamw(1e-2), ps.params_ema(0.9)),
    "muon": lambda: ps.muon(0.05),
}


def trained(name: str, plan: str, compiled: str | None) -> dict[str, Any]:
    tx, mesh = TRANSFORMS[name](), mesh_of(WORLD)
    loss = ps.empirical_risk(example_loss)
    alone = ps.init_train_state(start(), tx)
    state = ps.distributed.shard(alone, mesh, plan)
    placements = [getattr(leaf, "placements", None) for leaf in ps.tree.leaves(state)]
    step = ps.make_step(ps.distributed.data_parallel(loss, mesh), tx)
    if compiled:
        step = ps.compile_step(step, backend=compiled)
    step, worst = ps.distributed.on_shards(step), 0.0
    for index in range(STEPS):
        alone, expected = ps.make_step(loss, tx)(alone, batch_of(index))
        state, metrics = step(state, rows_of(batch_of(index), mesh, even=False))
        now = ps.distributed.gather(state), metrics
        worst = max(worst, difference(now, (alone, expected)), disagreement(now, mesh))
    torch.compiler.reset()
    leaves = ps.tree.leaves(state)
    held = [leaf.to_local() if isinstance(leaf, DTensor) else leaf for leaf in leaves]
    return {
        "apart": worst,
        "moved": [getattr(leaf, "placements", None) for leaf in leaves] != placements,
        "share": sum(leaf.numel() for leaf in held) / sum(leaf.numel() for leaf in leaves),
    }


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("plan", ["optimizer", "all"])
def test_a_step_on_shards_is_that_of_one_process(ranks, name, plan):
    for answer in ranks(trained, name, plan, None):
        assert answer["apart"] < CLOSE
        assert not answer["moved"]
        assert answer["share"] < (0.6 if plan == "all" else 0.85)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("plan", ["optimizer", "all"])
def test_so_is_a_compiled_step_on_shards(ranks, name, plan):
    for answer in ranks(trained, name, plan, "aot_eager"):
        assert answer["apart"] < CLOSE
        assert not answer["moved"]


def donated() -> None:
    tx, mesh = TRANSFORMS["momentum"](), mesh_of(WORLD)
    loss = ps.distributed.data_parallel(ps.empirical_risk(example_loss), mesh)
    step = ps.compile_step(ps.make_step(loss, tx), donate=True, backend="aot_eager")
    state = ps.distributed.shard(ps.init_train_state(start(), tx), mesh)
    ps.distributed.on_shards(step)(state, rows_of(batch_of(0), mesh))


def test_shards_cannot_be_donated(ranks):
    for answer in ranks.answers(donated):
        assert isinstance(answer, Failure)
        assert "is a DTensor, and only plain tensors can be donated. Compile the step without" in answer


def flattened_unevenly() -> None:
    tx, mesh = ps.flatten(ps.sgd(0.1)), mesh_of(WORLD)
    state = ps.distributed.shard(ps.init_train_state({"w": torch.ones(5, 3)}, tx), mesh, "all")
    loss = ps.distributed.data_parallel(lambda params, x: (params["w"] * x.mean()).sum(), mesh)
    ps.distributed.on_shards(ps.make_step(loss, tx))(state, torch.ones(2))


def test_the_transform_that_torch_cannot_spread_is_named(ranks):
    for answer in ranks.answers(flattened_unevenly):
        assert isinstance(answer, Failure)
        assert "flatten: cannot be done to leaves that are spread over ranks" in answer


def refused() -> None:
    state = ps.init_train_state(start(), ps.sgd(0.1))
    ps.distributed.shard(state, mesh_of(WORLD), "everything")


def test_an_unknown_plan_is_refused(ranks):
    for answer in ranks.answers(refused):
        assert isinstance(answer, Failure)
        assert "shard: plan='everything' is unknown" in answer
