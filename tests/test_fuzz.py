"""Malformed arguments for every public function: the outcome is an answer, or a sentence that helps."""

from __future__ import annotations

import warnings

import matplotlib.pyplot as plt
import pytest
import torch
from fuzzing.calls import FUNCTIONS, LEFT_OUT, NAMES, Call, calls
from fuzzing.outcome import answer, complaint
from hypothesis import HealthCheck, Phase, given, settings

SETTINGS = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)
#: Each call draws, looks for a limit, or compiles.
SLOW = ("plotting", "theory.stability", "theory.critical", "scan", "compile_step")
QUICK = [name for name in NAMES if not name.startswith(SLOW)]
#: Refused as it stands: what ranks differ by is not there where there is one.
OF_SEVERAL_RANKS = {"distributed.value_grad_and_noise"}


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


@pytest.mark.parametrize("name", sorted({*NAMES} - OF_SEVERAL_RANKS))
def test_what_is_not_malformed_is_answered(name: str):
    """The tables of good arguments are right: each function, and what it returns, is really reached."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answer(Call(name, {}))
    check(Call(name, {}))
    plt.close("all")


def test_what_is_left_out_exists():
    assert {*FUNCTIONS} >= LEFT_OUT
