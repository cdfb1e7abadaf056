"""Files of which each holds what one rank had, as ``torch.distributed.checkpoint`` writes and reads them."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from .arrays import file_size
from .contents import DTYPES, Leaf, corrupt
from .manifest import File

if TYPE_CHECKING:
    from torch.distributed.checkpoint.metadata import Metadata

__all__ = ["file_of", "read_shards", "verify_files"]

#: Bytes that are read at once.
BLOCK = 1 << 20


def file_of(path: Path) -> File:
    """What the manifest says of a file.

    Example:
        >>> import tempfile
        >>> from pure_sgd.training.checkpoints.shards import file_of
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     file_of(Path(file.name)).size
        0
    """
    size, digest = 0, hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            size += len(block)
            digest.update(block)
    return File(size, digest.hexdigest())


def verify_files(folder: Path, files: Mapping[str, File], names: Sequence[str]) -> None:
    """See that the folder holds ``files`` alone, and that those of ``names`` are what was written.

    Raises:
        CorruptCheckpointError: it does not, or they are not.

    Example:
        >>> from pure_sgd.training.checkpoints.shards import verify_files
        >>> verify_files(Path("nowhere"), {}, [])
    """
    found = {path.name for path in folder.glob("*.safetensors")}
    if found != set(files):
        wrong = sorted(found ^ set(files))[0]
        raise corrupt(folder, f"{wrong} is {'not expected' if wrong in found else 'missing'}")
    for name in names:
        size = file_size(folder, name)
        if size != files[name].size:
            raise corrupt(folder, f"{name} has {size} bytes, and by the manifest {files[name].size}")
        try:
            if file_of(folder / name) != files[name]:
                raise corrupt(folder, f"{name} does not have its checksum")
        except OSError as error:
            raise corrupt(folder, f"{name} cannot be read ({error})") from None


def read_shards(folder: Path, leaves: Mapping[str, Leaf], like: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors at the paths of ``like``, each lying where that of ``like`` does.

    Nothing is sent: each rank reads its own rows, from the files that have them.

    Raises:
        CorruptCheckpointError: the files are not what ``leaves`` say.

    Example:
        >>> from pure_sgd.training.checkpoints.shards import read_shards
        >>> read_shards(Path("nowhere"), {}, {})
        {}
    """
    if not like:
        return {}
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = HuggingFaceStorageReader(str(folder))
    tensors = {
        path: torch.empty_like(leaf, memory_format=torch.contiguous_format) for path, leaf in like.items()
    }
    try:
        _check_pieces(folder, reader.read_metadata(), {path: leaves[path] for path in like})
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
            load(
                tensors,
                storage_reader=reader,
                planner=DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
                no_dist=True,
            )
    except (CheckpointException, SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise corrupt(folder, f"its files cannot be read ({error})") from None
    return tensors


def _check_pieces(folder: Path, found: Metadata, leaves: Mapping[str, Leaf]) -> None:
    """See that the pieces of every leaf make it up; torch leaves what no piece covers as it was."""
    for path, leaf in leaves.items():
        stored: Any = found.state_dict_metadata.get(path)
        if stored is None:
            raise corrupt(folder, f"{path} is in none of its files")
        covered = sum(prod(piece.sizes) for piece in stored.chunks)
        shape, dtype = tuple(stored.size), stored.properties.dtype
        if (shape, dtype, covered) != (leaf.shape, DTYPES[leaf.dtype or ""][0], prod(leaf.shape)):
            raise corrupt(folder, f"the pieces of {path} do not make up {leaf.dtype} {leaf.shape}")
