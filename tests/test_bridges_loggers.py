"""What a run records, in files that other tools read."""

from __future__ import annotations

import csv
import json
import re
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from pages import DOCS, run

import pure_sgd as ps

X = torch.linspace(-1, 1, 32)


def fit(callback: Any, **options: Any) -> dict[str, list[float]]:
    loss = ps.empirical_risk(lambda params, x, y: (params * x - y) ** 2)
    tx = ps.sgd(0.1)
    options = {"epochs": 3, "batch_size": 8, **options}
    _, history = ps.fit(loss, tx, torch.tensor(0.0), (X, 3 * X), callbacks=[callback], **options)
    return history


def test_a_csv_file_holds_the_history(tmp_path):
    history = fit(ps.csv_logger(tmp_path / "run.csv"))
    with (tmp_path / "run.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {name: [float(row[name]) for row in rows] for name in rows[0]} == history


def test_a_run_that_is_resumed_goes_on_in_its_files(tmp_path):
    options = {"checkpoint": tmp_path / "run", "resume": True}
    fit(ps.csv_logger(tmp_path / "run.csv"), epochs=1, **options)
    fit(ps.csv_logger(tmp_path / "run.csv"), epochs=3, **options)
    lines = (tmp_path / "run.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["epoch", "0", "1", "2"]


def test_a_record_that_does_not_fit_the_columns_is_refused(tmp_path):
    log = ps.csv_logger(tmp_path / "run.csv")
    log({"step": 1, "loss": 0.5}, None)
    log({"loss": 0.25, "step": 2}, None)
    with pytest.raises(ps.PureSGDError, match=r"has columns \['step', 'loss'\]"):
        log({"step": 3, "val_loss": 0.1}, None)
    assert (tmp_path / "run.csv").read_text() == "step,loss\n1,0.5\n2,0.25\n"


def test_json_lines_hold_the_history_and_stay_json_where_a_number_is_not_finite(tmp_path):
    path = tmp_path / "run.jsonl"
    history = fit(ps.json_lines_logger(path))
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert {name: [record[name] for record in records] for name in records[0]} == history
    ps.json_lines_logger(path)({"step": 4, "loss": float("inf")}, None)
    assert path.read_text().splitlines()[-1] == '{"step": 4, "loss": null}'


class Writer:
    """What a SummaryWriter is called with."""

    def __init__(self) -> None:
        self.scalars: dict[str, list[tuple[int, float]]] = {}

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.setdefault(name, []).append((step, value))

    def flush(self) -> None: ...


def test_tensorboard_gets_each_quantity_by_step():
    writer = Writer()
    history = fit(ps.tensorboard_logger(writer))
    assert writer.scalars["loss"] == list(zip(history["step"], history["loss"], strict=True))
    assert writer.scalars.keys() == history.keys() - {"step"}


class Service:
    """What runs are sent to, and what it has got: of ``wandb`` and ``mlflow`` what the page calls."""

    def __init__(self, *place: Any, **options: Any) -> None:
        self.got: list[tuple[int, dict[str, float]]] = []
        self.said: list[Any] = [options]

    def init(self, **options: Any) -> Service:
        self.said.append(options)
        return self

    start_run = init

    def log(self, record: dict[str, float], step: int) -> None:
        self.got.append((step, record))

    log_metrics = log

    def log_param(self, name: str, value: str) -> None:
        self.said.append((name, value))

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.got.append((step, {name: value}))

    def flush(self) -> None: ...

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *error: Any) -> None: ...


@pytest.mark.parametrize("library", ["wandb", "mlflow", "torch.utils.tensorboard"])
def test_what_the_page_sends_to_a_service_arrives(library, tmp_path, monkeypatch):
    """With stand-ins for the services, which are not installed."""
    monkeypatch.chdir(tmp_path)
    page = DOCS / "howto" / "logging.md"
    names: dict[str, Any] = {}
    run(page, names.update)
    snippets = re.findall(r"^```py\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    snippet = next(code for code in snippets if f"import {library}\n" in code or f"from {library} " in code)
    service, module = Service(), ModuleType(library)
    vars(module).update({name: getattr(service, name) for name in dir(service) if not name.startswith("_")})
    vars(module)["SummaryWriter"] = lambda place: service
    monkeypatch.setitem(sys.modules, library, module)
    exec(snippet, names)
    assert [step for step, record in service.got if "loss" in record] == [4, 8, 12]
    if library != "torch.utils.tensorboard":
        assert repr(names["tx"]) in str(service.said)
