"""Lets mkdocstrings read this package's docstrings, which name and describe an item in one line.

NumPy's form has ``name : type`` and the description below it; ours is ``name: description``, as the
types are in the signature. Griffe loads this file (see mkdocs.yml).
"""

from __future__ import annotations

import re
from typing import Any

import griffe

ITEM = re.compile(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*): (.*)$")
SECTION = re.compile(r"^(Parameters|Attributes|Raises)$")


def as_numpy(text: str) -> str:
    """Write items of one line as NumPy's two lines."""
    lines = text.splitlines()
    result: list[str] = []
    inside = False
    for number, line in enumerate(lines):
        if number + 1 < len(lines) and re.fullmatch(r"-{3,}", lines[number + 1]):
            inside = bool(SECTION.match(line))
        item = ITEM.match(line) if inside else None
        result += [item[1], f"    {item[2]}"] if item else [line]
    return "\n".join(result)


class OneLineItems(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = as_numpy(obj.docstring.value)
