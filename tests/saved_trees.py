"""Trees to save, and what a saved one is held to."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

import pure_sgd as ps
from pure_sgd.training.checkpoints.arrays import ARRAYS as ARRAYS
from pure_sgd.training.checkpoints.contents import DTYPES, bytes_of
from pure_sgd.training.checkpoints.manifest import MANIFEST as MANIFEST

#: What a manifest may say in the place of the truth.
NUMBERS = (False, True, 0, 1, -1, 8, 2**31, 2**63, 2**64, 10**300, 0.5, -0.0, float("inf"), float("nan"))
WORDS = ("", "tensor", "int", "float", "str", "float32", "complex128", "bool", "0x1p3", "0x1p99999", "nan")
SIZES = ([0], [4, 2], [8], [-4, -2], [4.0, 2.0], [True, 8], [2**40], [2**62, 2**62, 0], [1] * 100)
NONSENSE = (None, "../../etc/passwd", "0" * 64, "\ud800", [], [[]], {}, {"": None}, {"kind": "tensor"})
LIES: tuple[Any, ...] = (*NUMBERS, *WORDS, *SIZES, *NONSENSE)


class Names(NamedTuple):
    first: Any
    second: Any


def everything() -> dict[str, Any]:
    """A tree with one leaf of each kind."""
    real = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    shared = torch.arange(6.0)
    return {
        **{name: real.abs().to(dtype) for name, (dtype, _) in DTYPES.items()},
        "whole": torch.tensor([2**63 - 1, -(2**63)]),
        "bool": torch.tensor([True, False]),
        "not finite": torch.tensor([float("nan"), float("inf"), -0.0]),
        "no axes": torch.tensor(0.1),
        "empty": torch.zeros(0, 3),
        "transposed": real.T,
        "conjugate": torch.tensor([1 + 2j]).conj(),
        "twice": [shared, shared[2:]],
        "ünïcode / .": Names(torch.ones(1), None),
        "numbers": (True, 3, 2**70, 0.1, float("nan"), float("inf"), "text"),
    }


def bits(tensor: torch.Tensor) -> bytes:
    return bytes_of(tensor.detach().resolve_conj().resolve_neg().contiguous()).tobytes()


def assert_same(one: Any, other: Any) -> None:
    assert ps.tree.structure(one) == ps.tree.structure(other)
    for (path, a), b in zip(ps.tree.named_leaves(one), ps.tree.leaves(other), strict=True):
        if isinstance(a, torch.Tensor):
            assert (a.shape, a.dtype) == (b.shape, b.dtype), path
            assert bits(a) == bits(b), path
        else:
            assert type(a) is type(b), path
            assert repr(a) == repr(b), path


def weights(value: float = 1.0) -> dict[str, torch.Tensor]:
    return {"w": torch.full((4, 2), float(value)), "b": torch.zeros(2)}


def forms(tree: Any) -> list[Any]:
    """What each leaf is, whatever its value."""
    return [
        (path, type(leaf), getattr(leaf, "dtype", None), getattr(leaf, "shape", None))
        for path, leaf in ps.tree.named_leaves(tree)
    ]


def certified(manifest: bytes) -> bytes:
    """The same with a checksum that is right, if it is JSON at all."""
    try:
        body = json.loads(manifest)
        body.pop("sha256", None)
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        return json.dumps({**body, "sha256": digest}).encode()
    except (ValueError, TypeError, AttributeError, RecursionError):
        return manifest


def a_lie(manifest: bytes, draw: random.Random) -> bytes:
    """A manifest in which one value is another, or is gone."""
    body = json.loads(manifest)
    place, names = body, list(body)
    while names:
        name = draw.choice(names)
        inner = place[name]
        if not isinstance(inner, dict) or not inner or draw.random() < 0.1:
            if draw.random() < 0.1:
                del place[name]
            else:
                place[name] = draw.choice(LIES)
            break
        place, names = inner, list(inner)
    return json.dumps(body).encode()


def rewritten(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """A manifest that lies, with a checksum that is right."""
    body = json.loads((folder / MANIFEST).read_text())
    change(body)
    (folder / MANIFEST).write_bytes(certified(json.dumps(body).encode()))
