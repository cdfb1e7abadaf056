"""A permutation by its images: each example once, the same for ever, and told from chance by no statistic."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import pure_sgd as ps
from pure_sgd.data import permutation
from pure_sgd.data.permutation import FEW

GOLDEN = [
    (10, 0, [4, 9, 1, 2, 8]),
    (5000, 7, [3214, 4393, 61, 2962, 4886]),
    (10**6, 42, [624394, 511658, 956854, 853987, 769442]),
    (2**40, 1, [876845365050, 178188155566, 414744046945, 698182452533, 475434687650]),
    (10**12 + 39, 2**63 + 5, [647993600546, 587044857695, 604582692072, 728790717555, 162335763964]),
]


def deviations(counts: torch.Tensor) -> float:
    """How many standard deviations chi-square lies from its mean where all counts are equally likely."""
    expected = counts.double().mean()
    statistic = float(((counts - expected) ** 2 / expected).sum())
    freedom = counts.numel() - 1
    # Wilson and Hilferty: the cube root of chi-square is close to normal.
    return ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))


def orders(n: int, seeds: int) -> torch.Tensor:
    """The order of ``n`` examples for each seed, (seeds, n)."""
    mapped = torch.func.vmap(lambda seed: ps.permute_index(torch.arange(n), n, seed))
    return mapped(torch.arange(seeds))


@pytest.mark.parametrize("n, seed, images", GOLDEN)
def test_the_order_never_changes(n, seed, images):
    assert ps.permute_index(torch.tensor([0, 1, 2, n // 2, n - 1]), n, seed).tolist() == images


@pytest.mark.parametrize("few", [FEW, 0], ids=["sorted", "in rounds"])
@pytest.mark.parametrize(
    "sizes", [range(1, 2001, 23), pytest.param(range(1, 2001), marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_every_example_comes_exactly_once_for_every_n_up_to_2000(monkeypatch, few, sizes):
    monkeypatch.setattr(permutation, "FEW", few)
    for n in sizes:
        assert torch.equal(ps.permute_index(torch.arange(n), n, n).sort().values, torch.arange(n)), n


@pytest.mark.parametrize("n", [FEW, FEW + 1, FEW + 2, 4999, 64**2 + 63, 2**14 - 1, 2**14, 2**14 + 1, 99991])
def test_every_example_comes_exactly_once_for_larger_n(n):
    assert torch.equal(ps.permute_index(torch.arange(n), n, seed=1).sort().values, torch.arange(n))


@pytest.mark.slow
@pytest.mark.parametrize("n", [10**6, 10**6 + 3, 2**22])
def test_every_example_comes_exactly_once_for_millions(n):
    windows = [ps.permute_index(window, n, seed=1) for window in torch.arange(n).split(65536)]
    assert torch.equal(torch.cat(windows).sort().values, torch.arange(n))


@pytest.mark.parametrize("n", [2**40, 2**40 + 15, 10**12, 2**62])
def test_a_part_of_an_order_that_no_memory_holds(n):
    images = ps.permute_index(torch.arange(10**5) * (n // 10**5), n, seed=3)
    assert images.unique().numel() == 10**5
    assert 0 <= int(images.min()) < n / 1000
    assert n - n / 1000 < int(images.max()) < n
    assert abs(deviations(torch.bincount(images // -(-n // 100), minlength=100))) < 4


@pytest.mark.parametrize("n", [4, 5, 6])
def test_all_orders_of_few_examples_are_equally_likely(n):
    codes = (orders(n, 20000) * n ** torch.arange(n)).sum(1)
    possible = torch.tensor(list(itertools.permutations(range(n))))
    known, counts = torch.unique(codes, return_counts=True)
    assert torch.equal(known, (possible * n ** torch.arange(n)).sum(1).sort().values)
    assert abs(deviations(counts)) < 4


def test_each_position_holds_each_example_equally_often():
    n, bins = FEW + 4, 50
    rows = orders(n, 40)
    # A whole order fixes one position by all the others, hence the factor.
    pairs = (torch.arange(n) * bins // n) * bins + rows * bins // n
    expected = pairs.numel() / bins**2
    counts = torch.bincount(pairs.flatten(), minlength=bins**2)
    statistic, freedom = float(((counts - expected) ** 2 / expected).sum()), (bins - 1) ** 2
    assert abs(statistic * (n - 1) / n - freedom) < 4 * math.sqrt(2 * freedom)


def test_neighbours_stay_neighbours_as_often_as_by_chance():
    rows = orders(FEW + 4, 200)
    pairs = ((rows[:, 1:] - rows[:, :-1]).abs() == 1).sum()
    # Two are expected in each order, and their number is close to Poisson's.
    assert abs(float(pairs) - 400) < 4 * math.sqrt(400)


def test_even_and_odd_orders_come_equally_often():
    def is_odd(order: list[int]) -> bool:
        seen, swaps = set[int](), 0
        for start in range(len(order)):
            while start not in seen:
                seen.add(start)
                start = order[start]
                swaps += start not in seen
        return swaps % 2 == 1

    odd = sum(is_odd(order) for order in orders(73 * 73, 64).tolist())
    assert abs(odd - 32) < 4 * math.sqrt(64 / 4)


def test_another_seed_is_an_unrelated_order():
    one, other = orders(FEW + 4, 2)
    assert (one == other).sum() < 10
    ranks = torch.stack([one, other]).double()
    assert abs(torch.corrcoef(ranks)[0, 1]) < 4 / math.sqrt(FEW)


def test_each_of_several_seeds_gives_what_it_gives_alone():
    n = FEW + 4
    for seed, row in enumerate(orders(n, 3)):
        assert torch.equal(row, ps.permute_index(torch.arange(n), n, seed))


@pytest.mark.parametrize("n", [10, FEW + 4])
def test_compiled_it_gives_the_same(n):
    function = torch.compile(
        lambda i, seed: ps.permute_index(i, n, seed), backend="aot_eager", fullgraph=True
    )
    assert torch.equal(function(torch.arange(n), torch.tensor(5)), ps.permute_index(torch.arange(n), n, 5))


def test_any_shape_and_integer_dtype():
    index = torch.tensor([[3, 1], [4, 1]], dtype=torch.int32)
    images = ps.permute_index(index, 5, seed=0)
    assert images.dtype == torch.int64
    assert images.shape == (2, 2)
    assert images[0, 1] == images[1, 1] == ps.permute_index(1, 5, seed=0)


@pytest.mark.parametrize(
    "i, n, seed, message",
    [
        (5, 5, 0, r"permute_index: i=5"),
        (-1, 5, 0, r"permute_index: i=-1"),
        (torch.tensor([0, 7]), 5, 0, r"i goes from 0 to 7, expected values from 0 to n - 1 = 4"),
        (torch.tensor([0.5]), 5, 0, r"i is torch.float32, expected integers"),
        (0, 0, 0, r"n=0"),
        (0, 2**62 + 1, 0, r"n=4611686018427387905"),
        (0, 5, 2**64, r"seed="),
        (0, 5, 0.5, r"seed=0.5"),
    ],
)
def test_what_names_no_example_is_an_error(i, n, seed, message):
    with pytest.raises(ps.PureSGDError, match=message):
        ps.permute_index(i, n, seed)


def test_compiled_and_mapped_at_once_it_gives_the_same():
    n, seeds = FEW + 4, torch.arange(3)
    function = torch.func.vmap(lambda i, seed: ps.permute_index(i, n, seed), (None, 0))
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(torch.arange(n), seeds), orders(n, 3))
    over_both = torch.compile(torch.func.vmap(function, (0, None)), backend="aot_eager", fullgraph=True)
    assert torch.equal(over_both(torch.arange(n), seeds), orders(n, 3).T)


def test_where_half_of_all_have_to_go_on_each_still_comes_once():
    """A square table for 4 x 4 examples holds 16; asked for 9 of them, the others walk."""
    key = ps.random.key(5)
    words = ps.random.bits(key, (permutation.ROUNDS, 2))
    index = torch.arange(9)
    first = permutation._rounds(index, 4, 4, words)
    walked = permutation._walk(first, words[:, :, None], 9, 4, 4)
    assert (first >= 9).any()
    assert torch.equal(walked.sort().values, index)
    assert torch.equal(walked[first < 9], first[first < 9])
