"""An ``nn.Module`` as a pure function, and the way back."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from .. import tree
from ..arguments import typed
from ..errors import PureSGDError
from .contract import Params

__all__ = ["from_module", "write_back"]

Tensors = Mapping[str, torch.Tensor]


@typed
def from_module(module: nn.Module, mutable: bool = False) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Turn ``module`` into ``(apply, params)`` with ``apply(params, *args, **kwargs) -> output``.

    ``params`` holds a copy of each parameter under its name, a tied one once and a frozen one too,
    and copies of the buffers, by name, in ``params["buffers"]``. The module itself is neither kept
    nor changed: ``apply`` goes by its settings, train or eval mode among them, as they are now.

    To ``apply``, buffers are constants: their gradient is zero, and what the module does to them is
    lost, unless ``mutable=True`` makes it return ``(output, buffers)`` with their new values. That
    is for batch norm in train mode, which mixes examples and so has no per-example gradients.
    :func:`pure_sgd.make_step` keeps buffers from the optimizer, whose weight decay would shrink
    them, and takes new ones from what the loss returns beside its value, as below.

    Buffers of integers or bools, such as counts and position numbers, are not differentiable.
    They are in ``params`` with ``mutable=True`` only; ``apply`` keeps a copy for when they are not.

    Layers that draw random numbers, such as dropout in train mode, still take them from torch's
    global generator; with these alone ``apply`` is not a function of its arguments.

    Shapes and dtypes: those that the module takes and returns. Under ``torch.func.vmap`` it sees
    one example; a module that insists on a batch axis is given one of length 1 by ``x[None]``.

    Raises:
        PureSGDError: in ``apply``, an entry of ``params`` is missing, not the module's, or of
            another shape.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> apply, params = ps.models.from_module(torch.nn.Linear(3, 2))
        >>> sorted(params), apply(params, torch.ones(3)).shape
        (['bias', 'weight'], torch.Size([2]))
        >>> apply, params = ps.models.from_module(torch.nn.BatchNorm1d(3), mutable=True)
        >>> def loss(params, x_B):
        ...     output, buffers = apply(params, x_B)
        ...     return output.square().mean(), {"buffers": buffers}
        >>> tx = ps.sgd(0.1)
        >>> step = ps.make_step(loss, tx, has_aux=True)
        >>> state, metrics = step(ps.init_train_state(params, tx), torch.ones(8, 3))
        >>> state.params["buffers"]["num_batches_tracked"]
        tensor(1)
    """
    _refuse_renormalized(module)
    skeleton = _skeleton(module)
    parameters, buffers = dict(skeleton.named_parameters()), dict(skeleton.named_buffers())
    first_names = _first_names(skeleton)
    copies = {name: b.detach().clone() for name, b in module.named_buffers()}
    required = {name for name, b in copies.items() if mutable or b.is_floating_point()}
    held = {name: b for name, b in copies.items() if name not in required}
    params: dict[str, Any] = {name: p.detach().clone() for name, p in module.named_parameters()}
    if required:
        params["buffers"] = {name: b for name, b in copies.items() if name in required}

    def apply(params: Params, *args: Any, **kwargs: Any) -> Any:
        _check(params, parameters, buffers, required)
        given = params.get("buffers", {})
        # Cloned, because a module updates its buffers in place.
        tensors = {name: b.detach().clone() for name, b in {**held, **given}.items()}
        tensors |= {name: params[name] for name in parameters}
        named = {name: tensors[first] for name, first in first_names.items()}
        # Ties are resolved above; functional_call would search for them again at every call.
        output = torch.func.functional_call(skeleton, named, args, kwargs, tie_weights=False)
        if not mutable:
            return output
        # The call leaves in the dict whatever the module has put in a buffer's place.
        return output, {name: named[name].detach() for name in given}

    return apply, params


@typed
def write_back(module: nn.Module, params: Params) -> None:
    """Copy ``params`` into the parameters and, where it has them, the buffers of ``module``.

    This is the one function here that changes an argument. Everything is checked before anything is
    written; values are cast to the module's dtypes and moved to its devices.

    Raises:
        PureSGDError: names the entry that is missing, not the module's, or of another shape.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> module = torch.nn.Linear(2, 1)
        >>> apply, params = ps.models.from_module(module)
        >>> ps.models.write_back(module, {**params, "bias": torch.tensor([3.0])})
        >>> module.bias.data
        tensor([3.])
    """
    parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    required = {name for name, b in buffers.items() if b.is_floating_point()}
    _check(params, parameters, buffers, required if "buffers" in params else set())
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(params[name])
        for name, value in params.get("buffers", {}).items():
            buffers[name].copy_(value)


def _check(params: Params, parameters: Tensors, buffers: Tensors, required: set[str]) -> None:
    like: dict[str, Any] = dict(parameters)
    given = params.get("buffers", {}) if isinstance(params, dict) else {}
    expected = {name: b for name, b in buffers.items() if name in required or name in given}
    if expected:
        like["buffers"] = expected
    tree.check_like(params, like, "params", "the module's params")


def _skeleton(module: nn.Module) -> nn.Module:
    """A copy of ``module`` whose parameters and buffers have shapes and no values.

    Code that reaches for the module's own values, and not for those in ``params``, fails on these.
    """
    stand_ins: dict[int, Any] = {}
    for parameter in module.parameters():
        empty = torch.empty_like(parameter, device="meta")
        stand_ins[id(parameter)] = nn.Parameter(empty, requires_grad=False)
    for buffer in module.buffers():
        stand_ins[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(module, stand_ins)


def _first_names(module: nn.Module) -> dict[str, str]:
    """The name of every parameter and buffer -> the first name that the same tensor has."""
    first: dict[int, str] = {}
    named = (
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    )
    return {name: first.setdefault(id(tensor), name) for name, tensor in named}


def _refuse_renormalized(module: nn.Module) -> None:
    for name, part in module.named_modules():
        if isinstance(part, (nn.Embedding, nn.EmbeddingBag)) and part.max_norm is not None:
            raise PureSGDError(
                "from_module",
                f"{name or 'the module'} has max_norm={part.max_norm}, by which a call rescales "
                "its weight in place",
                "Build it with max_norm=None and limit the norm in the optimizer",
            )
