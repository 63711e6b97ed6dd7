"""The page about an inversion: curves with intervals over images, and grids of pictures.

It has no script: figures are drawn by matplotlib, pictures are PNG files inside of the page.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.probing.objectives import OBJECTIVES
from criticalmass.probing.subsets import FULL
from criticalmass.reporting.figures.inversion import (
    PictureGrid,
    Search,
    inversion_plots,
    picture_grid,
    searches_of,
)
from criticalmass.reporting.page.assets import page_template, styles
from criticalmass.reporting.page.rendering import render_all
from criticalmass.reporting.table_views import inversion_view

if TYPE_CHECKING:
    from criticalmass.probing.invert import Inversion
    from criticalmass.reporting.plots import Plot

# Small pictures are enlarged to at least this side.
_SIDE = 84
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)


@dataclass(frozen=True)
class _Section:
    """What is shown of one objective and start."""

    title: str
    description: str
    plots: tuple[tuple[str, Plot], ...]
    selector: str
    grid: PictureGrid


def render_inversion(inversion: Inversion) -> str:
    """Return the page as HTML."""
    from criticalmass import __version__

    summary = inversion.summary()
    sections = [_section(inversion, summary, search) for search in searches_of(inversion.table)]
    plots = {plot_id: plot for section in sections for plot_id, plot in section.plots}
    view = inversion_view(summary)
    return page_template("inversion.html.j2").render(
        policy=_POLICY,
        style=styles(),
        version=__version__,
        names=inversion.manifest["names"],
        facts=_facts(inversion),
        sections=sections,
        svgs={plot_id: one.svg for plot_id, one in render_all(plots).items()},
        png=png_data,
        columns=list(view.columns),
        rows=view.to_numpy().tolist(),
    )


def _section(inversion: Inversion, summary: Any, search: Search) -> _Section:
    table = inversion.table
    chosen = table[(table["objective"] == search.objective) & (table["start"] == search.start)]
    selectors = [name for name in dict.fromkeys(chosen["selector"]) if name != FULL] or [FULL]
    plots = tuple((plot.name, plot) for plot in inversion_plots(summary, search))
    grid = picture_grid(inversion, search, selector=selectors[0])
    description = OBJECTIVES[search.objective].description
    return _Section(search.title, description, plots, selectors[0], grid)


def _facts(inversion: Inversion) -> dict[str, str]:
    request = inversion.manifest["request"]
    radius = request["radius"]
    return {
        "model": request["model"]["spec"],
        "dataset": request["dataset"]["spec"],
        "layer": f"{request['layer']}, {int(inversion.table['n_neurons'].iloc[0]):,} neurons",
        "images": f"{request['images']:,} test images, seed {request['seed']}",
        "budget": f"{request['steps']:,} steps, {request['restarts']:,} starting points",
        "ball": f"{request['norm']}, {'no radius' if radius is None else f'radius {radius:g}'}",
        "folder": str(inversion.path),
    }


def png_data(picture: NDArray[np.uint8]) -> str:
    """Return a picture (height, width, 3) as the address of a PNG file in base64."""
    from PIL import Image

    factor = max(1, -(-_SIDE // picture.shape[0]))
    large = np.repeat(np.repeat(picture, factor, axis=0), factor, axis=1)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(large)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
