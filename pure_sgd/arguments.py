"""What may be passed: the plain annotations of a function, held to what they say."""

from __future__ import annotations

import functools
import inspect
import sysconfig
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import torch

from .errors import PureSGDError, shown
from .hints import alternatives, hints

__all__ = ["FOREIGN", "called", "check_arguments", "factory", "raise_told", "typed"]

P = ParamSpec("P")
Result = TypeVar("Result")
Test = Callable[[Any], bool]
#: The names of the arguments, and of those of plain kinds the default, annotation and tests.
Expected = tuple[list[str], dict[str, tuple[Any, str, list[Test]]]]

# Closures come and go, with all that they hold.
_found = WeakKeyDictionary[Callable[..., Any], Expected]()


def _is_number(value: Any) -> bool:
    return (isinstance(value, (int, float)) and not isinstance(value, bool)) or (
        isinstance(value, torch.Tensor) and not value.ndim
    )


def _is_sequence(value: Any) -> bool:
    named = isinstance(value, (str, bytes, Mapping))
    return isinstance(value, (Sequence, torch.Tensor)) or (hasattr(value, "__len__") and not named)


#: Where to be an instance of it is not what an annotation asks for.
KINDS: dict[Any, Test] = {
    int: lambda value: isinstance(value, int) and not isinstance(value, bool),
    float: _is_number,
    tuple: _is_sequence,
    Callable: callable,
    Sequence: _is_sequence,
    Iterable: lambda value: isinstance(value, (Iterable, torch.Tensor)),
}
#: Packages whose classes are looked at.
KNOWN = {__package__, "builtins", "collections", "os", "torch"}
#: What Python and torch raise where an argument is not what they expect.
FOREIGN = (ArithmeticError, AttributeError, LookupError, RecursionError, RuntimeError, TypeError, ValueError)
#: Words of what says nothing of the arguments: an assertion inside torch, and another rank that is gone.
FAR = ("INTERNAL ASSERT", "gloo", "NCCL")
PACKAGE, LIBRARY = str(Path(__file__).parent), sysconfig.get_paths()["stdlib"]
WATCHING = {"__torch_dispatch__", "__torch_function__"}
SENTENCES = {
    "int": ("an int", "a whole number"),
    "bool": ("a bool", "True or False"),
    "str": ("a str", "one"),
}


def typed(function: Callable[P, Result]) -> Callable[P, Result]:
    """Decorate a function that is not called in a step: its arguments are of the kinds that it names.

    Raises:
        PureSGDError: when it is called with others, or fails on what it is given.

    Example:
        >>> from pure_sgd.arguments import typed
        >>> @typed
        ... def twice(text: str) -> str:
        ...     return 2 * text
        >>> twice(3)
        Traceback (most recent call last):
        pure_sgd.errors.PureSGDError: twice: text=3 is of type int, expected a str. Pass text as one.
    """

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> Result:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        check_arguments(function, args, kwargs)
        try:
            return function(*args, **kwargs)
        except FOREIGN as error:
            raise_told(error, function, args, kwargs)
            raise

    return checked


def factory(function: Callable[P, Result]) -> Callable[P, Result]:
    """As :func:`typed`, for a function that only makes something: its own words come first.

    Raises:
        PureSGDError: when it is called with arguments of other kinds, or fails on what it is given.

    Example:
        >>> from pure_sgd.arguments import factory
        >>> @factory
        ... def named(name: str) -> str:
        ...     return "the " + name
        >>> named(3)
        Traceback (most recent call last):
        pure_sgd.errors.PureSGDError: named: name=3 is of type int, expected a str. Pass name as one.
    """

    @functools.wraps(function)
    def made(*args: P.args, **kwargs: P.kwargs) -> Result:
        return called(function, *args, **kwargs)

    return made


def called(function: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
    """What a factory makes, and the sentence about its arguments where it makes nothing.

    Raises:
        PureSGDError: its own, or as :func:`check_arguments`.

    Example:
        >>> from pure_sgd.arguments import called
        >>> called(round, 1.5)
        2
    """
    if torch.compiler.is_compiling():
        return function(*args, **kwargs)
    try:
        made = function(*args, **kwargs)
    except PureSGDError:
        raise
    except FOREIGN as error:
        check_arguments(function, args, kwargs)
        raise_told(error, function, args, kwargs)
        raise
    check_arguments(function, args, kwargs)
    return made


def raise_told(
    error: Exception, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    """Raise what torch or Python complains of as a sentence that shows the arguments.

    What a function of the caller's has raised is left as it is, and so is a call that does not bind.

    Raises:
        PureSGDError: from ``error``.

    Example:
        >>> from pure_sgd.arguments import raise_told
        >>> raise_told(KeyError("w"), print, (), {})
    """
    if isinstance(error, PureSGDError) or any(word in str(error) for word in FAR) or not _is_ours(error):
        return
    given = [*zip(inspect.signature(function).parameters, args, strict=False), *kwargs.items()]
    words = ", ".join(f"{name}={_described(value)}" for name, value in given if name != "self")
    told = " ".join(str(error).split())[:200] or type(error).__name__
    remedy = "Pass arguments as its docstring describes them"
    raise PureSGDError(_name_of(function), f"cannot take {words}: {told}", remedy) from error


def _is_ours(error: Exception) -> bool:
    """Whether it came up in this package, or in what this package called."""
    last, depth, trace = "", 0, error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if trace.tb_frame.f_code.co_name in WATCHING:
            break  # what torch calls for an operation that stands further up
        depth += 1
        foreign = "site-packages" in name or name.startswith(("<", LIBRARY))
        typed_in = trace.tb_frame.f_globals.get("__name__") == "__main__"  # into a shell: in no file
        if name.startswith(PACKAGE) or typed_in or not foreign:
            last = name
        trace = trace.tb_next
    return depth > 1 and last.startswith(PACKAGE)


def _name_of(function: Callable[..., Any]) -> str:
    """What a caller knows it by: a class by its own name, a method by both."""
    name = getattr(function, "__qualname__", "call").rpartition("<locals>.")[2]
    return name.removesuffix(".__init__").removesuffix(".__post_init__")


def _described(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    return shown(value)


def check_arguments(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Check the arguments of a call against the plain annotations of ``function``; others are not looked at.

    Raises:
        PureSGDError: names the first argument of another kind.

    Example:
        >>> from pure_sgd.arguments import check_arguments
        >>> def wait(seconds: "float") -> None: ...
        >>> check_arguments(wait, (1.5,), {})
    """
    names, expected = _expected(function)
    by_position = dict(zip(names, args, strict=False))
    # What is taken by position alone leaves its name to others.
    for name, value in {**by_position, **kwargs, **by_position}.items():
        if name not in expected:
            continue
        default, annotation, tests = expected[name]
        if value is default or any(test(value) for test in tests):
            continue
        kind, wanted = SENTENCES.get(annotation, (annotation, "one"))
        raise PureSGDError(
            _name_of(function),
            f"{name}={shown(value)} is of type {type(value).__name__}, expected {kind}",
            f"Pass {name} as {wanted}",
        )


def _expected(function: Callable[..., Any]) -> Expected:
    """What a call is held to, found once for each function."""
    if (found := _found.get(function)) is not None:
        return found
    parameters, meant = inspect.signature(function).parameters, hints(function)
    expected: dict[str, tuple[Any, str, list[Test]]] = {}
    for name, parameter in parameters.items():
        variable = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if not variable and (tests := _tests(meant[name])):
            written = parameter.annotation
            told = written if isinstance(written, str) else inspect.formatannotation(written)
            expected[name] = (parameter.default, told.replace("[T]", ""), tests)
    _found[function] = list(parameters), expected
    return _found[function]


def _tests(hint: Any) -> list[Test]:
    """One test for each alternative of a hint; none where one of them is of no plain kind."""
    kinds = alternatives(hint)
    if {float, Callable} <= {*kinds}:
        return []  # a hyperparameter, which check_hyperparameter knows
    tests = [KINDS.get(kind) or _instance_of(kind) for kind in kinds]
    return [test for test in tests if test] if all(tests) else []


def _instance_of(kind: Any) -> Test | None:
    # Any of typing is a class too.
    known = isinstance(kind, type) and kind.__module__.split(".")[0] in KNOWN
    return functools.partial(_is_instance, kind) if known else None


def _is_instance(kind: type, value: Any) -> bool:
    return isinstance(value, kind)
