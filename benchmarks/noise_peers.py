"""Per-example gradients, their variance and norms, and their clipped mean, as Opacus and BackPACK give them.

Each function sets everything up for a module and a loss, and returns the function that does the work. A loss
is ``losses(module)``, (B,), the loss of each example of a batch that it knows. Results are in the order of
``module.parameters()``. The tests compare them with this library, the benchmark times them.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import nn

Losses = Callable[[Any], torch.Tensor]
Tensors = list[torch.Tensor]


def backpack_variance(module: nn.Module, losses: Losses) -> Callable[[], Tensors]:
    """The extension ``Variance``: divided by B, and so multiplied by ``B / (B - 1)``."""
    backward = _backpack(module, losses, "Variance", "variance")

    def variance() -> Tensors:
        count, parameters = backward()
        return [p.variance * (count / (count - 1)) for p in parameters]

    return variance


def backpack_squares(module: nn.Module, losses: Losses) -> Callable[[], Tensors]:
    """The variance from the extension ``SumGradSquared`` and the gradient of the sum of losses."""
    backward = _backpack(module, losses, "SumGradSquared", "sum_grad_squared")

    def variance() -> Tensors:
        count, parameters = backward()
        return [(p.sum_grad_squared - p.grad * p.grad / count) / (count - 1) for p in parameters]

    return variance


def backpack_norms(module: nn.Module, losses: Losses) -> Callable[[], torch.Tensor]:
    """The norms (B,) over all parameters, from the extension ``BatchL2Grad``."""
    backward = _backpack(module, losses, "BatchL2Grad", "batch_l2")
    return lambda: torch.stack([p.batch_l2 for p in backward()[1]]).sum(0).sqrt()


def _backpack(
    module: nn.Module, losses: Losses, extension: str, field: str
) -> Callable[[], tuple[int, list[Any]]]:
    library = import_module("backpack")
    quantity = getattr(import_module("backpack.extensions"), extension)()
    module = library.extend(copy.deepcopy(module))

    def backward() -> tuple[int, list[Any]]:
        module.zero_grad()
        with library.backpack(quantity):
            each = losses(module)
            # Of the mean each gradient would be 1/B too small.
            each.sum().backward()
        return len(each), list(module.parameters())

    # It only warns of layers that it does not know.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        backward()
    unknown = {
        type(m).__name__ for m in module.modules() for p in m.parameters(False) if not hasattr(p, field)
    }
    if unknown:
        raise NotImplementedError(f"no {extension} of {', '.join(sorted(unknown))}")
    return backward


def opacus_grads(module: nn.Module, losses: Losses) -> Callable[[], Tensors]:
    """The gradients of each example, (B, *P)."""
    watched: Any = import_module("opacus").GradSampleModule(copy.deepcopy(module), loss_reduction="mean")

    def grads() -> Tensors:
        watched.zero_grad(set_to_none=True)
        losses(watched).mean().backward()
        found = [p.grad_sample for p in watched.parameters()]
        watched.set_grad_sample_to_none()
        return found

    return grads


def opacus_variance(module: nn.Module, losses: Losses) -> Callable[[], Tensors]:
    """The variance of ``grad_sample``."""
    grads = opacus_grads(module, losses)
    return lambda: [g.var(0) for g in grads()]


def opacus_norms(module: nn.Module, losses: Losses) -> Callable[[], torch.Tensor]:
    """The norms (B,) over all parameters, by the first of the two passes of ghost clipping."""
    watched = _ghost(module, 1.0)

    def norms() -> torch.Tensor:
        watched.zero_grad(set_to_none=True)
        losses(watched).mean().backward()
        return watched.get_norm_sample()

    return norms


def opacus_clipped(module: nn.Module, losses: Losses, max_norm: float) -> Callable[[], Tensors]:
    """The mean of the gradients, each clipped to ``max_norm``, by ghost clipping."""
    watched = _ghost(module, max_norm)
    optimizer = torch.optim.SGD(watched.parameters(), lr=0.1)
    two_passes = import_module("opacus.utils.fast_gradient_clipping_utils").DPTensorFastGradientClipping

    def clipped() -> Tensors:
        optimizer.zero_grad()
        each = losses(watched)
        two_passes(watched, optimizer, each).backward()
        return [p.grad / len(each) for p in watched.parameters()]

    return clipped


def _ghost(module: nn.Module, max_norm: float) -> Any:
    watch = import_module("opacus.grad_sample").GradSampleModuleFastGradientClipping
    return watch(copy.deepcopy(module), loss_reduction="mean", max_grad_norm=max_norm)
