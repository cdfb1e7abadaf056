"""A chain of this library inside PyTorch Lightning, Hugging Face's Trainer and Accelerate.

They are an extra: ``make test-peers`` installs them and names this file, which ``make test`` leaves out.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, StepLR
from torch.utils.data import DataLoader, TensorDataset

import pure_sgd as ps

import_module("peers_vision")  # before these libraries look for torchvision

# Lightning makes leaves of trees as torch had them before 2.13.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:.isinstance.treespec, LeafSpec:FutureWarning:lightning\.pytorch\.utilities\._pytree"
)

X = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
Y = torch.randn(32, 1, generator=torch.Generator().manual_seed(1))

Make = Callable[[Any], torch.optim.Optimizer]


def ours(params: Any) -> torch.optim.Optimizer:
    return ps.to_torch_optimizer(ps.adamw(1e-2, weight_decay=0.1), params)


def torchs(params: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, lr=1e-2, weight_decay=0.1)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(X, Y), batch_size=8)


def parameters(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def lightning_module(make: Make, scheduled: bool = True) -> Any:
    library = import_module("lightning")

    class Regression(library.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            x, y = batch
            return ((self.network(x) - y) ** 2).mean()

        def configure_optimizers(self) -> Any:
            optimizer = make(self.network.named_parameters())
            if not scheduled:
                return optimizer
            return {"optimizer": optimizer, "lr_scheduler": StepLR(optimizer, 1, 0.5)}

    return Regression()


def lightning_trainer(directory: Path, epochs: int) -> Any:
    return import_module("lightning").Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=directory,
    )


def test_a_lightning_trainer_takes_the_steps_that_it_takes_with_torchs_optimizer(tmp_path):
    mine, theirs = lightning_module(ours), lightning_module(torchs)
    for module in (mine, theirs):
        lightning_trainer(tmp_path, 3).fit(module, loader())
    torch.testing.assert_close(parameters(mine), parameters(theirs))


def test_a_lightning_run_goes_on_from_its_checkpoint(tmp_path):
    whole, first, second = (lightning_module(ours) for _ in range(3))
    lightning_trainer(tmp_path, 4).fit(whole, loader())
    trainer = lightning_trainer(tmp_path, 2)
    trainer.fit(first, loader())
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    lightning_trainer(tmp_path, 4).fit(second, loader(), ckpt_path=tmp_path / "run.ckpt")
    torch.testing.assert_close(parameters(second), parameters(whole), rtol=0, atol=0)


@torch.no_grad()
def error(module: Any) -> float:
    return float(((module.network(X) - Y) ** 2).mean())


def test_a_line_search_has_lightnings_closure(tmp_path):
    module = lightning_module(lambda params: ps.to_torch_optimizer(ps.lbfgs(), params), scheduled=False)
    before = error(module)
    trainer = lightning_trainer(tmp_path, 8)
    trainer.fit(module, DataLoader(TensorDataset(X, Y), batch_size=32))
    assert error(module) < 0.8 * before


TEXT = torch.randint(0, 16, (32, 8), generator=torch.Generator().manual_seed(0))


def language_model() -> Any:
    library = import_module("transformers")
    torch.manual_seed(0)
    config = library.GPT2Config(
        vocab_size=16, n_positions=8, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
    return library.GPT2LMHeadModel(config)


def trained_language_model(directory: Path, make: Make, steps: int = 8, resume: bool = False) -> Any:
    """After steps of a Trainer, which saves itself every 4."""
    library = import_module("transformers")
    model = language_model()
    arguments = library.TrainingArguments(
        output_dir=str(directory),
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        warmup_steps=2,
        max_grad_norm=1.0,
        save_steps=4,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        lr_scheduler_type="constant_with_warmup",
    )
    trainer = library.Trainer(
        model=model,
        args=arguments,
        train_dataset=[{"input_ids": row, "labels": row} for row in TEXT],
        optimizers=(make(model.named_parameters()), None),
    )
    trainer.train(resume_from_checkpoint=resume)
    return model


def test_a_hugging_face_trainer_takes_the_steps_that_it_takes_with_torchs_optimizer(tmp_path):
    # Not Adam, which makes a step of the rounding where a gradient is 0, as that of the bias of keys.
    mine = trained_language_model(
        tmp_path / "ours", lambda params: ps.to_torch_optimizer(ps.sgd(0.1, momentum=0.9), params)
    )
    theirs = trained_language_model(
        tmp_path / "torch", lambda params: torch.optim.SGD(params, 0.1, momentum=0.9)
    )
    torch.testing.assert_close(parameters(mine), parameters(theirs))


def test_a_hugging_face_run_goes_on_from_its_checkpoint(tmp_path):
    whole = trained_language_model(tmp_path / "whole", ours)
    trained_language_model(tmp_path / "parts", ours, steps=4)
    resumed = trained_language_model(tmp_path / "parts", ours, resume=True)
    torch.testing.assert_close(parameters(resumed), parameters(whole), rtol=0, atol=0)


def accelerated(make: Make) -> dict[str, torch.Tensor]:
    """After two epochs of a loop of Accelerate that accumulates two batches for a step."""
    accelerator = import_module("accelerate").Accelerator(cpu=True, gradient_accumulation_steps=2)
    module = network()
    optimizer = make(module.named_parameters())
    scheduler = LambdaLR(optimizer, lambda step: 0.9**step)
    module, optimizer, batches, scheduler = accelerator.prepare(module, optimizer, loader(), scheduler)
    for _ in range(2):
        for x, y in batches:
            with accelerator.accumulate(module):
                accelerator.backward(((module(x) - y) ** 2).mean())
                accelerator.clip_grad_norm_(module.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
    return parameters(accelerator.unwrap_model(module))


def test_a_loop_of_accelerate_takes_the_steps_that_it_takes_with_torchs_optimizer():
    torch.testing.assert_close(accelerated(ours), accelerated(torchs))


def test_tensorboard_reads_what_a_run_has_logged(tmp_path):
    events = import_module("tensorboard.backend.event_processing.event_accumulator")
    writer = import_module("torch.utils.tensorboard").SummaryWriter(str(tmp_path))
    loss = ps.empirical_risk(lambda params, x, y: (x @ params - y) ** 2)
    logger = ps.tensorboard_logger(writer)
    _, history = ps.fit(loss, ps.sgd(0.1), torch.zeros(4), (X, Y[:, 0]), epochs=3, callbacks=[logger])
    writer.close()
    found = events.EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in found.Scalars("loss")] == history["step"]
    assert [event.value for event in found.Scalars("loss")] == pytest.approx(history["loss"])
