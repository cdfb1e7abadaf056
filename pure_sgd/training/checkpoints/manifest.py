"""The manifest: what every leaf must be, in JSON under a checksum of its own."""

from __future__ import annotations

import hashlib
import json
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import PureSGDError
from .arrays import file_size
from .contents import DTYPES, KINDS, Leaf, corrupt, without_duplicates

__all__ = ["Manifest", "read_manifest", "write_manifest"]

FORMAT = "pure_sgd checkpoint 2"
MANIFEST = "manifest.json"
#: Bytes that are read at most: a leaf takes about two hundred, and as Python's objects ten times as many.
LARGEST_MANIFEST = 2**26
FIELDS = {"format", "library", "step", "metadata", "leaves", "sha256"}


class Manifest(NamedTuple):
    """What a checkpoint holds."""

    step: int
    metadata: dict[str, Any]
    leaves: dict[str, Leaf]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, and wait until the disk has it.

    Example:
        >>> import tempfile
        >>> from pure_sgd.training.checkpoints.manifest import Manifest, read_manifest, write_manifest
        >>> with tempfile.TemporaryDirectory() as name:
        ...     write_manifest(Path(name), Manifest(3, {}, {}))
        ...     read_manifest(Path(name), step=3).leaves
        {}
    """
    leaves = {path: leaf._asdict() for path, leaf in manifest.leaves.items()}
    body = {"format": FORMAT, "library": _library(), **manifest._asdict(), "leaves": leaves}
    with (folder / MANIFEST).open("xb") as file:
        file.write(json.dumps({**body, "sha256": _digest(body)}, indent=1).encode())
        file.flush()
        os.fsync(file.fileno())


def read_manifest(folder: Path, step: int) -> Manifest:
    """What the checkpoint of ``step`` in ``folder`` holds, if its manifest is as it was written.

    Raises:
        CorruptCheckpointError: it is not.

    Example:
        >>> from pathlib import Path
        >>> from pure_sgd.training.checkpoints.manifest import read_manifest
        >>> read_manifest(Path("nowhere"), step=3)
        Traceback (most recent call last):
        pure_sgd.training.checkpoints.contents.CorruptCheckpointError: nowhere: manifest.json is missing. \
Load another step, or pass fallback=True for the newest that is intact.
    """
    size = file_size(folder, MANIFEST)
    if size > LARGEST_MANIFEST:
        raise corrupt(folder, f"{MANIFEST} has {size} bytes, more than any has")
    try:
        with (folder / MANIFEST).open("rb") as file:
            body = json.loads(file.read(size), object_pairs_hook=without_duplicates)
        if not isinstance(body, dict) or "format" not in body:
            raise corrupt(folder, f"{MANIFEST} is no manifest")
        if body["format"] != FORMAT:
            raise corrupt(folder, f"its format is {body['format']!r}, and this version reads {FORMAT!r}")
        if set(body) != FIELDS or body.pop("sha256") != _digest(body):
            raise corrupt(folder, f"{MANIFEST} does not have its checksum")
        leaves = {path: _leaf(path, **fields) for path, fields in body["leaves"].items()}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        if isinstance(error, PureSGDError):
            raise
        raise corrupt(folder, f"{MANIFEST} cannot be read ({error})") from None
    manifest = Manifest(body["step"], body["metadata"], leaves)
    if type(manifest.step) is not int or type(manifest.metadata) is not dict:
        raise corrupt(folder, f"{MANIFEST} has no step or no metadata")
    if manifest.step != step:
        raise corrupt(folder, f"it is the checkpoint of step {manifest.step}")
    return manifest


def _leaf(path: str, kind: Any, dtype: Any, shape: Any, sha256: Any, value: Any) -> Leaf:
    """One entry.

    Raises:
        ValueError: it says what :func:`write_manifest` never says.
    """
    if kind == "tensor":
        sizes = type(shape) is list and all(type(size) is int and 0 <= size < 2**63 for size in shape)
        sound = dtype in DTYPES and sizes and type(sha256) is str and value is None
    else:
        sound = kind in KINDS and type(value) is KINDS[kind] and (dtype, shape, sha256) == (None, [], None)
        sound = sound and (kind != "float" or float.fromhex(str(value)).hex() == value)
    if not sound:
        raise ValueError(f"{path} is no leaf")
    return Leaf(kind, dtype, tuple(shape), sha256, value)


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _library() -> str:
    try:
        return f"pure_sgd {version('pure_sgd')}"
    except PackageNotFoundError:
        return "pure_sgd"
