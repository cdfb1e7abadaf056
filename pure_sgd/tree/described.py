"""What a tree holds, to be read by a person."""

from __future__ import annotations

from typing import Any

import torch

from .arithmetic import norm
from .traversal import Tree, named_leaves

__all__ = ["describe"]


def describe(tree: Tree, name: str = "") -> str:
    """A table of the leaves of ``tree``: path, shape, dtype, bytes and Euclidean norm, and the sum of all.

    Of a train state, an optimizer's state, parameters or a batch. Print it. What is no tensor stands there as
    it is.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> print(ps.describe(ps.sgd(0.1, momentum=0.9).init({"w": torch.ones(2, 3)})))
        leaf               shape   dtype      bytes  norm
        [0].step           ()      int64          8  0
        [0].trace['w']     (2, 3)  float32       24  0
        [1].step           ()      int64          8  0
        [1].learning_rate  ()      float64        8  0.1
        4 leaves                   9 numbers     48
    """
    found = named_leaves(tree, name)
    tensors = [leaf for _, leaf in found if isinstance(leaf, torch.Tensor)]
    rows = [("leaf", "shape", "dtype", "bytes", "norm"), *[_row(path, leaf) for path, leaf in found]]
    numbers, size = sum(t.numel() for t in tensors), sum(t.nbytes for t in tensors)
    rows.append((f"{len(found)} leaves", "", f"{numbers:,} numbers", f"{size:,}", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(_line(row, widths) for row in rows)


def _row(path: str, leaf: Any) -> tuple[str, ...]:
    if not isinstance(leaf, torch.Tensor):
        return path or "(itself)", "", repr(leaf), "", ""
    length = norm(leaf.detach().to(torch.promote_types(leaf.dtype, torch.float32)))
    dtype = str(leaf.dtype).removeprefix("torch.")
    return path or "(itself)", str(tuple(leaf.shape)), dtype, f"{leaf.nbytes:,}", f"{float(length):.4g}"


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    words = [
        word.rjust(w) if k == 3 else word.ljust(w)
        for k, (word, w) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(words).rstrip()
