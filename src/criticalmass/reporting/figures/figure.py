"""Figures of a run by name, written to files for papers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.measures.registry import is_similarity
from criticalmass.reporting.figures import classes, curves, heat_maps, selectors
from criticalmass.reporting.figures.draw import draw, new_axes
from criticalmass.reporting.figures.references import ReferencePoint, reference_points
from criticalmass.storage.files import scratch_path, write_atomically

if TYPE_CHECKING:
    import pandas as pd

    from criticalmass.reporting.plots import Plot

__all__ = ["FIGURES", "figure"]

#: Width in inches of one column of a paper.
COLUMN_WIDTH = 3.35
#: Deltas of the figure of DR against delta.
DELTAS = tuple(round(0.5 + 0.01 * step, 2) for step in range(50))

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
    "train-size": "critical mass of probes against the number of training samples",
    "train-size-dr": "diffused redundancy of probes against the number of training samples",
}


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
    draw(_describe(name, _filtered_run(run, layers, selectors), options), ax)
    # Journals require TrueType fonts (Type 42) in a PDF. In an SVG, letters become shapes.
    with rc_context({"pdf.fonttype": 42, "svg.fonttype": "path"}):
        write_atomically(
            target,
            lambda file: drawing.savefig(file, format=ending, dpi=300),
            temporary=scratch_path(target),
            durable=False,
        )
    return target


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


def _describe(name: str, run: Any, options: _FigureOptions) -> Plot:
    """Compute the table of a named figure and describe the figure."""
    if name in ("classes", "gini", "agreement"):
        return _class_plot(name, run, options)
    if name in ("diffuseness", "pareto"):
        return _selector_plot(name, run, options.measures)
    if name in ("layers", "matrix"):
        return _heat_map_plot(name, run, options.measures)
    if name.startswith("train-size"):
        from criticalmass.analysis.train_sizes import train_sizes

        table = train_sizes(run, options.deltas)
        measures = options.measures or _available_measures(table, ())
        _available_measures(table, measures)
        return curves.train_size_plot(table[table["measure"].isin(measures)], name)
    return _curve_plot(name, run, options)


def _curve_plot(name: str, run: Any, options: _FigureOptions) -> Plot:
    """Describe "value", "cka" or "dr"."""
    from criticalmass.analysis import redundancy as tables

    if name == "dr":
        table = tables.redundancy(run, deltas=DELTAS)
        rows = _select_rows(name, table, options.measures)
        return curves.dr_plot(rows, references=options.references)
    rows = _select_rows(name, tables.curves(run), options.measures)
    plot = curves.value_plot(rows, references=options.references)
    if name == "cka":
        return plot
    masses = tables.redundancy(run, deltas=options.deltas)
    masses = masses[masses["measure"].isin(rows["measure"])]
    return replace(plot, marks=curves.critical_mass_marks(masses))


def _select_rows(name: str, table: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """Return the rows of the measures that "value", "cka" or "dr" shows."""
    available = _available_measures(table, measures)
    drawable = [
        m for m in measures or available if name == "dr" or is_similarity(m) == (name == "cka")
    ]
    rows = table[table["measure"].isin(drawable if name != "cka" else drawable[:1])]
    if rows["dr" if name == "dr" else "mean"].isna().all():
        raise CriticalMassError(
            f"nothing for the {name!r} figure: the run has the measures {', '.join(available)}"
        )
    return rows


def _class_plot(name: str, run: Any, options: _FigureOptions) -> Plot:
    """Describe "classes", "gini" or "agreement" for the first measure with predictions."""
    from criticalmass.analysis.agreement import agreement
    from criticalmass.analysis.fairness import class_accuracy, class_losses, fairness

    compute = {"classes": class_accuracy, "gini": fairness, "agreement": agreement}[name]
    table = compute(run)
    available = _available_measures(table, options.measures, "measure with predictions")
    table = table[table["measure"].isin(options.measures or available[:1])]
    if name != "classes":
        return classes.gini_plot(table) if name == "gini" else classes.agreement_plot(table)
    losses = class_losses(run, options.deltas[:1])
    losses = losses[losses["measure"].isin(table["measure"].unique())]
    return classes.classes_plot(table, losses=losses if len(losses) else None)


def _heat_map_plot(name: str, run: Any, measures: Sequence[str]) -> Plot:
    """Describe "layers" or "matrix" for one measure, by default the first that scores a task."""
    from criticalmass.analysis import redundancy as tables
    from criticalmass.analysis.agreement_matrix import agreement_matrix

    table = tables.curves(run) if name == "layers" else agreement_matrix(run)
    available = _available_measures(table, measures)
    measure = measures[0] if measures else min(available, key=is_similarity)
    rows = table[table["measure"] == measure]
    if name == "matrix":
        return heat_maps.matrix_plot(rows)
    names = list(dict.fromkeys(rows["selector"].astype(str)))
    selector = "random" if "random" in names else names[0]
    return heat_maps.layers_plot(rows, measure=measure, selector=selector)


def _selector_plot(name: str, run: Any, measures: Sequence[str]) -> Plot:
    """Describe "diffuseness" or "pareto" for one measure, by default one that scores a task."""
    from criticalmass.analysis.diffuseness import diffuseness
    from criticalmass.analysis.pareto import pareto

    if len(measures) > 1:
        raise CriticalMassError(
            f"the {name!r} figure draws one measure, not {', '.join(measures)}; pass one of them"
        )
    table = (diffuseness if name == "diffuseness" else pareto)(run)
    available = _available_measures(table, measures)
    measure = measures[0] if measures else min(available, key=is_similarity)
    describe = selectors.choice_plot if name == "diffuseness" else selectors.pareto_plot
    return describe(table, measure=measure)


def _available_measures(
    table: pd.DataFrame, measures: Sequence[str], kind: str = "measure"
) -> list[str]:
    """Return the measures of a table, or raise if one of ``measures`` is not among them."""
    available = list(dict.fromkeys(table["measure"].astype(str)))
    for measure in measures:
        if measure not in available:
            raise unknown_name(kind, measure, available)
    return available
