"""The file of tensors: safetensors, of which the manifest foretells the header to the last byte."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .contents import DTYPES, Leaf, bytes_of, checksum, corrupt

__all__ = ["Layout", "layout", "read_tensors", "write_tensors"]

ARRAYS = "arrays.safetensors"


class Layout(NamedTuple):
    """Where everything lies in the file."""

    header: bytes
    begins: dict[str, int]  # by path, in the order of the file
    size: int


def layout(leaves: Mapping[str, Leaf]) -> Layout:
    """Where the tensors among ``leaves`` lie.

    Example:
        >>> from pure_sgd.training.checkpoints.arrays import layout
        >>> from pure_sgd.training.checkpoints.contents import Leaf
        >>> layout({"w": Leaf("tensor", "float32", (2, 3), None, None)}).header[8:]
        b'{"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}       '
    """
    tensors = {path: leaf for path, leaf in leaves.items() if leaf.kind == "tensor"}
    # The widest numbers first: then each lies where other programs may map it into memory.
    order = sorted(tensors, key=lambda path: (-DTYPES[tensors[path].dtype or ""][0].itemsize, path))
    entries: dict[str, Any] = {}
    end = 0
    for path in order:
        dtype, shape, size = tensors[path].dtype or "", tensors[path].shape, tensors[path].size
        pairs = (2,) if dtype == "complex128" else ()
        entries[path] = {
            "dtype": DTYPES[dtype][1],
            "shape": (*shape, *pairs),
            "data_offsets": (end, end + size),
        }
        end += size
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    begins = {path: len(header) + entry["data_offsets"][0] for path, entry in entries.items()}
    return Layout(header, begins, len(header) + end)


def write_tensors(folder: Path, values: Mapping[str, Any], leaves: Mapping[str, Leaf]) -> None:
    """Write the tensors among ``values``, and wait until the disk has them.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from safetensors.torch import load_file
        >>> from pure_sgd.training.checkpoints.arrays import write_tensors
        >>> from pure_sgd.training.checkpoints.contents import described
        >>> values = {"w": torch.ones(2)}
        >>> with tempfile.TemporaryDirectory() as name:
        ...     write_tensors(Path(name), values, {path: described(w) for path, w in values.items()})
        ...     load_file(Path(name) / "arrays.safetensors")
        {'w': tensor([1., 1.])}
    """
    header, begins, _ = layout(leaves)
    with (folder / ARRAYS).open("xb") as file:
        file.write(header)
        for path in begins:
            file.write(bytes_of(values[path]))
        file.flush()
        os.fsync(file.fileno())


def read_tensors(
    folder: Path, leaves: Mapping[str, Leaf], paths: Iterable[str]
) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors at ``paths``, each verified; no memory is taken before the size of the file agrees.

    Raises:
        CorruptCheckpointError: the file is not what ``leaves`` say.

    Example:
        >>> from pure_sgd.training.checkpoints.arrays import read_tensors
        >>> list(read_tensors(Path("nowhere"), {}, []))
        Traceback (most recent call last):
        pure_sgd.training.checkpoints.contents.CorruptCheckpointError: nowhere: arrays.safetensors is \
missing. Load another step, or pass fallback=True for the newest that is intact.
    """
    header, begins, size = layout(leaves)
    found = file_size(folder, ARRAYS)
    if found != size:
        raise corrupt(folder, f"{ARRAYS} has {found} bytes, and by the manifest it has {size}")
    try:
        with (folder / ARRAYS).open("rb") as file:
            if file.read(len(header)) != header:
                raise corrupt(folder, f"{ARRAYS} begins otherwise than the manifest says")
            for path in paths:
                tensor = torch.empty(leaves[path].shape, dtype=DTYPES[leaves[path].dtype or ""][0])
                file.seek(begins[path])
                file.readinto(bytes_of(tensor))
                if checksum(tensor) != leaves[path].sha256:
                    raise corrupt(folder, f"{path} does not have its checksum")
                yield path, tensor
    except (OSError, RuntimeError, OverflowError, TypeError) as error:
        raise corrupt(folder, f"{ARRAYS} cannot be read ({error})") from None


def file_size(folder: Path, name: str) -> int:
    """The bytes of a plain file; a link is none, for it may lead anywhere.

    Raises:
        CorruptCheckpointError: there is no such file.

    Example:
        >>> from pure_sgd.training.checkpoints.arrays import file_size
        >>> file_size(Path("nowhere"), "x")
        Traceback (most recent call last):
        pure_sgd.training.checkpoints.contents.CorruptCheckpointError: nowhere: x is missing. Load another \
step, or pass fallback=True for the newest that is intact.
    """
    path = folder / name
    try:
        if path.is_symlink() or not path.is_file():
            raise corrupt(
                folder, f"{name} is no plain file" if os.path.lexists(path) else f"{name} is missing"
            )
        return path.stat().st_size
    except OSError as error:
        raise corrupt(folder, f"{name} cannot be read ({error})") from None
