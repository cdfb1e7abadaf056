"""What :func:`fit` records, written where other tools look: callbacks for its argument ``callbacks``.

A logger is any function of ``(record, state)``, so those that are not here are as short::

    run = wandb.init(project="digits")
    fit(..., callbacks=[lambda record, state: run.log(record, step=int(record["step"]))])

    with mlflow.start_run():
        fit(..., callbacks=[lambda record, state: mlflow.log_metrics(record, step=int(record["step"]))])
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..arguments import typed
from ..errors import PureSGDError

__all__ = ["csv_logger", "json_lines_logger", "tensorboard_logger"]

Record = dict[str, float]
Logger = Callable[[Record, Any], None]


@typed
def csv_logger(path: str | os.PathLike[str]) -> Logger:
    """A callback that adds each record to a table with one column for each quantity.

    The first record names the columns; a file that is there already, as when a run is resumed, is gone on
    with. Nothing stays open between two records.

    Raises:
        PureSGDError: when called, a record with other quantities than the file has columns.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import pure_sgd as ps
        >>> path = Path(tempfile.mkdtemp()) / "run.csv"
        >>> log = ps.csv_logger(path)
        >>> log({"step": 10, "loss": 0.5}, None)
        >>> path.read_text().splitlines()
        ['step,loss', '10,0.5']
    """
    path = Path(path)

    @typed
    def log(record: Record, state: Any) -> None:
        columns = list(record)
        if path.exists() and path.stat().st_size:
            with path.open(newline="") as file:
                columns = next(csv.reader(file))
        if set(columns) != set(record):
            raise PureSGDError(
                str(path), f"has columns {columns}, and the record {list(record)}", "Log to another file"
            )
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            if not file.tell():
                writer.writeheader()
            writer.writerow(record)

    return log


@typed
def json_lines_logger(path: str | os.PathLike[str]) -> Logger:
    """A callback that adds each record to a file as one line of JSON; what is not finite becomes null.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import pure_sgd as ps
        >>> path = Path(tempfile.mkdtemp()) / "run.jsonl"
        >>> ps.json_lines_logger(path)({"step": 10, "loss": float("nan")}, None)
        >>> path.read_text().splitlines()
        ['{"step": 10, "loss": null}']
    """
    path = Path(path)

    @typed
    def log(record: Record, state: Any) -> None:
        finite = {name: value if math.isfinite(value) else None for name, value in record.items()}
        with path.open("a") as file:
            file.write(json.dumps(finite) + "\n")

    return log


def tensorboard_logger(writer: Any) -> Logger:
    """A callback that gives each quantity of a record to a ``torch.utils.tensorboard.SummaryWriter``.

    The writer stays yours: closing it ends the file. The x axis is the step.

    Example:
        >>> import pure_sgd as ps
        >>> class Writer:
        ...     def add_scalar(self, name, value, step):
        ...         print(name, value, step)
        ...
        ...     def flush(self):
        ...         pass
        >>> ps.tensorboard_logger(Writer())({"step": 10, "loss": 0.5}, None)
        loss 0.5 10
    """

    @typed
    def log(record: Record, state: Any) -> None:
        for name, value in record.items():
            if name != "step":
                writer.add_scalar(name, value, int(record["step"]))
        writer.flush()

    return log
