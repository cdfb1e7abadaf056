"""What the header of a file says of its fields: .npy and .safetensors."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from ..errors import PureSGDError
from .columns import Column, File, Part

#: Of a file that holds one array without a name.
NAMELESS = ""
DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
}
Fields = Sequence[str] | None


def npy_columns(file: File, fields: Fields) -> dict[str, Column]:
    """The array of a .npy file.

    Raises:
        PureSGDError: it is no such file, is cut off, or holds what is not rows of numbers.
    """
    if fields is not None:
        raise PureSGDError(
            file.path, f"holds one array without a name, not fields {tuple(fields)}", "Leave fields out"
        )
    with open(file.path, "rb") as stream:
        try:
            shape, by_column, dtype = _npy_header(stream)
        except (ValueError, TypeError, SyntaxError, OverflowError, MemoryError, RecursionError) as error:
            raise PureSGDError(file.path, f"is no .npy file ({error})", "Write it with numpy.save") from None
        offset = stream.tell()
    if dtype.hasobject:
        raise PureSGDError(
            file.path,
            "holds Python objects, which are read by running them",
            "Save an array of numbers",
        )
    if by_column and len(shape) > 1:
        raise PureSGDError(
            file.path, "lies column by column", "Save numpy.ascontiguousarray(array), where rows are together"
        )
    expected = offset + math.prod(shape) * dtype.itemsize
    if min(shape, default=0) >= 0 and file.bytes != expected:
        raise PureSGDError(
            file.path,
            f"has {file.bytes} bytes, and its header tells of {expected}",
            "Write it again: it is cut off or has been changed",
        )
    return {NAMELESS: column(file, NAMELESS, torch_dtype(file, NAMELESS, dtype), shape, offset)}


def safetensors_columns(file: File, fields: Fields) -> dict[str, Column]:
    """Those tensors of a .safetensors file.

    Raises:
        PureSGDError: it is no such file, is cut off, or holds what is not rows of numbers.
    """
    try:
        with safe_open(file.path, "np") as tensors:  # which verifies that the header fits the file
            names = sorted(tensors.keys())
        with open(file.path, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise PureSGDError(
            file.path, f"is no whole .safetensors file ({error})", "Write it again, with safetensors"
        ) from None

    def made(name: str) -> Column:
        told = header[name]
        if told["dtype"] not in DTYPES:
            raise no_numbers(file, name, told["dtype"])
        return column(file, name, DTYPES[told["dtype"]], told["shape"], 8 + length + told["data_offsets"][0])

    return {name: made(name) for name in wanted(file, names, fields)}


def wanted(file: File, names: Collection[str], fields: Fields) -> Sequence[str]:
    """The fields asked for, or all.

    Raises:
        PureSGDError: the file does not have one of them, or has none at all.
    """
    for name in fields or ():
        if name not in names:
            raise PureSGDError(
                file.path, f"has no field {name!r}", f"Pass some of the fields that it has: {sorted(names)}"
            )
    if not names:
        raise PureSGDError(file.path, "holds no field", "Leave it out")
    return list(names) if fields is None else fields


def column(file: File, name: str, dtype: torch.dtype, shape: Sequence[int], offset: int) -> Column:
    """The field of one file.

    Raises:
        PureSGDError: it has no axis of examples, or no number in a row.
    """
    if not shape or min(shape) < 1:
        raise PureSGDError(
            where(file, name),
            f"has shape {tuple(shape)}, expected at least one example of at least one number",
            "Save an array whose first axis is that of examples",
        )
    return Column(name, dtype, tuple(shape[1:]), (Part(file, offset, shape[0]),))


def torch_dtype(file: File, name: str, dtype: np.dtype[Any]) -> torch.dtype:
    """The same of torch.

    Raises:
        PureSGDError: torch has no such numbers.
    """
    if not dtype.isnative:
        raise PureSGDError(
            where(file, name),
            f"has its bytes the other way round ({dtype.str})",
            "Save array.astype(array.dtype.newbyteorder('='))",
        )
    try:
        return torch.from_numpy(np.empty(0, dtype)).dtype
    except TypeError:
        raise no_numbers(file, name, dtype) from None


def no_numbers(file: File, name: str, dtype: Any) -> PureSGDError:
    """The error of a field that torch cannot hold."""
    return PureSGDError(
        where(file, name), f"is of type {dtype}, which torch does not have", "Save numbers of another type"
    )


def where(file: File, name: str) -> str:
    """The file and the field, for an error."""
    return f"{file.path}: {name}" if name else file.path


def _npy_header(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its version is {version}")
    read: Callable[..., Any] = (
        np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    )
    return read(stream)
