"""Figures by name: from a run to a file that a paper can take as it is."""

from __future__ import annotations

import os
from collections.abc import Sequence
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
from criticalmass.storage.files import scratch_beside

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
    "classes": "share of its accuracy that every class keeps, those who pay first named",
    "gini": "inequality of class accuracies against accuracy, and what a neutral loss gives",
    "agreement": "agreement of predictions and errors beyond chance, by size",
    "matrix": "agreement of predictions between subsets, each size or selector with each",
    "diffuseness": "random subsets between those of the best and the worst selector",
    "pareto": "size against value of all subsets, with those that no other beats",
}
_EFFECTS = ("classes", "gini", "agreement")
_CHOICE = ("diffuseness", "pareto")


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
    """Draw one figure of a run into a file, one column of a paper wide, fonts embedded.

    Parameters
    ----------
    name: a key of ``FIGURES``.
    run: a Run or the path of one.
    out: file to write; its ending (pdf, svg, png) decides the format.
    measures: the measures to draw; every fitting one by default.
    deltas: the critical masses that the ``value`` figure marks.
    layers, selectors: those to draw; all by default.
    width: of the figure, in inches.
    reference: published numbers for the figures ``value`` and ``dr``, see
        `criticalmass.reporting.figures.references`.

    Returns
    -------
    The path written.

    Raises
    ------
    CriticalMassError: unknown name, unknown ending, or nothing in the run to draw.
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
        raise CriticalMassError(f"width={width} inches; a column has 3.35, a page 7")
    points = reference_points(reference)
    part = _part(run, layers, selectors)
    drawing, ax = new_axes(width, 0.75 * width)
    _draw_named(name, part, ax, (tuple(measures), tuple(deltas), points))
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = scratch_beside(target)
    # TrueType fonts (Type 42) in a PDF, as journals ask; letters as shapes in an SVG.
    with rc_context({"pdf.fonttype": 42, "svg.fonttype": "path"}):
        drawing.savefig(scratch, format=ending, dpi=300)
    os.replace(scratch, target)
    return target


def as_pdf(drawing: Figure) -> bytes:
    """Return a figure as a PDF file with its fonts, the same bytes for the same figure."""
    import io

    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"pdf.fonttype": 42}):
        drawing.savefig(buffer, format="pdf", metadata={"CreationDate": None})
    return buffer.getvalue()


def _part(run: Any, layers: Sequence[str], selectors: Sequence[str]) -> Any:
    """Narrow the run to what was asked for."""
    if not (layers or selectors):
        return run
    from criticalmass.storage.run import Run
    from criticalmass.storage.run_view import part_of

    return part_of(Run.open(run), layers=tuple(layers), selectors=tuple(selectors))


_Asked = tuple[tuple[str, ...], tuple[float, ...], "tuple[ReferencePoint, ...]"]


def _draw_named(name: str, run: Any, ax: Axes, asked: _Asked) -> None:
    """Compute the table that a named figure needs and draw it."""
    measures, deltas, _ = asked
    if name in _EFFECTS:
        from criticalmass.reporting.figures.classes import draw_effect

        draw_effect(name, run, ax, measures, deltas)
    elif name in _CHOICE:
        from criticalmass.reporting.figures.selectors import draw_choice

        draw_choice(name, run, ax, measures)
    elif name in ("layers", "matrix"):
        from criticalmass.reporting.figures.heat_maps import draw_map

        draw_map(name, run, ax, measures)
    else:
        _draw_curves(name, run, ax, asked)


def _draw_curves(name: str, run: Any, ax: Axes, asked: _Asked) -> None:
    """Draw "value", "cka" or "dr"."""
    from criticalmass.analysis.redundancy import curves, redundancy
    from criticalmass.reporting.figures.references import fitting, mark_references

    measures, deltas, points = asked
    table = curves(run) if name != "dr" else redundancy(run, deltas=DELTAS)
    rows = _wanted(name, table, measures)
    if name == "dr":
        dr_against_delta(rows, ax)
    elif name == "cka":
        cka_against_fraction(rows, ax, measure=rows["measure"].iloc[0])
    else:
        value_against_fraction(rows, ax)
        masses = redundancy(run, deltas=deltas)
        mark_critical_mass(masses[masses["measure"].isin(rows["measure"])], ax)
    stands = fitting(points, "dr" if name == "dr" else "value", rows)
    if stands:
        mark_references(stands, ax)
        ax.legend(loc="lower left" if name == "dr" else "lower right", frameon=False,
                  fontsize="small")  # fmt: skip


def _wanted(name: str, table: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """Keep the rows of the measures that a figure of curves is about."""
    known = list(dict.fromkeys(table["measure"]))
    for measure in measures:
        if measure not in known:
            raise unknown_name("measure", measure, known)
    wanted = [m for m in measures or known if name == "dr" or is_similarity(m) == (name == "cka")]
    if not wanted:
        raise CriticalMassError(
            f"nothing for the {name!r} figure: the run has the measures {', '.join(known)}"
        )
    return table[table["measure"].isin(wanted if name != "cka" else wanted[:1])]
