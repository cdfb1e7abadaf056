"""The runs of a sweep, spread over ranks and written down one by one."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import distributed
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh

from .. import training, tree
from ..arguments import check_arguments
from ..errors import PureSGDError, check_count
from ..training import SweepResult, checkpoint_metadata, checkpoint_steps, load_checkpoint, save_checkpoint
from ..training.checkpoints.contents import checksum
from ..training.grids import check_names, grid_points
from ..training.outlines import like_outline, outline
from ..training.progress import progress_bar
from ..training.swept import flattened
from ..training.together import Together
from .collectives import group_of

__all__ = ["sweep"]

#: Where in the directory each run lies as long as some are missing, and then all of them together.
RUNS, RESULTS = "runs", "results"
#: A rank may be done long before another one is.
PATIENCE = timedelta(days=365)


def sweep(
    run: Callable[..., Any],
    directory: str | os.PathLike[str],
    mesh: DeviceMesh,
    /,
    *,
    zipped: bool = False,
    chunk_size: int = 1,
    progress: bool = True,
    **grids: Any,
) -> SweepResult:
    """Call ``run`` at every point of the product of the grids, each on one of the ranks.

        results[i, j, ...] = run(name_1=grid_1[i], name_2=grid_2[j], ...)

    As :func:`pure_sgd.sweep`, but for where and when. Each rank takes its share of the runs, and writes down
    each as it ends; a sweep that was stopped, on any number of ranks, takes the missing runs only. The last
    one done, the first rank puts all into one checkpoint in ``directory``, which every rank returns, and
    which a call with the same grids returns from then on. All ranks have to call it.

    Args:
        run: As of :func:`pure_sgd.sweep`. Called for one point it may ask for the values of its tensors: a
            whole :func:`fit`, say, that is not mapped over.
        directory: Where the runs go; the same folder for all ranks.
        mesh: The ranks, along one axis.
        zipped: As of :func:`pure_sgd.sweep`.
        chunk_size: Runs that are mapped at once by ``vmap``, and written down together.
        progress: Show a progress bar of the runs of the first rank, in a terminal or a notebook.
        **grids: As of :func:`pure_sgd.sweep`.

    Returns:
        ``(grids, results)``, as :func:`pure_sgd.sweep`; a NamedTuple comes back as one of the same fields.

    Raises:
        PureSGDError: as :func:`pure_sgd.sweep`; a directory that holds another sweep; and where a run fails,
            on all ranks, when the others have done their share.

    Example:
        >>> import tempfile
        >>> import torch
        >>> import pure_sgd as ps
        >>> from torch import distributed
        >>> distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        >>> mesh = distributed.init_device_mesh("cpu", (1,))
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     grids, squares = ps.distributed.sweep(lambda x: x**2, directory, mesh, x=[1.0, 2.0, 3.0])
        >>> squares
        tensor([1., 4., 9.], dtype=torch.float64)
        >>> distributed.destroy_process_group()
    """
    group_of(mesh, "sweep")
    together = Together(mesh)

    def begin() -> tuple[Path, dict[str, torch.Tensor], tuple[int, ...]]:
        check_arguments(sweep, (run, directory, mesh), {"zipped": zipped, "progress": progress})
        check_count("sweep", "chunk_size", chunk_size)
        check_names(run, grids)
        root, (values, shape) = Path(directory), grid_points(grids, zipped)
        _check_setting(root, _setting(values, zipped, chunk_size))
        return root, values, shape

    root, values, shape = together.all(begin)
    if not together.first(lambda: checkpoint_steps(root / RESULTS)):
        points = _points(values, shape, zipped)
        parts = [slice(start, start + chunk_size) for start in range(0, math.prod(shape), chunk_size)]
        done = together.first(lambda: checkpoint_steps(root / RUNS))
        missing = sorted({*range(len(parts))} - {*done})[together.rank :: together.ranks]
        setting = _setting(values, zipped, chunk_size)

        def take_share() -> None:
            with _waiting(mesh), progress_bar(len(missing), "run", shown) as bar:
                for number in missing:
                    part = {name: grid[parts[number]] for name, grid in points.items()}
                    _write(root / RUNS, number, _taken(run, part), setting)
                    bar.update()

        shown = progress and together.rank == 0
        together.all(take_share)
        together.first(lambda: _finish(root, len(parts), shape, setting))
    return SweepResult(values, together.all(lambda: _read(root / RESULTS)))


def _points(values: dict[str, torch.Tensor], shape: tuple[int, ...], zipped: bool) -> dict[str, torch.Tensor]:
    """The value of each hyperparameter at every point, along one axis."""
    if zipped:
        return values
    places = torch.meshgrid(*[torch.arange(size) for size in shape], indexing="ij") if shape else ()
    columns = zip(values.items(), places, strict=True)
    return {name: grid[place.flatten().to(grid.device)] for (name, grid), place in columns}


def _taken(run: Callable[..., Any], part: dict[str, Any]) -> Any:
    """The results at some points, with one leading axis for them."""
    if any(len(points) > 1 for points in part.values()):
        return training.sweep(run, zipped=True, progress=False, **part).results
    leaves, rebuild = flattened(run(**{name: points[0] for name, points in part.items()}))
    return rebuild([leaf.detach()[None] for leaf in leaves])


@contextmanager
def _waiting(mesh: DeviceMesh) -> Generator[None]:
    """At the end of the block wait for all ranks, however long they take; for a dead one nobody waits."""
    patient = _patient(mesh.get_group())
    try:
        yield
    finally:
        distributed.barrier(patient)


# Made once: another one of the same ranks would get its name, and meet its addresses. torch holds it until
# the process group is destroyed, and its threads end with it.
_made: WeakValueDictionary[str, Any] = WeakValueDictionary()


def _patient(group: ProcessGroup) -> Any:
    made = _made.get(group.group_name)
    if made is None:
        ranks = distributed.get_process_group_ranks(group)
        made = distributed.new_group(ranks, PATIENCE, "gloo", use_local_synchronization=True)
        _made[group.group_name] = made
    return made


def _setting(values: dict[str, torch.Tensor], zipped: bool, chunk_size: int) -> dict[str, Any]:
    """What makes a sweep another one."""
    grids = {name: [str(grid.dtype), checksum(grid.cpu().contiguous())] for name, grid in values.items()}
    return {"grids": grids, "zipped": zipped, "chunk_size": chunk_size}


def _check_setting(root: Path, setting: dict[str, Any]) -> None:
    for folder in (root / RESULTS, root / RUNS):
        if checkpoint_steps(folder) and (found := checkpoint_metadata(folder)["setting"]) != setting:
            differ = ", ".join(name for name in setting if found[name] != setting[name])
            raise PureSGDError(
                str(root), f"holds a sweep with other {differ}", "Pass another directory, or delete this one"
            )


def _write(folder: Path, number: int, results: Any, setting: dict[str, Any]) -> None:
    metadata = {"setting": setting, "outline": outline(results)}
    save_checkpoint(folder, results, number, keep=None, metadata=metadata)


def _read(folder: Path, number: int | None = None) -> Any:
    form = checkpoint_metadata(folder, number)["outline"]
    return load_checkpoint(folder, like_outline(form, torch.device("cpu")), number)


def _finish(root: Path, parts: int, shape: tuple[int, ...], setting: dict[str, Any]) -> None:
    """Put all runs into one checkpoint."""
    found = [_read(root / RUNS, number) for number in range(parts)]
    columns = zip(*[tree.leaves(results) for results in found], strict=True)
    _, rebuild = tree.flatten(found[0])
    joined = [torch.cat(rows).reshape(*shape, *rows[0].shape[1:]) for rows in columns]
    _write(root / RESULTS, 0, rebuild(joined), setting)
    shutil.rmtree(root / RUNS)
