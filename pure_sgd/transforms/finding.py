"""How what lies somewhere in an optimizer state is given a name."""

from __future__ import annotations

from typing import Any

__all__ = ["by_name"]


def by_name(found: list[tuple[str, str, Any]]) -> dict[str, Any]:
    """A dict of the ``(path, name, value)`` found: by name, or by path where several share a name.

    Example:
        >>> from pure_sgd.transforms.finding import by_name
        >>> by_name([("[0].decay", "decay", 0.9), ("[1].rate", "rate", 0.1), ("[2].rate", "rate", 0.2)])
        {'decay': 0.9, '[1].rate': 0.1, '[2].rate': 0.2}
    """
    names = [name for _, name, _ in found]
    return {path if names.count(name) > 1 else name: value for path, name, value in found}
