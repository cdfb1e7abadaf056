"""The notebook runs, prints what it shows, and ends at the numbers of examples/lecture.py."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOK = EXAMPLES / "lecture.ipynb"


def cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def printed(cell: dict[str, Any]) -> str:
    outputs = [output for output in cell["outputs"] if output.get("name") == "stdout"]
    return "".join("".join(output["text"]) for output in outputs)


def test_each_cell_prints_what_it_shows():
    names: dict[str, Any] = {}
    for cell in cells(json.loads(NOTEBOOK.read_text())):
        source = "".join(cell["source"])
        program = "".join(line for line in source.splitlines(True) if not line.startswith("%"))
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(program, names)
        assert out.getvalue() == printed(cell)


def test_it_ends_at_the_numbers_of_the_script():
    spec = importlib.util.spec_from_file_location("lecture", EXAMPLES / "lecture.py")
    assert spec is not None
    assert spec.loader is not None
    lecture = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lecture)
    table = "".join(printed(cell) for cell in cells(json.loads(NOTEBOOK.read_text())))
    rows = [list(map(float, re.findall(r" (-?\d\.\d{4})", line))) for line in table.splitlines()[1:]]
    assert tuple(row[1] for row in rows) == lecture.LEARNED
    assert tuple(row[2] for row in rows) == lecture.AVERAGED


def test_its_outputs_are_small():
    assert NOTEBOOK.stat().st_size < 64_000


@pytest.mark.filterwarnings("ignore")
def test_jupyter_runs_it():
    """In a kernel, as a reader does; ``make docs`` installs one."""
    client = pytest.importorskip("nbclient")
    notebook = pytest.importorskip("nbformat").read(NOTEBOOK, as_version=4)
    shown = [printed(cell) for cell in cells(notebook)]
    client.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    assert [printed(cell) for cell in cells(notebook)] == shown
