"""Figures of a run by name, written to files for papers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.measures.registry import is_similarity
from criticalmass.reporting.figures.curves import (
    cka_against_fraction,
    dr_against_delta,
    mark_critical_mass,
    value_against_fraction,
)
from criticalmass.reporting.figures.style import COLUMN_WIDTH, DELTAS, new_axes
from criticalmass.storage.files import scratch_path

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from criticalmass.reporting.figures.references import ReferencePoint

__all__ = ["FIGURES", "as_pdf", "figure"]

FIGURES = {
    "value": "value of the measure against the fraction of neurons kept",
    "cka": "linear CKA of the subset with its whole layer against the fraction kept",
    "dr": "diffused redundancy against delta",
    "layers": "share of the whole layer's value that every layer keeps, as a heat map",
    "classes": "share of its accuracy that every class keeps; the classes that lose most are named",
    "gini": "inequality of class accuracies against accuracy, with its proportional-odds baseline",
    "agreement": "agreement of predictions and errors beyond chance, by size",
    "matrix": "agreement of predictions between sizes or selectors, as a heat map",
    "diffuseness": "random subsets and those of the best and the worst selector",
    "pareto": "value against size of all subsets, with the Pareto front",
}
_CLASS_FIGURES = ("classes", "gini", "agreement")
_SELECTOR_FIGURES = ("diffuseness", "pareto")


def figure(
    name: str,
    run: Any,
    *,
    out: str | os.PathLike[str],
    measures: Sequence[str] = (),
    deltas: Sequence[float] = (0.9,),
    layers: Sequence[str] = (),
    selectors: Sequence[str] = (),
    width: float = COLUMN_WIDTH,
    reference: Any = None,
) -> Path:
    """Draw one figure of a run to a file, as wide as one column of a paper, with embedded fonts.

    Parameters
    ----------
    name: a key of ``FIGURES``.
    run: a Run or the path of one.
    out: file to write; its ending (pdf, svg, png) sets the format.
    measures: measures to draw; by default all that the figure can show.
    deltas: deltas whose critical masses the ``value`` figure marks.
    layers, selectors: layers and selectors to draw; all by default.
    width: of the figure, in inches, 1 to 20.
    reference: published numbers for the figures ``value`` and ``dr``, see
        `criticalmass.reporting.figures.references`.

    Returns
    -------
    The path written.

    Raises
    ------
    CriticalMassError: if the name, the ending or the width is invalid, or the run has nothing to
        draw.
    """
    from matplotlib import rc_context

    from criticalmass.reporting.figures.references import reference_points

    if name not in FIGURES:
        raise unknown_name("figure", name, FIGURES)
    target = Path(out)
    ending = target.suffix.lower().lstrip(".")
    if ending not in {"pdf", "svg", "png"}:
        raise CriticalMassError(f"--out {str(out)!r} must end in .pdf, .svg or .png")
    if not 1.0 <= width <= 20.0:
        raise CriticalMassError(
            f"width={width} inches is not in [1, 20]; a column has 3.35, a page 7"
        )
    options = _FigureOptions(tuple(measures), tuple(deltas), reference_points(reference))
    drawing, ax = new_axes(width, 0.75 * width)
    _draw_named(name, _filtered_run(run, layers, selectors), ax, options)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = scratch_path(target)
    # Journals require TrueType fonts (Type 42) in a PDF. In an SVG, letters become shapes.
    with rc_context({"pdf.fonttype": 42, "svg.fonttype": "path"}):
        drawing.savefig(scratch, format=ending, dpi=300)
    os.replace(scratch, target)
    return target


def as_pdf(drawing: Figure) -> bytes:
    """Return a figure as a PDF file with embedded fonts; equal figures give equal bytes."""
    import io

    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"pdf.fonttype": 42}):
        drawing.savefig(buffer, format="pdf", metadata={"CreationDate": None})
    return buffer.getvalue()


def _filtered_run(run: Any, layers: Sequence[str], selectors: Sequence[str]) -> Any:
    """Return the run restricted to the layers and selectors; empty sequences restrict nothing."""
    if not (layers or selectors):
        return run
    from criticalmass.storage.run import Run
    from criticalmass.storage.run_view import filter_run

    return filter_run(Run.open(run), layers=tuple(layers), selectors=tuple(selectors))


@dataclass(frozen=True)
class _FigureOptions:
    """Measures, deltas and published numbers of a figure, as in `figure`."""

    measures: tuple[str, ...]
    deltas: tuple[float, ...]
    references: tuple[ReferencePoint, ...]


def _draw_named(name: str, run: Any, ax: Axes, options: _FigureOptions) -> None:
    """Compute the table of a named figure and draw it."""
    if name in _CLASS_FIGURES:
        from criticalmass.reporting.figures.classes import draw_class_figure

        draw_class_figure(name, run, ax, options.measures, options.deltas)
    elif name in _SELECTOR_FIGURES:
        from criticalmass.reporting.figures.selectors import draw_selector_figure

        draw_selector_figure(name, run, ax, options.measures)
    elif name in ("layers", "matrix"):
        from criticalmass.reporting.figures.heat_maps import draw_heat_map

        draw_heat_map(name, run, ax, options.measures)
    else:
        _draw_curves(name, run, ax, options)


def _draw_curves(name: str, run: Any, ax: Axes, options: _FigureOptions) -> None:
    """Draw "value", "cka" or "dr"."""
    from criticalmass.analysis.redundancy import curves, redundancy
    from criticalmass.reporting.figures.references import draw_references, points_for_figure

    table = curves(run) if name != "dr" else redundancy(run, deltas=DELTAS)
    rows = _select_rows(name, table, options.measures)
    if name == "dr":
        dr_against_delta(rows, ax)
    elif name == "cka":
        cka_against_fraction(rows, ax, measure=rows["measure"].iloc[0])
    else:
        value_against_fraction(rows, ax)
        masses = redundancy(run, deltas=options.deltas)
        mark_critical_mass(masses[masses["measure"].isin(rows["measure"])], ax)
    figure_name = "dr" if name == "dr" else "value"
    points = points_for_figure(options.references, figure_name, rows)
    if points:
        draw_references(points, ax)
        ax.legend(loc="lower left" if name == "dr" else "lower right", frameon=False,
                  fontsize="small")  # fmt: skip


def _select_rows(name: str, table: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """Return the rows of the measures that "value", "cka" or "dr" shows."""
    available = list(dict.fromkeys(table["measure"]))
    for measure in measures:
        if measure not in available:
            raise unknown_name("measure", measure, available)
    drawable = [
        m for m in measures or available if name == "dr" or is_similarity(m) == (name == "cka")
    ]
    if not drawable:
        raise CriticalMassError(
            f"nothing for the {name!r} figure: the run has the measures {', '.join(available)}"
        )
    return table[table["measure"].isin(drawable if name != "cka" else drawable[:1])]
