"""What a checkpoint holds: a step, metadata, and leaves that go by their paths."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ... import functorch, tree
from ...errors import PureSGDError

__all__ = ["CorruptCheckpointError", "Leaf", "Snapshot", "described", "held", "plain", "snapshot"]

#: The dtypes that a checkpoint holds, and what safetensors calls them; it has complex128 as pairs of float64.
DTYPES: dict[str, tuple[torch.dtype, str]] = {
    "bool": (torch.bool, "BOOL"),
    "uint8": (torch.uint8, "U8"),
    "uint16": (torch.uint16, "U16"),
    "uint32": (torch.uint32, "U32"),
    "uint64": (torch.uint64, "U64"),
    "int8": (torch.int8, "I8"),
    "int16": (torch.int16, "I16"),
    "int32": (torch.int32, "I32"),
    "int64": (torch.int64, "I64"),
    "float8_e4m3fn": (torch.float8_e4m3fn, "F8_E4M3"),
    "float8_e4m3fnuz": (torch.float8_e4m3fnuz, "F8_E4M3FNUZ"),
    "float8_e5m2": (torch.float8_e5m2, "F8_E5M2"),
    "float8_e5m2fnuz": (torch.float8_e5m2fnuz, "F8_E5M2FNUZ"),
    "float8_e8m0fnu": (torch.float8_e8m0fnu, "F8_E8M0"),
    "bfloat16": (torch.bfloat16, "BF16"),
    "float16": (torch.float16, "F16"),
    "float32": (torch.float32, "F32"),
    "float64": (torch.float64, "F64"),
    "complex64": (torch.complex64, "C64"),
    "complex128": (torch.complex128, "F64"),
}
KINDS = {"bool": bool, "int": int, "float": str, "str": str}  # of a number or string, and of its value
#: Digits of an int; Python itself reads no more than 4300.
LONGEST_INT = 4000


class CorruptCheckpointError(PureSGDError):
    """A checkpoint that is not what was written: cut off, changed, or made by somebody else.

    Example:
        >>> import pure_sgd as ps
        >>> issubclass(ps.CorruptCheckpointError, ps.PureSGDError)
        True
    """


class Leaf(NamedTuple):
    """What the manifest says of one leaf."""

    kind: str  # "tensor", or the type of a number or string
    dtype: str | None  # of a tensor, such as "float32"
    shape: tuple[int, ...]
    sha256: str | None  # of a tensor's bytes
    value: Any  # of a number (a float as hexadecimal digits) or a string

    @property
    def size(self) -> int:
        """The bytes of a tensor."""
        return prod(self.shape) * DTYPES[self.dtype or ""][0].itemsize


class Snapshot(NamedTuple):
    """All that goes into a checkpoint, in memory of its own."""

    step: int
    values: dict[str, Any]  # by path; tensors are contiguous and on the CPU
    metadata: dict[str, Any]


def snapshot(state: Any, step: int, metadata: Mapping[str, Any] | None) -> Snapshot:
    """What ``state`` is now: it may be written over as soon as this returns.

    Raises:
        PureSGDError: a leaf or metadata that a checkpoint does not hold.

    Example:
        >>> import torch
        >>> from pure_sgd.training.checkpoints.contents import snapshot
        >>> state = {"w": torch.ones(2)}
        >>> taken = snapshot(state, step=3, metadata=None)
        >>> _ = state["w"].zero_()
        >>> taken.values
        {"['w']": tensor([1., 1.])}
    """
    return Snapshot(
        step, {path: _copied(path, value) for path, value in held(state).items()}, plain(metadata)
    )


def held(state: Any) -> dict[str, Any]:
    """The leaves of ``state`` by their paths.

    Raises:
        PureSGDError: one that a checkpoint does not hold.

    Example:
        >>> from pure_sgd.training.checkpoints.contents import held
        >>> held({"rate": 0.5})
        {"['rate']": 0.5}
    """
    if functorch.within_transform():
        raise PureSGDError(
            "save_checkpoint", "was called inside vmap or grad", "Save what the mapped function returns"
        )
    values: dict[str, Any] = {}
    for path, value in tree.named_leaves(state):
        if path in values:
            raise PureSGDError(
                path, "is the path of two leaves", "Use keys of a dict that are spelled differently"
            )
        _check_kind(path, value)
        values[path] = value
    return values


def plain(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """``metadata`` as they are read later, whatever becomes of the caller's.

    Raises:
        PureSGDError: they are not JSON.

    Example:
        >>> from pure_sgd.training.checkpoints.contents import plain
        >>> plain({"sizes": (1, 2)})
        {'sizes': [1, 2]}
    """
    try:
        text = json.dumps({} if metadata is None else dict(metadata), allow_nan=False)
        return json.loads(text, object_pairs_hook=without_duplicates)
    except (TypeError, ValueError, RecursionError) as error:
        raise PureSGDError(
            "metadata", f"is not JSON: {error}", "Pass a dict of strings, numbers, lists and dicts"
        ) from None


def described(value: Any) -> Leaf:
    """The entry of a leaf in the manifest, but for the checksum of a tensor.

    Example:
        >>> import torch
        >>> from pure_sgd.training.checkpoints.contents import described
        >>> described(torch.ones(2, 3)).shape
        (2, 3)
        >>> described(0.5).value
        '0x1.0000000000000p-1'
    """
    if isinstance(value, torch.Tensor):
        return Leaf("tensor", str(value.dtype).removeprefix("torch."), tuple(value.shape), None, None)
    return Leaf(type(value).__name__, None, (), None, value.hex() if type(value) is float else value)


def corrupt(folder: Path, problem: str) -> CorruptCheckpointError:
    """The error of a checkpoint that is not what was written."""
    remedy = "Load another step, or pass fallback=True for the newest that is intact"
    return CorruptCheckpointError(str(folder), problem, remedy)


def checksum(tensor: torch.Tensor) -> str:
    """The SHA-256 of the bytes of a contiguous tensor on the CPU."""
    return hashlib.sha256(bytes_of(tensor)).hexdigest()


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU."""
    array: Any = tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else bytearray()
    return memoryview(array)


def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, in which no name comes twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice")
    return found


def _copied(path: str, value: Any) -> Any:
    from torch.distributed.tensor import DTensor

    if isinstance(value, DTensor):
        raise PureSGDError(
            f"state{path}", "is spread over ranks", "Save it with pure_sgd.distributed.save_checkpoint"
        )
    if isinstance(value, torch.Tensor):
        copied = value.detach().cpu().resolve_conj().resolve_neg()
        return copied.clone(memory_format=torch.contiguous_format)
    return value


def _check_kind(path: str, value: Any) -> None:
    kind = type(value).__name__
    if isinstance(value, torch.Tensor):
        kind = f"tensor of dtype {value.dtype}, layout {value.layout}, on {value.device}"
        if described(value).dtype in DTYPES and value.layout == torch.strided and not value.is_meta:
            return
    elif kind == "int" and abs(value) >= 10**LONGEST_INT:
        kind = f"int of more than {LONGEST_INT} digits"
    elif kind in KINDS:
        return
    raise PureSGDError(
        f"state{path}",
        f"is a {kind}, which a checkpoint does not hold",
        "Save trees of plain tensors, numbers and strings",
    )
