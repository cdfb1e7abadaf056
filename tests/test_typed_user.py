"""A user's script passes the type checker at its strictest, and runs."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

USER = Path(__file__).with_name("typed_user.py")
ROOT = USER.parents[1]


def complaints(program: str, folder: Path) -> str:
    """What pyright says, in a folder that knows nothing of this repository but where it lies."""
    (folder / "user.py").write_text(program)
    settings = {"typeCheckingMode": "strict", "extraPaths": [str(ROOT)]}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "-p", str(folder), "--pythonpath", sys.executable]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder).stdout


def test_a_strict_type_checker_knows_state_metrics_and_batches(tmp_path: Path):
    assert complaints(USER.read_text(), tmp_path).startswith("0 errors, 0 warnings")
    wrong = complaints(USER.read_text() + "\nassert_type(state.params, int)\n", tmp_path)
    assert wrong.count("error:") == 1


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_script_runs(capsys: pytest.CaptureFixture[str]):
    runpy.run_path(str(USER))
    assert "chain(clip_by_global_norm(1.0)" in capsys.readouterr().out
