"""Figures as inline SVG in the colours and the font of the page, light and dark."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from criticalmass.reporting.plots import PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Colour of the matplotlib figures -> variable of the page's style sheet (light and dark).
_CSS_VARIABLES = {
    "#ffffff": "var(--paper)",
    **{colour: f"var(--{name})" for name, colour in PALETTE.items()},
}
#: A field of dots has at most this many; in larger layers one dot stands for several neurons.
_MAX_DOTS = 1600
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_PROLOGUE = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>", re.DOTALL)
_NAMESPACES = re.compile(r'\s+xmlns(:\w+)?="[^"]*"')
_TAG = re.compile(r"<[^>]*>")
_ID_OR_REFERENCE = re.compile(r'(\bid="|url\(#|href="#)')


def inline_svg(figure: Figure, *, identity: str, description: str) -> Markup:
    """Render a figure as an ``<svg>`` element for an HTML page.

    Parameters
    ----------
    figure: the figure.
    identity: prefix of all ids, so that those of several figures in a page differ.
    description: text for screen readers.

    Returns
    -------
    Markup with escaped text and without references to anything outside the page.
    """
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": identity}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = _PROLOGUE.sub("", buffer.getvalue()).strip()
    # Only inside tags: a layer named like a colour keeps its name.
    svg = _TAG.sub(lambda tag: _adapt_tag(tag.group(), identity), svg)
    label = f'<svg role="img" aria-label="{escape(description)}"'
    return Markup(svg.replace("<svg", label, 1))  # noqa: S704 -- matplotlib has escaped its text


def _adapt_tag(tag: str, identity: str) -> str:
    """Replace colours by variables, prefix ids and remove namespaces, which HTML implies."""
    tag = _NAMESPACES.sub("", tag)
    tag = _COLOUR.sub(lambda colour: _CSS_VARIABLES.get(colour.group(), colour.group()), tag)
    return _ID_OR_REFERENCE.sub(rf"\g<1>{identity}-", tag)


def neuron_field(n_kept: int, n_neurons: int, *, seed: int = 0) -> Markup:
    """Draw a layer as a field of dots in which randomly placed dark dots are the kept neurons.

    Parameters
    ----------
    n_kept, n_neurons: numbers of kept and of all neurons.
    seed: sets which dots are dark.
    """
    layout = dot_layout(n_neurons, seed=seed)
    columns, n_dots = layout["columns"], len(layout["order"])
    kept = set(layout["order"][: max(1, round(n_kept / layout["per_dot"]))])
    paths: dict[bool, list[str]] = {True: [], False: []}
    for dot in range(n_dots):
        row, column = divmod(dot, columns)
        paths[dot in kept].append(f"M{column * 4 + 2} {row * 4 + 2}h0")
    height = -(-n_dots // columns) * 4
    label = f"{n_kept:,} of {n_neurons:,} neurons"
    return Markup(  # noqa: S704 -- numbers only
        f'<svg class="field" viewBox="0 0 {columns * 4} {height}" role="img" '
        f'style="max-width: {columns * 1.1:.1f}rem" aria-label="{label}">'
        f'<path class="rest" d="{"".join(paths[False])}"/>'
        f'<path class="kept" d="{"".join(paths[True])}"/></svg>'
    )


def dot_layout(n_neurons: int, *, seed: int = 0) -> dict[str, Any]:
    """Return the layout of the field of dots.

    Parameters
    ----------
    n_neurons: of the layer.
    seed: sets the order.

    Returns
    -------
    ``neurons``, ``per_dot`` (neurons that one dot stands for), ``columns``, and ``order``, in
    which dots become dark.
    """
    import numpy as np

    per_dot = max(1, -(-n_neurons // _MAX_DOTS))
    n_dots = -(-n_neurons // per_dot)
    order = np.random.default_rng(seed).permutation(n_dots).tolist()
    columns = max(1, min(n_dots, round((n_dots * 5) ** 0.5)))
    return {"neurons": n_neurons, "per_dot": per_dot, "columns": columns, "order": order}


def share_bar(low: float, centre: float, high: float) -> Markup:
    """Draw a share of the layer as a bar with a whisker for its interval; all in [0, 1]."""
    low, centre, high = (round(100 * min(1.0, max(0.0, part)), 2) for part in (low, centre, high))
    return Markup(  # noqa: S704 -- numbers only
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="rest" width="100" height="8"/>'
        f'<rect class="kept" width="{centre}" height="8"/>'
        f'<rect class="whisker" x="{low}" y="3" width="{max(0.6, high - low):.2f}" height="2"/>'
        "</svg>"
    )
