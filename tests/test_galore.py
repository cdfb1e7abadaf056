"""GaLore: against a loop with the decomposition of NumPy, and what must not matter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from streams import normal, outputs, stream_of

import pure_sgd as ps
from pure_sgd.transforms.matrices import galore


def assert_close(got: Any, want: Any, rtol: float = 1e-9, atol: float = 1e-12) -> None:
    torch.testing.assert_close(got, want, rtol=rtol, atol=atol)


def galore_of(
    stream: list[torch.Tensor], rank: int, gap: int, scale: float, b1: float, b2: float, eps: float
) -> Iterator[np.ndarray]:
    """Algorithm 2 of the paper, Adam within, on the longer side."""
    p, mean, second = np.zeros(()), np.zeros(()), np.zeros(())
    for step, u in enumerate(stream):
        g = u.numpy()
        g = g if len(g) >= len(g.T) else g.T
        if step % gap == 0:
            new = np.linalg.svd(g, full_matrices=False)[0][:, :rank]
            p = new * np.where((p * new).sum(0) < 0, -1, 1) if step else new
        low, t = p.T @ g, step + 1
        mean, second = b1 * mean + (1 - b1) * low, b2 * second + (1 - b2) * low**2
        out = scale * p @ (mean / (1 - b1**t) / (np.sqrt(second / (1 - b2**t)) + eps))
        yield out if out.shape == u.shape else out.T


@pytest.mark.parametrize("gap", [1, 3, 100])
@pytest.mark.parametrize("rank", [1, 2, 50])
@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)], ids=str)
def test_it_follows_the_paper(shape: tuple[int, ...], rank: int, gap: int):
    stream = stream_of(*shape)
    tx = ps.scale_by_galore(rank, gap, 0.25, ps.scale_by_adam(0.8, 0.9, 1e-3))
    assert sum(
        leaf.numel() for leaf in ps.tree.leaves(tx.init(stream[0]).base_optimizer_state)
    ) == 1 + 2 * min(rank, *shape) * min(shape)
    for got, want in zip(
        outputs(tx, stream), galore_of(stream, rank, gap, 0.25, 0.8, 0.9, 1e-3), strict=True
    ):
        assert_close(got, torch.from_numpy(want.copy()))


def test_the_signs_of_the_decomposition_do_not_matter(monkeypatch: pytest.MonkeyPatch):
    stream, tx = stream_of(5, 3), ps.scale_by_galore(2, 2)
    want = outputs(tx, stream)
    real, flips = torch.linalg.svd, iter(stream_of(3, steps=99))

    def flipped(x: torch.Tensor, full_matrices: bool) -> Any:
        u, s, vh = real(x, full_matrices=full_matrices)
        sign = next(flips).sign()
        return u * sign, s, vh * sign[:, None]

    monkeypatch.setattr(torch.linalg, "svd", flipped)
    assert_close(outputs(tx, stream), want)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5)], ids=str)
def test_a_rule_that_is_linear_is_a_projection(shape: tuple[int, ...]):
    u = normal(*shape)
    left, s, right = torch.linalg.svd(u, full_matrices=False)
    got = outputs(ps.scale_by_galore(2, base_optimizer=ps.scale(3.0)), [u])[0]
    assert_close(got, 3 * left[:, :2] @ torch.diag(s[:2]) @ right[:2])
    assert_close(outputs(ps.scale_by_galore(9, base_optimizer=ps.scale(3.0)), [u])[0], 3 * u)


def test_complex_matrices_are_projected_too():
    for shape in ((4, 3), (3, 4)):
        u = torch.complex(normal(*shape), normal(*shape, seed=1))
        assert_close(outputs(ps.scale_by_galore(base_optimizer=ps.scale(3.0)), [u])[0], 3 * u)


def test_other_leaves_are_the_base_rule_s_own_and_keep_their_scale():
    stream = [
        {"w": normal(3, 2, seed=s), "b": normal(2, seed=s), "k": normal(2, 2, 2), "e": normal(0, 4)}
        for s in range(3)
    ]
    plain = outputs(ps.scale_by_adam(), stream)
    for got, want in zip(outputs(ps.scale_by_galore(scale=0.25), stream), plain, strict=True):
        for name in ("b", "k", "e"):
            assert_close(got[name], want[name])


def test_the_axes_of_a_matrix_may_be_named():
    stream = stream_of(2, 5, 3)
    axes = ps.GaLoreDimensionNumbers(reduction_axis=(2, 0), output_axis=1)
    flat = [u.permute(2, 0, 1).reshape(6, 5) for u in stream]
    got = outputs(ps.scale_by_galore(2, 2, weight_dimension_numbers=axes), stream)
    for one, other in zip(got, outputs(ps.scale_by_galore(2, 2), flat), strict=True):
        assert_close(one.permute(2, 0, 1).reshape(6, 5), other)
    batched = ps.GaLoreDimensionNumbers(reduction_axis=1, output_axis=2)
    got = outputs(ps.scale_by_galore(2, 2, weight_dimension_numbers=batched), stream)
    for index in range(2):
        alone = outputs(ps.scale_by_galore(2, 2), [u[index] for u in stream])
        assert_close([one[index] for one in got], alone)


def test_the_decomposition_is_skipped_in_between(monkeypatch: pytest.MonkeyPatch):
    calls, real = [], galore.constant

    def counted(x: torch.Tensor) -> torch.Tensor:
        calls.append(x)
        return real(x)

    monkeypatch.setattr(galore, "constant", counted)
    outputs(ps.scale_by_galore(update_proj_gap=3), stream_of(3, 2))
    assert len(calls) == 3  # at steps 0, 3 and 6


def test_updates_that_are_not_finite_give_no_exception():
    tx = ps.scale_by_galore()
    assert tx.update(torch.full((2, 2), torch.nan), tx.init(torch.zeros(2, 2)))[0].isnan().all()


def test_low_precision_is_rounded_once():
    u = normal(4, 3)
    want = outputs(ps.scale_by_galore(2, base_optimizer=ps.scale(3.0)), [u.bfloat16().double()])[0]
    got = outputs(ps.scale_by_galore(2, base_optimizer=ps.scale(3.0)), [u.bfloat16()])[0]
    assert got.dtype == torch.bfloat16
    assert_close(got.double(), want, rtol=5e-3, atol=1e-5)


def test_the_scale_has_a_slope():
    stream = stream_of(3, 2)

    def total(scale: torch.Tensor) -> torch.Tensor:
        return torch.stack(outputs(ps.scale_by_galore(1, 2, scale), stream)).square().sum()

    assert_close(torch.func.grad(total)(torch.tensor(3.0).double()), 6 * total(torch.tensor(1.0).double()))


@pytest.mark.parametrize(
    "bad, words",
    [({"rank": 0}, "rank"), ({"update_proj_gap": 0}, "update_proj_gap"), ({"scale": "big"}, "scale")],
)
def test_bad_options_are_named(bad: dict[str, Any], words: str):
    with pytest.raises(ps.PureSGDError, match=words):
        ps.scale_by_galore(**bad)
    with pytest.raises(ps.PureSGDError, match=words):
        ps.galore(0.1, **bad)


def test_a_base_rule_must_be_a_transform_that_needs_no_parameters():
    factory: Any = ps.scale_by_adam
    with pytest.raises(ps.PureSGDError, match="Call the factory"):
        ps.scale_by_galore(base_optimizer=factory)
    tx, params = ps.scale_by_galore(base_optimizer=ps.adamw(0.1)), torch.ones(2, 2)
    with pytest.raises(ps.PureSGDError, match="params is None"):
        tx.update(params, tx.init(params), params)
