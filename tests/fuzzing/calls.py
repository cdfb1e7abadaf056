"""Every function that a user can reach, and a call of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

from hypothesis import strategies as st

import pure_sgd as ps
from pure_sgd.theory import closed_forms

from .malformed import WILD
from .special import SPECIAL, good

PLACES: dict[str, ModuleType] = {
    "": ps,
    "tree.": ps.tree,
    "random.": ps.random,
    "data.": ps.data,
    "models.": ps.models,
    "losses.": ps.losses,
    "distributed.": ps.distributed,
    "theory.": ps.theory,
    "theory.closed_forms.": closed_forms,
    "plotting.": ps.plotting,
}
#: Made by from_files alone, of what it has found in files: used as its result.
LEFT_OUT = {"data.FileDataset"}


class Call(NamedTuple):
    """A call, to be made again by who reads of its failure."""

    name: str
    wild: dict[str, int]  # the number in WILD of each argument that is malformed


def public_functions() -> dict[str, Callable[..., Any]]:
    """Every function, and every class that is neither a record nor an error, once."""
    found: dict[int, tuple[str, Callable[..., Any]]] = {}
    for place, module in PLACES.items():
        names = getattr(module, "__all__", vars(module)) if module is ps.losses else vars(module)
        for name, value in sorted((name, getattr(module, name)) for name in names if name[0] != "_"):
            made = inspect.isclass(value) and not issubclass(value, (tuple, dict, Exception))
            ours = getattr(value, "__module__", "").startswith("pure_sgd")
            if (made or inspect.isfunction(value)) and ours:
                found.setdefault(id(value), (place + name, value))
    return dict(found.values())


FUNCTIONS = public_functions()
NAMES = sorted(set(FUNCTIONS) - LEFT_OUT)


@st.composite
def calls(draw: Any, names: list[str]) -> Call:
    """A call with one or two malformed arguments, to the function or to what it returns."""
    name = draw(st.sampled_from(names))
    places = [*inspect.signature(FUNCTIONS[name]).parameters, "then", "and then"]
    chosen = draw(st.lists(st.sampled_from(places), min_size=1, max_size=2, unique=True))
    return Call(name, {key: draw(st.integers(0, len(WILD) - 1)) for key in chosen})


def arguments(call: Call) -> tuple[list[Any], dict[str, Any]]:
    """What the function is called with, by position and by name."""
    by_position: list[Any] = []
    by_name: dict[str, Any] = {}
    special = SPECIAL.get(call.name, {})
    for name, parameter in inspect.signature(FUNCTIONS[call.name]).parameters.items():
        variable = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if variable and name not in (*call.wild, *special):
            continue
        value = WILD[call.wild[name]]() if name in call.wild else good(call.name, parameter)
        if parameter.kind is parameter.VAR_KEYWORD:
            usual = special[name]() if name in special else {}
            by_name.update({**usual, **(value if isinstance(value, dict) else {"more": value})})
        elif parameter.kind is parameter.KEYWORD_ONLY:
            by_name[name] = value
        else:
            by_position.append(value)
    return by_position, by_name


def wild(call: Call, name: str, otherwise: Callable[[], Any]) -> Any:
    """What is passed to the result."""
    if name in call.wild:
        return WILD[call.wild[name]]()
    return SPECIAL.get(call.name, {}).get(name, otherwise)()
