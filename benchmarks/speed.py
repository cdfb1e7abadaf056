"""This library beside its peers: every benchmark, or those named, in one table.

    make bench                        every row: about half an hour; writes benchmarks/RESULTS.md
    make bench QUICK=1                the headline rows, at their smallest: under two minutes
    make bench ROWS="lecture sweep"   the groups of rows whose names hold one of these words
    make bench DEVICE=cuda            on an accelerator

The ways to do the same work run in turn, round after round, each set up, compiled and warmed up before, and
only if all have given the same result. A ratio is the median over rounds of the ratio of two times of one
round, with its quartiles: theirs over ours where it is to be at least something, ours over theirs where
it is to be at most something. A group of rows is a process of its own. A peer that is not installed is a gap
in the table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import report
import torch
from rounds import Group, Line, Settings, lines

#: The files that hold groups of rows, in the order of the table.
FILES = (
    "lecture_training",
    "speed_lecture",
    "speed_sweep",
    "speed_update",
    "speed_bridges",
    "speed_steps",
    "speed_eager",
    "speed_compile",
    "speed_data",
    "speed_distributed",
    "gradient_noise",
)
HEADLINES = ("lecture/many", "lecture/step", "update/300", "eager/adam48 w16")
WIDTHS = (22, 30, 34, 14, 24, 0)

Make = Callable[[Settings], Group | list[Line]]


def groups() -> dict[str, Make]:
    """Every group of rows: ways to measure, or lines that measure by themselves."""
    found: dict[str, Make] = {}
    for file in FILES:
        found.update(import_module(file).GROUPS)
    return found


def one_group(name: str, settings: Settings) -> list[Line]:
    """The lines of a group, measured in this process."""
    made = groups()[name](settings)
    return list(lines(made, settings)) if isinstance(made, Group) else made


def in_own_process(name: str, arguments: list[str]) -> list[Line]:
    """The same in a fresh process, whose death is a line, too."""
    command = [sys.executable, __file__, "--group", name, *arguments]
    out = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if out.returncode:
        return [Line(name, "", "", "", "", f"did not run: exit status {out.returncode}")]
    return [Line(*fields) for fields in json.loads(out.stdout.splitlines()[-1])]


def shown(line: Line) -> str:
    """One line of the terminal's table."""
    return " ".join(f"{text:{width}}" for text, width in zip(line, WIDTHS, strict=True)).rstrip()


def measured(names: list[str], arguments: list[str]) -> Iterator[tuple[str, list[Line]]]:
    """Group after group, printed as it comes."""
    print(shown(Line("work", "ours", "beside", "to reach", "ratio (quartiles)", "")))
    for name in names:
        found = in_own_process(name, arguments)
        print("\n".join(map(shown, found)), flush=True)
        yield name, found


def main() -> None:
    parser = argparse.ArgumentParser(description="This library beside its peers.")
    parser.add_argument("words", nargs="*", help="only the groups whose names hold one of these")
    parser.add_argument("--quick", action="store_true", help="the headline rows at their smallest sizes")
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    parser.add_argument("--group", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(
            f"torch finds no device for --device {asked.device}; without it the rows are those of the CPU"
        )
    settings = Settings(torch.device(asked.device), asked.quick)
    if asked.group:
        # What a peer prints is not the result.
        result, sys.stdout = sys.stdout, sys.stderr
        print(json.dumps(one_group(asked.group, settings)), file=result)
        return
    start = time.perf_counter()
    words = asked.words or (HEADLINES if asked.quick else [""])
    names = [name for name in groups() if any(word in name for word in words)]
    if not names:
        parser.error(f"no group's name holds one of {words}; there are: {', '.join(groups())}")
    arguments = ["--device", asked.device, *(["--quick"] if asked.quick else [])]
    print(report.conditions(settings.device))
    found = dict(measured(names, arguments))
    if not asked.quick:
        path = Path(__file__).parent / "RESULTS.md"
        path.write_text(report.merged(path.read_text(), settings.device, found, list(groups())))
        print(f"written to {os.path.relpath(path)}")
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
