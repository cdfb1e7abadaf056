"""What every test can count on: one thread, the same random numbers, nothing compiled, ranks to ask for."""

from __future__ import annotations

import sys
from collections.abc import Generator

import hypothesis
import pytest
import torch
from ranks import Ranks, started

# What needs atheris, and what only make test-peers has libraries for and names.
collect_ignore_glob = ["fuzz_*.py", "peers_*.py"]

# One thread a worker: sums come out in the same order everywhere, and workers share the cores.
torch.set_num_threads(1)

# The same examples every time; the first one may compile, so none has a deadline.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Each test draws the same numbers, alone or among others, in any order."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_open_figures():
    """What a test draws is closed behind it."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(autouse=True)
def no_compiled_functions():
    """Each test starts with no compiled function.

    What a factory returns shares one code object, and under fullgraph torch allows each code object
    only a few versions: without this, tests of one factory would use up each other's.
    """
    yield
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


@pytest.fixture(scope="module")
def ranks(request: pytest.FixtureRequest) -> Generator[Ranks]:
    """Processes in one group, for all tests of a file: as many as its ``WORLD``."""
    with started(request.module.WORLD) as pool:
        yield pool
