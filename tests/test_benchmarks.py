"""What the benchmarks promise: equal results before a time counts, and gaps that are seen."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module

import report
import rounds
import torch
from rounds import Group, Line, Row, Settings, Way

SETTINGS = Settings(torch.device("cpu"), quick=True)
CPU = SETTINGS.device


def way(result: float, seconds: float = 0.0) -> Way:
    def work() -> torch.Tensor:
        time.sleep(seconds)
        return torch.tensor([result])

    return Way(lambda: work, lambda found: {"result": [found]})


def missing() -> Callable[[], None]:
    return import_module("a_peer_that_nobody_has").work


def verdicts(ways: dict[str, Way], row: Row) -> list[str]:
    return [line.verdict for line in rounds.lines(Group("group", ways, [row]), SETTINGS)]


def test_a_faster_way_meets_its_bound_and_a_slower_one_misses_it(monkeypatch):
    monkeypatch.setattr(rounds, "QUICK_SECONDS", 0.1)
    ways = {"slow": way(1.0, 0.02), "fast": way(1.0, 0.001)}
    assert verdicts(ways, Row(("fast",), ("slow",), 5.0, faster=True)) == ["met"]
    assert verdicts(ways, Row(("fast",), ("slow",), 0.2)) == ["met"]
    assert verdicts(ways, Row(("slow",), ("fast",), 1.0, faster=True, why="it sleeps")) == [
        "**missed**: it sleeps"
    ]


def test_a_way_with_another_result_does_not_count(monkeypatch):
    monkeypatch.setattr(rounds, "QUICK_SECONDS", 0.0)
    ways = {"ours": way(1.0), "wrong": way(1.1)}
    nothing, reason = verdicts(ways, Row(("ours",), ("wrong",), 1.0))
    assert nothing == "nothing to compare"
    assert reason == "does not count: its result of leaf 0 is wrong by 1.0e-01 of 1.0e+00"


def test_a_peer_that_is_not_installed_is_a_gap(monkeypatch):
    monkeypatch.setattr(rounds, "QUICK_SECONDS", 0.0)
    ways = {"ours": way(1.0), "peer": Way(missing, lambda found: {})}
    nothing, reason = verdicts(ways, Row(("ours",), ("peer",), 1.0))
    assert nothing == "nothing to compare"
    assert reason == "does not count: a_peer_that_nobody_has is not installed"


def row(work: str, verdict: str) -> Line:
    return Line(work, "ours", "beside", "at least 1", "2.00", verdict)


def test_the_page_takes_new_rows_and_keeps_the_others():
    order = ["one", "two", "three"]
    page = report.merged(
        "# Title\n", CPU, {"two": [row("two", "met")], "three": [row("three", "met")]}, order
    )
    page = report.merged(
        page + "\nNotes.\n", CPU, {"one": [row("one", "met")], "two": [row("two", "new")]}, order
    )
    assert page.startswith("# Title\n")
    assert page.endswith("\nNotes.\n")
    found = [line.strip("| ").split(" | ") for line in page.splitlines() if " ours " in line][1:]
    assert [(line[0], line[-1]) for line in found] == [("one", "met"), ("two", "new"), ("three", "met")]


def test_rows_of_other_versions_do_not_stay(monkeypatch):
    page = report.merged("", CPU, {"one": [row("one", "met")]}, ["one", "two"])
    monkeypatch.setattr(report, "version", lambda package: f"{package} 99")
    assert "| one |" not in report.merged(page, CPU, {"two": [row("two", "met")]}, ["one", "two"])
