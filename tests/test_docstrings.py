"""Every public name says what it does, shows it in an example that runs, and tells how it fails."""

from __future__ import annotations

import ast
import doctest
import functools
import importlib
import inspect
import pkgutil
import textwrap
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any, NamedTuple, Protocol

import pytest

import pure_sgd
from pure_sgd.errors import check_count


def public_modules(package: ModuleType) -> Iterator[ModuleType]:
    """``package`` itself and every module in it of which no word is private."""
    yield package
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if "._" not in found.name:
            yield importlib.import_module(found.name)


def public_objects(package: ModuleType) -> dict[str, Any]:
    """Where each public function and class is first found, from the flat namespace down."""
    first_seen: dict[int, tuple[str, Any]] = {}
    for module in public_modules(package):
        names = vars(package) if module is package else getattr(module, "__all__", ())
        for name in sorted(name for name in names if not name.startswith("_")):
            value = getattr(module, name)
            made_here = getattr(value, "__module__", "").split(".")[0] == package.__name__
            if made_here and isinstance(value, (FunctionType, type)):
                first_seen.setdefault(id(value), (f"{module.__name__}.{name}", value))
    return dict(first_seen.values())


def needs_example(value: Any) -> bool:
    """Functions and ordinary classes do; a record of fields and a protocol have nothing to run."""
    is_record = isinstance(value, type) and hasattr(value, "_fields")
    return not is_record and not getattr(value, "_is_protocol", False)


def can_raise(value: Any) -> bool:
    """Whether the source, nested functions included, raises or calls a ``check_...`` function."""
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(value)))):
        if isinstance(node, ast.Raise):
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
            name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if name.lstrip("_").startswith("check_"):
                return True
    return False


@functools.cache
def names_with_examples(module: str) -> set[str]:
    """The names whose docstrings doctest finds, and so runs, in a module."""
    tests = doctest.DocTestFinder().find(importlib.import_module(module))
    return {test.name for test in tests if test.examples}


def complaints(value: Any) -> list[str]:
    """What the docstring of a public function or class lacks."""
    docstring = value.__doc__ or ""
    # A NamedTuple without a docstring gets its signature for one.
    if not docstring.strip() or docstring.startswith(f"{value.__name__}("):
        return ["has no docstring"]
    found: list[str] = []
    runs_as = f"{value.__module__}.{value.__qualname__}"
    if needs_example(value) and ">>>" not in docstring:
        found.append("shows no example (>>>)")
    if ">>>" in docstring and runs_as not in names_with_examples(value.__module__):
        found.append("shows an example that doctest does not find")
    if can_raise(value) and "Raises:" not in docstring:
        found.append("can raise and has no 'Raises:'")
    return found


OBJECTS = public_objects(pure_sgd)


@pytest.mark.parametrize("name", OBJECTS)
def test_docstring_is_whole(name):
    assert complaints(OBJECTS[name]) == []


def _whole(count: int) -> int:
    """One more than ``count``.

    Raises:
        ValueError: ``count`` is negative.

    Example:
        >>> _whole(1)
        2
    """
    if count < 0:
        raise ValueError(count)
    return count + 1


def _bare():
    return 1


def _tells_nothing():
    """Return a function that checks ``value``."""

    def inner(value: int):
        check_count("inner", "value", value)

    return inner


def _gives_up():
    """Raise, and say nothing of it."""
    raise ValueError


class _Pair(NamedTuple):
    """Two numbers."""

    first: int
    second: int


class _Undocumented(NamedTuple):
    first: int


class _Rule(Protocol):
    """Anything that is called."""

    def __call__(self) -> None: ...


def _borrowed():
    """Show what is never run, for doctest looks in another module.

    Example:
        >>> 1 + 1
        3
    """


_borrowed.__module__ = "textwrap"


@pytest.mark.parametrize(
    "value, expected",
    [
        (_whole, []),
        (_Pair, []),
        (_Rule, []),
        (_bare, ["has no docstring"]),
        (_Undocumented, ["has no docstring"]),
        (_gives_up, ["shows no example (>>>)", "can raise and has no 'Raises:'"]),
        (_tells_nothing, ["shows no example (>>>)", "can raise and has no 'Raises:'"]),
        (_borrowed, ["shows an example that doctest does not find"]),
    ],
)
def test_each_lack_is_noticed(value, expected):
    assert complaints(value) == expected
