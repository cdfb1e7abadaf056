"""docs/catalogue.md is what the docstrings and the tests' tables make of it today."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from catalogue import CATALOGUE, TORCH
from catalogue_page import PAGE, page, read, state_size

import pure_sgd as ps


def test_the_page_is_current():
    assert PAGE.read_text() == page(), "write it anew: python tests/catalogue_page.py"


@pytest.mark.parametrize("name", sorted({row.split(" ")[0] for row in CATALOGUE}))
def test_each_name_is_on_the_page(name: str):
    assert f"\n### {name}\n" in PAGE.read_text()


def test_every_class_of_torch_optim_is_held_to_by_a_test():
    classes = {name for name, value in vars(torch.optim).items() if inspect.isclass(value)} - {"Optimizer"}
    assert set(TORCH) == classes
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert [name for name in TORCH if f"torch.optim.{name}" not in tests] == []
    assert [name for names in TORCH.values() for name in names if not hasattr(ps, name)] == []


def test_the_parts_of_a_docstring_are_found():
    adamax = read("scale_by_adamax")
    assert adamax.summary.startswith("Adam in the infinity norm")
    assert "nu = max(b2 * nu, |u| + eps)" in adamax.equations[0]
    assert adamax.source == "Kingma and Ba 2015, arXiv:1412.6980, section 7.1."


def test_the_size_of_a_state_is_counted():
    sizes = {name: state_size(CATALOGUE[name]) for name in ("sgd", "trace", "adam", "scale_by_sm3")}
    assert sizes == {"sgd": "none", "trace": "n", "adam": "2 n", "scale_by_sm3": "n + r + c"}
