"""Mean, variance and norms of per-example gradients: what they are, by every way, and how they fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from example_loop import assert_moments_of_loop, loop_gradients
from torch import nn

import pure_sgd as ps

MODEL = ps.models.mlp((6, 5, 4))
PARAMS = MODEL.init(ps.random.key(0), torch.float64)
LARGE_MEANS = (0.0, 10.0, 1e3, 1e4)


def example_loss(params: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return ps.losses.softmax_cross_entropy_with_integer_labels(MODEL.apply(params, x), y)


def batch_of(count: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(count, 6, dtype=torch.float64).to(dtype), torch.randint(4, (count,))


def assert_same(found: Any, expected: Any, **tolerance: float) -> None:
    for a, b in zip(ps.tree.leaves(found), ps.tree.leaves(expected), strict=True):
        torch.testing.assert_close(a, b, **tolerance)


@pytest.mark.parametrize("method", ["auto", "fast", "vmap"])
def test_moments_and_norms_are_those_of_a_loop(method: str):
    assert_moments_of_loop(example_loss, PARAMS, batch_of(9), method)


@pytest.mark.parametrize("method", ["fast", "vmap"])
@pytest.mark.parametrize("chunk_size", [1, 4, 9, 100])
def test_chunks_change_nothing(method: str, chunk_size: int):
    batch = batch_of(9)
    whole = ps.gradient_moments(example_loss)(PARAMS, batch)
    assert_same(ps.gradient_moments(example_loss, method, chunk_size)(PARAMS, batch), whole)
    norms = ps.per_example_grad_norms(example_loss, method, chunk_size)(PARAMS, batch)
    assert_same(norms, ps.per_example_grad_norms(example_loss)(PARAMS, batch))


@pytest.mark.parametrize("method", ["fast", "vmap"])
def test_scalars_are_parameters_too(method: str):
    params = {"s": torch.tensor(0.5).double(), "t": torch.tensor(2.0).double()}
    x = torch.randn(5, dtype=torch.float64)
    assert_moments_of_loop(lambda p, x: (p["s"] * x + p["t"]).sin(), params, (x,), method)


def test_count_and_loss_and_their_tree():
    batch = batch_of(9)
    moments = ps.gradient_moments(example_loss)(PARAMS, batch)
    assert moments.count.item() == 9
    assert moments.count.dtype == torch.int64
    assert_same(moments.loss, ps.empirical_risk(example_loss)(PARAMS, batch))
    assert ps.tree.structure(moments.mean) == ps.tree.structure(moments.variance) == ps.tree.structure(PARAMS)


def test_the_variance_of_a_mini_batch_gradient_is_the_variance_over_its_size():
    """Over many batches drawn with replacement, mean gradients of 8 have an eighth of the variance."""
    data = batch_of(50)
    moments = ps.gradient_moments(example_loss)(PARAMS, data)
    variance = ps.tree.map(lambda v: v * 49 / 50, moments.variance)  # that of the 50 as a population
    gradient = ps.value_and_grad(ps.empirical_risk(example_loss))
    drawn = torch.randint(50, (400, 8))
    means = [gradient(PARAMS, (data[0][rows], data[1][rows]))[1] for rows in drawn]
    for leaves in zip(*map(ps.tree.leaves, [variance, *means]), strict=True):
        found = torch.stack(leaves[1:]).var(0).sum() / leaves[0].sum() * 8
        assert 0.85 < found < 1.15


def test_merged_moments_are_those_of_one_batch():
    x, y = batch_of(12)
    moments = ps.gradient_moments(example_loss)
    a, b = moments(PARAMS, (x[:3], y[:3])), moments(PARAMS, (x[3:], y[3:]))
    assert_same(ps.merge_moments(a, b), moments(PARAMS, (x, y)))


def test_moments_of_other_parameters_do_not_merge():
    moments = ps.gradient_moments(lambda params, x: (params * x).sum())
    a, b = (moments(torch.zeros(n), (torch.ones(2, n),)) for n in (2, 3))
    with pytest.raises(
        ps.PureSGDError, match=r"b\.mean: shape \(3,\) does not match shape \(2,\) of a\.mean"
    ):
        ps.merge_moments(a, b)


class Pair(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


@pytest.mark.parametrize(
    "arrange, loss",
    [
        (lambda x, y: [x, y], example_loss),
        (lambda x, y: {"x": x, "y": [y, None]}, lambda p, e: example_loss(p, e["x"], e["y"][0])),
        (Pair, lambda p, e: example_loss(p, e.x, e.y)),
        (lambda x, y: ({"x": x}, (y,)), lambda p, e, y: example_loss(p, e["x"], y[0])),
    ],
    ids=["list", "dict", "NamedTuple", "nested"],
)
@pytest.mark.parametrize("method", ["fast", "vmap"])
def test_a_batch_may_be_any_tree(arrange: Any, loss: Any, method: str):
    x, y = batch_of(5)
    expected = ps.gradient_moments(example_loss)(PARAMS, (x, y))
    assert_same(ps.gradient_moments(loss, method)(PARAMS, arrange(x, y)), expected)


def test_buffers_are_constants():
    apply, params = ps.from_module(nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3)).double().eval())
    x, _ = batch_of(5)
    moments = ps.gradient_moments(lambda p, x: apply(p, x[None]).square().sum())(params, (x,))
    assert "buffers" not in moments.variance
    assert moments.variance["0.weight"].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", ["fast", "vmap"])
def test_moments_of_low_precision_are_float32(dtype: torch.dtype, method: str):
    params, batch = MODEL.init(ps.random.key(0), dtype), batch_of(9, dtype)
    found = ps.gradient_moments(example_loss, method)(params, batch)
    wide = ps.tree.map(torch.Tensor.float, params)
    expected = ps.gradient_moments(example_loss)(wide, (batch[0].float(), batch[1]))
    assert {leaf.dtype for leaf in ps.tree.leaves(found[1:])} == {torch.float32}
    assert ps.per_example_grad_norms(example_loss, method)(params, batch).dtype == torch.float32
    assert_same(found.variance, expected.variance, rtol=0.05, atol=1e-2)


def test_under_autocast_sums_keep_their_precision():
    """Weights of one outer product: its variance is that of the inputs, which bfloat16 would round."""
    x, w = torch.randint(-16, 17, (64, 20)) / 8, torch.zeros(20, 3)
    with torch.autocast("cpu", torch.bfloat16):
        moments = ps.gradient_moments(lambda w, x: (x @ w).sum(), "fast")(w, (x,))
    assert_same(moments.variance, x.var(0)[:, None].expand(20, 3), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("positions", [1, 2, 9], ids=["vector", "few positions", "many positions"])
@pytest.mark.parametrize("mean", LARGE_MEANS)
def test_a_large_mean_takes_no_digits_from_the_variance(positions: int, mean: float):
    """In float32: with plain sums of squares a mean of 1e4 would leave no digit, and negative variances."""
    # Multiples of 1/8 below 2^16, so that the gradients themselves are exact.
    x = torch.randint(-16, 17, (64, positions, 20)) / 8 + mean
    x = x[:, 0] if positions == 1 else x
    moments = ps.gradient_moments(lambda w, x: (x @ w).sum(), "fast")(torch.zeros(20, 3), (x,))
    rows = x if positions == 1 else x.sum(1)
    expected = rows.double().var(0)[:, None].expand(20, 3).float()
    assert_same(moments.variance, expected, rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("shape", [(20,), (9, 20)], ids=["vector", "positions"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_examples_have_no_variance(shape: tuple[int, ...], dtype: torch.dtype):
    x = torch.randn(shape, dtype=dtype).expand(64, *shape).contiguous()
    w = torch.randn(20, 3, dtype=dtype)
    moments = ps.gradient_moments(lambda w, x: (x @ w).square().sum(), "fast")(w, (x,))
    assert (moments.variance >= 0).all()
    assert (moments.variance.sqrt() <= 1e-6 * moments.mean.abs().max()).all()


def test_compiled_moments_and_norms_are_those_of_eager():
    batch = batch_of(9)
    for function in (ps.gradient_moments(example_loss), ps.per_example_grad_norms(example_loss)):
        compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
        assert_same(compiled(PARAMS, batch), function(PARAMS, batch))


def test_an_ensemble_by_vmap():
    moments, batch = ps.gradient_moments(example_loss), batch_of(9)
    ensemble = ps.tree.map(lambda leaf: torch.stack([leaf, 2 * leaf]), PARAMS)
    found = torch.func.vmap(moments, (0, None))(ensemble, batch)
    second = ps.tree.map(lambda leaf: leaf[1], found)
    assert_same(second, moments(ps.tree.map(lambda leaf: 2 * leaf, PARAMS), batch))


def test_the_gradient_of_the_variance():
    """By torch.func and by autograd alike: for loss = w * x^2 * w / 2, variance = w^2 var(x^2)."""
    moments = ps.gradient_moments(lambda w, x: w * w * x * x / 2)
    w, x = torch.tensor(3.0, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    slope = torch.func.grad(lambda w: moments(w, (x,)).variance)(w)
    torch.testing.assert_close(slope, 2 * w * (x * x).var())
    leaf = w.clone().requires_grad_()
    moments(leaf, (x,)).variance.backward()
    torch.testing.assert_close(leaf.grad, slope)


def test_norms_can_be_differentiated_where_a_gradient_is_zero():
    norms = ps.per_example_grad_norms(lambda w, x: w * w * x / 2)
    w = torch.tensor(3.0)
    slope = torch.func.grad(lambda w: norms(w, (torch.tensor([0.0, 2.0]),)).sum())(w)
    assert slope.item() == 2.0


def test_paths_tell_the_way_of_every_leaf():
    def loss(params: Any, x: torch.Tensor) -> torch.Tensor:
        inner = torch.func.grad(lambda p, x: (x @ p).sin().sum())(params["inner"], x)
        return (x @ params["w"] @ inner.T + params["b"]).square().sum()

    params = {"inner": torch.ones(2, 3), "w": torch.ones(2, 3), "b": torch.ones(2), "free": torch.ones(1)}
    batch = (torch.randn(4, 2),)
    assert str(ps.gradient_paths(loss)(params, batch)) == (
        "params['b']      one pass    add\n"
        "params['free']   one pass    not used\n"
        "params['inner']  vmap(grad)  it is used where no function of torch shows it\n"
        "params['w']      one pass    matmul"
    )
    (path, *_) = ps.gradient_paths(loss, "vmap")(params, batch)
    assert path == ("params['b']", "vmap(grad)", "it was asked for")
    for leaf in params.values():
        leaf.requires_grad_()
    (path, *_) = ps.gradient_paths(loss)(params, batch)
    assert path.reason == "params or batch require grad, so that the result is to be differentiable"


# How it fails.

X = torch.ones(5, 4)
W = torch.ones(4)
SHARED = torch.zeros(4)


def by_value(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    if x.sum() > 0:  # the line that decides
        return (w * x).sum()
    return w.sum()


def training(module: nn.Module) -> tuple[Any, Any]:
    apply, params = ps.from_module(module)
    return lambda p, x: apply(p, x[None].expand(3, 4)).sum(), params


@pytest.mark.parametrize("method", ["fast", "vmap"])
@pytest.mark.parametrize(
    "loss, sentence",
    [
        (by_value, r"decides by the value of a tensor.*if x\.sum\(\) > 0:  # the line that decides"),
        (lambda w, x: (w * x.sum().item()).sum(), r"decides by the value of a tensor"),
        (lambda w, x: (w * x * torch.rand(4)).sum(), r"draws random numbers.*torch\.rand\(4\)"),
        (lambda w, x: (w * x)[x > 0].sum(), r"shape depends on values"),
        (lambda w, x: (w * SHARED.add_(x)).sum(), r"changes a tensor in place that all examples share"),
        (lambda w, x: w * x, r"returned shape \(4,\), expected shape \(\)\. Let it return the loss of one"),
        (lambda w, x: w.sum(), r"does not depend on the example"),
    ],
    ids=["decision", "item", "random", "mask", "in place", "not a scalar", "not of the example"],
)
def test_losses_that_cannot_be_mapped(loss: Any, sentence: str, method: str):
    with pytest.raises(ps.PureSGDError, match=f"^example_loss: .*{sentence}"):
        ps.gradient_moments(loss, method)(W, (X,))


@pytest.mark.parametrize("method", ["fast", "vmap"])
def test_batch_normalization_in_training_is_refused(method: str):
    loss, params = training(nn.BatchNorm1d(4))
    with pytest.raises(ps.PureSGDError, match=r"mixes examples.*Put the module in eval mode"):
        ps.gradient_moments(loss, method)(params, (X,))


def test_batch_normalization_without_running_statistics_is_refused_too():
    loss, params = training(nn.BatchNorm1d(4, track_running_stats=False))
    with pytest.raises(ps.PureSGDError, match=r"mixes examples"):
        ps.gradient_moments(loss)(params, (X,))


def test_the_line_told_is_the_users():
    with pytest.raises(ps.PureSGDError, match=Path(__file__).name):
        ps.gradient_moments(by_value)(W, (X,))


@pytest.mark.parametrize(
    "params, batch, sentence",
    [
        (W, (X[:1],), r"batch: holds 1 example, and a variance needs two"),
        (W, (X[:0],), r"batch\[0\]: holds 0 examples"),
        (W, (X, X[:2]), r"batch\[1\]: holds 2 examples where batch\[0\] holds 5"),
        ({"w": W, "n": torch.tensor(3)}, (X,), r"params\['n'\]: has dtype torch.int64"),
        ({}, (X,), r"params: holds no tensor"),
    ],
    ids=["one example", "none", "unequal", "integers", "no parameters"],
)
def test_bad_parameters_and_batches(params: Any, batch: Any, sentence: str):
    with pytest.raises(ps.PureSGDError, match=sentence):
        ps.gradient_moments(lambda p, x, *rest: (p["w"] * x).sum())(params, batch)


def test_one_example_has_a_norm():
    norms = ps.per_example_grad_norms(lambda w, x: (w * x).sum())(W, (X[:1],))
    assert norms.tolist() == [2.0]


@pytest.mark.parametrize("method", ["fast", "vmap"])
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_examples_without_a_finite_gradient_are_named(method: str, chunk_size: int | None):
    x = X.clone()
    x[2, 1], x[4] = torch.nan, torch.inf
    sentence = r"params\['w'\]: the gradient is not finite for . of the examples: 2"
    with pytest.raises(ps.PureSGDError, match=sentence + ("" if chunk_size else ", 4")):
        ps.gradient_moments(lambda p, x: (x @ p["w"]).sin(), method, chunk_size)({"w": W}, (x,))
    norms = ps.per_example_grad_norms(lambda p, x: (x @ p["w"]).sin(), method, chunk_size)({"w": W}, (x,))
    assert norms.isfinite().tolist() == [True, True, False, True, False]


def test_fast_where_one_pass_is_not_possible():
    fast = ps.gradient_moments(lambda w, x: (w * x).sum(), "fast")
    with pytest.raises(ps.PureSGDError, match="not possible, because it runs inside vmap or grad"):
        torch.func.vmap(fast, (0, None))(W.expand(2, 4), (X,))


@pytest.mark.parametrize(
    "arguments, sentence",
    [(("slow",), "method='slow' is unknown"), (("auto", 0), "chunk_size=0 is not at least 1")],
)
def test_bad_arguments(arguments: tuple[Any, ...], sentence: str):
    for factory in (ps.gradient_moments, ps.per_example_grad_norms):
        with pytest.raises(ps.PureSGDError, match=sentence):
            factory(example_loss, *arguments)


def test_a_leaf_that_one_pass_cannot_copy_falls_back():
    """An LSTM maps over examples in one of torch's ways and not in the other; auto finds the one."""
    apply, params = ps.from_module(nn.LSTM(4, 2))
    x = torch.randn(3, 5, 4)

    def loss(p: Any, x: torch.Tensor) -> torch.Tensor:
        return apply(p, x)[0].square().sum()

    grads = loop_gradients(loss, params, (x,))
    with pytest.warns(UserWarning, match="performance drop"):
        moments = ps.gradient_moments(loss)(params, (x,))
    assert_same(moments.variance, dict(zip(sorted(params), [g.var(0) for g in grads], strict=True)))
