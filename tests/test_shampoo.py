"""Shampoo: inverse roots against eigenvalues, updates against loops written from the paper."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from streams import normal, outputs, stream_of

import pure_sgd as ps
from pure_sgd.transforms.matrices import along, fibre_covariance, inverse_root, shampoo


def assert_close(got: Any, want: Any, rtol: float = 1e-10, atol: float = 1e-12) -> None:
    torch.testing.assert_close(got, want, rtol=rtol, atol=atol)


# Inverse roots


@pytest.mark.parametrize("order", [1, 2, 4, 6])
def test_a_power_of_the_inverse_root_is_the_inverse(order: int):
    x = normal(5, 5)
    matrix, eps = x @ x.mT, 0.3
    root = inverse_root(matrix, order, eps)
    assert_close(
        torch.linalg.matrix_power(root, order) @ (matrix + eps * torch.eye(5).double()), torch.eye(5).double()
    )
    assert_close(root, root.mT)


def test_a_singular_matrix_and_one_that_is_not_finite_have_a_root():
    matrix = fibre_covariance(normal(4, 1), 0)
    values = torch.linalg.eigvalsh(inverse_root(matrix, 2, 1e-4))
    assert_close(values[1:], torch.full((3,), 100.0, dtype=torch.float64), rtol=1e-6)
    assert_close(inverse_root(torch.zeros(2, 2), 4, 1e-8), 100 * torch.eye(2), rtol=1e-5)
    assert inverse_root(torch.tensor([[1.0, torch.inf], [torch.inf, 1.0]]), 2, 1.0).isnan().all()
    assert inverse_root(torch.eye(2), 2, 1e-38).isfinite().all()
    negative = torch.diag(torch.tensor([1.0, -1e-7]))  # as round-off may leave it
    assert_close(inverse_root(negative, 2, 1e-8)[1, 1], torch.tensor(1e4), rtol=1e-5)


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("order", [2, 4, 6])
def test_the_slope_of_a_root_is_that_of_the_function_also_where_eigenvalues_meet(order: int, same: bool):
    x = torch.eye(4, dtype=torch.float64) if same else normal(4, 4)
    matrix, way, weights = x @ x.mT, fibre_covariance(normal(4, 4, seed=1), 0), normal(4, 4, seed=2)

    def total(size: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
        return (weights * inverse_root(matrix + size * way, order, eps)).sum()

    at = torch.tensor(0.0, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    slopes = torch.func.grad(total, argnums=(0, 1))(*at)
    h = 1e-5
    assert_close(slopes[0], (total(at[0] + h, at[1]) - total(at[0] - h, at[1])) / (2 * h), rtol=1e-7)
    assert_close(slopes[1], (total(at[0], at[1] + h) - total(at[0], at[1] - h)) / (2 * h), rtol=1e-7)


def test_fibres():
    x = normal(2, 3, 4)
    assert_close(fibre_covariance(x, 1), torch.einsum("iaj,ibj->ab", x, x))
    matrix = normal(3, 3)
    assert_close(along(x, 1, matrix), torch.einsum("ab,ibj->iaj", matrix, x))


# Updates


def root_of(matrix: np.ndarray, power: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return vectors @ np.diag(values**power) @ vectors.T


def shampoo_of_matrices(stream: list[torch.Tensor], eps: float) -> Iterator[np.ndarray]:
    """Algorithm 1 of Gupta et al."""
    rows, columns = stream[0].shape
    left, right = eps * np.eye(rows), eps * np.eye(columns)
    for u in stream:
        g = u.numpy()
        left, right = left + g @ g.T, right + g.T @ g
        yield root_of(left, -1 / 4) @ g @ root_of(right, -1 / 4)


def shampoo_of_tensors(
    stream: list[torch.Tensor], eps: float, b2: float | None, root_every: int
) -> Iterator[np.ndarray]:
    """Algorithm 2 of Gupta et al., with a moving average and stale roots if asked for."""
    order = stream[0].ndim
    sums = [np.zeros((n, n)) for n in stream[0].shape]
    roots: list[np.ndarray] = []
    for step, u in enumerate(stream):
        g = u.numpy()
        for axis in range(order):
            unfolded = np.moveaxis(g, axis, 0).reshape(g.shape[axis], -1)
            square = unfolded @ unfolded.T
            sums[axis] = sums[axis] + square if b2 is None else b2 * sums[axis] + (1 - b2) * square
        if step % root_every == 0:
            weight = 1.0 if b2 is None else 1 - b2 ** (step + 1)
            roots = [root_of(s / weight + eps * np.eye(len(s)), -1 / (2 * order)) for s in sums]
        for axis in range(order):
            g = np.moveaxis(np.tensordot(roots[axis], g, axes=(1, axis)), 0, axis)
        yield g


def test_matrices_follow_the_paper():
    stream = stream_of(4, 3)
    for got, want in zip(
        outputs(ps.scale_by_shampoo(eps=0.1), stream), shampoo_of_matrices(stream, 0.1), strict=True
    ):
        assert_close(got, torch.from_numpy(want))


@pytest.mark.parametrize("root_every", [1, 3])
@pytest.mark.parametrize("b2", [None, 0.8])
@pytest.mark.parametrize("shape", [(4, 3), (3, 2, 4), (2, 1, 3, 2)], ids=str)
def test_tensors_of_any_rank_follow_the_paper(shape: tuple[int, ...], b2: float | None, root_every: int):
    stream = stream_of(*shape)
    tx = ps.scale_by_shampoo(1.0 if b2 is None else b2, 0.1, root_every)
    for got, want in zip(outputs(tx, stream), shampoo_of_tensors(stream, 0.1, b2, root_every), strict=True):
        assert_close(got, torch.from_numpy(want))


def test_complex_matrices():
    stream = [torch.complex(normal(3, 2, seed=s), normal(3, 2, seed=s + 9)) for s in range(3)]
    left, right = 0.1 * torch.eye(3, dtype=torch.complex128), 0.1 * torch.eye(2, dtype=torch.complex128)
    for g, got in zip(stream, outputs(ps.scale_by_shampoo(eps=0.1), stream), strict=True):
        left, right = left + g @ g.mH, right + g.mH @ g
        assert_close(got, inverse_root(left, 4, 0.0) @ g @ inverse_root(right, 4, 0.0))


@pytest.mark.parametrize("b2", [1.0, 0.9])
def test_the_first_update_is_the_orthogonal_factor(b2: float):
    g = normal(3, 5)
    u, _, vh = torch.linalg.svd(g, full_matrices=False)
    assert_close(outputs(ps.scale_by_shampoo(b2, 1e-14), [g])[0], u @ vh, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("b2", [1.0, 0.9])
def test_the_size_of_the_updates_does_not_matter(b2: float):
    stream = stream_of(4, 4)
    one = outputs(ps.scale_by_shampoo(b2, 1e-8), stream)
    other = outputs(ps.scale_by_shampoo(b2, 1e-2), [1e3 * u for u in stream])
    assert_close(one, other)


def test_a_turned_basis_turns_the_update():
    stream, (p, _), (q, _) = stream_of(4, 3), torch.linalg.qr(normal(4, 4)), torch.linalg.qr(normal(3, 3))
    got = outputs(ps.scale_by_shampoo(0.9, 0.1), [p @ u @ q for u in stream])
    for turned, plain in zip(got, outputs(ps.scale_by_shampoo(0.9, 0.1), stream), strict=True):
        assert_close(turned, p @ plain @ q)


def test_vectors_and_numbers_are_adagrad_and_with_a_decay_rmsprop():
    for shape in ((5,), ()):
        stream = stream_of(*shape)
        want = outputs(ps.scale_by_rss(0.0, 0.1), stream)
        assert_close(outputs(ps.scale_by_shampoo(eps=0.1, root_every=7), stream), want)
        want = outputs(ps.scale_by_rms(0.9, 0.1, bias_correction=True), stream)
        assert_close(outputs(ps.scale_by_shampoo(0.9, 0.1), stream), want)


def test_a_long_axis_keeps_its_diagonal():
    stream, eps = stream_of(2, 5), 0.1
    tx = ps.scale_by_shampoo(eps=eps, max_dim=4)
    assert [tuple(c.shape) for c in tx.init(stream[0]).covariances] == [(2, 2), (5,)]
    left, right = torch.zeros(2, 2, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    for g, got in zip(stream, outputs(tx, stream), strict=True):
        left, right = left + g @ g.mT, right + g.square().sum(0)
        assert_close(got, inverse_root(left, 4, eps) @ g * (right + eps) ** -0.25)


def test_an_empty_leaf_passes():
    tx = ps.scale_by_shampoo(graft="rms")
    empty = torch.zeros(0, 4)
    assert tx.update(empty, tx.init(empty))[0].shape == (0, 4)


def test_roots_are_skipped_in_between(monkeypatch: pytest.MonkeyPatch):
    calls = []

    def counted(*args: Any) -> torch.Tensor:
        calls.append(args)
        return inverse_root(*args)

    monkeypatch.setattr(shampoo, "inverse_root", counted)
    outputs(ps.scale_by_shampoo(root_every=3), stream_of(3, 2, steps=7))
    assert len(calls) == 2 * 3  # two axes, at steps 0, 3 and 6


@pytest.mark.parametrize("graft", ["sgd", "rms"])
def test_a_graft_gives_every_leaf_the_norm_of_another_rule(graft: str):
    stream = [{"w": normal(3, 4, seed=s), "b": normal(4, seed=s)} for s in range(4)]
    plain = outputs(ps.scale_by_shampoo(0.9, 0.1), stream)
    grafted = outputs(ps.scale_by_shampoo(0.9, 0.1, graft=graft), stream)
    rms = ps.scale_by_rms(0.9, 0.1, eps_in_sqrt=False, bias_correction=True)
    others = stream if graft == "sgd" else outputs(rms, stream)
    for one, two, other in zip(plain, grafted, others, strict=True):
        for name in one:
            assert_close(two[name], one[name] * other[name].norm() / one[name].norm())
    zero = torch.zeros(2, 2)
    assert outputs(ps.scale_by_shampoo(graft=graft), [zero])[0].eq(0).all()


def test_hyperparameters_have_exact_slopes_for_matrices_too():
    stream = [torch.eye(3, dtype=torch.float64), *stream_of(3, 3)]

    def total(values: torch.Tensor) -> torch.Tensor:
        tx = ps.scale_by_shampoo(values[0], values[1], 2, graft="rms")
        return (torch.stack(outputs(tx, stream)) * normal(len(stream), 3, 3, seed=7)).sum()

    at = torch.tensor([0.9, 0.2], dtype=torch.float64)
    slopes = torch.func.grad(total)(at)
    for index in range(2):
        h = 1e-6 * torch.eye(2, dtype=torch.float64)[index]
        assert_close(slopes[index], (total(at + h) - total(at - h)) / 2e-6, rtol=1e-6)


def test_sums_may_be_a_tensor_s_choice():
    stream = stream_of(3, 2)
    mapped = torch.func.vmap(lambda b2: torch.stack(outputs(ps.scale_by_shampoo(b2, 0.1, 2), stream)))(
        torch.tensor([1.0, 0.8], dtype=torch.float64)
    )
    for got, b2 in zip(mapped, (1.0, 0.8), strict=True):
        assert_close(got, torch.stack(outputs(ps.scale_by_shampoo(b2, 0.1, 2), stream)))


def test_updates_that_are_not_finite_give_nan_and_no_exception():
    tx = ps.scale_by_shampoo()
    updates, state = tx.update(torch.full((2, 2), torch.nan), tx.init(torch.zeros(2, 2)))
    assert updates.isnan().all()
    kept = ps.apply_if_finite(tx, 3)
    _, state = kept.update(torch.full((2, 2), torch.nan), kept.init(torch.zeros(2, 2)))
    assert kept.update(torch.eye(2), state)[0].isfinite().all()


@pytest.mark.parametrize("root_every, graft", [(1, None), (5, "rms")])
def test_the_optimizer_solves_an_ill_conditioned_problem(root_every: int, graft: str | None):
    rows, columns = torch.logspace(-2, 0, 4).double(), torch.logspace(-1, 0, 3).double()
    params = normal(4, 3)
    rate = ps.cosine_decay_schedule(0.3, 200)
    tx = ps.shampoo(rate, 0.5, 0.9, 1e-12, root_every=root_every, graft=graft)
    state = tx.init(params)
    for _ in range(200):
        updates, state = tx.update(rows[:, None] * params * columns, state, params)
        params = ps.apply_updates(params, updates)
    assert params.abs().max() < 1e-2


@pytest.mark.parametrize(
    "bad, words",
    [
        ({"b2": 1.1}, "b2"),
        ({"eps": 0.0}, "eps"),
        ({"root_every": 0}, "root_every"),
        ({"max_dim": 0}, "max_dim"),
        ({"graft": "adam"}, "graft='adam'"),
    ],
)
def test_bad_options_are_named(bad: dict[str, Any], words: str):
    with pytest.raises(ps.PureSGDError, match=words):
        ps.scale_by_shampoo(**bad)
    with pytest.raises(ps.PureSGDError, match=words):
        ps.shampoo(0.1, **bad)
