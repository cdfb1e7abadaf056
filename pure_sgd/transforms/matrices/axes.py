"""Which leaves are matrices, and along which axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from ... import tree
from ...errors import PureSGDError
from ...tree.traversal import children
from ..contract import GradientTransformation, Params, State, Updates, extra_args_of, transformation
from ..masking import partition
from ..wrapping import check_inner

__all__ = ["GaLoreDimensionNumbers", "MuonDimensionNumbers", "as_matrix", "matrix_axes", "partition_matrices"]


class MuonDimensionNumbers(NamedTuple):
    """The axes of a leaf that are the rows (inputs) of a matrix and those that are its columns (outputs).

    All other axes count through matrices of their own. ``MuonDimensionNumbers(1, 0)`` is the layout of
    ``torch.nn.Linear``.
    """

    reduction_axis: int | tuple[int, ...] = 0
    output_axis: int | tuple[int, ...] = 1


#: Optax's other name of :class:`MuonDimensionNumbers`.
GaLoreDimensionNumbers = MuonDimensionNumbers


@transformation
def partition_matrices(
    matrices: GradientTransformation, others: GradientTransformation, weight_dimension_numbers: Any = None
) -> GradientTransformation:
    """Apply one transform to the leaves that are matrices, and another to all others.

        u = matrices(u) if u is a matrix, else others(u)

    Matrices are the leaves with two axes, none of length 0. ``weight_dimension_numbers`` says otherwise:
    one :class:`MuonDimensionNumbers` for all leaves with two axes or more, or a tree of them and of
    ``None`` (no matrix), a prefix of one, or a function from the leaf's path to either. An empty leaf is no
    matrix whatever it says. Each transform sees its own leaves only, as in :func:`partition`.

    Raises:
        PureSGDError: something else than transforms; later, axes that a leaf has not or that come twice.

    Example:
        >>> import torch
        >>> import pure_sgd as ps
        >>> tx = ps.partition_matrices(ps.scale(10.0), ps.scale(1.0))
        >>> grads = {"w": torch.ones(1, 2), "b": torch.ones(2)}
        >>> tx.update(grads, tx.init(grads))[0]
        {'w': tensor([[10., 10.]]), 'b': tensor([1., 1.])}
    """
    check_inner("partition_matrices", matrices)
    check_inner("partition_matrices", others)

    def parts(like: Params) -> GradientTransformation:
        found = matrix_axes(weight_dimension_numbers, like, "partition_matrices")
        paths = (path for path, _ in tree.named_leaves(like))
        labels = {path: "matrices" for path, axes in zip(paths, found, strict=True) if axes}
        mine = {"matrices": matrices} if labels else {}
        return partition({**mine, "others": others}, lambda path: labels.get(path), default_label="others")

    def init(params: Params) -> State:
        return parts(params).init(params)

    def update(updates: Updates, state: State, params: Params = None, **extra: Any) -> tuple[Updates, State]:
        return parts(updates).update(updates, state, params, **extra)

    read = dict.fromkeys((*extra_args_of(matrices), *extra_args_of(others)))
    return GradientTransformation(init, update, tuple(read))


class MatrixAxes(NamedTuple):
    """The axes of a leaf as counted from its first, all of them once."""

    batch: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]


def matrix_axes(spec: Any, like: Params, where: str) -> list[MatrixAxes | None]:
    """For each leaf of ``like`` its axes as a matrix, or None; ``spec`` as in :func:`partition_matrices`.

    Raises:
        PureSGDError: a leaf is to be a matrix along axes that it has not or that come twice.

    Example:
        >>> import torch
        >>> from pure_sgd.transforms.matrices import matrix_axes
        >>> matrix_axes(None, {"b": torch.ones(3), "w": torch.ones(2, 3)}, "scale_by_muon")
        [None, MatrixAxes(batch=(), rows=(0,), columns=(1,))]
    """
    named = tree.named_leaves(like)
    specs: list[Any]
    if spec is None:
        specs = [MuonDimensionNumbers() if leaf.ndim == 2 else None for _, leaf in named]
    elif isinstance(spec, MuonDimensionNumbers):
        specs = [spec if leaf.ndim >= 2 else None for _, leaf in named]
    elif callable(spec):
        specs = [spec(path) for path, _ in named]
    else:
        specs = [*_spread(spec, like, where, "weight_dimension_numbers")]
    return [
        _axes_of(leaf, one, f"{where}{path}") if one is not None and leaf.numel() else None
        for (path, leaf), one in zip(named, specs, strict=True)
    ]


def as_matrix(
    leaf: torch.Tensor, axes: MatrixAxes
) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
    """``leaf`` of shape (batch axes, rows, columns), and the function that undoes this.

    Example:
        >>> import torch
        >>> from pure_sgd.transforms.matrices import as_matrix
        >>> from pure_sgd.transforms.matrices.axes import MatrixAxes
        >>> matrix, back = as_matrix(torch.ones(2, 3, 4), MatrixAxes((), (2,), (0, 1)))
        >>> matrix.shape, back(matrix).shape
        (torch.Size([4, 6]), torch.Size([2, 3, 4]))
    """
    order = (*axes.batch, *axes.rows, *axes.columns)
    turned = leaf.permute(order)
    back = sorted(range(leaf.ndim), key=lambda axis: order[axis])
    batch, (rows, columns) = [leaf.shape[axis] for axis in axes.batch], fans(leaf, axes)
    matrix = turned.reshape(*batch, rows, columns)
    return matrix, lambda other: other.reshape(turned.shape).permute(back)


def fans(leaf: torch.Tensor, axes: MatrixAxes) -> tuple[int, int]:
    """The numbers of rows (inputs) and of columns (outputs)."""
    # From lists: torch.compile cannot see into a generator here.
    rows, columns = ([leaf.shape[axis] for axis in some] for some in (axes.rows, axes.columns))
    return math.prod(rows), math.prod(columns)


def _axes_of(leaf: torch.Tensor, spec: MuonDimensionNumbers, where: str) -> MatrixAxes:
    asked = [axis if isinstance(axis, (tuple, list)) else (axis,) for axis in spec]
    rows, columns = (tuple(a + leaf.ndim if a < 0 else a for a in axes) for axes in asked)
    both = (*rows, *columns)
    if not rows or not columns or len({*both}) < len(both) or not {*both} <= {*range(leaf.ndim)}:
        raise PureSGDError(
            where,
            f"{spec} does not fit the shape {tuple(leaf.shape)}",
            "Name one row axis and one column axis at least, no axis twice, or pass None for this leaf",
        )
    return MatrixAxes(tuple(axis for axis in range(leaf.ndim) if axis not in both), rows, columns)


def _spread(spec: Any, like: Params, where: str, path: str) -> Iterator[MuonDimensionNumbers | None]:
    count = len(tree.leaves(like))
    if not count:
        return
    if spec is None or isinstance(spec, MuonDimensionNumbers):
        yield from [spec] * count
        return
    inner, outer = dict(children(spec)), dict(children(like))
    missing = [step for step, child in outer.items() if step not in inner and tree.leaves(child)]
    if not outer or missing or inner.keys() - outer.keys():
        raise PureSGDError(
            where,
            f"{path} holds {list(inner) or spec} where the tree holds {list(outer) or 'a leaf'}",
            "Pass MuonDimensionNumbers or None for every leaf or subtree, or a function from the path",
        )
    for step, child in outer.items():
        yield from _spread(inner.get(step), child, where, path + step)
