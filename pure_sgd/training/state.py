"""What training carries from step to step."""

from __future__ import annotations

from typing import Any, Generic, NamedTuple

import torch

from .. import tree
from ..errors import PureSGDError
from ..hints import T
from ..models.buffers import BUFFERS, trainable
from ..transforms import GradientTransformation
from ..transforms.contract import step_zero

__all__ = ["TrainState", "init_train_state"]


class TrainState(NamedTuple, Generic[T]):
    """Everything that a step reads and writes: a tree of tensors, and the whole of a checkpoint."""

    step: torch.Tensor  # int64, shape (): the number of steps taken
    params: T
    opt_state: Any


def init_train_state(params: T, tx: GradientTransformation) -> TrainState[T]:
    """The state before the first step.

    The state owns its memory: ``params`` is copied. Its leaves are floating-point tensors of any shape
    P; under the key ``'buffers'`` of a dict anything goes, and stays as it is. An ``nn.Parameter`` is
    taken as the plain tensor that it holds.

    Raises:
        PureSGDError: names a leaf that cannot be trained.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> ps.init_train_state({"w": torch.zeros(2)}, ps.sgd(0.1)).step
        tensor(0)
    """
    if not isinstance(tx, GradientTransformation):
        raise PureSGDError(
            "tx", f"is a {type(tx).__name__}, expected a GradientTransformation", "Pass sgd(0.1), say"
        )
    named = tree.named_leaves(trainable(params), "params")
    if not named:
        raise PureSGDError("params", "holds no tensor", "Pass a tree with at least one tensor")
    for path, leaf in named:
        if not isinstance(leaf, torch.Tensor):
            got = type(leaf).__name__
            raise PureSGDError(path, f"is a {got}, expected a tensor", "Convert it with torch.as_tensor")
        if not (leaf.is_floating_point() or leaf.is_complex()):
            raise PureSGDError(
                path,
                f"has dtype {leaf.dtype}, and only floating-point leaves can be trained",
                f"Convert it, or put it under the key {BUFFERS!r}",
            )
    # Only nn.Parameter is detached: an outer torch.func.grad over the whole run must stay connected.
    params = tree.map(lambda p: (p.detach() if isinstance(p, torch.nn.Parameter) else p).clone(), params)
    return TrainState(step_zero(params), params, tx.init(trainable(params)))
