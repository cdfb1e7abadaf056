"""Every way to use a parameter: the one pass over the batch gives what a loop over examples gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from example_loop import assert_moments_of_loop, loop_gradients
from torch import nn

import pure_sgd as ps
from pure_sgd.gradients.example_gradients import example_gradients
from pure_sgd.gradients.onepass.stack import Want

B = 5


class Case(NamedTuple):
    """A loss, the shapes of its parameters and of one example, and how it is differentiated."""

    loss: Callable[..., torch.Tensor]
    params: Any
    example: Any
    method: str = "one pass"


def bend(tensor: torch.Tensor) -> torch.Tensor:
    """A number whose derivative by the tensor depends on the tensor."""
    return tensor.sin().square().sum()


def rnn(params: Any, x: torch.Tensor) -> torch.Tensor:
    hidden = torch.zeros(3, dtype=x.dtype)
    for step in x.unbind(0):
        hidden = torch.tanh(step @ params["in"] + hidden @ params["on"] + params["b"])
    return bend(hidden)


def without_grad(params: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        gate = x @ params
    return bend(x @ params * gate)


def scaled_in_part(params: Any, x: torch.Tensor) -> torch.Tensor:
    product = x @ params
    product[1:3].mul_(0.5)
    return bend(product)


def attention(params: Any, x: torch.Tensor) -> torch.Tensor:
    query, key, value = params.chunk(3, 1)
    return bend(torch.softmax((x @ query) @ (x @ key).T, -1) @ (x @ value))


def adapted(params: Any, x: torch.Tensor) -> torch.Tensor:
    inner = torch.func.grad(lambda p: bend(x @ p))(params)
    return bend(x @ (params - 0.1 * inner))


class Product(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, w):
        return x * w * w

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, *grad_outputs):
        x, w = ctx.saved_tensors
        return grad_outputs[0] * w * w, 2 * grad_outputs[0] * w * x


WB = {"w": (3, 4), "b": (3,)}
CONV = {"w": (6, 4, 3, 2), "b": (6,)}
IMAGE = (4, 7, 6)
TOKENS = {"tokens": 7}

CASES = {
    # Linear maps in every spelling, with and without positions.
    "x @ w": Case(lambda p, x: bend(x @ p), (4, 3), (4,)),
    "X @ w": Case(lambda p, x: bend(x @ p), (4, 3), (3, 4)),
    "X @ w, many positions": Case(lambda p, x: bend(x @ p), (4, 3), (20, 4)),
    "x @ w.T": Case(lambda p, x: bend(x @ p.T), (3, 4), (4,)),
    "x @ w.mT": Case(lambda p, x: bend(x @ p.mT), (3, 4), (9, 4)),
    "w @ x": Case(lambda p, x: bend(p @ x), (3, 4), (4,)),
    "w @ X": Case(lambda p, x: bend(p @ x), (3, 4), (4, 5)),
    "x @ v": Case(lambda p, x: bend(x @ p), (4,), (4,)),
    "X @ v": Case(lambda p, x: bend(x @ p), (4,), (3, 4)),
    "v @ X": Case(lambda p, x: bend(p @ x), (3,), (3, 4)),
    "X @ w3": Case(lambda p, x: bend(x @ p), (2, 4, 3), (2, 5, 4)),
    "X @ w3, repeated": Case(lambda p, x: bend(x @ p), (2, 4, 3), (5, 4)),
    "X @ w3, stretched": Case(lambda p, x: bend(x @ p), (1, 4, 3), (2, 5, 4)),
    "dot": Case(lambda p, x: bend(torch.dot(p, x)), (4,), (4,)),
    "mv": Case(lambda p, x: bend(torch.mv(p, x)), (3, 4), (4,)),
    "mm": Case(lambda p, x: bend(torch.mm(x, p)), (4, 3), (5, 4)),
    "bmm": Case(lambda p, x: bend(torch.bmm(x, p)), (2, 4, 3), (2, 5, 4)),
    "addmm": Case(
        lambda p, x: bend(torch.addmm(p["b"], x, p["w"], beta=2, alpha=0.5)), {"w": (4, 3), "b": (3,)}, (5, 4)
    ),
    "baddbmm": Case(
        lambda p, x: bend(torch.baddbmm(p["b"], x, p["w"])), {"w": (2, 4, 3), "b": (2, 1, 3)}, (2, 5, 4)
    ),
    "linear": Case(lambda p, x: bend(F.linear(x, p["w"], p["b"])), WB, (4,)),
    "linear, positions": Case(lambda p, x: bend(F.linear(x, p["w"], p["b"])), WB, (2, 6, 4)),
    "linear, one output": Case(lambda p, x: bend(F.linear(x, p)), (4,), (3, 4)),
    "only the bias": Case(lambda p, x: bend(F.linear(x, x[:3], p)), (3,), (5, 4)),
    # Einstein sums: outer products, products entry by entry, and sums over letters of one factor.
    "td,dh->th": Case(lambda p, x: bend(torch.einsum("td,dh->th", x, p)), (4, 2), (3, 4)),
    "hd,td->ht": Case(lambda p, x: bend(torch.einsum("hd, td -> ht", p, x)), (2, 4), (3, 4)),
    "td,dhk->thk": Case(lambda p, x: bend(torch.einsum("td,dhk->thk", x, p)), (4, 2, 5), (3, 4)),
    "td,hkd->kth": Case(lambda p, x: bend(torch.einsum("td,hkd->kth", x, p)), (2, 5, 4), (3, 4)),
    "td,hdk->htk": Case(lambda p, x: bend(torch.einsum("td,hdk->htk", x, p)), (2, 4, 5), (3, 4)),
    "td,td->": Case(lambda p, x: bend(torch.einsum("td,td->", x, p)), (3, 4), (3, 4)),
    "td,td->td": Case(lambda p, x: bend(torch.einsum("td,td->td", x, p)), (3, 4), (3, 4)),
    "td,tdk->tk": Case(lambda p, x: bend(torch.einsum("td,tdk->tk", x, p)), (3, 4, 2), (3, 4)),
    "td,k->td": Case(lambda p, x: bend(torch.einsum("td,k->td", x, p)), (2,), (3, 4)),
    "td,dk->k": Case(lambda p, x: bend(torch.einsum("td,dk->k", x, p)), (4, 2), (3, 4)),
    "...d,dk->...k": Case(lambda p, x: bend(torch.einsum("...d,dk->...k", x, p)), (4, 2), (3, 4)),
    "three factors": Case(
        lambda p, x: bend(torch.einsum("td,de,ek->tk", x, p["a"], p["b"])), {"a": (4, 3), "b": (3, 2)}, (3, 4)
    ),
    # Convolutions.
    "conv1d": Case(
        lambda p, x: bend(F.conv1d(x, p["w"], p["b"], stride=2, padding=3)),
        {"w": (6, 4, 3), "b": (6,)},
        (4, 9),
    ),
    "conv2d": Case(lambda p, x: bend(F.conv2d(x, p["w"], p["b"])), CONV, IMAGE),
    "conv2d, images": Case(lambda p, x: bend(F.conv2d(x, p["w"], p["b"])), CONV, (2, *IMAGE)),
    "conv2d, strided": Case(lambda p, x: bend(F.conv2d(x, p["w"], p["b"], 2, 1)), CONV, IMAGE),
    "conv2d, dilated": Case(
        lambda p, x: bend(F.conv2d(x, p["w"], None, 1, (1, 2), 2)), {"w": CONV["w"]}, IMAGE
    ),
    "conv2d, groups": Case(
        lambda p, x: bend(F.conv2d(x, p["w"], p["b"], groups=2)), {"w": (6, 2, 3, 2), "b": (6,)}, (2, *IMAGE)
    ),
    "conv2d, valid": Case(lambda p, x: bend(F.conv2d(x, p["w"], padding="valid")), {"w": CONV["w"]}, IMAGE),
    "conv2d, same": Case(lambda p, x: bend(F.conv2d(x, p, padding="same", dilation=2)), (6, 4, 3, 3), IMAGE),
    "conv3d": Case(lambda p, x: bend(F.conv3d(x, p, padding=1)), (3, 2, 3, 2, 2), (2, 4, 5, 4)),
    "conv_transpose1d": Case(
        lambda p, x: bend(F.conv_transpose1d(x, p["w"], p["b"], 2, 1, 1)), {"w": (4, 3, 3), "b": (3,)}, (4, 9)
    ),
    "conv_transpose2d": Case(
        lambda p, x: bend(F.conv_transpose2d(x, p["w"], p["b"], 2, 1, 1, 2, 2)),
        {"w": (4, 3, 3, 3), "b": (6,)},
        IMAGE,
    ),
    "conv_transpose3d": Case(lambda p, x: bend(F.conv_transpose3d(x, p)), (2, 3, 2, 2, 2), (2, 3, 4, 3)),
    # Embeddings.
    "embedding": Case(lambda p, t: bend(F.embedding(t, p)), (7, 4), TOKENS),
    "embedding, padding": Case(lambda p, t: bend(F.embedding(t, p, padding_idx=2)), (7, 4), TOKENS),
    "embedding, padding from the end": Case(
        lambda p, t: bend(F.embedding(t, p, padding_idx=-1)), (7, 4), TOKENS
    ),
    "embedding, one token": Case(lambda p, t: bend(F.embedding(t[0], p)), (7, 4), TOKENS),
    "w[tokens]": Case(lambda p, t: bend(p[t]), (7, 2, 2), TOKENS),
    "w[tokens], from the end": Case(lambda p, t: bend(p[t - 7]), (7, 4), TOKENS),
    "w[tokens, 1]": Case(lambda p, t: bend(p[t, 1]), (7, 4), TOKENS),
    "index_select": Case(lambda p, t: bend(torch.index_select(p, 0, t)), (7, 4), TOKENS),
    # Scales, shifts, scalars, norms.
    "scalars": Case(lambda p, x: bend(p["s"] * x + p["t"]), {"s": (), "t": ()}, (4,)),
    "broadcast": Case(
        lambda p, x: bend((x - p["a"]) / p["b"].exp() * p["c"]), {"a": (4,), "b": (3, 1), "c": (3, 4)}, (3, 4)
    ),
    "layer_norm": Case(
        lambda p, x: bend(F.layer_norm(x, (4,), p["w"], p["b"])), {"w": (4,), "b": (4,)}, (3, 4)
    ),
    "layer_norm, two axes": Case(
        lambda p, x: bend(F.layer_norm(x, (3, 4), p["w"], p["b"])), {"w": (3, 4), "b": (3, 4)}, (2, 3, 4)
    ),
    "layer_norm, scale only": Case(lambda p, x: bend(F.layer_norm(x, (4,), p)), (4,), (4,)),
    "rms_norm": Case(lambda p, x: bend(F.rms_norm(x, (4,), p)), (4,), (3, 4)),
    "group_norm": Case(
        lambda p, x: bend(F.group_norm(x[None], 2, p["w"], p["b"])), {"w": (4,), "b": (4,)}, IMAGE
    ),
    "instance_norm": Case(
        lambda p, x: bend(F.instance_norm(x[None], None, None, p["w"], p["b"])), {"w": (4,), "b": (4,)}, IMAGE
    ),
    "prelu": Case(lambda p, x: bend(F.prelu(x, p)), (1,), (4,)),
    "small, without a rule": Case(lambda p, x: bend((x[:, None] * p).cumsum(0)), (4, 3), (4,)),
    # Several uses of one leaf are added example by example.
    "used twice": Case(lambda p, x: bend(x @ p) + bend((2 * x + 1) @ p), (4, 3), (4,)),
    "used in both directions": Case(lambda p, x: bend((x @ p).tanh() @ p.T), (4, 3), (5, 4)),
    "tied embedding": Case(lambda p, t: bend(F.embedding(t, p) @ p.T), (7, 4), TOKENS),
    "recurrent": Case(rnn, {"in": (4, 3), "on": (3, 3), "b": (3,)}, (3, 4)),
    "with a penalty": Case(lambda p, x: bend(x @ p) + 0.1 * p.square().sum(), (4, 3), (4,)),
    "not used": Case(lambda p, x: bend(x @ p["w"]), {"w": (4, 3), "u": (2,)}, (4,)),
    # Functions of parameters alone.
    "view": Case(lambda p, x: bend(x @ p.view(4, 3)), (12,), (4,)),
    "slice": Case(lambda p, x: bend(x + p[:3]), (6, 4), (3, 4)),
    "three parts": Case(attention, (4, 9), (5, 4)),
    "overlapping parts": Case(lambda p, x: bend(x @ p[:, :3]) + bend(x @ p[:, 2:]), (4, 5), (4,)),
    "weight norm": Case(
        lambda p, x: bend(x @ (p["g"] * p["v"] / p["v"].norm(dim=0))), {"g": (3,), "v": (4, 3)}, (4,)
    ),
    "low rank": Case(
        lambda p, x: bend(x @ (p["w"] + p["a"] @ p["b"])), {"w": (4, 3), "a": (4, 2), "b": (2, 3)}, (5, 4)
    ),
    "contiguous": Case(lambda p, x: bend(x @ p.contiguous().contiguous()), (4, 3), (4,)),
    "contiguous, entry by entry": Case(lambda p, x: bend(x * p.contiguous()), (4,), (4,)),
    "contiguous view": Case(lambda p, x: bend(x @ p.view(4, 3).contiguous()), (12,), (4,)),
    "stacked parameters": Case(
        lambda p, x: bend(x @ torch.stack([p["a"], p["b"]], 1)), {"a": (4,), "b": (4,)}, (4,)
    ),
    "concatenated": Case(
        lambda p, x: bend(torch.cat([p["c"], x]) @ p["w"]), {"c": (1, 4), "w": (4, 3)}, (3, 4)
    ),
    "made complex": Case(
        lambda p, x: (x.to(torch.complex128) @ p.to(torch.complex128)).abs().square().sum(), (4, 3), (4,)
    ),
    # What is not differentiated stays so.
    "no_grad": Case(without_grad, (4, 3), (4,)),
    "detach": Case(lambda p, x: bend(x @ p * (x @ p.detach())), (4, 3), (4,)),
    # In-place operations on outputs are allowed where autograd allows them.
    "relu in place": Case(
        lambda p, x: bend(F.relu(x @ p["a"], inplace=True) @ p["b"]), {"a": (4, 3), "b": (3, 2)}, (4,)
    ),
    "convolution, relu in place": Case(
        lambda p, x: bend(F.relu(F.conv2d(x, p), inplace=True)), CONV["w"], IMAGE
    ),
    "a view of the output in place": Case(lambda p, x: bend((x @ p).view(-1).tanh_()), (4, 3), (5, 4)),
    "a part of the output in place": Case(scaled_in_part, (4, 3), (5, 4)),
    "an output of length 1 in place": Case(
        lambda p, x: bend(torch.einsum("i,io->o", x, p).mul_(0.5)), (4, 1), (4,)
    ),
    # Other transforms inside the loss.
    "inner grad by x": Case(
        lambda p, x: bend(torch.func.grad(lambda x: torch.tanh(x @ p).sum())(x)), (4, 3), (4,)
    ),
    "inner vmap": Case(lambda p, x: bend(torch.func.vmap(lambda row: row @ p)(x)), (4, 3), (5, 4)),
    "inner jvp": Case(
        lambda p, x: bend(torch.func.jvp(lambda x: torch.tanh(x @ p), (x,), (x.cos(),))[1]), (4, 3), (4,)
    ),
    "autograd.Function": Case(lambda p, x: bend(Product.apply(x, p)), (4,), (4,)),
    "inner grad by the parameters": Case(adapted, (4, 3), (4,), "vmap(grad)"),
    "through inner arguments": Case(
        lambda p, x: bend(torch.func.grad(lambda q, x: torch.tanh(x @ q).sum(), argnums=1)(p, x)),
        (4, 3),
        (4,),
        "vmap(grad)",
    ),
}


def drawn(shapes: Any, *front: int) -> Any:
    """A tree of normal numbers, one tensor for each shape in a tree of shapes."""
    if isinstance(shapes, dict):
        return {name: drawn(shape, *front) for name, shape in shapes.items()}
    return torch.randn((*front, *shapes), dtype=torch.float64)


def example_batch(case: Case) -> Any:
    if case.example is TOKENS:
        return (torch.randint(7, (B, 6)),)
    return (drawn(case.example, B),)


@pytest.mark.parametrize("name", CASES)
def test_one_pass_is_the_loop(name: str):
    case = CASES[name]
    params, batch = drawn(case.params), example_batch(case)
    assert_moments_of_loop(case.loss, params, batch, "fast")
    methods = {path.method for path in ps.gradient_paths(case.loss)(params, batch)}
    assert methods == {case.method}


@pytest.mark.parametrize("name", CASES)
def test_weighted_gradients_and_single_sums(name: str):
    """What clipping asks for: norms alone, then the mean alone of gradients that are multiplied."""
    case = CASES[name]
    params, batch = drawn(case.params), example_batch(case)
    weights = torch.tensor([0.5, 0.0, 2.0, -1.0, 1.0], dtype=torch.float64)
    grads = loop_gradients(case.loss, params, batch)
    found = example_gradients(case.loss, params, batch).scaled([weights] * len(grads))
    asked = [Want(True, False, False), Want(False, False, True), Want(True, True, True)]
    for grad, mean, norms, both in zip(grads, *(found.sums(want).leaves for want in asked), strict=True):
        expected = grad * weights.reshape(-1, *(1 for _ in grad.shape[1:]))
        close = {"rtol": 1e-10, "atol": 1e-10 * float(expected.abs().max().square() + 1e-3)}
        torch.testing.assert_close(mean.mean, expected.mean(0), **close)
        torch.testing.assert_close(norms.norms, expected.reshape(B, -1).square().sum(1), **close)
        torch.testing.assert_close(both.mean, expected.mean(0), **close)
        torch.testing.assert_close(both.variance, expected.var(0), **close)
        torch.testing.assert_close(both.norms, norms.norms, **close)


MODULES = {
    "dense": (nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 2)), (4,)),
    "eval batch norm": (nn.Sequential(nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3)).eval(), (1, *IMAGE)),
    "attention": (nn.TransformerEncoderLayer(4, 2, 8, 0.0), (3, 4)),
    "attention, batch first": (nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True), (1, 3, 4)),
    "gated cell": (nn.GRUCell(4, 3), (4,)),
}


# torch has no rule to map some of these over examples, and says that it is slow.
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("name", MODULES)
def test_modules(name: str):
    module, shape = MODULES[name]
    apply, params = ps.from_module(module.double())
    assert_moments_of_loop(lambda p, x: bend(apply(p, x)), params, (drawn(shape, B),), "fast")


def test_attention_is_known_by_its_projections():
    apply, params = ps.from_module(nn.MultiheadAttention(4, 2).double())
    found = ps.gradient_paths(lambda p, x: bend(apply(p, x, x, x)[0]))(params, (drawn((3, 4), B),))
    assert {path.reason for path in found} == {"linear"}


def test_a_frozen_module_in_the_loss_takes_no_gradient_away():
    """Its parameters require grad, and it stands before the layer that is differentiated."""
    frozen = nn.Linear(4, 4).double()
    assert_moments_of_loop(lambda p, x: bend(frozen(x) @ p), drawn((4, 3)), (drawn((4,), B),), "fast")


@pytest.mark.parametrize("count", [2, 3, 40])
def test_any_number_of_examples(count: int):
    """More convolutions than are done at once, and as few as have a variance."""
    case = CASES["conv2d"]
    assert_moments_of_loop(case.loss, drawn(case.params), (drawn(IMAGE, count),), "fast")


@pytest.mark.parametrize("positions", [1, 2, 4, 5, 30])
@pytest.mark.parametrize("count", [2, 7])
def test_large_leaves_are_formed_one_by_one(positions: int, count: int):
    batch = (drawn((positions, 400), count),)
    assert_moments_of_loop(lambda p, x: bend(x @ p), drawn((400, 400)) / 20, batch, "fast")


def test_a_large_leaf_without_a_rule_is_formed_in_chunks():
    def loss(params: Any, x: torch.Tensor) -> torch.Tensor:
        return bend((x[:, None] * params["large"]).cumsum(0).sum(0) @ params["w"])

    params, batch = drawn({"large": (300, 400), "w": (400, 2)}), (drawn((300,), 20),)
    assert_moments_of_loop(loss, params, batch, "fast")
    assert [path.method for path in ps.gradient_paths(loss)(params, batch)] == ["vmap(grad)", "one pass"]


def test_a_complex_leaf_goes_by_vmap():
    params = torch.randn(4, 3, dtype=torch.complex128)
    batch = (torch.randn(B, 4, dtype=torch.complex128),)

    def loss(p: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.view_as_real(x @ p).square().square().sum()

    grads = ps.per_example_grads(loss)(params, batch)
    moments = ps.gradient_moments(loss)(params, batch)
    torch.testing.assert_close(moments.variance, grads.var(0))


def test_an_input_that_changes_afterwards_is_noticed():
    """Then the leaf is differentiated by vmap, which takes part in the change as autograd does."""

    def loss(params: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        copied = x.clone()
        product = copied @ params
        copied.add_(1)
        return bend(product)

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        ps.gradient_moments(loss)(drawn((4, 3)), (drawn((4,), B),))


def test_nothing_that_is_passed_in_is_changed():
    params, batch = drawn(WB), (drawn((4,), B),)
    before = [leaf.clone() for leaf in ps.tree.leaves((params, batch))]
    ps.gradient_moments(CASES["linear"].loss)(params, batch)
    for leaf, old in zip(ps.tree.leaves((params, batch)), before, strict=True):
        assert torch.equal(leaf, old)
        assert not leaf.requires_grad
        assert leaf.grad is None
