"""What is installed: one version, the types, and nothing imported that is not needed at once."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import pure_sgd as ps

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def imported_by(module: str) -> set[str]:
    """The modules that come with a module, and neither with torch nor with Python."""
    program = (
        "import torch, sys, sysconfig; sysconfig.get_config_vars(); before = {*sys.modules}; "
        f"import {module}; print(*{{*sys.modules}} - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {name for name in done.stdout.split() if name.partition(".")[0] not in sys.stdlib_module_names}


def test_importing_it_imports_little_else():
    """Matplotlib, pyarrow, tqdm, TensorBoard and the rest come when they are asked for."""
    packages = {name.partition(".")[0] for name in imported_by("pure_sgd")}
    assert packages <= {"pure_sgd", "torch", "optree", "numpy", "safetensors"}


def test_importing_it_leaves_the_compiler_and_the_ranks_for_later():
    """What they take of torch takes as long to import as torch itself."""
    later = ("torch._dynamo", "torch._inductor", "torch.distributed", "pure_sgd.distributed")
    assert not {name for name in imported_by("pure_sgd") if name.startswith(later)}
    assert ps.distributed.shard.__module__ == "pure_sgd.distributed.sharded"
    with pytest.raises(AttributeError, match="module 'pure_sgd' has no attribute 'distribute'"):
        eval("ps.distribute")


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
