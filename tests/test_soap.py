"""SOAP: against a loop that keeps its moments as the authors do, and against Adam where they are equal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from streams import normal, outputs, stream_of

import pure_sgd as ps
from pure_sgd.transforms.matrices import soap


def assert_close(got: Any, want: Any, rtol: float = 1e-9, atol: float = 1e-12) -> None:
    torch.testing.assert_close(got, want, rtol=rtol, atol=atol)


def turned(x: np.ndarray, bases: list[np.ndarray | None], back: bool = False) -> np.ndarray:
    for axis, q in enumerate(bases):
        if q is not None:
            x = np.moveaxis(np.tensordot(q if back else q.T, x, axes=(1, axis)), 0, axis)
    return x


def soap_of(
    stream: list[torch.Tensor], b1: float, b2: float, memory: float, eps: float, every: int, longest: int
) -> Iterator[np.ndarray]:
    """Algorithm 3 of the paper, the first moment kept in the basis and turned along with it."""
    shape = stream[0].shape
    squares = [np.zeros((n, n)) if n <= longest else None for n in shape]
    bases: list[np.ndarray | None] = []
    mean, second = np.zeros(shape), np.zeros(shape)
    for t, u in enumerate(stream):
        g = u.numpy()
        if t == 0:
            yield np.zeros(shape)
        else:
            now = turned(g, bases)
            mean, second = b1 * mean + (1 - b1) * now, b2 * second + (1 - b2) * now**2
            adam = mean / (1 - b1**t) / (np.sqrt(second / (1 - b2**t)) + eps)
            yield turned(adam, bases, back=True)
            mean = turned(mean, bases, back=True)
        for axis, square in enumerate(squares):
            if square is not None:
                unfolded = np.moveaxis(g, axis, 0).reshape(shape[axis], -1)
                squares[axis] = memory * square + (1 - memory) * unfolded @ unfolded.T
        if t == 0:
            bases = [None if s is None else np.linalg.eigh(s)[1] for s in squares]
        elif t % every == 0:
            for axis, (square, basis) in enumerate(zip(squares, bases, strict=True)):
                if square is not None and basis is not None:
                    order = np.argsort(-np.diag(basis.T @ square @ basis))
                    second = np.take(second, order, axis)
                    bases[axis] = np.linalg.qr(square @ basis[:, order])[0]
        mean = turned(mean, bases) if t else mean


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("longest", [100, 3])
@pytest.mark.parametrize("shape", [(3, 4), (4, 2, 3)], ids=str)
def test_it_follows_the_paper(shape: tuple[int, ...], longest: int, every: int):
    stream = stream_of(*shape)
    tx = ps.scale_by_soap(0.8, 0.9, 1e-3, every, longest, shampoo_beta=0.7)
    for got, want in zip(
        outputs(tx, stream), soap_of(stream, 0.8, 0.9, 0.7, 1e-3, every, longest), strict=True
    ):
        assert_close(got, torch.from_numpy(want.copy()))


def test_the_covariances_remember_as_long_as_the_second_moment_by_default():
    stream = stream_of(3, 4)
    assert_close(
        outputs(ps.scale_by_soap(0.8, 0.9, 1e-3, 1), stream),
        outputs(ps.scale_by_soap(0.8, 0.9, 1e-3, 1, shampoo_beta=0.9), stream),
    )


def test_with_covariances_that_are_diagonal_it_is_adam_a_step_later():
    stream = [torch.diag(normal(4, seed=seed) * torch.tensor([4.0, 3.0, 2.0, 1.0])) for seed in range(6)]
    got = outputs(ps.scale_by_soap(0.9, 0.95, 1e-3, precondition_frequency=1), stream)
    assert got[0].eq(0).all()
    assert_close(got[1:], outputs(ps.scale_by_adam(0.9, 0.95, 1e-3), stream[1:]))


def test_vectors_numbers_and_long_axes_are_adam_a_step_later():
    for shape in ((5,), (), (0, 4), (5, 6)):
        stream = stream_of(*shape)
        got = outputs(ps.scale_by_soap(0.9, 0.95, max_precond_dim=4), stream)
        assert_close(got[1:], outputs(ps.scale_by_adam(0.9, 0.95), stream[1:]))


def test_a_turned_basis_turns_the_update():
    stream, (p, _), (q, _) = stream_of(4, 3), torch.linalg.qr(normal(4, 4)), torch.linalg.qr(normal(3, 3))
    tx = ps.scale_by_soap(precondition_frequency=2)
    for other, plain in zip(outputs(tx, [p @ u @ q for u in stream]), outputs(tx, stream), strict=True):
        # Adam amplifies round-off along the fourth row, which the first matrix leaves without variance.
        assert_close(other, p @ plain @ q, rtol=1e-6, atol=1e-6)


def test_complex_matrices_are_turned_by_unitary_bases():
    phase = torch.exp(1j * normal(3, 1))
    stream = stream_of(3, 4)
    tx = ps.scale_by_soap(eps=1e-3, precondition_frequency=2)
    for got, plain in zip(outputs(tx, [phase * u for u in stream]), outputs(tx, stream), strict=True):
        assert_close(got, phase * plain, rtol=1e-6, atol=1e-8)


def test_the_basis_comes_to_hold_the_eigenvectors():
    side, _ = torch.linalg.qr(normal(3, 3))
    tx = ps.scale_by_soap(b2=0.99, precondition_frequency=1)
    state = tx.init(torch.zeros(3, 3, dtype=torch.float64))
    for seed in range(300):
        scaled = torch.tensor([9.0, 3.0, 1.0]).double()[:, None] * normal(3, 3, seed=seed)
        _, state = tx.update(side @ scaled, state)
    left, basis = state.covariances[0], state.bases[0]
    assert_close(basis.mT @ basis, torch.eye(3, dtype=torch.float64))
    seen = basis.mT @ left @ basis
    correlation = seen / torch.outer(seen.diag(), seen.diag()).sqrt()
    assert_close(correlation, torch.eye(3, dtype=torch.float64), atol=1e-2)
    assert seen.diag().diff().max() < 0


def test_the_decompositions_are_skipped_in_between(monkeypatch: pytest.MonkeyPatch):
    calls = {"eigen": 0, "_power_iteration": 0}
    for name in calls:
        real = getattr(soap, name)

        def counted(*args: Any, name: str = name, real: Any = real) -> Any:
            calls[name] += 1
            return real(*args)

        monkeypatch.setattr(soap, name, counted)
    outputs(ps.scale_by_soap(precondition_frequency=3), stream_of(3, 2, steps=8))
    assert calls == {"eigen": 2, "_power_iteration": 2 * 2}  # two axes; at step 0, then at 3 and 6


def test_hyperparameters_have_slopes_with_the_basis_held():
    stream = [torch.eye(3, dtype=torch.float64), *stream_of(3, 3)]

    def total(values: torch.Tensor) -> torch.Tensor:
        tx = ps.scale_by_soap(values[0], values[1], values[2], 2, shampoo_beta=0.9)
        return (torch.stack(outputs(tx, stream)) * normal(len(stream), 3, 3, seed=7)).sum()

    at = torch.tensor([0.9, 0.8, 0.1], dtype=torch.float64)
    slopes = torch.func.grad(total)(at)
    for index in range(3):
        h = 1e-6 * torch.eye(3, dtype=torch.float64)[index]
        assert_close(slopes[index], (total(at + h) - total(at - h)) / 2e-6, rtol=1e-6, atol=1e-8)


def test_updates_that_are_not_finite_give_no_exception():
    tx = ps.apply_if_finite(ps.scale_by_soap(precondition_frequency=1), 0)
    bad, state = torch.full((2, 2), torch.nan), tx.init(torch.zeros(2, 2))
    for _ in range(3):  # accepted, since one in a row is too many already
        _, state = tx.update(bad, state)
    assert tx.update(bad, state)[0].isnan().all()


def test_the_optimizer_is_the_rule_with_decay_and_rate():
    params, g = normal(3, 3, seed=5), normal(3, 3)
    tx = ps.soap(ps.constant_schedule(0.1), 0.9, eps=1e-3, weight_decay=0.2, mask=lambda path: True)
    first, state = tx.update(g, tx.init(params), params)
    assert_close(first, -0.1 * 0.2 * params)
    second, _ = tx.update(g, state, params)
    assert_close(second, -0.1 * (outputs(ps.scale_by_soap(0.9, eps=1e-3), [g, g])[1] + 0.2 * params))


@pytest.mark.parametrize(
    "bad, words",
    [
        ({"b1": 1.0}, "b1"),
        ({"b2": -0.1}, "b2"),
        ({"shampoo_beta": 1.0}, "shampoo_beta"),
        ({"eps": -1.0}, "eps"),
        ({"precondition_frequency": 0}, "precondition_frequency"),
        ({"max_precond_dim": 0}, "max_precond_dim"),
    ],
)
def test_bad_options_are_named(bad: dict[str, Any], words: str):
    with pytest.raises(ps.PureSGDError, match=words):
        ps.scale_by_soap(**bad)
    with pytest.raises(ps.PureSGDError, match=words):
        ps.soap(0.1, **bad)
