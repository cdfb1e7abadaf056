"""The contract: what a model is, and how it meets an example of another shape."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec

import torch

from ..arguments import typed
from ..errors import PureSGDError
from ..recipe import Recipe

__all__ = ["Model", "check_example", "sentenced"]

P = ParamSpec("P")

#: A tree of tensors: dicts and lists, with the weights of a layer under ``w`` and ``b``.
Params = Any


class Model(NamedTuple):
    """A pure pair: ``init(key, dtype=torch.float32) -> params`` and ``apply(params, x) -> output``.

    ``init`` draws the parameters on the key's device and depends on nothing but its arguments.
    ``apply`` sees *one* example; map it over a batch, as below. ``repr`` is the recipe.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> model = ps.models.mlp((3, 8, 2))
        >>> model
        mlp((3, 8, 2))
        >>> params = model.init(ps.random.key(0))
        >>> x_B = torch.zeros(5, 3)
        >>> torch.func.vmap(model.apply, (None, 0))(params, x_B).shape
        torch.Size([5, 2])
    """

    init: Callable[..., Params]
    apply: Callable[[Params, torch.Tensor], torch.Tensor]
    recipe: Recipe | None = None

    def __repr__(self) -> str:
        if self.recipe is None:
            return f"Model(init={self.init!r}, apply={self.apply!r})"
        return repr(self.recipe)


def sentenced(factory: Callable[P, Model]) -> Callable[P, Model]:
    """Decorate a factory of models: ``init`` and ``apply`` name the argument that they cannot take.

    Example:
        >>> import pure_sgd as ps
        >>> ps.models.linear(3).init(0)
        Traceback (most recent call last):
        pure_sgd.errors.PureSGDError: init: key=0 is of type int, expected torch.Tensor. Pass key as one.
    """

    @functools.wraps(factory)
    def make(*args: P.args, **kwargs: P.kwargs) -> Model:
        model = factory(*args, **kwargs)
        return model._replace(init=typed(model.init), apply=typed(model.apply))

    return make


def check_example(where: str, x: torch.Tensor, shape: tuple[int, ...], weight: torch.Tensor) -> None:
    """Check that ``x`` is one example of ``shape`` in the dtype of ``weight``.

    Without it a batch would pass through a matrix product unnoticed, and its loss be no example's.

    Raises:
        PureSGDError: another shape or dtype.

    Example:
        >>> import torch
        >>> from pure_sgd.models.contract import check_example
        >>> check_example("linear", torch.zeros(3), (3,), torch.zeros(3))
    """
    if tuple(x.shape) != shape:
        raise PureSGDError(
            where,
            f"x has shape {tuple(x.shape)}, expected {shape}, one example",
            "Map over a batch with torch.func.vmap(model.apply, (None, 0))",
        )
    if x.dtype != weight.dtype:
        other = f", or begin from model.init(key, {x.dtype})" if x.is_floating_point() else ""
        raise PureSGDError(
            where,
            f"x is of dtype {x.dtype} and the parameters are of {weight.dtype}",
            f"Pass x.to({weight.dtype}){other}",
        )
