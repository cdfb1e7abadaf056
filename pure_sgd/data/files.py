"""Data larger than memory: examples that stay in their files until a batch asks for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.utils.data

from .. import tree
from ..arguments import typed
from ..errors import PureSGDError
from .arrow import ParquetColumn, arrow_columns, parquet_columns
from .columns import Column, file_at, mapped_where_small
from .formats import NAMELESS, Fields, npy_columns, safetensors_columns, where

__all__ = ["FileDataset", "from_files"]

Path = str | os.PathLike[str]
AnyColumn = Column | ParquetColumn
READERS: dict[str, Callable[..., dict[str, Any]]] = {
    ".npy": npy_columns,
    ".safetensors": safetensors_columns,
    ".arrow": arrow_columns,
    ".feather": arrow_columns,
    ".parquet": parquet_columns,
}


class FileDataset(torch.utils.data.Dataset[Any]):
    """Examples in files, as :func:`from_files` makes them.

    ``dataset[3]`` is an example; ``dataset[[3, 1]]``, ``dataset[10:20]`` and ``dataset[rows]`` with int64
    rows (B,) are batches in memory. It holds names and sizes alone: each process opens the files for itself.

    Raises:
        PureSGDError: rows that are no whole numbers, or a file that is not what it was.
        IndexError: a row that it does not have.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> import pure_sgd as ps
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     np.save(directory + "/x.npy", np.arange(8.0).reshape(4, 2))
        ...     dataset = ps.data.from_files(directory + "/x.npy")
        ...     len(dataset), dataset[3], dataset[[1, 0]].shape
        (4, tensor([6., 7.], dtype=torch.float64), torch.Size([2, 2]))
    """

    def __init__(self, columns: Any) -> None:
        self._columns = columns
        self._count = len(tree.leaves(columns)[0])

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, rows: int | slice | Sequence[int] | torch.Tensor) -> Any:
        if isinstance(rows, slice):
            rows = torch.arange(*rows.indices(len(self)))
        asked = _asked(rows)
        if asked.ndim:
            return self.read(asked)
        return tree.map(lambda leaf: leaf[0], self.read(asked[None]))

    def __getitems__(self, rows: Sequence[int]) -> list[Any]:
        """The examples one by one, as a ``DataLoader`` asks for those of a batch that it collates itself."""
        leaves, refilled = tree.flatten(self[rows])
        return [refilled(list(example)) for example in zip(*leaves, strict=True)]

    def read(self, rows: Any, pinned: bool = False) -> Any:
        """The batch of ``rows`` (B,), in pinned memory if asked.

        Raises:
            PureSGDError: rows that are no whole numbers, or a file that is not what it was.
            IndexError: a row that the data does not have.
        """
        count, asked = self._count, _asked(rows)
        if asked.ndim != 1 or (asked.size and asked.dtype.kind not in "iu"):
            problem = f"rows are {asked.dtype} {asked.shape}, expected whole numbers (B,)"
            raise PureSGDError("FileDataset", problem, "Pass a list of them, a tensor or a slice")
        found = asked.astype(np.int64)
        # One look for both ends: a number below 0 is a large one without its sign.
        if found.size and found.view(np.uint64).max() >= count:
            if not -count <= asked.min() <= asked.max() < count:
                raise IndexError(f"FileDataset: rows from {asked.min()} to {asked.max()} of {count} examples")
            found %= count
        return tree.map(lambda column: column.read(found, pinned), self._columns)


@typed
def from_files(files: Any, fields: Sequence[str] | None = None) -> FileDataset:
    """Examples that stay in their files, to train on without memory for them.

    For :func:`fit` this is what data in memory is, and its batches are the same: ``fit(loss, tx, params,
    from_files(...), batch_size=256)``. A ``DataLoader`` reads ahead in other processes::

        sampler = BatchSampler(len(dataset), batch_size=256, seed=0)
        loader = DataLoader(dataset, sampler=sampler, batch_size=None, num_workers=2, pin_memory=True)

    with which :func:`fit` resumes in the middle of an epoch too, and moves batches to the device of the
    parameters while it computes.

    Args:
        files: A dict or a tuple of fields, each a file that holds one array (``.npy``, say); or a file that
            holds several (``.safetensors``, ``.arrow`` or ``.feather`` without compression, ``.parquet``).
            Instead of one file, a list of files is their rows one after the other. The first axis is that
            of examples.
        fields: Which fields of such a file, as a tuple in this order; None: all, as a dict.

    A batch takes its own memory, and no file is read whole: small fields are mapped, 256 MB together, and of
    larger ones each row is read by itself. A Parquet file is decoded a row group at a time, and at most 256
    MB of them are kept: in random order a larger one is read over and over, so write it as Arrow first,
    with ``pyarrow.ipc.new_file`` and ``ParquetFile.iter_batches``.

    Raises:
        PureSGDError: a file that is missing, cut off, of another kind, or holds Python objects; fields of
            different lengths; or files that differ in shape or dtype. It names the file and the field.

    Example:
        >>> import tempfile
        >>> import torch
        >>> import pure_sgd as ps
        >>> from safetensors.torch import save_file
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     names = [f"{directory}/{part}.safetensors" for part in range(2)]
        ...     for part, name in enumerate(names):
        ...         save_file({"x": torch.ones(4, 3) * part, "y": torch.arange(4) + 4 * part}, name)
        ...     dataset = ps.data.from_files(names, fields=("x", "y"))
        ...     len(dataset), dataset[[6, 1]]
        (8, (tensor([[1., 1., 1.],
                [0., 0., 0.]]), tensor([6, 1])))
    """
    if isinstance(files, dict):
        columns: Any = {name: _single(source, f"field {name!r}") for name, source in files.items()}
    elif isinstance(files, tuple):
        columns = tuple(_single(source, f"field {number}") for number, source in enumerate(files))
    else:
        found = _joined(files, "files", fields)
        columns = found.get(NAMELESS, found)
        if fields is not None:
            columns = tuple(found[name] for name in fields)
    leaves, refilled = tree.flatten(columns)
    if not leaves:
        raise PureSGDError(
            "from_files", f"{files!r} holds no field", "Pass a path, or a dict or tuple of them"
        )
    for leaf in leaves[1:]:
        if len(leaf) != len(leaves[0]):
            raise PureSGDError(
                _where(leaf),
                f"holds {len(leaf)} examples where {_where(leaves[0])} holds {len(leaves[0])}",
                "Give every field as many, or choose among them with fields",
            )
    raw = iter(mapped_where_small([leaf for leaf in leaves if isinstance(leaf, Column)]))
    return FileDataset(refilled([next(raw) if isinstance(leaf, Column) else leaf for leaf in leaves]))


def _asked(rows: Any) -> Any:
    try:
        return np.asarray(rows)
    except (RuntimeError, TypeError, ValueError) as error:
        problem = f"rows are a {type(rows).__name__}, which makes no array ({error})"
        raise PureSGDError("FileDataset", problem, "Pass a list of numbers, a tensor or a slice") from None


def _single(source: Any, what: str) -> AnyColumn:
    """The one field of a file, or of several files."""
    found = _joined(source, what, None)
    if len(found) > 1:
        first = source[0] if isinstance(source, list) else source
        raise PureSGDError(
            os.fspath(first),
            f"holds {len(found)} fields, expected one for {what}",
            "Pass the file and fields",
        )
    return next(iter(found.values()))


def _joined(source: Any, what: str, fields: Fields) -> dict[str, AnyColumn]:
    """The fields of the files, whose rows follow one another."""
    if isinstance(fields, str):
        raise PureSGDError("from_files", f"fields={fields!r} is a single string", "Pass a tuple of names")
    paths = source if isinstance(source, list) else [source]
    if not paths or not all(isinstance(path, (str, os.PathLike)) for path in paths):
        raise PureSGDError(
            "from_files", f"{what} is {source!r}, expected paths", "Pass a path or a list of them"
        )
    first, *rest = [_columns(path, fields) for path in paths]
    for path, other in zip(paths[1:], rest, strict=True):
        if set(other) != set(first):
            raise PureSGDError(
                os.fspath(path),
                f"holds the fields {sorted(other)}, and {os.fspath(paths[0])} holds {sorted(first)}",
                "Choose those that all have with fields",
            )
        for name, column in other.items():
            _check_alike(column, first[name])
    return {
        name: replace(first[name], parts=tuple(p for f in (first, *rest) for p in f[name].parts))
        for name in first
    }


def _columns(path: Path, fields: Fields) -> dict[str, AnyColumn]:
    file = file_at(path)
    suffix = os.path.splitext(file.path)[1]
    if suffix not in READERS:
        raise PureSGDError(
            file.path, f"ends in {suffix!r}", f"Pass a file that ends in one of {sorted(READERS)}"
        )
    return READERS[suffix](file, fields)


def _check_alike(column: AnyColumn, like: AnyColumn) -> None:
    if (type(column), column.dtype, column.shape) != (type(like), like.dtype, like.shape):
        raise PureSGDError(
            _where(column),
            f"has rows of {column.dtype} {column.shape}, and {_where(like)} has {like.dtype} {like.shape}",
            "Join files of one kind, whose rows are alike",
        )


def _where(column: AnyColumn) -> str:
    return where(column.parts[0][0], column.name)
