"""What each model computes, how it begins, and what it refuses."""

from __future__ import annotations

import math
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import grad, vmap

from pure_sgd import losses, random, tree
from pure_sgd.errors import PureSGDError
from pure_sgd.models import Model, convnet, least_squares, linear, logistic, mlp, transformer

KEY = random.key(0)

# Every model, small, with the shape and the dtype of an example and the shape of its output.
MODELS = {
    "linear": (linear(5), (5,), ()),
    "linear with outputs": (linear(5, 3), (5,), (3,)),
    "logistic": (logistic(5), (5,), ()),
    "mlp": (mlp((5, 4, 3)), (5,), (3,)),
    "convnet": (convnet((2, 5, 4), (3, 4), 3), (2, 5, 4), (3,)),
    "transformer": (transformer(11, 8, width=8, heads=2, layers=1), None, (6, 11)),
}


def examples(shape, count=4) -> torch.Tensor:
    if shape is None:
        return torch.randint(0, 11, (count, 6), generator=torch.Generator().manual_seed(0))
    return random.normal(random.fold_in(KEY, 1), (count, *shape))


def loss_of(model):
    # A weight for each output, so that no two outputs have the same gradient.
    def loss(params, x):
        output = model.apply(params, x).flatten()
        return (output * torch.arange(1.0, 1 + len(output))).square().mean()

    return loss


def sentence_of(call) -> str:
    with pytest.raises(PureSGDError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize("name", MODELS)
def test_init_is_a_function_of_the_key(name):
    model = MODELS[name][0]
    first, again = tree.leaves(model.init(KEY)), tree.leaves(model.init(random.key(0)))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    others = tree.leaves(model.init(random.key(1)))
    drawn = [leaf.std() > 0 for leaf in first if leaf.numel() > 1]
    changed = [not torch.equal(a, b) for a, b in zip(first, others, strict=True) if a.numel() > 1]
    assert changed == drawn


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_parameters_and_output_have_the_dtype_that_was_asked_for(name, dtype):
    model, shape, output_shape = MODELS[name]
    params = model.init(KEY, dtype)
    x = examples(shape)[0]
    output = model.apply(params, x.to(dtype) if shape else x)
    assert {leaf.dtype for leaf in tree.leaves(params)} == {dtype}
    assert (output.shape, output.dtype) == (output_shape, dtype)


@pytest.mark.parametrize("name", MODELS)
def test_no_two_leaves_begin_alike(name):
    first = [p.flatten()[:3] for p in tree.leaves(MODELS[name][0].init(KEY)) if p.numel() > 2]
    drawn = [(p / p.norm()).tolist() for p in first if p.std() > 0]
    assert len({tuple(round(x, 4) for x in direction) for direction in drawn}) == len(drawn)


@pytest.mark.parametrize("name", MODELS)
def test_an_ensemble_is_vmap_of_init_and_apply(name):
    model, shape, _ = MODELS[name]
    keys, x = random.split(KEY, 3), examples(shape)[0]
    outputs = vmap(model.apply, (0, None))(vmap(model.init)(keys), x)
    looped = [model.apply(model.init(key), x) for key in keys]
    torch.testing.assert_close(outputs, torch.stack(looped))


# Warnings are errors here, so this also holds that no operation falls back to a loop over examples.
@pytest.mark.parametrize("name", MODELS)
def test_per_example_gradients_by_vmap_are_those_of_a_loop(name):
    model, shape, _ = MODELS[name]
    params, x_B = model.init(KEY), examples(shape)
    mapped = vmap(grad(loss_of(model)), (None, 0))(params, x_B)
    for index, x in enumerate(x_B):
        alone = grad(loss_of(model))(params, x)
        torch.testing.assert_close(tree.map(lambda g, i=index: g[i], mapped), alone)


def test_the_per_example_gradients_of_every_model_compile():
    def gradients(params, batches):
        return {
            name: vmap(grad(loss_of(model)), (None, 0))(params[name], batches[name])
            for name, (model, _, _) in MODELS.items()
        }

    params = {name: model.init(KEY) for name, (model, _, _) in MODELS.items()}
    batches = {name: examples(shape) for name, (_, shape, _) in MODELS.items()}
    compiled = torch.compile(gradients, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(params, batches), gradients(params, batches))


# Every draw is some hundred operations to trace.
@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_init_compiles(name):
    init = MODELS[name][0].init
    compiled = torch.compile(init, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(KEY), init(KEY), rtol=0, atol=0)


def test_a_model_reads_as_its_call():
    assert repr(mlp((5, 4, 3))) == "mlp((5, 4, 3))"
    assert repr(mlp((5, 3), activation=torch.tanh)) == "mlp((5, 3), activation=tanh)"
    assert repr(convnet(classes=3)) == "convnet(classes=3)"
    assert repr(Model(len, max)) == f"Model(init={len!r}, apply={max!r})"


def test_linear_is_a_weighted_sum():
    params = {"w": torch.tensor([2.0, -1.0]), "b": torch.tensor(0.5)}
    assert linear(2).apply(params, torch.tensor([3.0, 1.0])) == 5.5


def test_linear_with_outputs_is_torchs_linear_layer():
    model, x = linear(5, 3), examples((5,))[0]
    params = model.init(KEY)
    want = F.linear(x, params["w"].T, params["b"])
    torch.testing.assert_close(model.apply(params, x), want)


@pytest.mark.parametrize("outputs", [None, 40])
def test_linear_begins_uniform_within_one_over_the_root_of_its_features(outputs):
    bound, params = 1 / math.sqrt(900), linear(900, outputs).init(KEY)
    w = params["w"]
    assert 0.99 * bound < w.abs().max() <= bound
    assert params["b"].abs().max() <= bound
    # Within 4 standard errors of the moments of a uniform variable.
    assert abs(w.mean()) < 4 * bound / math.sqrt(3 * w.numel())
    tolerance = 4 * math.sqrt(4 / 5 / w.numel())
    assert w.square().mean().item() == pytest.approx(bound**2 / 3, rel=tolerance)


def test_logistic_begins_undecided_and_has_the_gradient_of_the_lecture():
    model, x = logistic(5), examples((5,))[0]
    params = model.init(KEY)
    assert torch.sigmoid(model.apply(params, x)) == 0.5

    def loss(params):
        return losses.sigmoid_binary_cross_entropy(model.apply(params, x), torch.tensor(1))

    # (sigmoid(z) - y) * x
    torch.testing.assert_close(grad(loss)(params)["w"], -0.5 * x)


@pytest.mark.parametrize("activation, layer", [(torch.relu, nn.ReLU()), (torch.tanh, nn.Tanh())])
def test_mlp_is_a_sequence_of_linear_layers_and_activations(activation, layer):
    model, x = mlp((5, 4, 6, 3), activation), examples((5,))[0]
    params = model.init(KEY)
    for dense in params["layers"]:
        dense["b"] = torch.linspace(-1, 1, len(dense["b"]))
    layers = [nn.Linear(5, 4), nn.Linear(4, 6), nn.Linear(6, 3)]
    modules = nn.Sequential(layers[0], layer, layers[1], layer, layers[2])
    with torch.no_grad():
        for dense, module in zip(params["layers"], layers, strict=True):
            module.weight.copy_(dense["w"].T)
            module.bias.copy_(dense["b"])
    torch.testing.assert_close(model.apply(params, x), modules(x).detach())


def assert_he_normal(w: torch.Tensor, inputs: int) -> None:
    """The moments of ``w`` lie within 4 standard errors of those of N(0, 2 / inputs)."""
    root = math.sqrt(w.numel())
    assert abs(w.mean()) < 4 * math.sqrt(2 / inputs) / root
    assert w.square().mean().item() == pytest.approx(2 / inputs, rel=4 * math.sqrt(2) / root)
    assert w.abs().max() > 2.5 * math.sqrt(2 / inputs)


def test_mlp_begins_by_hes_rule():
    for layer in mlp((300, 100, 50)).init(KEY)["layers"]:
        assert_he_normal(layer["w"], len(layer["w"]))
        assert not layer["b"].any()


def test_a_deep_mlp_keeps_the_size_of_its_signal():
    x = random.normal(random.key(3), (200,))
    model = mlp((200,) * 20)
    rms = model.apply(model.init(KEY), x).square().mean().sqrt()
    assert 0.5 < rms < 3.0


def test_convnet_is_torchs_layers():
    model, x = convnet(), examples((1, 8, 8))[0]
    params = model.init(KEY)
    for convolution in params["convolutions"]:
        convolution["b"] = torch.linspace(-1, 1, len(convolution["b"]))
    modules = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(0),
        nn.Linear(256, 10),
    )
    first, second = params["convolutions"]
    head = params["head"]
    given = [first["w"], first["b"], second["w"], second["b"], head["w"].T, head["b"]]
    with torch.no_grad():
        for parameter, value in zip(modules.parameters(), given, strict=True):
            parameter.copy_(value)
    torch.testing.assert_close(model.apply(params, x), modules(x).detach())


def test_convnet_begins_by_hes_rule():
    params = convnet((3, 8, 8), (64, 64)).init(KEY)
    for convolution in params["convolutions"]:
        assert_he_normal(convolution["w"], convolution["w"][0].numel())
        assert not convolution["b"].any()
    assert_he_normal(params["head"]["w"], len(params["head"]["w"]))


@pytest.mark.parametrize(
    "image_shape, channels, inputs_of_the_head",
    [
        ((1, 8, 8), (4,) * 5, 4),
        ((1, 28, 28), (4, 8), 8 * 49),
        ((2, 1, 9), (3,), 27),
        ((1, 5, 4), (), 20),
    ],
)
def test_convnet_pools_while_the_image_has_two_rows_and_columns(image_shape, channels, inputs_of_the_head):
    model = convnet(image_shape, channels, 7)
    params = model.init(KEY)
    assert params["head"]["w"].shape == (inputs_of_the_head, 7)
    assert model.apply(params, torch.zeros(image_shape)).shape == (7,)


def block_of_modules(block, hidden, heads):
    """A transformer block of ``torch.nn`` modules, with the weights of ``block``."""
    width = hidden.shape[-1]
    attention = nn.MultiheadAttention(width, heads)
    norms = {name: nn.LayerNorm(width) for name in ("attention_norm", "mlp_norm")}
    expand, contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
    with torch.no_grad():
        attention.in_proj_weight.copy_(block["attention_in"]["w"].T)
        attention.in_proj_bias.copy_(block["attention_in"]["b"])
        attention.out_proj.weight.copy_(block["attention_out"]["w"].T)
        attention.out_proj.bias.copy_(block["attention_out"]["b"])
        for name, module in {**norms, "expand": expand, "contract": contract}.items():
            w = block[name]["w"]
            module.weight.copy_(w.T if w.ndim == 2 else w)
            module.bias.copy_(block[name]["b"])
    later = torch.ones(len(hidden), len(hidden), dtype=torch.bool).triu(1)
    h = norms["attention_norm"](hidden)
    hidden = hidden + attention(h, h, h, attn_mask=later, need_weights=False)[0]
    return hidden + contract(nn.GELU()(expand(norms["mlp_norm"](hidden))))


def randomized(params):
    """Other values in every leaf, so that no weight is left out of a comparison."""
    named = tree.named_leaves(params)
    keys = random.split(random.key(7), len(named))
    values = [0.4 * random.normal(k, p.shape) for k, (_, p) in zip(keys, named, strict=True)]
    return tree.flatten(params)[1](values)


def test_transformer_is_torchs_attention_and_layers():
    heads = 2
    model = transformer(11, 8, width=8, heads=heads, layers=2)
    params, tokens = randomized(model.init(KEY)), examples(None)[0]
    hidden = params["tokens"]["w"][tokens] + params["positions"]["w"][: len(tokens)]
    for block in params["blocks"]:
        hidden = block_of_modules(block, hidden, heads)
    hidden = F.layer_norm(hidden, (8,), params["norm"]["w"], params["norm"]["b"])
    want = (hidden @ params["head"]["w"]).detach()
    torch.testing.assert_close(model.apply(params, tokens), want)


def test_a_later_token_changes_no_earlier_logit():
    model = transformer(11, 8, width=8, heads=2, layers=2)
    params, tokens = randomized(model.init(KEY)), examples(None)[0]
    changed = tokens.clone()
    changed[3] = (changed[3] + 1) % 11
    before, after = model.apply(params, tokens), model.apply(params, changed)
    torch.testing.assert_close(before[:3], after[:3], rtol=0, atol=1e-6)
    assert ((before[3:] - after[3:]).abs().amax(-1) > 1e-3).all()


def test_a_shorter_sequence_has_the_first_logits_of_a_longer_one():
    model = transformer(11, 8, width=8, heads=2, layers=1)
    params, tokens = randomized(model.init(KEY)), examples(None)[0]
    torch.testing.assert_close(model.apply(params, tokens[:2]), model.apply(params, tokens)[:2])


def test_transformer_begins_as_gpt2_does():
    params = transformer(500, 128, width=64, heads=4, layers=8).init(KEY)
    stds = {"tokens": 0.02, "positions": 0.02, "head": 0.02}
    stds |= {"attention_in": 0.02, "expand": 0.02, "attention_out": 0.005, "contract": 0.005}
    for layers in (params, *params["blocks"]):
        for name, layer in layers.items():
            if name in stds:
                error = 4 / math.sqrt(2 * layer["w"].numel())
                assert layer["w"].std().item() == pytest.approx(stds[name], rel=error)
            elif name != "blocks":
                assert (layer["w"] == 1).all()
            if name != "blocks" and "b" in layer:
                assert not layer["b"].any()


def test_transformer_begins_with_almost_equal_odds_for_all_tokens():
    model = transformer(50, 16)
    tokens = torch.arange(16)
    logits = model.apply(model.init(KEY), tokens)
    loss = losses.softmax_cross_entropy_with_integer_labels(logits, tokens)
    assert loss.item() == pytest.approx(math.log(50), rel=0.05)


def test_a_batch_is_not_taken_for_an_example():
    model = mlp((64, 10))
    assert sentence_of(lambda: model.apply(model.init(KEY), torch.zeros(32, 64))) == (
        "mlp: x has shape (32, 64), expected (64,), one example. Map over a batch with "
        "torch.func.vmap(model.apply, (None, 0))."
    )


@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"transformer"}))
def test_every_model_checks_the_shape_of_its_example(name):
    model, shape, _ = MODELS[name]
    where = name.split()[0]
    assert shape is not None
    for wrong in ((), (7,), (2, *shape)):
        sentence = sentence_of(lambda w=wrong: model.apply(model.init(KEY), torch.zeros(w)))
        assert sentence.startswith(f"{where}: x has shape {wrong}, expected {shape}, one example.")


def test_an_example_has_the_dtype_of_the_parameters():
    model = linear(2)
    params = model.init(KEY)
    assert sentence_of(lambda: model.apply(params, torch.zeros(2, dtype=torch.float64))) == (
        "linear: x is of dtype torch.float64 and the parameters are of torch.float32. Pass "
        "x.to(torch.float32), or begin from model.init(key, torch.float64)."
    )
    assert sentence_of(lambda: model.apply(params, torch.zeros(2, dtype=torch.uint8))) == (
        "linear: x is of dtype torch.uint8 and the parameters are of torch.float32. Pass x.to(torch.float32)."
    )


def test_a_sequence_fits_the_context():
    model = transformer(11, 8, width=8, heads=2, layers=1)
    params = model.init(KEY)
    assert sentence_of(lambda: model.apply(params, torch.zeros(9, dtype=torch.int64))) == (
        "transformer: tokens has shape (9,), expected (T,) with T from 1 to context=8, the tokens "
        "of one example. Shorten the sequence, or map over a batch with "
        "torch.func.vmap(model.apply, (None, 0))."
    )
    for shape in ((), (0,), (4, 6)):
        wrong = torch.zeros(shape, dtype=torch.int64)
        assert f"tokens has shape {shape}," in sentence_of(lambda x=wrong: model.apply(params, x))
    assert sentence_of(lambda: model.apply(params, torch.zeros(3))) == (
        "transformer: tokens is of dtype torch.float32, expected torch.int64. Pass tokens.long()."
    )


@pytest.mark.parametrize("weight_decay", [torch.inf, torch.tensor(torch.nan), 1e308])
def test_least_squares_of_what_is_not_finite_are_refused(weight_decay):
    with pytest.raises(PureSGDError, match=r"least_squares: .*weight_decay"):
        least_squares(torch.ones(3, 2), torch.ones(3), weight_decay)


@pytest.mark.parametrize(
    "factory, sentence",
    [
        (
            lambda: mlp((64,)),
            "mlp: sizes=(64,) names 1 width, expected at least 2. Pass input and output widths, "
            "such as (64, 10).",
        ),
        (lambda: mlp(()), "mlp: sizes=() names 0 widths, expected at least 2. "),
        (lambda: mlp((64, 0)), "mlp: sizes[1]=0 is not at least 1. Pass a sizes[1] at least 1."),
        (
            lambda: linear(cast(int, 2.0)),
            "linear: features=2.0 is of type float, expected an int. ",
        ),
        (lambda: linear(2, 0), "linear: outputs=0 is not at least 1. "),
        (lambda: logistic(0), "logistic: features=0 is not at least 1. "),
        (
            lambda: convnet((28, 28)),
            "convnet: image_shape=(28, 28) has 2 axes, expected 3. Pass (channels, height, width), "
            "such as (1, 28, 28).",
        ),
        (lambda: convnet((1, 0, 8)), "convnet: image_shape[1]=0 is not at least 1. "),
        (lambda: convnet(channels=(4, True)), "convnet: channels[1]=True is of type bool, "),
        (lambda: convnet(classes=0), "convnet: classes=0 is not at least 1. "),
        (lambda: transformer(11, 0), "transformer: context=0 is not at least 1. "),
        (
            lambda: transformer(11, 8, width=9, heads=2),
            "transformer: width=9 is not a multiple of heads=2. Pass a width such as 10.",
        ),
    ],
)
def test_a_factory_names_the_argument_that_it_refuses(factory, sentence):
    assert sentence_of(factory).startswith(sentence)
