"""Muon: orthogonal matrices by Newton-Schulz, against singular values, torch.optim.Muon and plain loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from streams import normal, outputs

import pure_sgd as ps
from pure_sgd.transforms.matrices import as_matrix, matrix_axes, newton_schulz, polynomials
from pure_sgd.transforms.matrices.axes import MatrixAxes

CUBIC = ((1.5, -0.5, 0.0),)  # converges to 1 from all of (0, sqrt(3))
TORCH = {"bias_correction": False, "clamp_norm": True}
LINEAR = ps.MuonDimensionNumbers(1, 0)


def assert_close(got: Any, want: Any, rtol: float = 1e-12, atol: float = 1e-14) -> None:
    torch.testing.assert_close(got, want, rtol=rtol, atol=atol)


def polar(x: torch.Tensor) -> torch.Tensor:
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    return u @ vh


# The iteration


@pytest.mark.parametrize("shape", [(4, 4), (3, 7), (7, 3), (1, 5), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("preconditioning", ["frobenius", "spectral", "aol", "schatten"])
def test_many_steps_give_the_orthogonal_factor(shape: tuple[int, ...], preconditioning: str):
    x = normal(*shape)
    assert_close(newton_schulz(x, CUBIC * 60, preconditioning, 0.0), polar_of(x, preconditioning), atol=1e-10)


def polar_of(x: torch.Tensor, preconditioning: str) -> torch.Tensor:
    if preconditioning == "aol":  # which changes the singular vectors, by a factor for each row
        wide = x if x.shape[-2] <= x.shape[-1] else x.mT
        wide = wide / (wide @ wide.mT).abs().sum(-1, keepdim=True).sqrt()
        return polar(wide if x.shape[-2] <= x.shape[-1] else wide.mT)
    return polar(x)


@pytest.mark.parametrize("name", ["standard", "dion"])
def test_five_steps_bring_the_singular_values_near_one(name: str):
    out = newton_schulz(normal(20, 30), polynomials("", name, 5), "spectral")
    values = torch.linalg.svdvals(out)
    assert values.min() > 0.65
    assert values.max() < 1.25
    assert_close(out, polar(normal(20, 30)), atol=0.3)


@pytest.mark.parametrize("preconditioning", ["frobenius", "spectral", "aol", "schatten"])
def test_a_step_is_its_polynomial_of_the_scaled_singular_values(preconditioning: str):
    x = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64))
    size = {"frobenius": math.sqrt(10), "spectral": 3.0, "schatten": 82**0.25}
    by = torch.tensor([size.get(preconditioning, 3.0), size.get(preconditioning, 1.0)], dtype=torch.float64)
    s = x.diag() / by  # for aol each row by its own norm, since they are orthogonal
    got = newton_schulz(x, ((2.0, -1.5, 0.5),), preconditioning, 0.0)
    assert_close(got, torch.diag(2 * s - 1.5 * s**3 + 0.5 * s**5))


def test_the_size_of_the_matrix_does_not_matter_and_zero_stays_zero():
    x, steps = normal(3, 5), polynomials("", "standard", 5)
    for preconditioning in ("frobenius", "spectral", "aol", "schatten"):
        one, other = (newton_schulz(c * x, steps, preconditioning, 0.0) for c in (1.0, 1e6))
        assert_close(one, other, rtol=1e-9)
        assert newton_schulz(torch.zeros(2, 3), steps, preconditioning).eq(0).all()


def test_complex_matrices_become_unitary():
    x = torch.complex(normal(3, 5), normal(3, 5, seed=1))
    out = newton_schulz(x, CUBIC * 60)
    assert_close(out @ out.mH, torch.eye(3, dtype=out.dtype), atol=1e-10)


@pytest.mark.parametrize("preconditioning", ["frobenius", "spectral", "aol", "schatten"])
def test_the_hyperparameters_have_slopes_where_singular_values_meet(preconditioning: str):
    stream = [torch.eye(3, dtype=torch.float64), normal(3, 3)]

    def total(beta: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
        tx = ps.scale_by_muon(beta=beta, eps=eps, preconditioning=preconditioning, adaptive=True)
        return (torch.stack(outputs(tx, stream)) * normal(2, 3, 3, seed=5)).sum()

    at = torch.tensor(0.9, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    slopes = torch.func.grad(total, argnums=(0, 1))(*at)
    for index, slope in enumerate(slopes):
        step = torch.tensor([1e-6 * (index == 0), 1e-6 * (index == 1)], dtype=torch.float64)
        up, down = (total(at[0] + sign * step[0], at[1] + sign * step[1]) for sign in (1, -1))
        assert_close(slope, (up - down) / 2e-6, rtol=1e-6, atol=1e-8)
    zero = torch.zeros(2, 2, dtype=torch.float64)

    def at_zero(beta: torch.Tensor) -> torch.Tensor:
        return outputs(ps.scale_by_muon(beta=beta, preconditioning=preconditioning), [zero])[0].sum()

    assert torch.func.grad(at_zero)(at[0]) == 0


# The transform


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("bias_correction", [True, False])
def test_the_mean_is_what_becomes_orthogonal(nesterov: bool, bias_correction: bool):
    stream, beta = [normal(4, 3, seed=seed) for seed in range(5)], 0.8
    tx = ps.scale_by_muon(beta=beta, nesterov=nesterov, bias_correction=bias_correction, adaptive=True)
    mu = torch.zeros(4, 3, dtype=torch.float64)
    for t, (g, got) in enumerate(zip(stream, outputs(tx, stream), strict=True), start=1):
        mu = beta * mu + (1 - beta) * g
        now, ahead = (1 - beta**t, 1 - beta ** (t + 1)) if bias_correction else (1.0, 1.0)
        hat = beta * mu / ahead + (1 - beta) * g / now if nesterov else mu / now
        want = newton_schulz(hat, polynomials("", "standard", 5))
        assert_close(got, (hat * want).sum() * want)


def test_matrices_within_a_leaf_are_treated_one_by_one():
    stream = [normal(2, 5, 3, 4, seed=seed) for seed in range(3)]
    axes = ps.MuonDimensionNumbers(reduction_axis=(-1, 0), output_axis=2)
    tx = ps.scale_by_muon(weight_dimension_numbers=axes, adaptive=True)
    got = outputs(tx, stream)
    for index in range(5):
        alone = [u[:, index].permute(2, 0, 1).reshape(8, 3) for u in stream]
        want = outputs(ps.scale_by_muon(adaptive=True), alone)
        for one, other in zip(got, want, strict=True):
            assert_close(one[:, index].permute(2, 0, 1).reshape(8, 3), other)


def test_other_leaves_leave_as_the_mean():
    stream = [{"b": normal(3, seed=s), "e": normal(0, 4), "k": normal(2, 2, 2, seed=s)} for s in range(3)]
    for got, want in zip(
        outputs(ps.scale_by_muon(nesterov=False), stream), outputs(ps.ema(0.95), stream), strict=True
    ):
        assert_close(got, want)


def test_it_runs_in_the_type_asked_for():
    stream = [normal(4, 3)]
    (rough,), (fine,) = (
        outputs(ps.scale_by_muon(ns_dtype=torch.bfloat16), stream),
        outputs(ps.scale_by_muon(), stream),
    )
    assert rough.dtype == fine.dtype == torch.float64
    assert torch.equal(rough, rough.bfloat16().double())
    assert not torch.equal(rough, fine)
    assert_close(rough, fine, rtol=0.05, atol=0.02)
    for dtype in (torch.float16, torch.bfloat16):
        (low,) = outputs(ps.scale_by_muon(mu_dtype=torch.bfloat16), [normal(4, 3).to(dtype)])
        assert low.dtype == dtype
        assert_close(low.double(), fine, rtol=0.05, atol=0.02)


def test_shape_factors():
    u = {"w": torch.ones(2, 8), "t": torch.ones(8, 2), "b": torch.ones(8)}
    got = outputs(ps.scale_by_shape(), [u])[0]
    assert [got[name].max().item() for name in ("w", "t", "b")] == [2.0, 1.0, 1.0]
    got = outputs(ps.scale_by_shape(LINEAR), [u])[0]
    assert [got[name].max().item() for name in ("w", "t", "b")] == [1.0, 2.0, 1.0]
    got = outputs(ps.scale_by_shape(consistent_rms=0.2), [{"w": polar(normal(4, 9))}])[0]["w"]
    assert_close(got.square().mean().sqrt(), torch.tensor(0.2, dtype=torch.float64))


# The optimizer


def torch_trajectory(monkeypatch: pytest.MonkeyPatch, exact: bool, **options: Any) -> list[torch.Tensor]:
    if exact:  # torch iterates in bfloat16 always: here in the type of the parameters
        monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    param = torch.nn.Parameter(normal(4, 3, seed=9))
    optimizer, seen = torch.optim.Muon([param], **options), []
    for step in range(6):
        param.grad = normal(4, 3, seed=step)
        optimizer.step()
        seen.append(param.detach().clone())
    return seen


def trajectory(tx: ps.GradientTransformation) -> list[torch.Tensor]:
    params, seen = normal(4, 3, seed=9), []
    state = tx.init(params)
    for step in range(6):
        updates, state = tx.update(normal(4, 3, seed=step), state, params)
        params = ps.apply_updates(params, updates)
        seen.append(params)
    return seen


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("adjust_lr_fn", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_it_is_the_muon_of_torch(
    monkeypatch: pytest.MonkeyPatch, nesterov: bool, adjust_lr_fn: str, weight_decay: float
):
    same = {"weight_decay": weight_decay, "nesterov": nesterov, "eps": 1e-7}
    rms = 0.2 if adjust_lr_fn == "match_rms_adamw" else None
    options = {**same, **TORCH, "consistent_rms": rms, "muon_weight_dimension_numbers": LINEAR}
    want = torch_trajectory(monkeypatch, True, lr=0.1, momentum=0.9, adjust_lr_fn=adjust_lr_fn, **same)
    assert_close(trajectory(ps.muon(0.1, beta=0.9, **options)), want, rtol=1e-10, atol=1e-10)


def test_in_bfloat16_it_is_torch_s_but_for_its_round_off(monkeypatch: pytest.MonkeyPatch):
    want = torch_trajectory(monkeypatch, False, lr=0.1)
    tx = ps.muon(
        0.1,
        eps=1e-7,
        weight_decay=0.1,
        muon_weight_dimension_numbers=LINEAR,
        **TORCH,
        ns_dtype=torch.bfloat16,
    )
    assert_close(trajectory(tx), want, rtol=1e-2, atol=1e-2)


def test_matrices_go_to_muon_and_the_rest_to_adam():
    params = {"w": normal(3, 2), "b": normal(2), "s": normal(), "e": normal(0, 4), "k": normal(2, 2, 2)}
    grads = ps.tree.map(lambda p: p + 0.5, params)
    tx = ps.muon(0.1, weight_decay=0.1, adam_learning_rate=0.03, adam_b1=0.7)
    got = tx.update(grads, tx.init(params), params)[0]
    rest = ps.adamw(0.03, 0.7, weight_decay=0.0, nesterov=True)
    for name in ("b", "s", "e", "k"):
        assert_close(got[name], rest.update(grads[name], rest.init(params[name]), params[name])[0])
    want = newton_schulz(grads["w"], polynomials("", "standard", 5)) + 0.1 * params["w"]
    # Nesterov's look ahead of the first mean is a multiple of the gradient.
    assert_close(got["w"], -0.1 * want, rtol=1e-6)
    empty = ps.muon(0.1)
    assert empty.update({}, empty.init({}), {})[0] == {}


@pytest.mark.parametrize(
    "spec",
    [
        {"a": {"w": ps.MuonDimensionNumbers(), "b": None}, "head": None},
        {"a": {"w": ps.MuonDimensionNumbers(), "b": None}, "head": {"w": None}},
        lambda path: ps.MuonDimensionNumbers() if path == "['a']['w']" else None,
    ],
)
def test_a_tree_a_prefix_or_a_function_says_which_are_matrices(spec: Any):
    params = {"a": {"w": normal(3, 2), "b": normal(2)}, "head": {"w": normal(2, 2)}}
    tx = ps.muon(0.1, muon_weight_dimension_numbers=spec, nesterov=False)
    held = tx.init(params).inner_states
    assert [path for path, _ in ps.tree.named_leaves(held["matrices"][0].mu)] == ["['a']['w']"]
    updates = tx.update(params, tx.init(params), params)[0]
    assert_close(updates["head"]["w"].abs(), torch.full_like(params["head"]["w"], 0.1), rtol=1e-6)


def test_a_schedule_may_stand_for_each_rate():
    tx = ps.muon(ps.linear_schedule(0.1, 0.0, 2), consistent_rms=ps.linear_schedule(0.2, 0.4, 2))
    norms = [out.norm() for out in outputs(tx, [normal(3, 3)] * 3, normal(3, 3))]
    assert_close(norms[1], norms[0] * 0.5 * 1.5, rtol=1e-6)
    assert norms[2] == 0


@pytest.mark.parametrize(
    "tx",
    [
        ps.muon(0.1, preconditioning="spectral"),
        ps.shampoo(0.1, eps=1e-3, root_every=2, graft="rms"),
        ps.soap(0.1, eps=1e-3, precondition_frequency=2),
        ps.galore(0.1, 2, 2),
    ],
    ids=["muon", "shampoo", "soap", "galore"],
)
def test_whole_runs_may_be_mapped_their_states_with_them(tx: ps.GradientTransformation):
    stream, params = normal(3, 5, 4, 3), normal(3, 4, 3, seed=1)
    state, mapped = torch.func.vmap(tx.init)(params), []
    for u in stream.unbind(1):
        updates, state = torch.func.vmap(tx.update)(u, state, params)
        mapped.append(updates)
    alone = [torch.stack(outputs(tx, list(us), p)) for us, p in zip(stream, params, strict=True)]
    assert_close(torch.stack(mapped, 1), torch.stack(alone), rtol=1e-9, atol=1e-11)


def test_axes_that_fit_and_those_that_do_not():
    leaf = normal(2, 3, 4, 5)
    matrix, back = as_matrix(leaf, MatrixAxes((1,), (3, 0), (2,)))
    assert matrix.shape == (3, 10, 4)
    assert torch.equal(back(matrix), leaf)
    assert torch.equal(matrix[1, 7], leaf[1, 1, :, 3])
    spec = ps.MuonDimensionNumbers(-1, (0, 1))
    assert matrix_axes(spec, [leaf, normal(3)], "t") == [MatrixAxes((2,), (3,), (0, 1)), None]
    for bad, leaf in (((0, 0), normal(2, 2)), ((0, 2), normal(2, 2)), ((0, ()), normal(2, 2))):
        with pytest.raises(ps.PureSGDError, match=r"scale_by_muon\['w'\]: MuonDimensionNumbers.*not fit"):
            outputs(ps.scale_by_muon(weight_dimension_numbers=ps.MuonDimensionNumbers(*bad)), [{"w": leaf}])
    every = ps.scale_by_muon(weight_dimension_numbers=lambda path: ps.MuonDimensionNumbers())
    with pytest.raises(ps.PureSGDError, match=r"scale_by_muon\['b'\]: .* shape \(3,\)"):
        outputs(every, [{"b": normal(3)}])
    with pytest.raises(ps.PureSGDError, match=r"weight_dimension_numbers holds .* where the tree"):
        outputs(ps.scale_by_muon(weight_dimension_numbers={"x": None}), [{"b": normal(3)}])


@pytest.mark.parametrize(
    "bad, words",
    [
        ({"ns_coeffs": (1.0, 2.0)}, "ns_coeffs"),
        ({"ns_coeffs": "muonic"}, "'standard', 'dion'"),
        ({"ns_coeffs": ()}, "ns_coeffs"),
        ({"ns_steps": 0}, "ns_steps"),
        ({"beta": 1.0}, "beta"),
        ({"eps": -1.0}, "eps"),
        ({"preconditioning": "l2"}, "preconditioning='l2'"),
    ],
)
def test_bad_options_are_named(bad: dict[str, Any], words: str):
    with pytest.raises(ps.PureSGDError, match=words):
        ps.scale_by_muon(**bad)
    with pytest.raises(ps.PureSGDError, match=words):
        ps.muon(0.1, **bad)
