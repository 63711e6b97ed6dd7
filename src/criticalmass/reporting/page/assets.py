"""What stands inside the page beside its words: data, script and the policy that allows both."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

_SCRIPTS = ("charts.js", "slider.js")
# What could end a script element, start a comment in one, or end a line of JavaScript.
_ESCAPES = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
}


def as_json(data: Any) -> Markup:
    """Write data as JSON that may stand between script tags, whatever names it holds."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    return Markup(text)  # noqa: S704 -- escaped above


@cache
def script() -> Markup:
    """Return the script of the page."""
    texts = [
        Path(__file__).with_name(name).read_text(encoding="utf-8").replace("\r\n", "\n")
        for name in _SCRIPTS
    ]
    return Markup("\n".join(texts))  # noqa: S704 -- our own files


def policy() -> str:
    """Return the content policy: nothing is fetched, and no script runs but the page's own."""
    digest = base64.b64encode(hashlib.sha256(str(script()).encode()).digest()).decode()
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src 'sha256-{digest}'",
            "style-src 'unsafe-inline'",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


@cache
def styles() -> Markup:
    """Return the style sheets of the page."""
    texts = [
        Path(__file__).with_name(name).read_text(encoding="utf-8")
        for name in ("page.css", "charts.css")
    ]
    return Markup("\n".join(texts))  # noqa: S704 -- our own files
