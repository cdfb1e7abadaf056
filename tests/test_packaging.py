"""What is installed: one version, the types, and nothing imported that is not needed at once."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pure_sgd as ps

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def imported_by(module: str) -> set[str]:
    """The packages that come with a module, which are not of the standard library."""
    program = (
        f"import torch._dynamo, sys; before = {{*sys.modules}}; import {module}; "
        "print(*{name.split('.')[0] for name in {*sys.modules} - before})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {name for name in done.stdout.split() if name not in sys.stdlib_module_names}


def test_importing_it_imports_little_else():
    """Matplotlib, pyarrow, tqdm, TensorBoard and the rest come when they are asked for."""
    assert imported_by("pure_sgd") <= {"pure_sgd", "torch", "optree", "numpy", "safetensors"}


def test_the_version_is_semantic_and_stands_in_one_place():
    assert re.fullmatch(r"\d+\.\d+\.\d+", PROJECT["version"])
    assert ps.__version__ == PROJECT["version"]
    for path in ("README.md", "CITATION.cff", "docs/getting_started.md"):
        assert PROJECT["version"] not in (ROOT / path).read_text()


def test_it_ships_its_types_and_says_how_to_cite_it():
    assert (Path(ps.__file__).parent / "py.typed").exists()
    citation = (ROOT / "CITATION.cff").read_text()
    assert "cff-version: 1.2.0" in citation
    assert f"license: {PROJECT['license']}" in citation
    assert PROJECT["optional-dependencies"]["plot"] == ["matplotlib"]
