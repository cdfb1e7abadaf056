"""MARS, cautious updates and Grokfast, against loops written from their papers and their authors' code."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import pytest
import torch
from test_moments import GRADS, outputs
from test_torch_optim import STEPS, initial_params, loss, ours

import pure_sgd as ps


def grads_at(step: int) -> torch.Tensor:
    return torch.sin(1.7 * torch.arange(6, dtype=torch.float64) + 0.9 * step) * (0.1 + 0.2 * step)


def leaf_outputs(tx: ps.GradientTransformation, steps: int = 9) -> list[torch.Tensor]:
    params = torch.zeros(6, dtype=torch.float64)
    state, out = tx.init(params), []
    for step in range(steps):
        updates, state = tx.update(grads_at(step), state, params)
        out.append(updates)
    return out


def test_mars():
    b1, b2, gamma, eps = 0.8, 0.9, 0.3, 1e-3
    m, v, before, want, shortened = [0.0] * 6, [0.0] * 6, grads_at(0).tolist(), [], []
    for t in range(1, 10):
        grads = grads_at(t - 1).tolist()
        c = [g + gamma * b1 / (1 - b1) * (g - b) for g, b in zip(grads, before, strict=True)]
        norm = math.sqrt(sum(x * x for x in c))
        shortened.append(norm > 1)
        c = [x / max(1.0, norm) for x in c]
        m = [b1 * a + (1 - b1) * x for a, x in zip(m, c, strict=True)]
        v = [b2 * a + (1 - b2) * x * x for a, x in zip(v, c, strict=True)]
        want.append([a / (1 - b1**t) / (math.sqrt(b / (1 - b2**t)) + eps) for a, b in zip(m, v, strict=True)])
        before = grads
    assert not shortened[0]
    assert shortened[-1]
    got = torch.stack(leaf_outputs(ps.scale_by_mars(b1, b2, gamma, eps)))
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64), rtol=1e-12, atol=0.0)


def test_mars_without_a_correction_is_adam_of_clipped_leaves():
    got = leaf_outputs(ps.scale_by_mars(gamma=0.0))
    want = leaf_outputs(ps.chain(ps.clip_by_global_norm(1.0), ps.scale_by_adam(0.95, 0.99)))
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0.0)


def test_the_norm_that_mars_clips_is_that_of_one_leaf():
    params = {"a": torch.zeros(2), "b": torch.zeros(2)}
    tx = ps.scale_by_mars()
    grads = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([0.3, 0.4])}
    _, state = tx.update(grads, tx.init(params))
    torch.testing.assert_close(state.moments.mu["a"], 0.05 * grads["a"] / 5)
    torch.testing.assert_close(state.moments.mu["b"], 0.05 * grads["b"])


def test_cautious_adamw():
    rate, decay, b1, b2, eps = 0.05, 0.1, 0.9, 0.99, 1e-8
    params = initial_params()
    m, v = ({name: torch.zeros_like(p) for name, p in params.items()} for _ in range(2))
    tx = ps.chain(
        ps.cautious(ps.scale_by_adam(b1, b2, eps)),
        ps.add_decayed_weights(decay),
        ps.scale_by_learning_rate(rate),
    )
    dropped = taken = 0
    for t, (got, _) in enumerate(ours(tx), 1):
        for name, g in torch.func.grad(loss)(params).items():
            m[name] = b1 * m[name] + (1 - b1) * g
            v[name] = b2 * v[name] + (1 - b2) * g * g
            mask = (m[name] * g > 0).double()
            dropped += int((mask == 0).sum())
            step = rate * (m[name] / (1 - b1**t)) / ((v[name] / (1 - b2**t)).sqrt() + eps)
            shrunk = params[name] * (1 - rate * decay)
            params[name] = shrunk - step * mask / mask.mean().clamp(min=1e-3)
        torch.testing.assert_close(got, params, rtol=1e-10, atol=1e-12)
        taken = t
    assert taken == STEPS
    assert dropped > 0


def test_cautious_on_the_gradient_itself_changes_nothing_but_zeros():
    u = torch.tensor([1.0, 0.0, -1e-30, 2.0])
    tx = ps.cautious(ps.identity())
    torch.testing.assert_close(tx.update(u, tx.init(u))[0], u * 4 / 3, rtol=1e-6, atol=0.0)


def test_cautious_stands_still_where_nothing_agrees():
    tx = ps.cautious(ps.scale(-1.0))
    assert tx.update(torch.ones(3), tx.init(torch.ones(3)))[0].tolist() == [0.0, 0.0, 0.0]


def test_cautious_drops_complex_entries_that_point_backwards():
    u = torch.tensor([1 + 1j, 1 + 1j])
    turned = ps.stateless(lambda updates, params: updates * torch.tensor([1j * 0.5 + 1, 1j * 2 - 1]))
    out, _ = ps.cautious(turned).update(u, ps.EmptyState())
    torch.testing.assert_close(out, torch.tensor([(1 + 1j) * (1 + 0.5j) * 2, 0]))


def test_cautious_refuses_what_points_downhill():
    with pytest.raises(ps.PureSGDError, match=r"^cautious: inner=.* points downhill. Put it behind"):
        ps.cautious(ps.adam(0.1)).init(torch.ones(2))
    with pytest.raises(ps.PureSGDError, match=r"^cautious: got a function"):
        ps.cautious(ps.scale_by_adam)


def test_cautious_passes_extra_arguments_on():
    tx = ps.cautious(ps.scale_by_polyak())
    assert ps.transforms.extra_args_of(tx) == ("value",)
    out, _ = tx.update(torch.tensor([2.0]), tx.init(torch.zeros(1)), torch.zeros(1), value=1.0)
    assert out.tolist() == [0.5]


def test_grokfast_ema():
    alpha, lamb, ema, want = 0.7, 3.0, GRADS[0], []
    for g in GRADS:
        ema = alpha * ema + (1 - alpha) * g
        want.append(g + lamb * ema)
    assert outputs(ps.grokfast_ema(alpha, lamb)) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("warmup", [True, False])
@pytest.mark.parametrize("filter_type", ["mean", "sum"])
def test_grokfast_ma(filter_type: str, warmup: bool):
    lamb, window, want = 3.0, deque[float](maxlen=4), []
    for g in GRADS:
        window.append(g)
        slow = sum(window) / (len(window) if filter_type == "mean" else 1)
        want.append(g if warmup and len(window) < 4 else g + lamb * slow)
    got = outputs(ps.grokfast_ma(4, lamb, filter_type, warmup))
    assert got == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize(
    "name, settings, words",
    [
        ("scale_by_mars", {"b1": 1.0}, r"b1=1.0 lies outside \[0, 1\)"),
        ("scale_by_mars", {"gamma": -1.0}, r"gamma=-1.0 lies outside \[0, inf\)"),
        ("grokfast_ema", {"alpha": 1.0}, r"alpha=1.0 lies outside \[0, 1\)"),
        ("grokfast_ma", {"window_size": 0}, "window_size=0 is not at least 1"),
        ("grokfast_ma", {"filter_type": "max"}, "filter_type='max' is unknown. Pass 'mean' or 'sum'"),
    ],
)
def test_what_makes_no_sense_is_an_error_that_names_it(name: str, settings: dict[str, Any], words: str):
    with pytest.raises(ps.PureSGDError, match=f"^{name}: {words}"):
        getattr(ps, name)(**settings)
