"""The grids of a sweep: one tensor of values for each hyperparameter."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch

from ..errors import PureSGDError

__all__ = ["check_names", "grid_points"]

OPTIONS = ("chunk_size", "progress", "zipped")


def check_names(run: Callable[..., Any], grids: dict[str, Any]) -> None:
    """See that ``run`` takes the grids, and needs no other.

    Raises:
        PureSGDError: it does not.

    Example:
        >>> from pure_sgd.training.grids import check_names
        >>> check_names(lambda rate, seed=0: rate, {"rate": [0.1, 0.2]})
    """
    if not grids and not set(OPTIONS) & set(inspect.signature(run).parameters):
        raise PureSGDError("sweep", "got no grid", "Pass one by name, such as rate=[0.01, 0.1]")
    parameters = inspect.signature(run).parameters.values()
    takes = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for name in grids:
        if name not in takes and not anything:
            raise PureSGDError(
                "sweep", f"run takes no {name!r}; it takes {takes}", "Name each grid like a parameter of run"
            )
    for p in parameters:
        if p.name in takes and p.default is p.empty and p.name not in grids:
            remedy = "Pass one, or give the parameter a default"
            if p.name in OPTIONS:
                remedy = (
                    f"It is also an option of sweep: give the parameter of run another name than {p.name}"
                )
            raise PureSGDError("sweep", f"run needs {p.name!r}, for which there is no grid", remedy)


def grid_points(grids: dict[str, Any], zipped: bool) -> tuple[dict[str, torch.Tensor], tuple[int, ...]]:
    """Each grid as a tensor, and how many points there are along every axis of the results.

    Raises:
        PureSGDError: grids that are empty, or of different lengths when ``zipped``.

    Example:
        >>> from pure_sgd.training.grids import grid_points
        >>> grid_points({"rate": [0.1, 0.2], "seed": range(3)}, zipped=False)[1]
        (2, 3)
    """
    values = {name: _values(name, grid) for name, grid in grids.items()}
    shape = tuple(len(grid) for grid in values.values())
    if zipped and len(set(shape)) > 1:
        lengths = ", ".join(f"{name} {length}" for name, length in zip(grids, shape, strict=True))
        raise PureSGDError(
            "sweep",
            f"grids of different lengths cannot be zipped: {lengths}",
            "Give all the same length, or leave zipped out for their product",
        )
    return values, shape[:1] if zipped else shape


def _values(name: str, grid: Any) -> torch.Tensor:
    """A grid as one tensor, whose first axis is gone through."""
    listed = grid if isinstance(grid, torch.Tensor) or not isinstance(grid, Iterable) else list(grid)
    try:
        if isinstance(listed, list) and listed and isinstance(listed[0], torch.Tensor):
            listed = torch.stack(listed)
        elif isinstance(listed, list):
            has_floats = any(isinstance(value, float) for value in listed)
            listed = torch.tensor(listed, dtype=torch.float64 if has_floats else None)
        if isinstance(listed, torch.Tensor) and listed.ndim:
            if len(listed):
                return listed
            raise PureSGDError("sweep", f"the grid {name} is empty", "Pass at least one value")
    except (TypeError, RuntimeError) as error:
        problem, cause = f"the grid {name} cannot be one tensor ({error})", error
    except ValueError as error:
        if isinstance(error, PureSGDError):
            raise
        problem, cause = f"the grid {name} cannot be one tensor ({error})", error
    else:
        problem, cause = f"the grid {name} is {grid!r}, which cannot be gone through", None
    remedy = "Pass a sequence of numbers, or of tensors of one shape; over anything else, loop"
    raise PureSGDError("sweep", problem, remedy) from cause
