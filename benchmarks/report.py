"""The table of results as a page: what was measured anew takes the place of what was measured before."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

import torch
from rounds import Line

PEERS = ("jax", "optax", "torchopt", "backpack-for-pytorch", "opacus")
BEGIN, END = "<!-- {}: measured -->", "<!-- {}: end -->"
HEAD = (
    "| work | ours | beside | to reach | ratio (quartiles) | |",
    "|---|---|---|---|---|---|",
)


def conditions(device: torch.device) -> str:
    """Machine and versions, in one line."""
    versions = [f"torch {torch.__version__}", *map(version, PEERS)]
    machine = processor() if device.type == "cpu" else torch.cuda.get_device_name(device)
    return f"{machine}; Python {platform.python_version()}, {', '.join(versions)}"


def version(package: str) -> str:
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return f"no {package}"


def processor() -> str:
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {names[0] if names else platform.machine()}"


def merged(text: str, device: torch.device, found: dict[str, list[Line]], order: list[str]) -> str:
    """The page with new lines for the groups that were ``found``, in the ``order`` of all groups.

    The others keep theirs, unless those were measured on another machine or with other versions. What
    stands outside the two marks of a device stays.
    """
    begin, end = BEGIN.format(device.type), END.format(device.type)
    if begin not in text:
        text = f"{text.rstrip()}\n\n{begin}\n{end}\n"
    before, rest = text.split(begin)
    table, after = rest.split(end)
    here = f"Measured on {conditions(device)}."
    rows: dict[str, list[str]] = {name: [] for name in order}
    if here in table:
        for row in table.splitlines():
            name = row.strip("| ").split(" | ")[0]
            if name in rows:
                rows[name].append(row)
    for name, lines in found.items():
        rows[name] = [f"| {' | '.join(line)} |" for line in lines]
    body = "\n".join(row for name in order for row in rows[name])
    return f"{before}{begin}\n{here}\n\n{HEAD[0]}\n{HEAD[1]}\n{body}\n{end}{after}"
