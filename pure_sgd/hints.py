"""What the annotations of a function mean."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import NoneType, UnionType
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin

from typing_extensions import TypeVar

__all__ = ["Hyperparameter", "T", "alternatives", "hints"]

#: The type of a tree that the caller has made, of parameters or of data; it comes back as it went in.
T = TypeVar("T", default=Any)

#: A number, a 0-d tensor or a schedule. An argument annotated with it may be any of the three in every
#: factory that carries ``@transformation``; the factory itself only ever sees a number or a tensor.
#: Any for the type checker, because inside the factory arithmetic must be allowed.
Hyperparameter: TypeAlias = Annotated[Any, "a number, a 0-d tensor or a schedule"]

#: Texts of one annotation that are read, one out of the other, at most.
DEEPEST = 100


def hints(function: Callable[..., Any]) -> dict[str, Any]:
    """What the annotation of each argument means where ``function`` was written.

    A name that only the type checker imports stands for ``Any``; but ``Hyperparameter`` is known everywhere.

    Example:
        >>> from pure_sgd.hints import Hyperparameter, hints
        >>> def wait(seconds: "float", until: "Someone", rate: "Hyperparameter" = 0.1): ...
        >>> found = hints(wait)
        >>> found["seconds"], found["until"], found["rate"] == Hyperparameter
        (<class 'float'>, typing.Any, True)
    """
    written = inspect.unwrap(getattr(function, "func", function))  # the first of a functools.partial
    names = getattr(written, "__globals__", {})
    parameters = inspect.signature(function).parameters
    return {name: _meaning(parameter.annotation, names) for name, parameter in parameters.items()}


def alternatives(hint: Any) -> list[Any]:
    """What stands between the bars of a hint, each without what stands in brackets.

    Example:
        >>> from pure_sgd.hints import alternatives
        >>> alternatives(int | list[str] | None)
        [<class 'int'>, <class 'list'>, <class 'NoneType'>]
    """
    if hint == Hyperparameter:
        return [hint]
    if get_origin(hint) in (Union, UnionType):
        return [kind for part in get_args(hint) for kind in alternatives(part)]
    return [NoneType if hint is None else get_origin(hint) or hint]


def _meaning(annotation: Any, names: dict[str, Any]) -> Any:
    known: dict[str, Any] = {"Hyperparameter": Hyperparameter}
    for _ in range(DEEPEST):
        if not isinstance(annotation, str):
            return annotation
        try:
            annotation = eval(_compiled(annotation), known, names)
        except NameError as error:
            known[error.name or ""] = Any
        except Exception:  # it may be any expression
            return Any
    return Any


@functools.cache
def _compiled(annotation: str) -> Any:
    return compile(annotation, "<annotation>", "eval")
