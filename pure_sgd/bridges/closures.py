"""What line searches ask of an objective, from a closure as ``torch.optim`` has them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch

from ..errors import PureSGDError

__all__ = ["functions_of"]

Params = Mapping[Hashable, torch.Tensor]
Evaluate = Callable[[Sequence[torch.Tensor]], list[torch.Tensor]]


def functions_of(closure: Callable[[], Any], params: Params) -> dict[str, Callable[..., Any]]:
    """``value_fn`` and ``grad_fn`` of parameters, each a call of ``closure`` with them in place.

    The closure evaluates the loss at ``params``, whose ``grad`` it fills; it leaves them as they are, but for
    ``grad``. ``value_fn`` can be differentiated once, by ``torch.func.grad`` too.

    Example:
        >>> import torch
        >>> from pure_sgd.bridges.closures import functions_of
        >>> w = torch.nn.Parameter(torch.tensor([3.0]))
        >>> def closure():
        ...     w.grad = None
        ...     loss = (w**2).sum()
        ...     loss.backward()
        ...     return loss
        >>> value_fn = functions_of(closure, {"w": w})["value_fn"]
        >>> torch.func.grad(value_fn)({"w": torch.tensor([5.0])}), w.data
        ({'w': tensor([10.])}, tensor([3.]))
    """
    names, parameters = list(params), list(params.values())

    def evaluate(values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        before = [parameter.detach().clone() for parameter in parameters]
        try:
            _copy(parameters, values)
            with torch.enable_grad():
                loss = closure()
            grads = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]
        finally:
            _copy(parameters, before)
        return [torch.as_tensor(loss).detach().clone(), *grads]

    def value_fn(values: Params) -> torch.Tensor:
        return _Evaluation.apply(evaluate, *[values[name] for name in names])[0]

    def grad_fn(values: Params, i: Any) -> dict[Hashable, torch.Tensor]:
        return dict(zip(names, evaluate([values[name] for name in names])[1:], strict=True))

    return {"value_fn": value_fn, "grad_fn": grad_fn}


def _copy(parameters: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)


class _Evaluation(torch.autograd.Function):
    """The loss and its gradient, which its derivative then is."""

    @staticmethod
    def forward(evaluate: Evaluate, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(evaluate(values))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:], *inputs[1:])

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        grads, values = saved[: len(saved) // 2], saved[len(saved) // 2 :]
        pairs = zip(grads, values, strict=True)
        return None, *[_Constant.apply(slopes[0] * grad, value) for grad, value in pairs]


class _Constant(torch.autograd.Function):
    """A gradient at a value: a number, whose own slope nobody knows, rather than 0."""

    @staticmethod
    def forward(grad: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return grad.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> Any:
        raise PureSGDError(
            "step",
            "the chain asks for second derivatives, and a closure has only the first",
            "Train with make_step or fit, or take another chain",
        )

    jvp = backward
