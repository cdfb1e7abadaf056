"""Parameters in bfloat16 that follow a copy in float32 go where parameters in float32 go."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import pure_sgd as ps

STEPS = 120
MODEL = ps.models.mlp((6, 16, 2), torch.tanh)
TRUTH = MODEL.init(ps.random.key(9))
INPUTS = ps.random.normal(ps.random.key(1), (256, 6))
LOSS = ps.empirical_risk(
    lambda params, x: (
        (MODEL.apply(params, x.to(params["layers"][0]["w"].dtype)).float() - MODEL.apply(TRUTH, x))
        .square()
        .mean()
    )
)


def trained(tx: ps.GradientTransformation, dtype: torch.dtype) -> ps.TrainState:
    params = ps.tree.map(lambda p: p.to(torch.bfloat16).to(dtype), MODEL.init(ps.random.key(0)))
    step, state = ps.make_step(LOSS, tx), ps.init_train_state(params, tx)
    for index in range(STEPS):
        state, _ = step(state, (INPUTS[index % 8 :: 8],))
    return state


def distance(one: Any, other: Any) -> float:
    """Of two trees, relative to the second."""
    return float(ps.tree.norm(ps.tree.map(lambda a, b: a.float() - b, one, other)) / ps.tree.norm(other))


@pytest.mark.parametrize(
    "tx", [ps.sgd(2e-4, momentum=0.9), ps.adamw(3e-5), ps.chain(ps.clip_by_global_norm(0.1), ps.sgd(2e-3))]
)
def test_they_follow_float32_where_bfloat16_alone_stands_still(tx):
    wanted = trained(tx, torch.float32).params
    start = MODEL.init(ps.random.key(0))
    moved = distance(start, wanted)
    followed = trained(ps.master_weights(tx), torch.bfloat16)
    stood = trained(tx, torch.bfloat16)
    assert distance(followed.opt_state.master, wanted) < 0.01 * moved
    assert distance(followed.params, wanted) < 2**-8
    assert distance(stood.params, wanted) > 0.8 * moved


def test_they_are_the_copy_rounded():
    state = trained(ps.master_weights(ps.adamw(3e-4)), torch.bfloat16)
    for leaf, master in zip(
        ps.tree.leaves(state.params), ps.tree.leaves(state.opt_state.master), strict=True
    ):
        assert leaf.dtype == torch.bfloat16
        assert master.dtype == torch.float32
        assert torch.equal(leaf, master.bfloat16())


def test_what_remembers_is_kept_in_float32_too():
    tx = ps.master_weights(ps.chain(ps.adam(1e-3), ps.params_ema(0.9)))
    state = ps.init_train_state({"w": torch.zeros(3, dtype=torch.bfloat16)}, tx).opt_state
    assert {leaf.dtype for leaf in ps.tree.leaves(state) if leaf.ndim} == {torch.float32}


def test_parameters_in_float32_go_the_same_way():
    tx = ps.sgd(2e-3, momentum=0.9)
    one, other = trained(tx, torch.float32), trained(ps.master_weights(tx), torch.float32)
    assert distance(other.params, one.params) < 1e-6


def test_it_asks_for_a_transform_and_for_the_parameters():
    not_called: Any = ps.sgd
    with pytest.raises(ps.PureSGDError, match="expected a GradientTransformation"):
        ps.master_weights(not_called)
    tx, params = ps.master_weights(ps.sgd(0.1)), torch.ones(2)
    with pytest.raises(ps.PureSGDError, match="master_weights: params is None"):
        tx.update(params, tx.init(params))
