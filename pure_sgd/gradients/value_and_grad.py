"""The gradient of a loss with respect to a tree of parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, Protocol, runtime_checkable

import torch

from .. import tree
from ..arguments import typed
from ..errors import PureSGDError
from ..hints import T
from ..models.buffers import without_buffers
from .examples import Params, check_scalar

__all__ = ["check_differentiable", "value_and_grad"]


@runtime_checkable
class KnowsItsGradient(Protocol):
    """A loss with a way of its own to its value and gradient, which :func:`value_and_grad` takes."""

    def value_and_grad(self, has_aux: bool) -> Callable[..., tuple[Any, Params]]: ...


@typed
def value_and_grad(
    loss: Callable[..., Any], has_aux: bool = False
) -> Callable[Concatenate[T, ...], tuple[Any, T]]:
    """The value of ``loss(params, *args)`` and its gradient with respect to ``params``, in one pass.

    Returns ``(value, grads)``, or ``((value, aux), grads)`` when ``has_aux`` says that the loss returns
    ``(value, aux)``. ``params`` is any tree of floating-point tensors (``None`` stands for an empty tree);
    ``grads`` is a tree like it. An entry ``'buffers'`` of a dict of parameters is a constant, here and in all
    that is made of gradients, and has no part in the result. It can be differentiated again, mapped over
    and compiled.

    Raises:
        PureSGDError: a leaf that cannot be differentiated, or a loss that is not a scalar.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.value_and_grad(lambda params: (params["w"] ** 2).sum())({"w": torch.tensor([1.0, 2.0])})
        (tensor(5.), {'w': tensor([2., 4.])})
    """
    if isinstance(loss, KnowsItsGradient):
        return loss.value_and_grad(has_aux)

    def evaluate(params: Params, *args: Any) -> tuple[Any, Params]:
        of_params, params = without_buffers(loss, params)
        found, rebuild = tree.flatten(params)
        check_differentiable(params)

        def on_leaves(leaves: tuple[torch.Tensor, ...]) -> Any:
            out = of_params(rebuild(list(leaves)), *args)
            advice = "Return the mean over the batch, as empirical_risk does"
            check_scalar(out[0] if has_aux else out, "loss", advice)
            return out

        # With has_aux this is (grads, (value, aux)), without it (grads, value).
        grads, value = torch.func.grad_and_value(on_leaves, has_aux=has_aux)(tuple(found))
        return value, rebuild(list(grads))

    return evaluate


def check_differentiable(params: Params) -> None:
    """Check that ``params`` holds only tensors that have a gradient.

    Raises:
        PureSGDError: names the first leaf that has none.

    Example:
        >>> import torch
        >>> from pure_sgd.gradients.value_and_grad import check_differentiable
        >>> check_differentiable({"w": torch.ones(2)})
    """
    found = tree.leaves(params)
    if all(isinstance(p, torch.Tensor) and (p.is_floating_point() or p.is_complex()) for p in found):
        return
    for path, leaf in tree.named_leaves(params, "params"):
        if not isinstance(leaf, torch.Tensor):
            raise PureSGDError(
                path, f"is a {type(leaf).__name__}, expected a tensor", "Convert it with torch.as_tensor"
            )
        if not (leaf.is_floating_point() or leaf.is_complex()):
            raise PureSGDError(
                path,
                f"has dtype {leaf.dtype}, and only floating-point leaves have a gradient",
                "Convert it, or keep it out of params: close over it, or put it under 'buffers'",
            )
