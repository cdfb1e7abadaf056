"""Random numbers: the bits of JAX, the same however they are run, and random indeed."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import pytest
import torch

from pure_sgd import random
from pure_sgd.errors import PureSGDError
from pure_sgd.random.erfinv import erfinv
from pure_sgd.random.keys import threefry

RECORDED = json.loads((Path(__file__).parent / "golden" / "random.json").read_text())
DTYPES = {"float32": torch.float32, "float64": torch.float64}
WORDS = {"float32": (torch.int32, "<I"), "float64": (torch.int64, "<Q")}
MANY = 100_000


def from_bits(integers, dtype: str) -> torch.Tensor:
    """The floats of ``dtype`` that have the bits of these unsigned integers."""
    size = 4 if dtype == "float32" else 8
    flat = integers if isinstance(integers, list) else [integers]
    data = bytearray(b"".join(number.to_bytes(size, "little") for number in flat))
    return torch.frombuffer(data, dtype=DTYPES[dtype])


def ulps(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """How many floats lie between numbers of one sign."""
    integer = torch.int32 if a.dtype == torch.float32 else torch.int64
    return (a.view(integer).long() - b.view(integer).long()).abs()


def sha256(values: torch.Tensor) -> str:
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()


@pytest.mark.parametrize(
    "counter, key, expected",
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((2**32 - 1, 2**32 - 1), (2**32 - 1, 2**32 - 1), (0x1CB996FC, 0xBB002BE7)),
        ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_gives_the_known_answers_of_its_authors(counter, key, expected):
    assert tuple(int(word) for word in threefry(torch.tensor(key), *counter)) == expected


@pytest.mark.parametrize("jax", RECORDED["seeds"], ids=lambda jax: f"seed={jax['seed']}")
def test_draws_are_those_of_jax(jax):
    key = random.key(jax["seed"])
    assert key.tolist() == jax["key"]
    assert random.key(torch.tensor(jax["seed"])).tolist() == jax["key"]
    assert random.split(key, 3).tolist() == jax["split"]
    for data, folded in jax["fold_in"]:
        assert random.fold_in(key, data).tolist() == folded
        assert random.fold_in(key, torch.tensor(data)).tolist() == folded
    assert random.bits(key, (2, 3)).tolist() == jax["bits"]
    assert int(random.bits(key)) == jax["bits_scalar"]
    p = RECORDED["probability"]
    assert random.bernoulli(key, p, (24,)).tolist() == jax["bernoulli"]
    for name, dtype in DTYPES.items():
        uniform = random.uniform(key, (6,), dtype)
        assert torch.equal(uniform, from_bits(jax["uniform"][name], name))
        in_range = random.uniform(key, (6,), dtype, *RECORDED["range"])
        assert torch.equal(in_range, from_bits(jax["uniform_in_range"][name], name))
    assert torch.equal(random.normal(key, (24,)), from_bits(jax["normal"]["float32"], "float32"))


def test_many_draws_are_those_of_jax():
    key, jax = random.key(42), RECORDED["many"]
    shape = (jax["count"],)
    assert sha256(random.bits(key, shape)) == jax["bits"]
    assert sha256(random.normal(key, shape)) == jax["normal_float32"]
    for name, dtype in DTYPES.items():
        uniform = random.uniform(key, shape, dtype, *RECORDED["range"])
        assert sha256(uniform) == jax[f"uniform_{name}"]


def test_float64_normals_are_within_3_units_in_the_last_place_of_those_of_jax():
    distance = torch.cat(
        [
            ulps(
                random.normal(random.key(jax["seed"]), (24,), torch.float64),
                from_bits(jax["normal"]["float64"], "float64"),
            )
            for jax in RECORDED["seeds"]
        ]
    )
    assert distance.max() <= 3
    assert (distance == 0).sum() >= 94  # of 96; of 10**6, 98.2 %


@pytest.mark.parametrize("name, largest", [("float32", 0), ("float64", 3)])
def test_the_inverse_error_function_is_that_of_jax_far_out_too(name, largest):
    u, expected = (
        from_bits(column, name) for column in map(list, zip(*RECORDED["erfinv"][name], strict=True))
    )
    result = erfinv(u.double(), DTYPES[name])
    assert ulps(result.to(DTYPES[name]), expected).max() <= largest
    torch.testing.assert_close(torch.erf(result), u.double(), rtol=1e-6, atol=0)


def everything(key: torch.Tensor, data: torch.Tensor) -> dict[str, torch.Tensor]:
    """Every function but the normal draws, with a key that descends from ``key``."""
    child = random.split(random.fold_in(key, data), 3)[2]
    return {
        "key": random.key(data),
        "bits": random.bits(child, (37,)),
        "uniform": random.uniform(child, (37,), minval=-3, maxval=data),
        "uniform64": random.uniform(child, (37,), torch.float64, minval=-3, maxval=data),
        "bernoulli": random.bernoulli(child, 1 / (data + 1), (37,)),
        "permutation": random.permutation(child, 37),
    }


def normals(key: torch.Tensor, data: torch.Tensor) -> dict[str, torch.Tensor]:
    """Draws in both dtypes, enough of them to meet the far branches."""
    return {
        "normal": random.normal(random.fold_in(key, data), (2003,)),
        "normal64": random.normal(key, (2003,), torch.float64),
    }


SEEDS = torch.tensor([0, 42, -1])
STEPS = torch.tensor([3, 2, 7])


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("program", [everything, normals])
def test_compiled_draws_are_the_same_to_the_last_bit(program, backend):
    compiled = torch.compile(program, backend=backend, fullgraph=True)
    draws, eager = (f(random.key(SEEDS[1]), STEPS[1]) for f in (compiled, program))
    for name, expected in eager.items():
        assert torch.equal(draws[name], expected), name


@pytest.mark.parametrize("program", [everything, normals])
def test_draws_mapped_over_keys_are_the_same_to_the_last_bit(program):
    keys = torch.func.vmap(random.key)(SEEDS)
    mapped = torch.func.vmap(program)(keys, STEPS)
    for index in range(len(SEEDS)):
        for name, expected in program(keys[index], STEPS[index]).items():
            assert torch.equal(mapped[name][index], expected), name


def test_one_key_can_be_mapped_over_what_is_folded_in():
    key, epochs = random.key(1), torch.arange(4)
    mapped = torch.func.vmap(random.fold_in, in_dims=(None, 0))(key, epochs)
    assert torch.equal(mapped, random.split(key, 4))


def test_a_compiled_program_takes_another_seed_without_a_recompile():
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    def draw(seed):
        return random.uniform(random.key(seed), (4,))

    compiled = torch.compile(draw, backend=backend, fullgraph=True)
    for seed in (0, 2**40, -7):
        assert torch.equal(compiled(torch.tensor(seed)), draw(seed))
    assert len(graphs) == 1


def test_a_long_draw_starts_like_a_short_one_and_counts_on():
    key, count = random.key(5), 2**16 + 3
    long = random.bits(key, (count,))
    assert torch.equal(long[:10], random.bits(key, (10,)))
    for i in (2**15 - 1, 2**15, 2**16, count - 1):
        a, b = threefry(key, 0, i)
        assert long[i] == a ^ b


def test_a_shape_is_only_a_shape():
    key = random.key(5)
    flat = random.normal(key, (24,))
    assert torch.equal(random.normal(key, (2, 3, 4)), flat.reshape(2, 3, 4))
    assert torch.equal(random.normal(key, torch.Size([24])), flat)
    assert torch.equal(random.normal(key), flat[0])
    assert random.normal(key, (0, 3)).shape == (0, 3)


@pytest.mark.parametrize("program", [everything, normals])
def test_draws_lie_on_the_device_of_the_key(program):
    draws = program(random.key(0, device="meta"), STEPS[0].to("meta"))
    assert {draw.device.type for draw in draws.values()} == {"meta"}
    assert random.key(torch.tensor(0), device="meta").device.type == "meta"


@pytest.mark.parametrize("program", [everything, normals])
def test_the_default_dtype_changes_nothing(program):
    eager = program(random.key(0), STEPS[0])
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        draws = program(random.key(0), STEPS[0])
    finally:
        torch.set_default_dtype(before)
    for name, expected in eager.items():
        assert draws[name].dtype == expected.dtype
        assert torch.equal(draws[name], expected), name


def test_all_64_bits_of_a_seed_and_of_what_is_folded_in_count():
    seeds = (0, 1, 2**32, 2**32 + 1, 2**63, -(2**63), -1, 2**64 - 2)
    assert len({tuple(random.key(seed).tolist()) for seed in seeds}) == len(seeds) - 1
    assert torch.equal(random.key(2**63), random.key(-(2**63)))
    assert torch.equal(random.key(torch.tensor(-5, dtype=torch.int8)), random.key(-5))
    key = random.key(0)
    assert not torch.equal(random.fold_in(key, 1), random.fold_in(key, 2**32 + 1))


@pytest.mark.parametrize("dtype", DTYPES.values())
def test_draws_can_be_differentiated_by_their_bounds(dtype):
    key = random.key(3)
    fraction = random.uniform(key, (5,), dtype)
    bounds = (torch.tensor(-1.0, dtype=dtype), torch.tensor(2.0, dtype=dtype))
    by_low, by_high = torch.func.jacrev(
        lambda low, high: random.uniform(key, (5,), dtype, low, high), argnums=(0, 1)
    )(*bounds)
    torch.testing.assert_close(by_low, 1 - fraction)
    torch.testing.assert_close(by_high, fraction)


def test_tensor_bounds_the_wrong_way_round_give_minval_as_in_jax():
    draws = random.uniform(random.key(0), (3,), minval=torch.tensor(2.0), maxval=torch.tensor(1.0))
    assert draws.tolist() == [2.0, 2.0, 2.0]


def close(value: torch.Tensor, expected: float, variance: float) -> bool:
    """Whether a mean of ``MANY`` draws lies within 4 standard errors of its expectation."""
    return abs(float(value) - expected) < 4 * math.sqrt(variance / MANY)


def kolmogorov_distance(probabilities: torch.Tensor) -> float:
    """How far the distribution of what should be uniform on (0, 1) is from that."""
    grid = torch.arange(1, len(probabilities) + 1) / len(probabilities)
    return float((probabilities.double().sort().values - grid).abs().max())


@pytest.mark.parametrize("dtype", DTYPES.values())
def test_uniform_draws_are_uniform(dtype):
    x = random.uniform(random.key(11), (MANY,), dtype)
    assert x.min() >= 0
    assert x.max() < 1
    assert close(x.mean(), 1 / 2, 1 / 12)
    assert close(((x - 0.5) ** 2).mean(), 1 / 12, 1 / 180)
    assert kolmogorov_distance(x) < 1.63 / math.sqrt(MANY)  # exceeded by 1 in 100
    assert close((x[1:] - 0.5) @ (x[:-1] - 0.5) * 12 / MANY, 0, 1)


@pytest.mark.parametrize("dtype", DTYPES.values())
def test_normal_draws_are_normal(dtype):
    x = random.normal(random.key(12), (MANY,), dtype).double()
    assert close(x.mean(), 0, 1)
    assert close((x**2).mean(), 1, 2)
    assert close((x**3).mean(), 0, 15)
    assert close((x**4).mean(), 3, 96)
    beyond = math.erfc(3 / math.sqrt(2))
    assert close((x.abs() > 3).double().mean(), beyond, beyond)
    assert kolmogorov_distance(torch.special.ndtr(x)) < 1.63 / math.sqrt(MANY)


def test_each_of_the_32_bits_is_set_half_the_time():
    words = random.bits(random.key(13), (MANY,))
    assert words.min() >= 0
    assert words.max() < 2**32
    shares = (words[:, None] >> torch.arange(32) & 1).double().mean(0)
    assert all(close(share, 1 / 2, 1 / 4) for share in shares)


@pytest.mark.parametrize("p", [0, 0.001, 0.3, 1])
def test_bernoulli_draws_are_true_with_probability_p(p):
    draws = random.bernoulli(random.key(14), p, (MANY,))
    assert draws.dtype == torch.bool
    assert abs(float(draws.double().mean()) - p) <= 4 * math.sqrt(p * (1 - p) / MANY)


def test_a_bernoulli_draw_is_true_where_the_uniform_one_is_below_p():
    key = random.key(0)
    p = random.uniform(key, (8,))
    assert not random.bernoulli(key, p, (8,)).any()
    assert not random.bernoulli(key, p[0], (8,))[0]
    assert random.bernoulli(key, torch.nextafter(p, torch.tensor(1.0)), (8,)).all()


def test_each_bernoulli_draw_can_have_its_own_probability():
    p = torch.tensor([0.0, 1.0, 0.0, 1.0])
    assert random.bernoulli(random.key(0), p, (4,)).tolist() == [False, True, False, True]


def test_children_are_uncorrelated_with_each_other_and_with_their_parent():
    key = random.key(15)
    family = [key, *random.split(key, 3), random.fold_in(key, 2**32)]
    draws = torch.stack([random.normal(member, (MANY,), torch.float64) for member in family])
    correlation = draws @ draws.T / MANY
    off_diagonal = correlation - torch.diag(torch.diagonal(correlation))
    assert off_diagonal.abs().max() < 4 / math.sqrt(MANY)


def test_first_draws_of_successive_seeds_are_uniform_and_uncorrelated():
    keys = torch.func.vmap(random.key)(torch.arange(MANY))
    x = torch.func.vmap(random.uniform)(keys).double()
    assert kolmogorov_distance(x) < 1.63 / math.sqrt(MANY)
    assert close((x[1:] - 0.5) @ (x[:-1] - 0.5) * 12 / MANY, 0, 1)


def test_a_permutation_holds_every_number_once():
    for n in (0, 1, 2, 7, 1000):
        order = random.permutation(random.key(n), n)
        assert order.dtype == torch.int64
        assert order.sort().values.tolist() == list(range(n))


def test_all_permutations_come_equally_often():
    draws = 24_000
    keys = random.split(random.key(16), draws)
    orders = torch.func.vmap(lambda key: random.permutation(key, 4))(keys)
    counts = torch.unique(orders, dim=0, return_counts=True)[1].double()
    assert len(counts) == math.factorial(4)
    chi_square = float(((counts - draws / 24) ** 2 / (draws / 24)).sum())
    assert abs(chi_square - 23) < 4 * math.sqrt(2 * 23)


def test_nothing_is_changed():
    key, seed = random.key(0), torch.tensor(7)
    everything(key, seed)
    assert torch.equal(key, random.key(0))
    assert seed == 7


KEY = random.key(0)


@pytest.mark.parametrize(
    "draw, sentence",
    [
        (
            lambda: random.key(0.5),
            "random.key: seed=0.5 is of type float, expected an int. Pass seed as a whole number.",
        ),
        (
            lambda: random.key(2**64),
            "random.key: seed=18446744073709551616 is not from -9223372036854775808 to 18446744073709551615.",
        ),
        (
            lambda: random.key(torch.tensor([1, 2])),
            "random.key: seed is torch.int64 (2,), expected an integer without axes. Pass an int or "
            "such a tensor, or map over an axis with torch.func.vmap.",
        ),
        (lambda: random.key(torch.tensor(True)), "seed is torch.bool (), expected an integer"),
        (
            lambda: random.fold_in(KEY, torch.tensor(1.0)),
            "random.fold_in: data is torch.float32 (), expected an integer without axes.",
        ),
        (
            lambda: random.normal(random.split(KEY, 5)),
            "random.normal: key is torch.int64 (5, 2), expected a key, which is torch.int64 (2,). "
            "Make one with random.key(seed), or map over an axis of keys with torch.func.vmap.",
        ),
        (lambda: random.split(42), "random.split: key is 42, expected a key"),
        (lambda: random.fold_in(42, 0), "random.fold_in: key is 42, expected a key"),
        (lambda: random.bits(42), "random.bits: key is 42, expected a key"),
        (lambda: random.uniform(42), "random.uniform: key is 42, expected a key"),
        (lambda: random.bernoulli(42), "random.bernoulli: key is 42, expected a key"),
        (lambda: random.permutation(KEY.int(), 3), "random.permutation: key is torch.int32 (2,)"),
        (lambda: random.split(KEY, 0), "random.split: num=0 is not at least 1"),
        (lambda: random.permutation(KEY, -1), "random.permutation: n=-1 is not from 0 to"),
        (
            lambda: random.bits(KEY, 3),
            "random.bits: shape=3 is not a tuple of sizes. Pass a tuple of ints, such as (3,).",
        ),
        (lambda: random.normal(KEY, (2, -1)), "random.normal: shape=(2, -1) is not a tuple of"),
        (
            lambda: random.uniform(KEY, (2**17, 2**16)),
            "random.uniform: shape=(131072, 65536) asks for 8589934592 numbers, and one key gives at "
            "most 2**32. Split the key and draw in parts.",
        ),
        (
            lambda: random.normal(KEY, (3,), torch.bfloat16),
            "random.normal: dtype=torch.bfloat16 is neither torch.float32 nor torch.float64. Draw "
            "in float32 and cast the result.",
        ),
        (
            lambda: random.uniform(KEY, (3,), torch.int64),
            "random.uniform: dtype=torch.int64 is neither",
        ),
        (
            lambda: random.uniform(KEY, minval=2.0, maxval=1.0),
            "random.uniform: minval=2.0 lies outside (-inf, 1]. Pass a minval within these bounds.",
        ),
        (
            lambda: random.uniform(KEY, (2,), maxval=torch.ones(2)),
            "random.uniform: maxval is a tensor of shape (2,), expected a 0-d tensor",
        ),
        (lambda: random.uniform(KEY, minval=abs), "random.uniform: minval is a function. Call it"),
        (lambda: random.bernoulli(KEY, 1.5), "random.bernoulli: p=1.5 lies outside [0, 1]"),
        (
            lambda: random.bernoulli(KEY, torch.ones(3)),
            "random.bernoulli: p has shape (3,), expected () or that of the draws, (). Pass shape=p.shape.",
        ),
    ],
)
def test_a_wrong_argument_is_told_with_its_remedy(draw, sentence):
    with pytest.raises(PureSGDError) as caught:
        draw()
    assert sentence in str(caught.value)
