"""What cannot be done to all examples at once, told with the line that tried."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import NamedTuple

import torch

from ..errors import PureSGDError

__all__ = ["BATCH_NORM", "explained"]

PACKAGE = Path(__file__).parents[1]
TORCH = Path(torch.__file__).parent


class _Told(NamedTuple):
    words: str  # in torch's message
    problem: str
    remedy: str


#: Problem and remedy of batch normalization in training mode.
BATCH_NORM = (
    "normalizes by the statistics of a batch (batch norm in training mode), which mixes examples: the "
    "gradient of one example does not exist",
    "Put the module in eval mode, or normalize each example by itself, as group or layer norm does",
)
_IN_PLACE = (
    "changes a tensor in place that all examples share",
    "Make a new tensor (x = x + y for x += y), and put modules that update buffers in eval mode",
)
_VALUE = (
    "decides by the value of a tensor, which differs between examples",
    "Use torch.where or a mask in place of the decision, and tensors in place of .item()",
)

_TOLD = (
    _Told("data-dependent control flow", *_VALUE),
    _Told("calling .item()", *_VALUE),
    _Told(
        "randomness error mode",
        "draws random numbers, and nothing says whether examples share them",
        "Draw with pure_sgd.random from a key for each example in the batch, or leave dropout out",
    ),
    _Told(
        "dynamic shape",
        "makes a tensor whose shape depends on values, as a boolean mask or nonzero does",
        "Use torch.where, or multiply by the mask",
    ),
    _Told("Batch norm got a batched", *BATCH_NORM),
    _Told("Expected more than 1 value per channel when training", *BATCH_NORM),
    _Told("vmap: inplace arithmetic", *_IN_PLACE),
    _Told("mutate a captured Tensor", *_IN_PLACE),
    _Told("doesn't match the broadcast shape", *_IN_PLACE),
    _Told(
        "Batching rule not implemented",
        "calls a function that torch.vmap cannot map over examples",
        "Write it with other functions, such as a loop over cells for a recurrent network",
    ),
)


def explained(error: Exception) -> PureSGDError | None:
    """Say what an error of ``torch.vmap`` means, or None for one that says it itself.

    Example:
        >>> from pure_sgd.gradients.mapping_errors import explained
        >>> explained(RuntimeError("vmap: called random operation while in randomness error mode"))
        PureSGDError('example_loss: draws random numbers, and nothing says whether examples share them. ...
        >>> explained(RuntimeError("no such thing"))
    """
    message = str(error)
    for told in _TOLD:
        if told.words in message:
            return PureSGDError("example_loss", told.problem + _place(error), told.remedy)
    return None


def _place(error: Exception) -> str:
    """The last line of the traceback that is neither torch's nor, if possible, ours."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _inside(f.filename, TORCH)]
    frames = [f for f in frames if not _inside(f.filename, PACKAGE / "gradients")]
    frames = [f for f in frames if not _inside(f.filename, PACKAGE)] or frames
    if not frames:
        return ""
    last = frames[-1]
    return f" ({last.filename}, line {last.lineno}: {last.line})"


def _inside(filename: str, folder: Path) -> bool:
    return Path(filename).is_relative_to(folder)
