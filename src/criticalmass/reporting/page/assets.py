"""Data, script, style sheets and content security policy of the page."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    import jinja2

# Characters that can end a script element, start a comment in it, or end a line of JavaScript.
_ESCAPES = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
}


def as_json(data: Any) -> Markup:
    """Write data as JSON that is safe inside a script element, whatever strings it holds."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    return Markup(text)  # noqa: S704 -- escaped above


@cache
def script() -> Markup:
    """Return the script of the page."""
    return _read("charts.js", "slider.js")


def content_policy() -> str:
    """Return the content security policy: no requests, and no script but that of the page."""
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
    """Return the style sheets of the page; the colours of figures come first."""
    from criticalmass.reporting.plots import CELL_OPACITY, PALETTE

    colours = "".join(f"--{name}: {colour}; " for name, colour in PALETTE.items())
    variables = f":root {{ {colours}--deep: {CELL_OPACITY}; }}\n"
    return Markup(variables) + _read("page.css", "charts.css")  # noqa: S704 -- our own colours


def _read(*names: str) -> Markup:
    """Join files of this folder, with line feeds as the browser's digest of the script needs."""
    paths = [Path(__file__).with_name(name) for name in names]
    texts = [path.read_text(encoding="utf-8").replace("\r\n", "\n") for path in paths]
    return Markup("\n".join(texts))  # noqa: S704 -- our own files


def page_template(name: str) -> jinja2.Template:
    """Return a template of this folder."""
    return _templates().get_template(name)


@cache
def _templates() -> jinja2.Environment:
    """Load the templates; everything but markup is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("criticalmass.reporting.page", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["object_id"] = id
    return environment
