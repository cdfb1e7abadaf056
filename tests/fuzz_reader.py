"""The reader of checkpoints under coverage-guided fuzzing; `make test-long` runs it.

By itself: python tests/fuzz_reader.py -runs=100000 -seed=1. An input is a byte that says which file is
changed and how, and then that file. Whatever it holds, the outcome is a PureSGDError, or a tree in which
every leaf is of the kind, dtype and shape that was asked for.
"""

from __future__ import annotations

import json.decoder
import random
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any

from saved_trees import ARRAYS, MANIFEST, a_lie, certified, forms, weights

import pure_sgd as ps
from pure_sgd.training.checkpoints import arrays, contents, directory, loading, manifest

# By name, so that the type checker does not ask for it where it is not installed.
atheris: Any = import_module("atheris")

#: What the fuzzer watches, to find inputs that lead to new places.
WATCHED = (arrays, contents, directory, loading, manifest, json.decoder)
STATE: Any = {"tree": weights(), "n": 7, "x": 0.5, "on": True, "name": "text"}
#: What the first byte says.
KINDS = ((ARRAYS, False), (MANIFEST, False), (MANIFEST, True))  # the last: with a checksum that is right
ROOT = Path(tempfile.mkdtemp())
FOLDER = ps.save_checkpoint(ROOT, STATE, step=1)
ORIGINAL = {name: (FOLDER / name).read_bytes() for name in (ARRAYS, MANIFEST)}
LARGEST = 4 * len(ORIGINAL[MANIFEST])


def one_input(data: bytes) -> None:
    name, signed = KINDS[data[0] % len(KINDS) if data else 0]
    changed = certified(data[1:]) if signed else data[1:]
    (FOLDER / name).write_bytes(changed)
    told = ""
    try:
        assert forms(ps.load_checkpoint(ROOT, STATE)) == forms(STATE)
    except ps.PureSGDError as error:
        told = str(error)
    assert str(ROOT) in told or not told
    (FOLDER / name).write_bytes(ORIGINAL[name])
    assert list(ROOT.iterdir()) == [FOLDER]


def mutated(data: bytes, largest: int, seed: int) -> bytes:
    """A file that was whole, with a lie in it or bytes changed; or what the fuzzer makes of the last."""
    draw = random.Random(seed)
    kind = draw.randrange(len(KINDS))
    if draw.random() < 0.3:
        return bytes([kind]) + a_lie(ORIGINAL[MANIFEST], draw)
    if draw.random() < 0.3:
        data = bytes([kind]) + ORIGINAL[KINDS[kind][0]]
    return atheris.Mutate(data, largest)


if __name__ == "__main__":
    for module in WATCHED:
        for value in vars(module).values():
            if isinstance(value, FunctionType) and value.__module__ == module.__name__:
                atheris.instrument_func(value)
    atheris.Setup([*sys.argv, f"-max_len={LARGEST}"], one_input, custom_mutator=mutated)
    atheris.Fuzz()
