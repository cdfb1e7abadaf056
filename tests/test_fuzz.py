"""Malformed arguments for every public function: the outcome is an answer, or a sentence that helps."""

from __future__ import annotations

import warnings

import fuzzing
import matplotlib.pyplot as plt
import pytest
import torch
from fuzzing import FUNCTIONS, NAMES, NOT_YET, Call, calls, complaint
from hypothesis import HealthCheck, Phase, given, settings

SETTINGS = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)
#: Each call compiles, which takes seconds.
COMPILING = {"scan", "scan_indices", "compile_step"}
QUICK = [
    name for name in NAMES if not name.startswith(("plotting", "theory.stability")) and name not in COMPILING
]


def check(call: Call) -> None:
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        found = complaint(call)
    plt.close("all")
    assert found is None, f"{call.name} with {call.wild}: {found}"


@settings(SETTINGS, max_examples=1500)
@given(calls(QUICK))
def test_a_malformed_argument_is_refused_in_a_sentence_that_names_it(call: Call):
    check(call)


@pytest.mark.slow
@settings(SETTINGS, max_examples=10_000)
@given(calls(NAMES))
def test_ten_thousand_malformed_calls(call: Call):
    check(call)


@pytest.mark.parametrize("name", QUICK)
def test_what_is_not_malformed_is_no_complaint(name: str):
    """The table of good arguments is one: each function is really reached."""
    check(Call(name, FUNCTIONS[name], {}))


def test_what_is_left_out_exists():
    assert {*fuzzing.LEFT_OUT, *NOT_YET} <= {*FUNCTIONS}
