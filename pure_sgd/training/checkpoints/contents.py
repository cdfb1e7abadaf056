"""One checkpoint as a folder: tensors in safetensors, and a manifest that knows what they must be."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialized

from ...errors import PureSGDError

__all__ = ["CorruptCheckpointError", "Leaf", "Manifest", "read_manifest", "read_values", "write_folder"]

FORMAT = "pure_sgd checkpoint 1"
ARRAYS, MANIFEST = "arrays.safetensors", "manifest.json"
#: Bytes of a manifest that are read at most: a leaf takes about two hundred.
LARGEST_MANIFEST = 2**28
FIELDS = {"format", "library", "step", "metadata", "bytes", "leaves", "sha256"}

DTYPES: dict[str, torch.dtype] = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in vars(torch).values()
    if isinstance(dtype, torch.dtype)
}


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


class Manifest(NamedTuple):
    """What a checkpoint holds."""

    step: int
    metadata: dict[str, Any]
    bytes: int  # of the file of tensors
    leaves: dict[str, Leaf]


def leaf_of(path: str, value: Any) -> Leaf:
    """The entry of a leaf in the manifest.

    Raises:
        PureSGDError: neither a tensor nor a number nor a string.

    Example:
        >>> import torch
        >>> from pure_sgd.training.checkpoints.contents import leaf_of
        >>> leaf_of("w", torch.ones(2, 3)).shape
        (2, 3)
    """
    if isinstance(value, torch.Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return Leaf("tensor", dtype, tuple(value.shape), _checksum(value), None)
    kind = type(value).__name__
    if kind == "float":
        return Leaf(kind, None, (), None, value.hex())
    if kind in ("bool", "int", "str"):
        return Leaf(kind, None, (), None, value)
    raise PureSGDError(
        path,
        f"is a {kind}, which a checkpoint does not hold",
        "Save trees of tensors, numbers and strings",
    )


def write_folder(folder: Path, values: Mapping[str, Any], step: int, metadata: dict[str, Any]) -> None:
    """Write the files of a checkpoint into an empty folder, and wait until the disk has them.

    Raises:
        PureSGDError: a leaf or metadata that a checkpoint does not hold.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from pure_sgd.training.checkpoints.contents import read_manifest, write_folder
        >>> with tempfile.TemporaryDirectory() as name:
        ...     write_folder(Path(name), {"w": torch.ones(2)}, step=3, metadata={})
        ...     read_manifest(Path(name)).step
        3
    """
    leaves = {path: leaf_of(path, value) for path, value in values.items()}
    tensors = {path: _plain(value) for path, value in values.items() if isinstance(value, torch.Tensor)}
    payload = serialized(tensors)
    body = {
        "format": FORMAT,
        "library": _library(),
        "step": step,
        "metadata": metadata,
        "bytes": len(payload),
        "leaves": {path: leaf._asdict() for path, leaf in leaves.items()},
    }
    try:
        text = json.dumps({**body, "sha256": _digest(body)}, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise PureSGDError(
            "metadata", f"is not JSON: {error}", "Pass strings, numbers, lists, dicts"
        ) from None
    _write(folder / ARRAYS, payload)
    _write(folder / MANIFEST, text.encode())
    sync_folder(folder)


def read_manifest(folder: Path) -> Manifest:
    """What the checkpoint in ``folder`` holds, if its manifest is as it was written.

    Raises:
        CorruptCheckpointError: it is not.

    Example:
        >>> from pathlib import Path
        >>> from pure_sgd.training.checkpoints.contents import read_manifest
        >>> read_manifest(Path("nowhere"))
        Traceback (most recent call last):
        pure_sgd.training.checkpoints.contents.CorruptCheckpointError: nowhere: manifest.json is missing. \
Load another step, or pass fallback=True for the newest that is intact.
    """
    size = _size(folder, MANIFEST)
    if size > LARGEST_MANIFEST:
        raise corrupt(folder, f"{MANIFEST} has {size} bytes, more than any has")
    try:
        body = json.loads((folder / MANIFEST).read_bytes(), object_pairs_hook=_without_duplicates)
        if not isinstance(body, dict) or "format" not in body:
            raise corrupt(folder, f"{MANIFEST} is no manifest")
        if body["format"] != FORMAT:
            raise corrupt(folder, f"its format is {body['format']!r}, and this version reads {FORMAT!r}")
        if set(body) != FIELDS or body.pop("sha256") != _digest(body):
            raise corrupt(folder, f"{MANIFEST} does not have its checksum")
        leaves = {path: _parsed(fields) for path, fields in body["leaves"].items()}
        manifest = Manifest(body["step"], body["metadata"], body["bytes"], leaves)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if isinstance(error, PureSGDError):
            raise
        raise corrupt(folder, f"{MANIFEST} cannot be read ({error})") from None
    return manifest


def read_values(folder: Path, manifest: Manifest, paths: list[str]) -> dict[str, Any]:
    """The leaves at ``paths``, each with its checksum verified; no memory is taken before sizes agree.

    Raises:
        CorruptCheckpointError: the file of tensors is not what the manifest says.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from pure_sgd.training.checkpoints.contents import read_manifest, read_values, write_folder
        >>> with tempfile.TemporaryDirectory() as name:
        ...     write_folder(Path(name), {"w": torch.ones(2), "n": 7}, step=3, metadata={})
        ...     read_values(Path(name), read_manifest(Path(name)), ["w", "n"])
        {'w': tensor([1., 1.]), 'n': 7}
    """
    size = _size(folder, ARRAYS)
    if size != manifest.bytes:
        raise corrupt(folder, f"{ARRAYS} has {size} bytes, and {MANIFEST} says {manifest.bytes}")
    values: dict[str, Any] = {}
    try:
        with safe_open(folder / ARRAYS, "pt") as file:
            known = {path for path, leaf in manifest.leaves.items() if leaf.kind == "tensor"}
            if set(file.keys()) != known:
                raise corrupt(folder, f"{ARRAYS} and {MANIFEST} name different leaves")
            for path in paths:
                leaf = manifest.leaves[path]
                values[path] = _tensor(folder, file, path, leaf) if leaf.kind == "tensor" else _number(leaf)
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError, OverflowError) as error:
        if isinstance(error, PureSGDError):
            raise
        raise corrupt(folder, f"{ARRAYS} cannot be read ({error})") from None
    return values


def corrupt(folder: Path, problem: str) -> CorruptCheckpointError:
    """The error of a checkpoint that is not what was written."""
    remedy = "Load another step, or pass fallback=True for the newest that is intact"
    return CorruptCheckpointError(str(folder), problem, remedy)


def sync_folder(folder: Path) -> None:
    """Wait until the disk knows which files lie in ``folder``."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _parsed(fields: dict[str, Any]) -> Leaf:
    kind, dtype, shape, sha256, value = (fields[name] for name in Leaf._fields)
    return Leaf(kind, dtype, tuple(shape), sha256, value)


def _tensor(folder: Path, file: Any, path: str, leaf: Leaf) -> torch.Tensor:
    stored = file.get_slice(path)
    shape = (*leaf.shape, 2) if leaf.dtype == "complex128" else leaf.shape
    if tuple(stored.get_shape()) != shape:
        raise corrupt(folder, f"{path} has shape {tuple(stored.get_shape())}, and {MANIFEST} says {shape}")
    tensor = file.get_tensor(path)
    if leaf.dtype == "complex128":
        tensor = torch.view_as_complex(tensor)
    if tensor.dtype != DTYPES.get(str(leaf.dtype)) or _checksum(tensor) != leaf.sha256:
        raise corrupt(folder, f"{path} does not have its checksum")
    # Memory of its own: the file's may be gone when the folder is.
    return tensor.clone()


def _number(leaf: Leaf) -> Any:
    return float.fromhex(leaf.value) if leaf.kind == "float" else leaf.value


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """As safetensors takes it: written out, in memory of its own, and complex128 as pairs of numbers."""
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    if tensor.dtype == torch.complex128:
        tensor = torch.view_as_real(tensor)
    return tensor.clone(memory_format=torch.contiguous_format)


def _checksum(tensor: torch.Tensor) -> str:
    flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    array: Any = flat.view(torch.uint8).numpy() if flat.numel() else b""
    return hashlib.sha256(array).hexdigest()


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name comes twice")
    return dict(pairs)


def _size(folder: Path, name: str) -> int:
    path = folder / name
    if path.is_symlink() or not path.is_file():
        raise corrupt(folder, f"{name} is missing" if not path.exists() else f"{name} is no plain file")
    return path.stat().st_size


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _library() -> str:
    try:
        return f"pure_sgd {version('pure_sgd')}"
    except PackageNotFoundError:
        return "pure_sgd"
