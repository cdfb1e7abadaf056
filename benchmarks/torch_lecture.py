"""The lecture's experiment as a plain PyTorch program: the peer of examples/lecture.py."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, TensorDataset

EPOCHS = 50


def problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw x (1000, 5), y (1000, 1), and the weights (5, 1) and bias (1,) behind them, from seed 42."""
    torch.manual_seed(42)
    w, b = torch.randn(5, 1), torch.randn(1)
    x = torch.randn(1000, 5)
    return x, x @ w + b + 0.5 * torch.randn(1000, 1), w, b


class Experiment:
    """Everything that is set up before the first epoch."""

    def __init__(self) -> None:
        x, y, *_ = problem()
        self.train = DataLoader(TensorDataset(x[:800], y[:800]), batch_size=32, shuffle=True)
        self.held_out = DataLoader(TensorDataset(x[800:], y[800:]), batch_size=64)
        self.model = nn.Linear(5, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        self.scheduler = CosineAnnealingLR(self.optimizer, T_max=EPOCHS, eta_min=0.001)
        self.average = AveragedModel(self.model, avg_fn=lambda a, p, _: 0.99 * a + 0.01 * p)
        self.criterion = nn.MSELoss()

    def run(self) -> dict[str, list[float]]:
        """Train for 50 epochs; the history has one entry each."""
        names = ("loss", "val_loss", "val_loss_averaged", "learning_rate")
        history: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(EPOCHS):
            history["learning_rate"].append(float(self.scheduler.get_last_lr()[0]))
            history["loss"].append(self._epoch())
            history["val_loss"].append(self._validate(self.model))
            history["val_loss_averaged"].append(self._validate(self.average.module))
            self.scheduler.step()
        return history

    def weights(self, averaged: bool = False) -> list[float]:
        """The five learned weights and the bias."""
        weight, bias = (self.average.module if averaged else self.model).parameters()
        return [*weight[0].tolist(), bias.item()]

    def _epoch(self) -> float:
        total = 0.0
        for x, y in self.train:
            self.optimizer.zero_grad()
            loss = self.criterion(self.model(x), y)
            loss.backward()
            self.optimizer.step()
            self.average.update_parameters(self.model)
            total += loss.item() * len(x)
        return total / 800

    @torch.no_grad()
    def _validate(self, model: nn.Module) -> float:
        return sum(self.criterion(model(x), y).item() * len(x) for x, y in self.held_out) / 200
