"""The manifest: what every leaf must be, in JSON under a checksum of its own."""

from __future__ import annotations

import hashlib
import json
import os
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import PureSGDError, shown
from .arrays import file_size
from .contents import DTYPES, KINDS, Leaf, corrupt, without_duplicates

__all__ = ["File", "Manifest", "read_manifest", "write_manifest"]

FORMAT = "pure_sgd checkpoint 2"
SHARDED = "pure_sgd sharded checkpoint 1"
MANIFEST = "manifest.json"
#: The names that torch.distributed.checkpoint gives.
SHARD = re.compile(r"shard-[0-9]{5,}-model-00001-of-00001\.safetensors")
#: Bytes that are read at most.
LARGEST_MANIFEST = 2**26
#: Bytes of memory that a manifest may take besides those that the checkpoint has on the disk.
BESIDES = 2**26
#: A name or a value comes after one of these, and takes so many bytes of memory at most, but for its letters.
SIGNS, ITEM = "[{,:", 150
FIELDS = {"format", "library", "step", "metadata", "leaves", "sha256"}
FORMATS = {FORMAT: FIELDS, SHARDED: FIELDS | {"files"}}


class File(NamedTuple):
    """What the manifest says of a file that one rank has written."""

    size: int
    sha256: str


class Manifest(NamedTuple):
    """What a checkpoint holds."""

    step: int
    metadata: dict[str, Any]
    leaves: dict[str, Leaf]
    files: dict[str, File] | None = None  # by name, of a state that was spread over ranks


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
    body: dict[str, Any] = {"format": FORMAT, "library": _library(), **manifest._asdict(), "leaves": leaves}
    if (files := body.pop("files")) is not None:
        body.update(format=SHARDED, files={name: file._asdict() for name, file in files.items()})
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
        body = _parsed(folder, size)
        if not isinstance(body, dict) or "format" not in body:
            raise corrupt(folder, f"{MANIFEST} is no manifest")
        if body["format"] not in (*FORMATS,):
            raise corrupt(
                folder, f"its format is {shown(body['format'])}, and this version reads {[*FORMATS]}"
            )
        if set(body) != FORMATS[body["format"]] or body.pop("sha256") != _digest(body):
            raise corrupt(folder, f"{MANIFEST} does not have its checksum")
        files = {name: _file(name, **fields) for name, fields in body.get("files", {}).items()}
        sharded = body["format"] == SHARDED
        leaves = {path: _leaf(path, sharded, **fields) for path, fields in body["leaves"].items()}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        if isinstance(error, PureSGDError):
            raise
        raise corrupt(folder, f"{MANIFEST} cannot be read ({error!s:.200})") from None
    manifest = Manifest(body["step"], body["metadata"], leaves, files if sharded else None)
    if type(manifest.step) is not int or type(manifest.metadata) is not dict:
        raise corrupt(folder, f"{MANIFEST} has no step or no metadata")
    if manifest.step != step:
        raise corrupt(folder, f"it is the checkpoint of step {manifest.step}")
    return manifest


def most_memory(text: str) -> int:
    """The bytes that a manifest takes at most while it is parsed, verified and compared with the arrays.

    Example:
        >>> from pure_sgd.training.checkpoints.manifest import most_memory
        >>> most_memory('{"step": 3}')
        344
    """
    letter = 4 if re.search(r"\\u(?!00)", text) else 1
    # What it says is held twice as it is written, and twice as Python has it.
    return (2 + 2 * letter) * len(text) + ITEM * sum(map(text.count, SIGNS))


def _parsed(folder: Path, size: int) -> Any:
    """What so many bytes of the manifest say, whatever it is.

    Raises:
        CorruptCheckpointError: it might take more memory than such a checkpoint should.
    """
    room = BESIDES + sum(path.lstat().st_size for path in folder.iterdir())
    with (folder / MANIFEST).open("rb") as file:
        text = file.read(size).decode("ascii")
    needed = most_memory(text)
    if needed > room:
        raise corrupt(folder, f"{MANIFEST} might take {needed} bytes of memory, and may take {room}")
    return json.loads(text, object_pairs_hook=without_duplicates)


def _leaf(path: str, sharded: bool, kind: Any, dtype: Any, shape: Any, sha256: Any, value: Any) -> Leaf:
    """One entry.

    Raises:
        ValueError: it says what :func:`write_manifest` never says.
    """
    if kind == "tensor":
        sizes = type(shape) is list and all(type(size) is int and 0 <= size < 2**63 for size in shape)
        # What is spread over files has no checksum of its own.
        summed = sha256 is None if sharded else type(sha256) is str
        sound = dtype in DTYPES and sizes and summed and value is None
    else:
        sound = kind in KINDS and type(value) is KINDS[kind] and (dtype, shape, sha256) == (None, [], None)
        sound = sound and (kind != "float" or float.fromhex(str(value)).hex() == value)
    if not sound:
        raise ValueError(f"{path:.120} is no leaf")
    return Leaf(kind, dtype, tuple(shape), sha256, value)


def _file(name: str, size: Any, sha256: Any) -> File:
    """One entry.

    Raises:
        ValueError: it says what :func:`write_manifest` never says.
    """
    if not (SHARD.fullmatch(name) and type(size) is int and size >= 0 and type(sha256) is str):
        raise ValueError(f"{name:.120} is no file of a rank")
    return File(size, sha256)


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _library() -> str:
    try:
        return f"pure_sgd {version('pure_sgd')}"
    except PackageNotFoundError:
        return "pure_sgd"
