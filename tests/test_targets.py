"""Slow copies of parameters: the rules, the dtypes of the copy, and what does not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import pure_sgd as ps

NEW: dict[str, Any] = {"w": torch.tensor([1.0, 2.0]), "nothing": None, "b": torch.tensor(-4.0)}
OLD: dict[str, Any] = {"w": torch.tensor([3.0, 2.0]), "nothing": None, "b": torch.tensor(0.0)}


def test_an_incremental_update_goes_part_of_the_way():
    got = ps.incremental_update(NEW, OLD, 0.25)
    torch.testing.assert_close(got["w"], torch.tensor([2.5, 2.0]))
    assert got["b"].item() == -1.0
    assert got["nothing"] is None


def test_many_of_them_are_an_average_of_the_parameters():
    tx = ps.chain(ps.sgd(0.5), ps.params_ema(0.9))
    params = slow = torch.tensor([1.0, -2.0], dtype=torch.float64)
    state = tx.init(params)
    for _ in range(5):
        updates, state = tx.update(params, state, params)
        params = ps.apply_updates(params, updates)
        slow = ps.incremental_update(params, slow, 0.1)
    torch.testing.assert_close(slow, ps.eval_params(state, params))


def test_the_copy_keeps_its_dtype_and_small_steps_count_in_it():
    slow = torch.ones(1, dtype=torch.float32)
    got = ps.incremental_update(torch.zeros(1, dtype=torch.bfloat16), slow, 1e-3)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(0.999)


@pytest.mark.parametrize("tensor", [False, True])
def test_a_periodic_update_copies_at_every_third_step(tensor: bool):
    seen = []
    for step in range(7):
        count = torch.tensor(step) if tensor else step
        seen.append(ps.periodic_update(NEW, OLD, count, 3)["b"].item())
    assert seen == [-4.0, 0.0, 0.0, -4.0, 0.0, 0.0, -4.0]


def test_a_periodic_update_shares_no_memory_and_takes_no_nan_from_what_it_leaves():
    nan = {**NEW, "b": torch.tensor(torch.nan)}
    got = ps.periodic_update(nan, OLD, 1, 2)
    assert got["b"].item() == 0.0
    assert {got["w"].data_ptr()}.isdisjoint({OLD["w"].data_ptr(), NEW["w"].data_ptr()})


def test_both_map_and_compile():
    def both(rate: torch.Tensor, step: torch.Tensor) -> list[torch.Tensor]:
        moved = ps.incremental_update(NEW, OLD, rate)["w"]
        return [moved, ps.periodic_update(NEW, OLD, step, 2)["w"]]

    rates, steps = torch.tensor([0.1, 0.5]), torch.tensor([1, 2])
    mapped = torch.func.vmap(both)(rates, steps)
    alone = [both(rate, step) for rate, step in zip(rates, steps, strict=True)]
    torch.testing.assert_close(mapped, [torch.stack(pair) for pair in zip(*alone, strict=True)])
    compiled = torch.compile(both, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(rates[0], steps[0]), alone[0])


def test_what_does_not_fit_is_named():
    with pytest.raises(ps.PureSGDError, match=r"new_tensors\['w'\]: shape \(3,\) does not match"):
        ps.incremental_update({**NEW, "w": torch.ones(3)}, OLD, 0.1)
    with pytest.raises(ps.PureSGDError, match=r"new_tensors\['w'\]: is missing"):
        ps.periodic_update({"b": NEW["b"], "nothing": None}, OLD, 1, 2)
    with pytest.raises(ps.PureSGDError, match=r"step_size=1\.5"):
        ps.incremental_update(NEW, OLD, 1.5)
