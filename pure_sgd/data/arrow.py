"""Fields of Arrow and Parquet files, read through pyarrow."""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import import_module
from typing import Any

import numpy as np
import torch

from ..errors import PureSGDError
from .columns import Column, File, Part, Rows, changed, file_at
from .formats import Fields, no_numbers, torch_dtype, wanted, where

#: Bytes of decoded row groups that a process keeps, beside the one in use.
MOST_DECODED = 2**28


def arrow_columns(file: File, fields: Fields) -> dict[str, Column]:
    """Those columns of an Arrow file that lie in it as numbers, a part for each of its record batches.

    Raises:
        PureSGDError: pyarrow is not installed; it is no such file or a compressed one; or a column is
            not of numbers, or has nulls.
    """
    pyarrow: Any = _pyarrow(file)
    with pyarrow.memory_map(file.path) as source:
        try:
            whole = source.read_buffer(file.bytes)
            reader = pyarrow.ipc.open_file(whole)
            batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise PureSGDError(file.path, f"is no whole Arrow file ({error})", "Write it again") from None
        names = wanted(file, reader.schema.names, fields)
        batches = [batch for batch in batches if len(batch)]
        if not batches:
            raise PureSGDError(file.path, "holds no example", "Leave it out")
        return {
            name: _in_place(file, name, [batch.column(name) for batch in batches], whole) for name in names
        }


def parquet_columns(file: File, fields: Fields) -> dict[str, ParquetColumn]:
    """Those columns of a Parquet file.

    Raises:
        PureSGDError: pyarrow is not installed; it is no such file; or a column is not of numbers.
    """
    pyarrow: Any = _pyarrow(file)
    try:
        reader = _parquet(file, os.getpid())
        schema = reader.schema_arrow
    except (pyarrow.ArrowException, OSError) as error:
        raise PureSGDError(file.path, f"is no whole Parquet file ({error})", "Write it again") from None
    counts = [reader.metadata.row_group(number).num_rows for number in range(reader.num_row_groups)]
    groups = tuple((file, number, count) for number, count in enumerate(counts) if count)
    if not groups:
        raise PureSGDError(file.path, "holds no example", "Leave it out")
    kinds = {name: _row(file, name, schema.field(name).type) for name in wanted(file, schema.names, fields)}
    return {name: ParquetColumn(name, *kind, groups) for name, kind in kinds.items()}


@dataclass(frozen=True, eq=False)
class ParquetColumn:
    """A column that is decoded a row group at a time, of which the last few are kept."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]  # of a row
    parts: tuple[tuple[File, int, int], ...]  # the file, the row group's number, its rows

    def __len__(self) -> int:
        return int(self.firsts[-1])

    @cached_property
    def firsts(self) -> Rows:
        """The row that each group begins with, and the end."""
        return np.cumsum([0, *(count for _, _, count in self.parts)])

    def read(self, rows: Rows, pinned: bool = False) -> torch.Tensor:
        """The examples ``rows``, (len(rows), ``*shape``), in memory of their own.

        Raises:
            PureSGDError: a file is not what it was, or has nulls.
        """
        out = torch.empty((len(rows), *self.shape), dtype=self.dtype, pin_memory=pinned)
        which = self.firsts.searchsorted(rows, "right") - 1
        for number in np.unique(which).tolist():
            chosen = np.flatnonzero(which == number)
            file, group, _ = self.parts[number]
            decoded = _DECODED.get(file, group, self)
            out[torch.from_numpy(chosen)] = decoded[torch.from_numpy(rows[chosen] - self.firsts[number])]
        return out


class _Decoded:
    """The row groups that were last in use, up to a number of bytes."""

    def __init__(self) -> None:
        self.kept = OrderedDict[tuple[File, int, str], torch.Tensor]()

    def get(self, file: File, group: int, column: ParquetColumn) -> torch.Tensor:
        """The decoded column of a row group."""
        key = (file, group, column.name)
        if key not in self.kept:
            self.kept[key] = _decode(file, group, column)
            while len(self.kept) > 1 and sum(tensor.nbytes for tensor in self.kept.values()) > MOST_DECODED:
                self.kept.popitem(last=False)
        self.kept.move_to_end(key)
        return self.kept[key]


_DECODED = _Decoded()


def _decode(file: File, group: int, column: ParquetColumn) -> torch.Tensor:
    pyarrow: Any = _pyarrow(file)
    try:
        table = _parquet(file, os.getpid()).read_row_group(group, columns=[column.name], use_threads=False)
    except (pyarrow.ArrowException, OSError) as error:
        raise PureSGDError(
            where(file, column.name), f"cannot be decoded ({error})", "Write it again"
        ) from None
    values = table.column(column.name).combine_chunks()
    if isinstance(values, pyarrow.ChunkedArray):
        values = values.chunk(0)
    values = _numbers(file, column.name, values)
    array = np.require(values.to_numpy(zero_copy_only=False), requirements="W")
    return torch.from_numpy(array).reshape(-1, *column.shape)


def _in_place(file: File, name: str, arrays: Sequence[Any], whole: Any) -> Column:
    """A part for each array, at the place in the file where its numbers lie."""
    dtype, shape = _row(file, name, arrays[0].type)
    if dtype == torch.bool:
        raise PureSGDError(where(file, name), "holds single bits", "Cast the column to uint8")
    row_bytes = math.prod(shape) * dtype.itemsize
    parts: list[Part] = []
    for array in arrays:
        values = _numbers(file, name, array)
        offset = values.buffers()[1].address - whole.address + values.offset * dtype.itemsize
        if not 0 <= offset <= file.bytes - len(array) * row_bytes:
            raise PureSGDError(file.path, "is compressed", "Write it without compression, or as Parquet")
        parts.append(Part(file, offset, len(array)))
    return Column(name, dtype, shape, tuple(parts))


def _row(file: File, name: str, kind: Any) -> tuple[torch.dtype, tuple[int, ...]]:
    """The dtype and the shape of a row."""
    pyarrow: Any = _pyarrow(file)
    asked, shape = kind, ()
    if isinstance(kind, pyarrow.FixedShapeTensorType):
        kind, shape = kind.value_type, tuple(kind.shape)
    while pyarrow.types.is_fixed_size_list(kind):
        kind, shape = kind.value_type, (*shape, kind.list_size)
    types = pyarrow.types
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)) or 0 in shape:
        raise no_numbers(file, name, asked)
    return torch_dtype(file, name, np.dtype(kind.to_pandas_dtype())), shape


def _numbers(file: File, name: str, array: Any) -> Any:
    """All numbers of a column as one array, whatever lists they lie in."""
    pyarrow: Any = _pyarrow(file)
    if isinstance(array, pyarrow.ExtensionArray):
        array = array.storage
    while True:
        if array.null_count:
            raise PureSGDError(where(file, name), "has nulls", "Fill them, or leave their rows out")
        if not pyarrow.types.is_fixed_size_list(array.type):
            return array
        array = array.flatten()


@lru_cache(16)
def _parquet(file: File, process: int) -> Any:
    """The file, open in this process."""
    from pyarrow import parquet

    if file_at(file.path) != file:
        raise changed(file)
    return parquet.ParquetFile(file.path)


def _pyarrow(file: File) -> Any:
    try:
        return import_module("pyarrow")
    except ImportError as error:
        raise PureSGDError(
            file.path, "is read through pyarrow, which is not installed", "pip install pure_sgd[arrow]"
        ) from error
