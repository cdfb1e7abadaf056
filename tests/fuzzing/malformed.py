"""What nobody should pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

import pure_sgd as ps

NAN, INF = math.nan, math.inf


class Layer(NamedTuple):
    w: torch.Tensor
    b: torch.Tensor


class Odd:
    """Something that is nothing in particular."""


def deep(depth: int) -> Any:
    tree: Any = torch.ones(1)
    for _ in range(depth):
        tree = [tree]
    return tree


def endless() -> Any:
    tree: list[Any] = []
    tree.append(tree)
    return tree


NUMBERS = [
    0,
    1,
    -1,
    2,
    3,
    -2,
    7,
    1000,
    2**63,
    -(2**63),
    2**64,
    10**400,
    0.0,
    -0.0,
    0.5,
    1.0,
    1.5,
    -0.5,
    1e-30,
    1e30,
    -1e30,
    1e-320,
    1e308,
    NAN,
    INF,
    -INF,
    True,
    False,
]
TENSORS: list[Callable[[], Any]] = [
    lambda: torch.tensor(NAN),
    lambda: torch.tensor(INF),
    lambda: torch.tensor(0.5),
    lambda: torch.tensor(-1),
    lambda: torch.tensor(2),
    lambda: torch.tensor(True),
    lambda: torch.ones(2),
    lambda: torch.ones(3),
    lambda: torch.ones(4, 3),
    lambda: torch.ones(0),
    lambda: torch.ones(2, 0),
    lambda: torch.full((3,), NAN),
    lambda: torch.full((3,), 1e38),
    lambda: torch.arange(3),
    lambda: torch.ones(3, dtype=torch.bool),
    lambda: torch.ones(3, dtype=torch.float64),
    lambda: torch.ones(3, dtype=torch.bfloat16),
    lambda: torch.ones(3, dtype=torch.complex64),
    lambda: torch.ones(3, 1),
    lambda: torch.ones(1, 3),
    lambda: torch.ones(3, requires_grad=True),
    lambda: torch.tensor([-1, 0, 99]),
    lambda: torch.tensor([2**62]),
    lambda: -torch.ones(3),
    lambda: torch.zeros(3),
]
TREES: list[Callable[[], Any]] = [
    lambda: {},
    lambda: (),
    list,
    lambda: {"w": torch.ones(3)},
    lambda: {"w": torch.ones(3), "b": torch.ones(1)},
    lambda: {"w": torch.ones(3, 1), "b": torch.tensor(0.0)},
    lambda: {"w": torch.ones(3), "b": None},
    lambda: {"w": torch.ones(3), "b": 1.0},
    lambda: {"w": torch.full((3,), NAN), "b": torch.tensor(0.0)},
    lambda: {"w": torch.arange(3), "b": torch.tensor(0)},
    lambda: {"w": torch.ones(3), "b": torch.tensor(0.0), "c": torch.ones(2)},
    lambda: {"w": "text", "b": Odd()},
    lambda: {1: torch.ones(3), "b": torch.ones(())},
    lambda: [torch.ones(3), torch.tensor(0.0)],
    lambda: Layer(torch.ones(3), torch.tensor(0.0)),
    lambda: {"w": torch.ones(3, dtype=torch.float64), "b": torch.tensor(0.0)},
    lambda: {"w": torch.ones(3, dtype=torch.complex64), "b": torch.tensor(0.0)},
    lambda: {"w": torch.ones(0), "b": torch.tensor(0.0)},
    lambda: {"w": {"w": torch.ones(3)}, "b": torch.tensor(0.0)},
    lambda: (torch.ones(4, 3), torch.ones(3)),
    lambda: (torch.ones(0, 3), torch.ones(0)),
    lambda: (torch.ones(4, 2), torch.ones(4)),
    lambda: (torch.ones(4, 3),),
    lambda: (torch.ones(4, 3), torch.ones(4), torch.ones(4)),
    lambda: (torch.ones(4, 3), torch.ones(4, 1)),
    lambda: (torch.ones(1, 3), torch.ones(1)),
    lambda: (torch.full((4, 3), NAN), torch.ones(4)),
    lambda: (torch.ones(4, 3).long(), torch.ones(4).long()),
    lambda: (torch.tensor(1.0), torch.tensor(1.0)),
    lambda: deep(3),
    lambda: deep(5000),
    endless,
]
THINGS: list[Callable[[], Any]] = [
    lambda: None,
    lambda: "text",
    lambda: "",
    lambda: 1j,
    Odd,
    lambda: [1, 2],
    lambda: (0, 0),
    lambda: (-1, 2),
    lambda: (2**40, 2**40),
    lambda: [NAN],
    lambda: (1.5,),
    lambda: {"a": 1},
    lambda: {"a": [1.0, "x"]},
    lambda: b"bytes",
    lambda: Odd,
    lambda: torch.float16,
    lambda: torch.int64,
    lambda: lambda *a, **k: None,
    lambda: lambda *a, **k: 1.0,
    lambda: lambda *a, **k: torch.ones(2),
    lambda: lambda: 1.0,
    lambda: lambda p, *a: ps.tree.leaves(p)[0].sum() * NAN,
    lambda: ps.sgd,
    lambda: ps.sgd(0.1),
    lambda: ps.adam(0.1),
    lambda: "cuda:99",
    lambda: range(3),
    lambda: iter([]),
    lambda: "../else",
    lambda: "no\0name",
    lambda: "long" * 1000,
    lambda: Path("missing") / "deep",
    lambda: Path("/dev/null"),
]

WILD: list[Callable[[], Any]] = [
    *[lambda number=number: number for number in NUMBERS],
    *TENSORS,
    *TREES,
    *THINGS,
]
