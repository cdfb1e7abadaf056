"""Samplers for a DataLoader: functions of their place, for any number of ranks, resumed without a read."""

from __future__ import annotations

import itertools
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, TensorDataset

import pure_sgd as ps
from pure_sgd.data import BatchSampler, Sampler

(X, Y), _ = ps.data.linear_regression(ps.random.key(0), n=50, features=3)
MODEL = ps.models.linear(3)
PARAMS = MODEL.init(ps.random.key(1))
LOSS = ps.empirical_risk(lambda params, x, y: ps.losses.squared_error(MODEL.apply(params, x), y))
TX = ps.sgd(0.1, momentum=0.9)


class Asked(Dataset[Any]):
    """Examples that note which of them were asked for."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, row: int) -> Any:
        self.rows.append(row)
        return X[row], Y[row]


def loader(kind: str, dataset: Any, seed: int = 5, replacement: bool = False) -> DataLoader[Any]:
    if kind == "batches":
        sampler = BatchSampler(50, 12, seed, replacement=replacement)
        return DataLoader(dataset, batch_sampler=sampler)
    return DataLoader(dataset, batch_size=12, sampler=Sampler(50, seed, replacement=replacement))


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
def test_the_batches_are_the_rows_of_epoch_indices_from_any_step_on(replacement, drop_last):
    sampler = BatchSampler(50, 12, 5, replacement=replacement, drop_last=drop_last)
    for epoch in (0, 3):
        table = ps.epoch_indices(50, 12, 5, epoch, replacement, drop_last).tolist()
        assert len(sampler) == len(table)
        for start in (0, 2, len(table)):
            sampler.set_epoch(epoch, start)
            assert list(sampler) == list(sampler) == table[start:]


def test_one_example_at_a_time_the_order_is_the_same():
    sampler = Sampler(50, 5)
    assert list(sampler) == ps.epoch_indices(50, 50, 5, 0)[0].tolist()
    sampler.set_epoch(2, start=7)
    assert list(sampler) == ps.epoch_indices(50, 50, 5, 2)[0, 7:].tolist()
    assert len(sampler) == 50


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("ranks", [1, 2, 3, 12])
def test_the_batches_of_all_ranks_make_up_the_same_batch(ranks, replacement):
    options: Any = {"replacement": replacement, "ranks": ranks}
    shares = [BatchSampler(50, 12, 5, rank=rank, **options) for rank in range(ranks)]
    for share in shares:
        share.set_epoch(1, start=2)
    joined = [[row for part in parts for row in part] for parts in zip(*shares, strict=True)]
    assert joined == ps.epoch_indices(50, 12, 5, 1, replacement)[2:].tolist()


@pytest.mark.parametrize("replacement", [False, True])
def test_another_number_of_ranks_goes_on_with_the_same_examples(replacement):
    """Batches of 12 from as many ranks as you like: the third batch holds the same examples."""
    found: list[list[int]] = []
    for ranks in (1, 2, 4):
        shares = [Sampler(48, 5, replacement=replacement, rank=rank, ranks=ranks) for rank in range(ranks)]
        for share in shares:
            share.set_epoch(0, start=2 * 12 // ranks)
        found.append(sorted(row for share in shares for row in list(share)[: 12 // ranks]))
    assert found[0] == found[1] == found[2]


def test_every_example_goes_to_one_rank():
    shares = [list(Sampler(48, 5, rank=rank, ranks=4)) for rank in range(4)]
    assert sorted(row for share in shares for row in share) == list(range(48))
    filled_up = [list(Sampler(50, 5, rank=rank, ranks=4)) for rank in range(4)]
    assert {len(share) for share in filled_up} == {13}
    left_out = [list(Sampler(50, 5, rank=rank, ranks=4, drop_last=True)) for rank in range(4)]
    assert {len(share) for share in left_out} == {12}


def test_a_trillion_examples_take_no_memory():
    sampler = BatchSampler(2**40, 4, seed=7)
    sampler.set_epoch(1, start=2**37)
    assert len(sampler) == 2**38
    assert len(next(iter(sampler))) == 4


@pytest.mark.parametrize("kind", ["batches", "examples"])
@pytest.mark.parametrize("replacement", [False, True])
def test_fit_visits_what_it_visits_in_memory(kind, replacement):
    options: Any = {"epochs": 3, "progress": False, "compile": False}
    found = ps.fit(LOSS, TX, PARAMS, loader(kind, TensorDataset(X, Y), 5, replacement), **options)
    if kind == "batches":
        expected = ps.fit(LOSS, TX, PARAMS, (X, Y), batch_size=12, seed=5, replacement=replacement, **options)
        assert found.history == expected.history
    steps = [5 * (epoch + 1) for epoch in range(3)]
    assert found.history["step"] == steps


@pytest.mark.parametrize("kind", ["batches", "examples"])
@pytest.mark.parametrize("stop_at", [1, 5, 7])
def test_a_resumed_run_reads_no_batch_but_the_last_one_again(tmp_path, kind, stop_at):
    taken = 0

    def stopping(params: Any, batch: Any) -> torch.Tensor:
        nonlocal taken
        taken += 1
        if taken == stop_at:
            signal.raise_signal(signal.SIGINT)
        return LOSS(params, batch)

    options: Any = {"epochs": 2, "progress": False, "compile": False}
    whole = Asked()
    expected = ps.fit(LOSS, TX, PARAMS, loader(kind, whole), **options)
    with suppress(KeyboardInterrupt):
        ps.fit(stopping, TX, PARAMS, loader(kind, Asked()), checkpoint=tmp_path, **options)
    rest = Asked()
    resumed = ps.fit(LOSS, TX, PARAMS, loader(kind, rest), checkpoint=tmp_path, resume=True, **options)
    assert resumed.history == expected.history
    assert torch.equal(resumed.state.params["w"], expected.state.params["w"])
    assert rest.rows == whole.rows[-len(rest.rows) :]
    per_epoch = 60 if kind == "batches" else 50
    left = 2 * per_epoch - (stop_at // 5 * per_epoch + stop_at % 5 * 12)
    assert left <= len(rest.rows) <= left + 12


def test_fit_tells_torchs_own_sampler_the_epoch():
    sampler: Any = DistributedSampler(TensorDataset(X, Y), num_replicas=1, rank=0)
    asked = Asked()
    ps.fit(LOSS, TX, PARAMS, DataLoader(asked, 10, sampler=sampler), epochs=2, progress=False, compile=False)
    assert asked.rows[:50] != asked.rows[50:]


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: BatchSampler(0, 1), "BatchSampler: n=0 is an empty data set"),
        (lambda: BatchSampler(5, 6), "BatchSampler: batch_size=6 is more than the n=5 examples"),
        (lambda: BatchSampler(50, 12, ranks=5), "batch_size=12 is not a multiple of the 5 ranks"),
        (lambda: BatchSampler(50, 12, ranks=2, rank=2), "BatchSampler: rank=2 is not from 0 to 1"),
        (lambda: BatchSampler(50, 12, seed=0.5), "BatchSampler: seed=0.5 is of type float"),
        (lambda: BatchSampler(50, 12).set_epoch(-1), "BatchSampler: epoch=-1 is not at least 0"),
        (lambda: BatchSampler(50, 12).set_epoch(0, -1), "BatchSampler: start=-1 is not at least 0"),
        (lambda: Sampler(5, ranks=0), "Sampler: ranks=0 is not at least 1"),
    ],
)
def test_a_wrong_argument_is_told(make, sentence):
    with pytest.raises(ps.PureSGDError, match=sentence):
        make()


def share(kind: str, rank: int, ranks: int, seed: int = 5, batch_size: int = 12) -> DataLoader[Any]:
    dataset: Any = TensorDataset(X[:48], Y[:48])
    if kind == "batches":
        return DataLoader(dataset, batch_sampler=BatchSampler(48, batch_size, seed, rank=rank, ranks=ranks))
    return DataLoader(dataset, batch_size // ranks, sampler=Sampler(48, seed, rank=rank, ranks=ranks))


def batches_of(
    ranks: int, kind: str, folder: Path, after: Path | None = None, stop_at: int | None = None, **other: Any
) -> list[list[float]]:
    """What ranks see together that go on from what the first of ``after`` has saved.

    They take turns here: the gradient of the loss is the same for all, whatever their rows.
    """
    results: list[list[list[float]]] = []
    for rank in range(ranks):
        seen: list[list[float]] = []

        def loss(params: Any, batch: Any, seen: list[list[float]] = seen) -> torch.Tensor:
            seen.append(batch[1].tolist())
            if len(seen) == stop_at:
                signal.raise_signal(signal.SIGINT)
            return params["w"].square().sum()

        options: Any = {"epochs": 2, "progress": False, "compile": False, "resume": True}
        if after is not None:
            shutil.copytree(after / "0", folder / str(rank))
        with suppress(KeyboardInterrupt):
            data = share(kind, rank, ranks, **other)
            ps.fit(loss, TX, PARAMS, data, checkpoint=folder / str(rank), **options)
        results.append(seen)
    return [sorted(itertools.chain(*rows)) for rows in zip(*results, strict=True)]


@pytest.mark.parametrize("kind", ["batches", "examples"])
@pytest.mark.parametrize("ranks", [1, 4])
@pytest.mark.parametrize("stop_at", [1, 4, 6])
def test_a_run_goes_on_with_another_number_of_ranks_in_the_same_batches(tmp_path, kind, ranks, stop_at):
    whole = batches_of(1, kind, tmp_path / "whole")
    assert batches_of(2, kind, tmp_path / "begun", stop_at=stop_at) == whole[:stop_at]
    assert batches_of(ranks, kind, tmp_path / "rest", after=tmp_path / "begun") == whole[stop_at:]


@pytest.mark.parametrize("other", [{"seed": 6}, {"batch_size": 16}])
def test_but_not_with_other_batches_of_all(tmp_path, other):
    batches_of(2, "batches", tmp_path / "begun", stop_at=2)
    with pytest.raises(ps.PureSGDError, match=r"data: has the order .* Resume with the same batches of all"):
        batches_of(4, "batches", tmp_path / "rest", after=tmp_path / "begun", **other)
