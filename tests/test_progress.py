"""The progress bar of a run, as a terminal, a pipe and a notebook see it."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import termios
import warnings
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from pure_sgd.training.progress import Progress

PROGRAM = """
import time
import torch
import pure_sgd as ps

steps = 0

def loss(params, batch):
    global steps
    steps += 1
    if steps == 12:
        print("in", "step", 12)
    time.sleep(0.03)
    return ((params - batch[0]) ** 2).mean()

class Batches:
    def __len__(self):
        return 20

    def __iter__(self):
        for _ in range(20):
            yield (torch.ones(2),)
        print("after the data")

def evaluate(params):
    print("evaluation,", end=" ")
    print("told in two")
    return 0.125

def tell(record, state):
    print(f"after step {record['step']}")

ps.fit(
    loss, ps.sgd(0.25), torch.tensor(0.0), Batches(), epochs=2, compile=False,
    evaluate=evaluate, callbacks=[tell],
)
"""
#: What it prints, in this order.
EPOCH = ["after the data", "evaluation, told in two", "after step {}"]
LINES = ["in step 12"] + [line.format(step) for step in (20, 40) for line in EPOCH]
#: Prints beside a bar of its own, and to standard error, and leaves a line open.
ANOTHER = """
import logging
import sys
import time
import torch
import warnings
from tqdm import tqdm
import pure_sgd as ps

logging.basicConfig(format="%(message)s")

def tell(record, state):
    logging.warning("logged")
    warnings.warn(f"beware of step {record['step']}")
    print("to standard error", file=sys.stderr)
    for _ in tqdm(range(3), desc="another", mininterval=0):
        time.sleep(0.01)
    print("open:", end=" ")

def loss(params, batch):
    return ((params - batch[0]) ** 2).mean()

ps.fit(loss, ps.sgd(0.25), torch.tensor(0.0), (torch.ones(2),), steps=1, compile=False, callbacks=[tell])
print("closed")
logging.warning("logged later")
"""


def seen_by_terminal(program: str) -> str:
    """All that a program writes to a terminal 100 characters wide."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    child = subprocess.Popen([sys.executable, "-c", program], stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    pieces: list[bytes] = []
    try:
        while piece := os.read(ours, 4096):
            pieces.append(piece)
    except OSError:  # what Linux says at the end of a terminal
        pass
    os.close(ours)
    assert child.wait() == 0, b"".join(pieces).decode()
    return b"".join(pieces).decode()


def whole(line: str, seen: str) -> bool:
    """Whether it is on an empty line: what was there is wiped before, and the bar is drawn anew below."""
    return re.search(rf"\r +\r{re.escape(line)}\r\n\r[^\n]*\d+%\|", seen) is not None


def test_a_terminal_shows_loss_rate_speed_and_remaining_time_and_whole_lines_of_whoever_prints():
    seen = seen_by_terminal(PROGRAM)
    bars = [text for text in seen.split("\r") if "%|" in text]
    # 3/40 [00:00<00:01, 30.12step/s, loss=0.5, learning_rate=0.25]
    shown = re.compile(r"\d+/40 \[\d\d:\d\d<\d\d:\d\d, +[\d.]+step/s, loss=\S+, learning_rate=0.25")
    early = [text for text in bars if "/40" in text and "val_loss" not in text and shown.search(text)]
    assert early, bars  # within the first epoch, before there is a record
    assert "val_loss=0.125" in bars[-1]
    assert "40/40" in bars[-1]
    assert [line for line in LINES if not whole(line, seen)] == [], repr(seen)


def test_warnings_logs_bars_and_open_lines_of_others_go_on_as_they_would():
    seen = seen_by_terminal(ANOTHER)
    assert whole("<string>:14: UserWarning: beware of step 1", seen), repr(seen)
    assert whole("to standard error", seen)
    assert whole("logged", seen)
    # Below the bar while it is drawn, in its place at the end, and left above it.
    assert re.search(r"\n\ranother: +33%\|[^\n]*\x1b\[A", seen), repr(seen)
    assert re.search(r"\ranother: 100%\|[^\n]*\n\r[^\n]*1/1 ", seen), repr(seen)
    assert re.search(r"1/1 [^\r\n]*\r\nopen: closed\r\nlogged later\r\n$", seen), repr(seen)


def test_what_is_not_a_terminal_gets_what_is_printed_and_no_more(capfd: pytest.CaptureFixture[str]):
    exec(PROGRAM, {})
    assert capfd.readouterr() == ("".join(f"{line}\n" for line in LINES), "")


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a kernel of Jupyter, without ipywidgets."""
    shell = SimpleNamespace(kernel=object(), config={"IPKernelApp": {}})
    ipython: Any = ModuleType("IPython")
    ipython.get_ipython = lambda: shell
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    for name in ("tqdm.auto", "tqdm.autonotebook", "tqdm.notebook"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)


@pytest.mark.usefixtures("notebook")
def test_a_notebook_has_a_bar_without_a_warning(capsys: pytest.CaptureFixture[str]):
    with warnings.catch_warnings(record=True) as told, Progress(4, 0, shown=True) as bar:
        bar.record({"loss": 0.5, "learning_rate": 0.1})
    assert told == []
    assert "loss=0.5, learning_rate=0.1" in capsys.readouterr().err
    with Progress(4, 0, shown=False) as bar:
        bar.record({"loss": 0.5})
    assert capsys.readouterr().err == ""


def test_a_bar_that_is_hidden_reads_no_loss():
    """On a GPU that would wait for the step."""
    with Progress(4, 0, shown=False) as bar:
        bar.step({"loss": torch.empty((), device="meta")})
