"""How much memory some work needs beyond what is there before it. Linux only."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

RUNS = 2
MEGABYTE = 2**20


def status(field: str) -> int:
    """A size of this process in bytes, from its line ``VmRSS: 123 kB``."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def extra_here(work: Callable[[], Any]) -> int:
    """The highest resident size of this process while ``work`` runs, less that just before, in bytes.

    What is loaded late must have been loaded: call something small of the kind before.
    """
    ctypes.CDLL(None).malloc_trim(0)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest size from here on
    work()
    return status("VmHWM") - before


def extra_of(script: str, *arguments: str) -> int:
    """What ``script`` prints when it runs with ``arguments`` in a process of its own: the least of some runs.

    What a peak has by chance is too much, never too little.
    """
    if not Path("/proc/self/clear_refs").exists():
        raise NotImplementedError("peak memory is only known on Linux")
    command = [sys.executable, script, *arguments]
    runs = [subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(RUNS)]
    return min(int(run.stdout) for run in runs)
