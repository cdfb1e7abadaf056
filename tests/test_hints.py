"""Annotations are read for what they mean, however they are spelled and wherever they come from."""

from __future__ import annotations

import sys
import weakref
from types import ModuleType

import pytest
import torch

import pure_sgd as ps
from pure_sgd.arguments import typed

FUTURE = "from __future__ import annotations\n"

#: How one who writes a transform may spell that an argument is a hyperparameter.
SPELLINGS = {
    "by its name": ("from pure_sgd import Hyperparameter", "Hyperparameter"),
    "in the package": ("import pure_sgd", "pure_sgd.Hyperparameter"),
    "under another name": ("from pure_sgd import Hyperparameter as Knob", "Knob"),
    "or None": ("import pure_sgd as sgd", "sgd.Hyperparameter | None"),
    "optional": ("from typing import Optional\nfrom pure_sgd import Hyperparameter as H", "Optional[H]"),
    "or a word": ("from pure_sgd import Hyperparameter", "str | Hyperparameter"),
    "an alias": ("import pure_sgd\nRate = pure_sgd.Hyperparameter | None", "Rate"),
    "in quotes": ("from pure_sgd import Hyperparameter as H", '"H"'),
}
#: What is not there when the program runs, so that only annotations that are never evaluated may name it.
UNSEEN = {
    "for the type checker": ("Hyperparameter", "Hyperparameter"),
    "beside another": ("Hyperparameter, Schedule", "Schedule | Hyperparameter"),
}
TRANSFORM = """
import pure_sgd as ps
{imports}

@ps.transformation
def shrink(rate: {annotation} = 0.5, count: int = 1):
    return ps.stateless(lambda updates, params: ps.tree.map(lambda u: rate * count * u, updates))
"""
CHECKED = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pure_sgd import {names}"


def written(source: str, name: str = "a_module_of_a_user") -> ModuleType:
    module = sys.modules[name] = ModuleType(name)
    # Without the future of this file: a user's has its own.
    exec(compile(source, name, "exec", dont_inherit=True), vars(module))
    return module


def follows_a_schedule(module: ModuleType) -> None:
    tx = module.shrink(ps.piecewise_constant_schedule(1.0, {1: 0.25}))
    assert repr(tx) == "shrink(piecewise_constant_schedule(1.0, {1: 0.25}))"
    state, seen = tx.init(torch.ones(1)), []
    for _ in range(3):
        updates, state = tx.update(torch.ones(1), state)
        seen.append(updates.item())
    assert seen == [1.0, 0.25, 0.25]


@pytest.mark.parametrize("future", [FUTURE, ""], ids=["text", "evaluated"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_hyperparameter_is_one_however_it_is_spelled(spelling: str, future: str):
    imports, annotation = SPELLINGS[spelling]
    follows_a_schedule(written(future + TRANSFORM.format(imports=imports, annotation=annotation)))


@pytest.mark.parametrize("spelling", UNSEEN)
def test_a_hyperparameter_that_only_the_type_checker_imports_is_known_by_its_name(spelling: str):
    names, annotation = UNSEEN[spelling]
    imports = CHECKED.format(names=names)
    follows_a_schedule(written(FUTURE + TRANSFORM.format(imports=imports, annotation=annotation)))


@pytest.mark.parametrize("future", [FUTURE, ""], ids=["text", "evaluated"])
@pytest.mark.parametrize("annotation", ["'Nothing'", "'a b'", "1 + 1", "object"])
def test_what_is_annotated_otherwise_follows_no_schedule(annotation: str, future: str):
    module = written(future + TRANSFORM.format(imports="", annotation=annotation))
    state = module.shrink(ps.constant_schedule(0.5)).init(torch.ones(1))
    assert not isinstance(state, ps.ScheduledState)


@pytest.mark.parametrize("future", [FUTURE, ""], ids=["text", "evaluated"])
def test_other_annotations_are_held_to_what_they_say(future: str):
    module = written(future + TRANSFORM.format(imports="", annotation="ps.Hyperparameter"))
    with pytest.raises(ps.PureSGDError, match=r"shrink: count='2' is of type str, expected an int"):
        module.shrink(0.5, count="2")
    module = written(future + TRANSFORM.format(imports="", annotation="float"))
    with pytest.raises(ps.PureSGDError, match=r"shrink: rate=linear_schedule.* expected float"):
        module.shrink(ps.linear_schedule(1.0, 0.0, 3))


def test_an_alias_that_names_itself_is_no_riddle():
    module = written(FUTURE + TRANSFORM.format(imports="Rate = 'Rate'", annotation="Rate"))
    assert module.shrink(0.5).update(torch.ones(1), ps.EmptyState())[0] == 0.5


@pytest.mark.parametrize("future", [FUTURE, ""], ids=["text", "evaluated"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_injection_reads_annotations_in_the_same_way(spelling: str, future: str):
    imports, annotation = SPELLINGS[spelling]
    module = written(future + TRANSFORM.format(imports=imports, annotation=annotation))
    state = ps.inject_hyperparams(module.shrink)(rate=2, count=3).init(torch.ones(1))
    assert ps.get_hyperparams(state) == {"rate": 2}


def test_a_function_that_was_called_is_not_kept():
    def made(data: torch.Tensor):
        @typed
        def loss(count: int) -> torch.Tensor:
            return data * count

        return loss

    data = torch.ones(1)
    held = weakref.ref(data)
    made(data)(3)
    del data
    assert held() is None
