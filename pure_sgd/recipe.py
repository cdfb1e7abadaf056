"""The call that made a value: what lets a transform, a schedule or a model read as its recipe."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

from .arguments import called

__all__ = ["Recipe", "recorded"]

P = ParamSpec("P")
Made = TypeVar("Made")


class Recipe(NamedTuple):
    """The call that made a value; its ``repr`` is that call, without arguments left at their default."""

    factory: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __repr__(self) -> str:
        signature = inspect.signature(self.factory)
        words: list[str] = []
        by_position = len(self.args)
        for name, value in signature.bind(*self.args, **self.kwargs).arguments.items():
            parameter = signature.parameters[name]
            if parameter.kind is parameter.VAR_POSITIONAL:
                words += [_word(item) for item in value]
            elif _is_plain(value) and value == parameter.default:
                by_position = 0
            else:
                words.append(_word(value) if by_position > 0 else f"{name}={_word(value)}")
            by_position -= 1
        return f"{self.factory.__name__}({', '.join(words)})"


def recorded(factory: Callable[P, Made]) -> Callable[P, Made]:
    """Make ``factory`` leave its call in the field ``recipe`` of the NamedTuple that it returns.

    Example:
        >>> import pure_sgd as ps
        >>> ps.cosine_decay_schedule(0.1, 1250, alpha=0.01)
        cosine_decay_schedule(0.1, 1250, alpha=0.01)
    """

    @functools.wraps(factory)
    def make(*args: P.args, **kwargs: P.kwargs) -> Made:
        made: Any = called(factory, *args, **kwargs)
        return made._replace(recipe=Recipe(factory, args, dict(kwargs)))

    return make


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _word(value: Any) -> str:
    if type(value) is list:
        return f"[{', '.join(map(_word, value))}]"
    if type(value) is tuple:
        return f"({', '.join(map(_word, value))}{',' * (len(value) == 1)})"
    if isinstance(value, functools.partial):
        named = [f"{name}={_word(word)}" for name, word in value.keywords.items()]
        return f"partial({', '.join([_word(value.func), *map(_word, value.args), *named])})"
    # A schedule or a transform answers with its own recipe; a plain function only has a name.
    if callable(value) and hasattr(value, "__name__"):
        return value.__name__
    return repr(value)
