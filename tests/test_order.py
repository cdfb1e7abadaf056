"""The order of an epoch: each example once, each order equally likely, the same order again."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from pure_sgd import random
from pure_sgd.data import order
from pure_sgd.data.order import epoch_indices, epoch_windows, poisson_indices
from pure_sgd.errors import PureSGDError


def chi_square_is_plausible(counts: torch.Tensor) -> bool:
    """Whether counts of equally likely outcomes differ no more, and no less, than chance has it.

    A chi-square variable of k degrees of freedom has mean k and variance 2k.
    """
    expected = counts.double().mean()
    statistic = float(((counts - expected) ** 2 / expected).sum())
    freedom = counts.numel() - 1
    return abs(statistic - freedom) < 4 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("n, batch_size", [(12, 1), (12, 4), (12, 12), (1, 1)])
@pytest.mark.parametrize("drop_last", [False, True])
def test_every_example_comes_exactly_once_where_the_batch_size_divides_n(n, batch_size, drop_last):
    rows = epoch_indices(n, batch_size, seed=3, epoch=5, drop_last=drop_last)
    assert rows.shape == (n // batch_size, batch_size)
    assert rows.dtype == torch.int64
    assert rows.flatten().sort().values.tolist() == list(range(n))


@pytest.mark.parametrize("n, batch_size", [(10, 4), (10, 3), (7, 6), (7, 5), (101, 100)])
def test_the_last_row_is_filled_up_with_the_first_examples(n, batch_size):
    rows = epoch_indices(n, batch_size, seed=3, epoch=5)
    steps = math.ceil(n / batch_size)
    assert rows.shape == (steps, batch_size)
    visited = rows.flatten()
    assert visited[:n].sort().values.tolist() == list(range(n))
    assert torch.equal(visited[n:], visited[: steps * batch_size - n])
    assert all(len(set(row.tolist())) == batch_size for row in rows)


@pytest.mark.parametrize("n, batch_size", [(10, 4), (10, 3), (7, 6), (101, 100)])
def test_drop_last_leaves_the_unfinished_row_out(n, batch_size):
    dropped = epoch_indices(n, batch_size, seed=3, epoch=5, drop_last=True)
    assert torch.equal(dropped, epoch_indices(n, batch_size, seed=3, epoch=5)[: n // batch_size])
    assert dropped.unique().numel() == dropped.numel()


def test_the_order_is_frozen():
    rows = epoch_indices(10, 4, seed=42, epoch=3)
    assert rows.tolist() == [[3, 9, 2, 6], [1, 0, 5, 8], [7, 4, 3, 9]]
    drawn = epoch_indices(10, 4, seed=42, epoch=3, replacement=True)
    assert drawn.tolist() == [[6, 2, 7, 4], [5, 5, 1, 6], [2, 9, 2, 9]]


@pytest.mark.parametrize("replacement", [False, True])
def test_every_seed_and_epoch_has_an_order_of_its_own(replacement):
    orders = {
        tuple(epoch_indices(20, 5, seed, epoch, replacement).flatten().tolist())
        for seed in range(-3, 10)
        for epoch in range(10)
    }
    assert len(orders) == 13 * 10


def test_the_next_seed_is_not_the_next_epoch():
    for seed in range(10):
        next_epoch = epoch_indices(20, 5, seed, epoch=1)
        assert not torch.equal(next_epoch, epoch_indices(20, 5, seed + 1, epoch=0))


def test_the_order_shares_nothing_with_draws_from_the_key_of_its_seed():
    first = random.permutation(random.fold_in(random.key(0), 0), 100)
    assert not torch.equal(epoch_indices(100, 100, seed=0, epoch=0)[0], first)


def test_successive_epochs_are_uncorrelated():
    orders = torch.stack([epoch_indices(1000, 1000, 7, epoch)[0] for epoch in range(20)]).double()
    correlation = torch.corrcoef(orders).fill_diagonal_(0)
    assert correlation.abs().max() < 4.5 / math.sqrt(1000)


def test_every_example_is_equally_likely_at_every_position():
    n, epochs = 8, 1000
    orders = torch.stack([epoch_indices(n, 2, 1, epoch).flatten() for epoch in range(epochs)])
    counts = torch.nn.functional.one_hot(orders, n).sum(0).double()
    statistic = float(((counts - epochs / n) ** 2 / (epochs / n)).sum())
    # All rows and columns add up to the number of epochs: this is n / (n - 1) times a chi-square
    # variable of (n - 1)^2 degrees of freedom, of mean n (n - 1) and variance 2 n^2.
    assert abs(statistic - n * (n - 1)) < 4 * n * math.sqrt(2)


@pytest.mark.parametrize("n, batch_size, steps", [(10, 4, 3), (12, 4, 3), (10, 10, 1)])
def test_with_replacement_there_are_as_many_rows(n, batch_size, steps):
    rows = epoch_indices(n, batch_size, seed=0, epoch=0, replacement=True)
    assert rows.shape == (steps, batch_size)
    assert rows.dtype == torch.int64
    assert 0 <= int(rows.min()) <= int(rows.max()) < n
    dropped = epoch_indices(n, batch_size, 0, 0, replacement=True, drop_last=True)
    assert dropped.shape == (n // batch_size, batch_size)


def test_with_replacement_every_example_is_equally_likely_and_pairs_are_independent():
    n = 9  # divides the size of the data set, so that each remainder is equally likely
    draws = epoch_indices(90_000, 90_000, seed=2, epoch=0, replacement=True)[0] % n
    assert chi_square_is_plausible(torch.bincount(draws, minlength=n))
    pairs = draws[0::2] * n + draws[1::2]
    assert chi_square_is_plausible(torch.bincount(pairs, minlength=n * n))


def test_with_replacement_an_epoch_misses_a_share_of_one_over_e():
    n = 20_000
    seen = epoch_indices(n, 100, seed=4, epoch=0, replacement=True).unique().numel()
    assert abs(1 - seen / n - math.exp(-1)) < 4 * math.sqrt(math.exp(-1) / n)


def regression() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Eight examples (x, y) of three features, and a weight that does not fit them."""
    draws = random.normal(random.key(9), (9, 4), torch.float64)
    return draws[:8, :3], draws[:8, 3], draws[8, :3]


def row_gradient(rows: torch.Tensor) -> torch.Tensor:
    """``grad of mean((x @ w - y)^2) / 2`` over each of the rows (..., batch_size): (..., 3)."""
    x, y, w = regression()
    return ((x[rows] @ w - y[rows])[..., None] * x[rows]).mean(-2)


def test_the_mean_over_all_batches_is_the_gradient_of_the_empirical_risk():
    full = row_gradient(torch.arange(8))
    subsets = torch.tensor(list(itertools.combinations(range(8), 3)))
    tuples = torch.tensor(list(itertools.product(range(8), repeat=3)))
    torch.testing.assert_close(row_gradient(subsets).mean(0), full)
    torch.testing.assert_close(row_gradient(tuples).mean(0), full)


@pytest.mark.parametrize("replacement", [False, True])
def test_the_gradient_over_each_row_is_an_unbiased_estimate(replacement):
    epochs = 600
    rows = torch.stack([epoch_indices(8, 3, 5, epoch, replacement) for epoch in range(epochs)])
    gradients = row_gradient(rows)  # (epochs, 3 rows, 3 features): the last row is a filled one
    error = gradients.mean(0) - row_gradient(torch.arange(8))
    standard_error = gradients.std(0) / math.sqrt(epochs)
    assert (error.abs() < 4 * standard_error).all()


def test_every_full_batch_has_the_gradient_of_the_empirical_risk():
    rows = epoch_indices(8, 8, seed=0, epoch=0)
    torch.testing.assert_close(row_gradient(rows)[0], row_gradient(torch.arange(8)))


def test_the_order_is_made_on_the_device_asked_for():
    assert epoch_indices(5, 2, 0, 0).device.type == "cpu"
    for replacement in (False, True):
        assert epoch_indices(5, 2, 0, 0, replacement, device="meta").device.type == "meta"


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (
            {"n": 0},
            "epoch_indices: n=0 is an empty data set, expected at least one example. Pass the "
            "number of examples.",
        ),
        ({"n": -1}, "epoch_indices: n=-1 is not at least 1. Pass a n at least 1."),
        ({"n": 5.0}, "epoch_indices: n=5.0 is of type float, expected an int."),
        ({"n": False}, "epoch_indices: n=False is of type bool, expected an int."),
        ({"batch_size": 0}, "epoch_indices: batch_size=0 is not at least 1."),
        (
            {"batch_size": 6},
            "epoch_indices: batch_size=6 is more than the n=5 examples. Pass at most n; "
            "batch_size=n is full gradient descent.",
        ),
        ({"batch_size": True}, "epoch_indices: batch_size=True is of type bool, expected an int."),
        ({"epoch": -1}, "epoch_indices: epoch=-1 is not at least 0. Pass a epoch at least 0."),
        ({"seed": 0.5}, "epoch_indices: seed=0.5 is of type float, expected int"),
        ({"seed": 2**64}, "epoch_indices: seed=18446744073709551616 is not from -92233720368547758"),
    ],
)
def test_a_wrong_argument_is_told_with_its_remedy(arguments, sentence):
    with pytest.raises(PureSGDError) as caught:
        epoch_indices(**{"n": 5, "batch_size": 2, "seed": 0, "epoch": 0, **arguments})
    assert sentence in str(caught.value)


def poisson_draws(n: int, expected_batch_size: float, steps: int) -> torch.Tensor:
    """Whether each example is drawn at each step: float64 (steps, n)."""
    drawn = torch.zeros(steps, n, dtype=torch.float64)
    for step in range(steps):
        drawn[step, poisson_indices(n, expected_batch_size, 6, step)] = 1
    return drawn


def test_poisson_sampling_is_frozen():
    rows = [poisson_indices(5, 2, seed=0, step=step).tolist() for step in range(6)]
    assert rows == [[1, 3, 4], [4], [1], [], [4], [0, 1, 2]]


def test_poisson_sampling_draws_each_example_by_itself():
    n, probability, steps = 40, 0.3, 2000
    drawn = poisson_draws(n, probability * n, steps)
    variance = probability * (1 - probability)
    assert ((drawn.mean(0) - probability).abs() < 4.5 * math.sqrt(variance / steps)).all()
    correlation = torch.corrcoef(drawn.T).fill_diagonal_(0)
    assert correlation.abs().max() < 5 / math.sqrt(steps)
    # Its number is binomial: a fixed one, or one in pairs, would have another variance.
    counts = drawn.sum(1)
    assert counts.var().item() == pytest.approx(n * variance, rel=4.5 * math.sqrt(2 / steps))


def test_poisson_sampling_at_its_bounds():
    assert poisson_indices(5, 5, seed=0, step=0).tolist() == [0, 1, 2, 3, 4]
    assert poisson_indices(5, 1e-9, seed=0, step=0).tolist() == []
    assert poisson_indices(5, 1e-9, seed=0, step=0).dtype == torch.int64


def test_every_seed_and_step_has_a_poisson_sample_of_its_own():
    samples = {tuple(poisson_indices(64, 32, s, step).tolist()) for s in range(-3, 10) for step in range(10)}
    assert len(samples) == 13 * 10


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"n": 0}, "poisson_indices: n=0 is not at least 1."),
        ({"expected_batch_size": 0}, "poisson_indices: expected_batch_size=0 lies outside (0, 5]."),
        ({"expected_batch_size": 6}, "poisson_indices: expected_batch_size=6 lies outside (0, 5]."),
        ({"step": -1}, "poisson_indices: step=-1 is not at least 0."),
        ({"seed": 0.5}, "poisson_indices: seed=0.5 is of type float, expected an int."),
    ],
)
def test_a_wrong_argument_of_poisson_sampling_is_told(arguments, sentence):
    with pytest.raises(PureSGDError) as caught:
        poisson_indices(**{"n": 5, "expected_batch_size": 2, "seed": 0, "step": 0, **arguments})
    assert sentence in str(caught.value)


@pytest.mark.parametrize("replacement", [False, True])
def test_all_epochs_at_once_are_those_one_by_one(replacement: bool):
    def epoch(number: int | torch.Tensor) -> torch.Tensor:
        return epoch_indices(7, 3, 5, number, replacement)

    assert torch.equal(torch.func.vmap(epoch)(torch.arange(4)), torch.stack([epoch(k) for k in range(4)]))


@pytest.mark.parametrize("replacement", [False, True])
def test_the_order_is_the_same_for_every_batch_size(replacement: bool):
    whole = epoch_indices(60, 60, 5, 2, replacement)[0]
    for size in (1, 7, 30):
        assert torch.equal(epoch_indices(60, size, 5, 2, replacement).flatten()[:60], whole)


@pytest.fixture(params=["held whole", "calculated"])
def small_windows(request, monkeypatch) -> int:
    """A number of examples, in both ways to find their order."""
    monkeypatch.setattr(order, "WINDOW", 64)
    monkeypatch.setattr(order, "LARGE", 4097 if request.param == "calculated" else 2**20)
    return 4101


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("size", [1, 10, 100])
def test_windows_give_the_rows_of_the_table_from_any_row_on(small_windows, size, replacement, drop_last):
    n = small_windows
    table = epoch_indices(n, size, 3, 1, replacement, drop_last)
    for start in (0, 1, len(table) - 1, len(table), len(table) + 1):
        windows = list(epoch_windows(n, size, 3, 1, replacement, drop_last, start))
        assert torch.equal(torch.cat([torch.empty(0, size, dtype=torch.int64), *windows]), table[start:])
        assert all(rows.numel() <= max(size, 64) for rows in windows)


def test_a_calculated_order_holds_each_example_once(small_windows):
    n = small_windows
    rows = epoch_indices(n, 100, seed=0, epoch=0)
    assert torch.equal(rows.flatten()[:n].sort().values, torch.arange(n))
    assert torch.equal(rows.flatten()[n:], rows[0, : rows.numel() - n])


def test_a_calculated_order_maps_and_compiles(monkeypatch):
    monkeypatch.setattr(order, "LARGE", 4097)

    def epoch(number: torch.Tensor) -> torch.Tensor:
        return epoch_indices(4101, 100, 5, number)

    expected = torch.stack([epoch_indices(4101, 100, 5, number) for number in range(3)])
    assert torch.equal(torch.func.vmap(epoch)(torch.arange(3)), expected)
    compiled = torch.compile(epoch, fullgraph=True, backend="aot_eager")
    assert torch.equal(torch.stack([compiled(number) for number in torch.arange(3)]), expected)


@pytest.mark.parametrize(
    "n, seed, epoch, start, once, drawn",
    [
        (2**20, 0, 0, 0, [561218, 279960, 26267], [1026055, 93657, 537701]),
        (2**20 + 7, 3, 1, 2**17, [947387, 536830, 733834], [625170, 311520, 245164]),
        (10**9, 42, 2, 10**8, [768630948, 801055415, 623669893], [188242065, 554401718]),
        (2**40, 7, 1, 2**37, [701334652058, 291987988654, 332272071800], [856285883566, 736318420368]),
        (2**40, 7, 1, 2**40 // 5, [124896429621, 210337839576], [134471789340, 624766480621]),
    ],
)
def test_an_order_that_nobody_holds_is_frozen(n, seed, epoch, start, once, drawn):
    for replacement, expected in ((False, once), (True, drawn)):
        row = next(epoch_windows(n, 5, seed, epoch, replacement, start=start))[0]
        assert row[: len(expected)].tolist() == expected


# --- a calculated order is told from chance by no statistic ---


def deviation(pairs: torch.Tensor, bins: int, n: int) -> float:
    """How far chi-square of the counts of pairs of bins lies from its mean, in standard deviations.

    Each bin of the one holds as many as each bin of the other, hence the degrees of freedom and the factor.
    """
    counts = torch.bincount(pairs, minlength=bins**2).double()
    freedom = (bins - 1) ** 2
    statistic = float(((counts - n / bins**2) ** 2 / (n / bins**2)).sum()) * (n - 1) / n
    return (statistic - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize("epochs", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_a_calculated_order_is_like_one_by_chance(epochs):
    n, bins = 2**20 + 7, 100
    places, before, neighbours = torch.arange(n), None, 0
    for epoch in range(epochs):
        rows = epoch_indices(n, n, seed=1, epoch=epoch)[0]
        assert torch.equal(rows.sort().values, places)
        assert abs(deviation(places * bins // n * bins + rows * bins // n, bins, n)) < 4.5
        steps = rows[1:] - rows[:-1]
        neighbours += int((steps.abs() == 1).sum())
        centred = rows.double() - (n - 1) / 2
        lag_one = float((centred[1:] * centred[:-1]).sum() / centred.square().sum())
        assert abs(lag_one) < 4.5 / math.sqrt(n)
        if before is not None:
            assert abs(deviation(before * bins // n * bins + rows * bins // n, bins, n)) < 4.5
        before = rows
    # Two are expected in each order, and their number is close to Poisson's.
    assert abs(neighbours - 2 * epochs) < 4.5 * math.sqrt(2 * epochs)
