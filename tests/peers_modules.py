"""Modules of torchvision and transformers as functions: their gradients, example by example.

They are an extra: ``make test-peers`` installs them and names this file, which ``make test`` leaves out.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

import pure_sgd as ps

vision: Any = import_module("peers_vision").models
transformers: Any = import_module("transformers")

B, CLASSES = 3, 4


# Their attention is fused, which torch maps over examples one by one.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop.*_scaled_dot_product:UserWarning")


class Case(NamedTuple):
    """A module with random weights, and a batch for it."""

    make: Callable[[], nn.Module]
    batch: Callable[[], torch.Tensor]

    def built(self) -> tuple[nn.Module, torch.Tensor]:
        torch.manual_seed(0)
        return self.make().double().eval(), self.batch()


def images() -> torch.Tensor:
    return torch.randn(B, 3, 32, 32, dtype=torch.float64)


def tokens() -> torch.Tensor:
    return torch.randint(0, 16, (B, 6))


def resnet() -> nn.Module:
    return vision.ResNet(vision.resnet.BasicBlock, [1, 1, 1, 1], num_classes=CLASSES)


def mobilenet() -> nn.Module:
    return vision.mobilenet_v2(num_classes=CLASSES, width_mult=0.1, dropout=0.0)


def vit() -> nn.Module:
    module = vision.VisionTransformer(
        image_size=32,
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=32,
        num_classes=CLASSES,
    )
    # It begins at zero, which would hide the gradients below it.
    nn.init.normal_(module.heads.head.weight)
    return module


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=16, n_positions=8, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


def bert() -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=16,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=8,
        num_labels=CLASSES,
    )
    return transformers.BertForSequenceClassification(config)


def hugging_face_resnet() -> nn.Module:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=CLASSES
    )
    return transformers.ResNetForImageClassification(config)


def hugging_face_vit() -> nn.Module:
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        num_labels=CLASSES,
    )
    return transformers.ViTForImageClassification(config)


CASES = {
    "torchvision ResNet": Case(resnet, images),
    "torchvision MobileNet": Case(mobilenet, images),
    "torchvision ViT": Case(vit, images),
    "transformers ResNet": Case(hugging_face_resnet, images),
    "transformers ViT": Case(hugging_face_vit, images),
    "transformers GPT-2": Case(gpt2, tokens),
    "transformers BERT": Case(bert, tokens),
}


def error_of(output: Any) -> torch.Tensor:
    """The loss of one example in a batch of length 1, of all its logits."""
    logits = output if isinstance(output, torch.Tensor) else output.logits
    return logits.flatten(0, -2).log_softmax(-1)[:, 1].square().mean()


def example_loss(apply: Callable[..., Any]) -> Callable[..., torch.Tensor]:
    return lambda params, x: error_of(apply(params, x[None]))


def loop(module: nn.Module, x_B: torch.Tensor) -> dict[str, torch.Tensor]:
    """The gradient of each example, by autograd, one after the other."""
    names, parameters = zip(*module.named_parameters(), strict=True)
    rows = [torch.autograd.grad(error_of(module(x[None])), parameters) for x in x_B]
    return dict(zip(names, map(torch.stack, zip(*rows, strict=True)), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_the_gradients_of_examples_are_those_of_a_loop(name):
    module, x_B = CASES[name].built()
    apply, params = ps.from_module(module)
    expected = loop(module, x_B)
    grads = ps.per_example_grads(example_loss(apply))(params, (x_B,))
    grads.pop("buffers", None)
    torch.testing.assert_close(grads, expected)
    norms = ps.per_example_grad_norms(example_loss(apply))(params, (x_B,))
    squares = sum(g.flatten(1).square().sum(1) for g in expected.values())
    torch.testing.assert_close(norms, torch.as_tensor(squares).sqrt())


@pytest.mark.parametrize("name", CASES)
def test_mean_and_variance_are_those_of_a_loop(name):
    module, x_B = CASES[name].built()
    apply, params = ps.from_module(module)
    expected = loop(module, x_B)
    moments = ps.gradient_moments(example_loss(apply))(params, (x_B,))
    for found, value in ((moments.mean, "mean"), (moments.variance, "var")):
        found.pop("buffers", None)
        torch.testing.assert_close(found, {key: getattr(g, value)(0) for key, g in expected.items()})


STATISTICS = {
    "per_example_grads": ps.per_example_grads,
    "per_example_grad_norms": ps.per_example_grad_norms,
    "gradient_moments": ps.gradient_moments,
}


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("name", [name for name in CASES if "Net" in name])
def test_batch_statistics_make_them_meaningless_and_it_says_so(name, statistic):
    module, x_B = CASES[name].built()
    apply, params = ps.from_module(module.train())
    with pytest.raises(ps.PureSGDError, match="mixes examples: the gradient of one example does not exist"):
        STATISTICS[statistic](example_loss(apply))(params, (x_B,))


@pytest.mark.parametrize("name", [name for name in CASES if "Net" in name])
def test_with_batch_statistics_a_loss_of_the_batch_trains_as_the_module_does(name):
    module, x_B = CASES[name].built()
    apply, params = ps.from_module(module.train(), mutable=True)

    def loss(params: Any, batch: Any) -> Any:
        output, buffers = apply(params, batch)
        return error_of(output), {"buffers": buffers}

    tx = ps.sgd(0.1, momentum=0.9)
    step, state = ps.make_step(loss, tx, has_aux=True), ps.init_train_state(params, tx)
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
    for _ in range(3):
        state, _ = step(state, x_B)
        optimizer.zero_grad()
        error_of(module(x_B)).backward()
        optimizer.step()
    found = dict(state.params)
    buffers = found.pop("buffers")
    torch.testing.assert_close(found, dict(module.named_parameters()))
    torch.testing.assert_close(buffers, dict(module.named_buffers()))
