"""JSON from a stranger, which takes no more memory than its length allows."""

from __future__ import annotations

import json
import re
from typing import Any

from .contents import without_duplicates

__all__ = ["bounded_json"]

#: Bytes of memory for each byte of text, and besides for all of it: what we write takes two thirds of it.
TIMES, BESIDES = 6, 2**20

#: A string, with the colon that makes it a name; a bracket; a number or another word.
TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"\s*+:?|[\[\]{}]|[^\s"\[\]{},:]++', re.DOTALL)
#: What Python takes for a dict of five names, a list, a string, and for anything else that is no name.
COSTS = {"{": 200, "}": 0, "[": 88, "]": 0, '"': 64, ":": 0}
NUMBER = 40
#: For each name more in one dict; fewer are likely to be those of many.
NAME = 190


def bounded_json(text: str) -> Any:
    """What ``text`` says, or an error before it takes more memory than so short a text should.

    Raises:
        ValueError: it would, is no JSON, or has an object in which a name comes twice.

    Example:
        >>> from pure_sgd.training.checkpoints.bounded import bounded_json
        >>> bounded_json('{"step": 3}')
        {'step': 3}
        >>> bounded_json("[" + "[]," * 10**6 + "[]]")
        Traceback (most recent call last):
        ValueError: 3000004 bytes would take more than 19048600 of memory
    """
    room = TIMES * len(text) + BESIDES
    needed, names = 0, [0]
    for token in TOKEN.finditer(text):
        start, end = token.span()
        kind = ":" if text[end - 1] == ":" else text[start]
        needed += COSTS.get(kind, NUMBER)
        if kind in '":':
            # Each letter is as wide as the widest.
            needed += (end - start) * (4 if text.find("\\u", start, end) > 0 else 1)
        if kind == ":":
            names[-1] += 1
            needed += NAME if names[-1] > 5 else 0
        elif kind == "{":
            names.append(0)
        elif kind == "}" and len(names) > 1:
            names.pop()
        if needed > room:
            raise ValueError(f"{len(text)} bytes would take more than {room} of memory")
    return json.loads(text, object_pairs_hook=without_duplicates)
