"""How results show themselves: in one line, and in a notebook as a small table.

The HTML has no script and no colours of its own, so that it fits light and dark notebooks. Every
text is escaped.
"""

from __future__ import annotations

import html
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_MOST_LETTERS, _MOST_CELL_LETTERS, _MOST_ROWS = 200, 300, 12
_BOX = (
    "border:1px solid rgba(128,128,128,.5);border-radius:6px;padding:.6em 1em;"
    "display:inline-block;max-width:60em;color:inherit;background:transparent"
)
# Without a doctype, tables do not inherit the colour of the text.
_TABLE = (
    "color:inherit;font-size:inherit;margin:.4em 0;border-collapse:separate;"
    "border-spacing:.8em .15em"
)


@dataclass(frozen=True)
class Card:
    """What is shown of a result.

    Attributes
    ----------
    title: its kind and name.
    facts: name -> value.
    sentence: the result in words; may be empty.
    tables: caption -> data frame, of which the first rows are shown.
    """

    title: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    sentence: str = ""
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    @property
    def html(self) -> str:
        """The card as HTML."""
        parts = [f"<div style='{_BOX}'><strong>{_escape(self.title)}</strong>"]
        if self.sentence:
            parts.append(f"<p style='margin:.4em 0'>{_escape(self.sentence)}</p>")
        rows = "".join(
            f"<tr><td style='text-align:left;opacity:.75'>{_escape(name)}</td>"
            f"<td style='text-align:left'>{_escape(value)}</td></tr>"
            for name, value in self.facts.items()
        )
        parts.append(f"<table style='{_TABLE}'>{rows}</table>" if rows else "")
        for caption, frame in self.tables.items():
            more = f", first {_MOST_ROWS} of {len(frame):,}" if len(frame) > _MOST_ROWS else ""
            table = frame.head(_MOST_ROWS).to_html(
                border=0, index=False, float_format="{:.4g}".format, max_cols=10, na_rep=""
            )
            table = table.replace("<table ", f"<table style='{_TABLE}' ", 1)
            parts.append(f"<details open><summary>{_escape(caption + more)}</summary>{table}")
            parts.append("</details>")
        return "".join([*parts, "</div>"])


class Shown(ABC):
    """A result that shows itself by its card."""

    @abstractmethod
    def _card(self) -> Card: ...

    def __repr__(self) -> str:
        """Return the title and the facts in one line."""
        try:
            card = self._card()
        except Exception:  # noqa: BLE001 - a result that cannot be read has its name at least
            return f"<{type(self).__name__}>"
        facts = ", ".join(f"{name}: {value}" for name, value in card.facts.items())
        line = " ".join(f"<{card.title}; {facts}>".split())
        return line if len(line) <= _MOST_LETTERS else f"{line[: _MOST_LETTERS - 4]}...>"

    def _repr_html_(self) -> str | None:
        """Return the card; None, for the line, if the result cannot be read."""
        try:
            return self._card().html
        except Exception:  # noqa: BLE001 - showing a result must not raise
            return None


def _escape(value: Any) -> str:
    text = str(value)
    if len(text) > 4 * _MOST_CELL_LETTERS:
        text = f"{text[: 4 * _MOST_CELL_LETTERS]}..."
    return html.escape("".join(letter if letter.isprintable() else " " for letter in text))
