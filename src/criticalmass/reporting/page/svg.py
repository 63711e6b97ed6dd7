"""Figures as inline SVG that follows the page: its colours, its font, its light and dark."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from criticalmass.reporting.figures.style import COLOURS, FAINT, GRID, INK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: What a colour of the figures is called in the page's style sheet, which has it in light and dark.
_VARIABLES = {
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    GRID: "var(--line)",
    "#ffffff": "var(--paper)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(COLOURS)},
}
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_PROLOGUE = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>", re.DOTALL)
_NAMESPACES = re.compile(r'\s+xmlns(:\w+)?="[^"]*"')
_TAG = re.compile(r"<[^>]*>")
_IDENTITY = re.compile(r'(\bid="|url\(#|href="#)')


def inline_svg(figure: Figure, *, identity: str, description: str) -> Markup:
    """Render a figure as an ``<svg>`` element to stand inside an HTML page.

    Parameters
    ----------
    figure: the figure.
    identity: prefix that keeps the ids of several drawings in one page apart.
    description: what the drawing shows, for those who do not see it.

    Returns
    -------
    Markup with text kept as text (escaped), no reference to anything outside the page.
    """
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": identity}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = _PROLOGUE.sub("", buffer.getvalue()).strip()
    # Only inside tags: a layer that is called like a colour keeps its name.
    svg = _TAG.sub(lambda tag: _follow_page(tag.group(), identity), svg)
    label = f'<svg role="img" aria-label="{escape(description)}"'
    return Markup(svg.replace("<svg", label, 1))  # noqa: S704 -- matplotlib has escaped its text


def _follow_page(tag: str, identity: str) -> str:
    """Give one tag the page's colours and ids of its own; HTML knows SVG's namespaces."""
    tag = _NAMESPACES.sub("", tag)
    tag = _COLOUR.sub(lambda colour: _VARIABLES.get(colour.group(), colour.group()), tag)
    return _IDENTITY.sub(rf"\g<1>{identity}-", tag)


def neuron_field(kept: int, neurons: int, *, seed: int = 0) -> Markup:
    """Draw a layer as a field of dots, those that are kept dark and scattered among the others.

    Parameters
    ----------
    kept, neurons: how many of how many; above 1,600 neurons one dot stands for several.
    seed: fixes which dots are dark.
    """
    about = field_dots(neurons, seed=seed)
    per_dot, columns, dots = about["each"], about["columns"], len(about["order"])
    dark = set(about["order"][: max(1, round(kept / per_dot))])
    shapes: dict[bool, list[str]] = {True: [], False: []}
    for dot in range(dots):
        row, column = divmod(dot, columns)
        shapes[dot in dark].append(f"M{column * 4 + 2} {row * 4 + 2}h0")
    height = -(-dots // columns) * 4
    words = f"{kept:,} of {neurons:,} neurons"
    return Markup(  # noqa: S704 -- numbers only
        f'<svg class="field" viewBox="0 0 {columns * 4} {height}" role="img" '
        f'style="max-width: {columns * 1.1:.1f}rem" aria-label="{words}">'
        f'<path class="rest" d="{"".join(shapes[False])}"/>'
        f'<path class="kept" d="{"".join(shapes[True])}"/></svg>'
    )


def field_dots(neurons: int, *, seed: int = 0) -> dict[str, Any]:
    """Lay the field of dots: in which order they turn dark, and how many neurons each stands for.

    Parameters
    ----------
    neurons: of the layer; above 1,600 neurons one dot stands for several.
    seed: fixes the order.
    """
    import numpy as np

    each = max(1, -(-neurons // 1600))
    dots = -(-neurons // each)
    order = np.random.default_rng(seed).permutation(dots).tolist()
    columns = max(1, min(dots, round((dots * 5) ** 0.5)))
    return {"neurons": neurons, "each": each, "columns": columns, "order": order}


def share_bar(low: float, centre: float, high: float) -> Markup:
    """Draw a share of the layer as a bar with the whisker of its interval; all in [0, 1]."""
    low, centre, high = (round(100 * min(1.0, max(0.0, part)), 2) for part in (low, centre, high))
    return Markup(  # noqa: S704 -- numbers only
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="rest" width="100" height="8"/>'
        f'<rect class="kept" width="{centre}" height="8"/>'
        f'<rect class="whisker" x="{low}" y="3" width="{max(0.6, high - low):.2f}" height="2"/>'
        "</svg>"
    )
