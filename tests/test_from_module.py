"""A module as a pure function: its own numbers and gradients, and no call leaves a trace."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.func import grad, vmap

from pure_sgd import tree
from pure_sgd.errors import PureSGDError
from pure_sgd.models import from_module, write_back


class Tied(nn.Module):
    """An autoencoder whose decoder has the encoder's own weight."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(4, 4)
        self.decoder = nn.Linear(4, 4, bias=False)
        self.decoder.weight = self.encoder.weight

    def forward(self, x):
        return self.decoder(torch.tanh(self.encoder(x)))


class Counter(nn.Module):
    """A module that adds to one buffer in place and puts a new tensor in that of the other."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("total", torch.zeros(()))
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x):
        self.total += x.sum()
        self.calls = self.calls + 1
        return self.scale * self.total + self.calls


def normed_net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


def everything_in(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def sentence_of(call) -> str:
    with pytest.raises(PureSGDError) as caught:
        call()
    return str(caught.value)


def assert_gradients_are_those_of_backward(module, x, output_of=lambda output: output):
    apply, params = from_module(module)

    def loss(params):
        return output_of(apply(params, x)).square().sum()

    grads = grad(loss)(params)
    output_of(module(x)).square().sum().backward()
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(grads[name], parameter.grad)
    return grads


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(4, 4),
        nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.LayerNorm(3), nn.Linear(3, 2)),
        Tied(),
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)),
        nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0),
    ],
    ids=lambda module: type(module).__name__,
)
def test_output_and_gradients_are_the_modules_own(module):
    apply, params = from_module(module)
    x = torch.randn(5, 4)
    torch.testing.assert_close(apply(params, x), module(x).detach())
    assert_gradients_are_those_of_backward(module, x)


@pytest.mark.parametrize("module", [nn.LSTM(4, 3), nn.GRU(4, 3)], ids=["LSTM", "GRU"])
def test_recurrent_layers_which_hold_their_weights_twice_are_followed(module):
    assert_gradients_are_those_of_backward(module, torch.randn(5, 2, 4), lambda output: output[0])


def test_arguments_are_passed_on():
    module = nn.MultiheadAttention(4, 2)
    apply, params = from_module(module)
    x = torch.randn(5, 4)
    got = apply(params, x, x, value=x, need_weights=False)
    torch.testing.assert_close(got, module(x, x, value=x, need_weights=False))


def test_params_are_copies_without_a_graph():
    module = nn.Linear(3, 2)
    apply, params = from_module(module)
    assert list(params) == ["weight", "bias"]
    assert not any(p.requires_grad for p in params.values())
    before = apply(params, torch.ones(3))
    with torch.no_grad():
        module.weight.zero_()
    assert torch.equal(apply(params, torch.ones(3)), before)


def test_a_tied_parameter_appears_once_and_has_the_gradient_of_all_its_uses():
    grads = assert_gradients_are_those_of_backward(Tied(), torch.randn(5, 4))
    assert list(grads) == ["encoder.weight", "encoder.bias"]


def test_the_mode_is_that_of_the_module_when_it_was_passed():
    module = nn.Dropout(0.5).eval()
    apply, params = from_module(module)
    module.train()
    assert torch.equal(apply(params, torch.ones(50)), torch.ones(50))


def test_a_call_leaves_no_trace_in_the_module_the_params_or_the_function():
    module = normed_net()
    for mutable in (False, True):
        apply, params = from_module(module, mutable)
        in_module, in_params = everything_in(module), copy.deepcopy(params)
        x = torch.randn(8, 3)
        first, second = apply(params, x), apply(params, x)
        torch.testing.assert_close(first, second, rtol=0, atol=0)
        torch.testing.assert_close(everything_in(module), in_module, rtol=0, atol=0)
        torch.testing.assert_close(params, in_params, rtol=0, atol=0)


def test_buffers_are_in_params_and_constant_to_the_gradient():
    module = normed_net().eval()
    module(torch.randn(8, 3))
    apply, params = from_module(module)
    assert sorted(params["buffers"]) == ["1.running_mean", "1.running_var"]
    x = torch.randn(8, 3)
    moved = {**params, "buffers": tree.map(lambda b: b + 1, params["buffers"])}
    assert not torch.allclose(apply(moved, x), apply(params, x))
    grads = assert_gradients_are_those_of_backward(module, x)
    assert all(not g.any() for g in grads["buffers"].values())


def test_a_module_without_buffers_has_no_entry_for_them():
    assert "buffers" not in from_module(nn.Linear(3, 2), mutable=True)[1]


def test_batch_norm_trains_as_the_module_does():
    module = normed_net()
    apply, params = from_module(module, mutable=True)
    buffers = params["buffers"]
    for _ in range(3):
        x = torch.randn(8, 3)
        output, buffers = apply({**params, "buffers": buffers}, x)
        torch.testing.assert_close(output, module(x))
    torch.testing.assert_close(buffers, dict(module.named_buffers()))
    assert buffers["1.num_batches_tracked"] == 3


def test_train_and_eval_mode_share_one_tree():
    module = normed_net()
    train, params = from_module(module, mutable=True)
    evaluate, _ = from_module(module.eval())
    params["buffers"] = train(params, torch.randn(8, 3))[1]
    write_back(module, params)
    x = torch.randn(2, 3)
    torch.testing.assert_close(evaluate(params, x), module(x).detach())


def test_new_buffers_are_told_whether_added_to_or_replaced():
    apply, params = from_module(Counter(), mutable=True)
    output, buffers = apply(params, torch.ones(3))
    assert output == 7.0
    assert buffers == {"total": 3.0, "calls": 1}


def test_buffers_of_integers_stay_as_they_were_unless_they_are_given():
    module = Counter()
    module(torch.ones(3))
    apply, params = from_module(module)
    assert list(params["buffers"]) == ["total"]
    module(torch.ones(3))
    assert apply(params, torch.ones(3)) == 14.0
    assert apply(params, torch.ones(3)) == 14.0
    params["buffers"]["calls"] = torch.tensor(10)
    assert apply(params, torch.ones(3)) == 23.0


def test_per_example_gradients_by_vmap_are_those_of_a_loop():
    module = normed_net().eval()
    apply, params = from_module(module)

    def loss(params, x):
        return apply(params, x[None]).square().sum()

    x_B = torch.randn(5, 3)
    mapped = vmap(grad(loss), (None, 0))(params, x_B)
    for index, x in enumerate(x_B):
        alone = grad(loss)(params, x)
        torch.testing.assert_close(tree.map(lambda g, i=index: g[i], mapped), alone)


def test_an_ensemble_is_vmap_over_params():
    apply, params = from_module(nn.Linear(3, 2))
    ensemble = tree.map(lambda p: torch.stack([p, -p]), params)
    outputs = vmap(apply, (0, None))(ensemble, torch.ones(3))
    assert torch.equal(outputs[0], -outputs[1])


def test_the_gradient_compiles_and_the_new_buffers_leave_it():
    module = normed_net()
    apply, params = from_module(module, mutable=True)
    buffers = params.pop("buffers")

    def loss(params, buffers, x):
        output, buffers = apply({**params, "buffers": buffers}, x)
        return output.square().mean(), buffers

    gradients = grad(loss, has_aux=True)
    x = torch.randn(8, 3)
    compiled = torch.compile(gradients, backend="aot_eager", fullgraph=True)
    in_module = everything_in(module)
    for _ in range(2):
        torch.testing.assert_close(compiled(params, buffers, x), gradients(params, buffers, x))
    torch.testing.assert_close(everything_in(module), in_module, rtol=0, atol=0)


def test_params_in_another_dtype_are_used_in_it():
    apply, params = from_module(nn.Linear(3, 2))
    output = apply(tree.map(lambda p: p.double(), params), torch.ones(3, dtype=torch.float64))
    assert output.dtype == torch.float64


def test_apply_names_the_entry_that_does_not_fit():
    apply, params = from_module(nn.Linear(3, 2))
    x = torch.ones(3)
    assert sentence_of(lambda: apply({"weight": params["weight"]}, x)) == (
        "params['bias']: is missing, and the module's params['bias'] is there. Give params the "
        "structure of the module's params."
    )
    assert sentence_of(lambda: apply({**params, "scale": x}, x)) == (
        "params['scale']: is there, and the module's params['scale'] is not. Give params the "
        "structure of the module's params."
    )
    assert sentence_of(lambda: apply({**params, "bias": torch.ones(1)}, x)) == (
        "params['bias']: shape (1,) does not match shape (2,) of the module's params['bias']. "
        "Nothing is broadcast here: reshape or reduce it first."
    )
    assert sentence_of(lambda: apply(list(params.values()), x)).startswith("params")


def test_apply_names_the_buffer_that_does_not_fit():
    apply, params = from_module(normed_net())
    x, buffers = torch.ones(2, 3), params["buffers"]
    missing = {**params, "buffers": {"1.running_mean": buffers["1.running_mean"]}}
    assert sentence_of(lambda: apply(missing, x)).startswith(
        "params['buffers']['1.running_var']: is missing,"
    )
    unknown = {**params, "buffers": {**buffers, "1.mean": x}}
    assert sentence_of(lambda: apply(unknown, x)).startswith(
        "params['buffers']['1.mean']: is there, and the module's params['buffers']['1.mean'] is not"
    )
    wrong = {**params, "buffers": {**buffers, "1.running_mean": torch.ones(1)}}
    assert sentence_of(lambda: apply(wrong, x)).startswith(
        "params['buffers']['1.running_mean']: shape (1,) does not match shape (4,) of "
    )


def test_a_layer_that_rescales_its_own_weight_is_refused():
    module = nn.Sequential(nn.Embedding(5, 2, max_norm=1.0))
    assert sentence_of(lambda: from_module(module)) == (
        "from_module: 0 has max_norm=1.0, by which a call rescales its weight in place. Build it "
        "with max_norm=None and limit the norm in the optimizer."
    )


def test_write_back_is_the_way_back():
    module, other = normed_net(), normed_net()
    apply, params = from_module(other, mutable=True)
    params["buffers"] = apply(params, torch.randn(8, 3))[1]
    weight = module.get_parameter("0.weight")
    write_back(module, params)
    assert module.get_parameter("0.weight") is weight
    assert weight.requires_grad
    assert torch.equal(weight, other.get_parameter("0.weight"))
    torch.testing.assert_close(dict(module.named_buffers()), params["buffers"])


def test_write_back_without_buffers_leaves_those_of_the_module():
    module = normed_net()
    _, params = from_module(normed_net())
    params.pop("buffers")
    module(torch.randn(8, 3))
    before = {name: b.clone() for name, b in module.named_buffers()}
    write_back(module, params)
    assert torch.equal(module.get_parameter("0.weight"), params["0.weight"])
    torch.testing.assert_close(dict(module.named_buffers()), before)


def test_write_back_casts_to_the_modules_dtypes():
    module = nn.Linear(3, 2)
    _, params = from_module(nn.Linear(3, 2))
    write_back(module, tree.map(lambda p: p.double(), params))
    assert module.weight.dtype == torch.float32
    assert torch.equal(module.weight, params["weight"])


def test_write_back_reaches_all_uses_of_a_tied_parameter():
    module = Tied()
    _, params = from_module(module)
    write_back(module, tree.map(torch.zeros_like, params))
    assert module.decoder.weight is module.encoder.weight
    assert not module.decoder.weight.any()


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        ({"3.bias": torch.ones(3)}, "params['3.bias']: shape (3,) does not match shape (2,) of "),
        ({"4.bias": torch.ones(3)}, "params['4.bias']: is there, and the module's "),
        (
            {"buffers": {"1.running_mean": torch.ones(4), "1.running_var": torch.ones(3)}},
            "params['buffers']['1.running_var']: shape (3,) does not match shape (4,) of ",
        ),
        (
            {"buffers": {"1.running_mean": torch.ones(4)}},
            "params['buffers']['1.running_var']: is missing, ",
        ),
    ],
)
def test_write_back_writes_all_or_nothing(wrong, sentence):
    module = normed_net()
    _, params = from_module(normed_net())
    before = everything_in(module)
    assert sentence_of(lambda: write_back(module, {**params, **wrong})).startswith(sentence)
    torch.testing.assert_close(everything_in(module), before, rtol=0, atol=0)
