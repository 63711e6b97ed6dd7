"""All that the page says about one run, gathered from the public tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from criticalmass.core.threads import map_side_by_side
from criticalmass.errors import CriticalMassError
from criticalmass.reporting.figures.references import ReferencePoint, fitting
from criticalmass.reporting.page.curve_plots import (
    CurveIds,
    curve_key,
    dr_plot,
    layers_plot,
    value_plots,
)
from criticalmass.reporting.page.headline import Answer, answer, headline_row, next_smaller
from criticalmass.reporting.page.plot_spec import Plot
from criticalmass.reporting.page.prediction_section import Predicted, predicted
from criticalmass.reporting.page.provenance import Caveat, Fact, caveats, facts, in_short
from criticalmass.reporting.page.slider_data import GRID, Words, WorstClasses, keys_of, settings
from criticalmass.reporting.page.tables import blocks, curve_rows

if TYPE_CHECKING:
    import pandas as pd

    from criticalmass.reporting.page.parallel_drawing import Drawing
    from criticalmass.storage.run import Run

# Entries of the class accuracies on all draws; more classes get fewer draws.
_DRAWN = 1_500_000
_FEWEST_DRAWS, _DRAWS = 200, 2000
# Agreement is drawn of so many seeds at most: pairs grow with their square.
_SEEDS = 6
# With fewer test samples a class is named together with their number.
_FEW_SAMPLES = 50
# More subsets than these are not held against each other for Pareto's front with its bounds.
_RIVALS = 200


@dataclass(frozen=True)
class Section:
    """All that the page says about one run.

    ``chosen`` is the number of the curve that the answer is about, None where there is none;
    ``curves``: (number, name, settings) of every curve.
    """

    identity: str
    title: str
    subtitle: str
    path: str
    answer: Answer
    told: dict[str, str]
    chosen: int | None
    delta: float
    curves: list[dict[str, Any]]
    blocks: list[dict[str, Any]]
    plots: list[tuple[Plot, int | None]]
    predicted: list[Predicted]
    short: str
    facts: list[Fact]
    caveats: list[Caveat]
    references: list[ReferencePoint]
    rows: list[dict[str, Any]]
    notes: list[str]


@dataclass(frozen=True)
class Asked:
    """What every section is made with."""

    deltas: tuple[float, ...]
    references: tuple[ReferencePoint, ...]
    words: Words
    first: int = 0
    drawing: Drawing | None = None

    def drawn_soon(self, identity: str, plots: Sequence[Plot]) -> None:
        """Have the first figures of a section drawn while the others are worked out."""
        for plot in plots:
            if self.drawing is not None:
                self.drawing.add((f"{identity}-{plot.name}", plot.drawing, plot.summary))


def section_of(run: Run, number: int, asked: Asked) -> Section:
    """Gather what the page says about one run.

    Parameters
    ----------
    run: the run.
    number: its place among the runs of the page, from 1.
    asked: deltas, published numbers, the texts of the slider, and how many curves came before.

    Raises
    ------
    CriticalMassError: the run has no rows.
    """
    from criticalmass.analysis.redundancy import curves as curves_of
    from criticalmass.analysis.redundancy import redundancy
    from criticalmass.reporting.tables import probes_first

    frame = run.frame()
    if frame.empty:
        raise CriticalMassError(f"run {str(run.path)!r} has no rows yet; run a sweep into it first")
    lines = probes_first(_as_swept(curves_of(run), frame))
    every = redundancy(run, deltas=tuple(sorted({*GRID, *asked.deltas})))
    every = probes_first(_as_swept(every, frame))
    table = every[every["delta"].isin(asked.deltas)]
    best = headline_row(table)
    keys = keys_of(every)
    ids = {key: asked.first + place for place, key in enumerate(keys)}
    plots = _plots(lines, every[every["delta"].isin(GRID)], ids, asked.references)
    asked.drawn_soon(f"run-{number}", plots)
    effects = _effects(run, best, lines)
    told = settings(every, lines, effects.worst, asked.words)
    chosen = None if best is None else ids[curve_key(best)]
    layers = frame["layer"].unique()
    return Section(
        identity=f"run-{number}",
        title=f"{_names(frame['model'])} on {_names(frame['dataset'])}",
        subtitle=f"layer {layers[0]}" if len(layers) == 1 else f"{len(layers)} layers",
        path=str(run.path),
        answer=answer(best, next_smaller(best, lines)),
        told=_now(told, best, asked.words),
        chosen=chosen,
        delta=0.0 if best is None else _stop_near(float(best["delta"])),
        curves=_named(told, asked.first),
        blocks=blocks(table),
        plots=[*((plot, None) for plot in plots), *((plot, chosen) for plot in effects.plots)],
        predicted=predicted(run, asked.deltas),
        short=in_short(frame, best),
        facts=facts(run.manifest, frame),
        caveats=caveats(frame, table),
        references=_shown(asked.references, lines),
        rows=curve_rows(lines),
        notes=effects.notes,
    )


def _as_swept(table: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """Bring layers into the order in which they were swept, which is that of the network."""
    place = {name: at for at, name in enumerate(frame["layer"].unique())}
    order = table["layer"].map(place).astype(int)
    return table.iloc[np.argsort(order.to_numpy(), kind="stable")].reset_index(drop=True)


def _plots(
    lines: pd.DataFrame, every: pd.DataFrame, ids: CurveIds, references: Sequence[ReferencePoint]
) -> list[Plot]:
    """Draw the figures of the curves: values, DR, layers."""
    drawn = [*value_plots(lines, ids, references), dr_plot(every, ids, references)]
    return [plot for plot in (*drawn, layers_plot(lines)) if plot is not None]


def _shown(references: Sequence[ReferencePoint], lines: pd.DataFrame) -> list[ReferencePoint]:
    return [*fitting(references, "value", lines), *fitting(references, "dr", lines)]


@dataclass(frozen=True)
class _Effects:
    """What a run's predictions say of classes, agreement and choice."""

    worst: WorstClasses
    plots: list[Plot]
    notes: list[str]


def _effects(run: Run, best: pd.Series | None, lines: pd.DataFrame) -> _Effects:
    """Draw who pays, who agrees and the front, for the layer and measure of the answer."""
    if best is None:
        return _Effects({}, [], [])
    plots: list[Plot] = []
    notes: list[str] = []
    worst: WorstClasses = {}
    if _predicts(run, best):
        # Tables side by side, drawings one by one: Matplotlib is not made for threads.
        of = (_class_table, _agreement_tables)
        by_class, agreed = map_side_by_side(lambda table: table(run, best), of)
        worst, plots, notes = _classes(by_class, best)
        plots += _agreement(agreed)
        if int(best["n_seeds"]) > _SEEDS:
            notes = [*notes, f"Agreement by size is that of the first {_SEEDS} seeds."]
    plots += _front(run, best, lines)
    if plots and lines["layer"].nunique() > 1:
        about = f"layer {best['layer']}, measure {best['measure']}"
        notes = [*notes, f"Classes and agreement are those of {about}."]
    return _Effects(worst, plots, notes)


def _predicts(run: Run, best: pd.Series) -> bool:
    """Whether classes were predicted with the measure of the answer."""
    frame = run.frame()
    rows = frame[(frame["measure"] == best["measure"]) & (frame["layer"] == best["layer"])]
    return bool(rows["artifact"].fillna("").astype(str).str.startswith("predictions/").any())


def _class_table(run: Run, best: pd.Series) -> list[pd.DataFrame]:
    """Return what classes lose, with the number of draws in ``attrs``."""
    from criticalmass.analysis.fairness import class_accuracy
    from criticalmass.storage.run_view import part_of

    part = part_of(run, layers=(str(best["layer"]),), measures=(str(best["measure"]),))
    rows = len(part.frame())
    classes = max(1, len(run.class_names))
    draws = int(np.clip(_DRAWN / (rows * classes), _FEWEST_DRAWS, _DRAWS))
    table = class_accuracy(part, resamples=draws)
    table = table[table["relative_loss"].notna()]
    table.attrs["draws"] = draws
    return [table]


def _classes(
    tables: list[pd.DataFrame], best: pd.Series
) -> tuple[WorstClasses, list[Plot], list[str]]:
    """Return the class that loses most at every size, and the figure of who pays first."""
    from criticalmass.reporting.page.effect_plots import classes_plot

    (table,) = tables
    draws = table.attrs["draws"]
    if table.empty:
        return {}, [], []
    worst: dict[tuple[str, ...], dict[int, tuple[str, float, float, float]]] = {}
    most = table.loc[table.groupby(["selector", "n_kept"])["relative_loss"].idxmax()]
    for row in most.to_dict("records"):
        loss, low, high = (_float(row[f"relative_loss{end}"]) for end in ("", "_low", "_high"))
        few = row["class_n_test"] < _FEW_SAMPLES
        name = (
            f"{row['class_name']} ({row['class_n_test']} test samples)"
            if few
            else row["class_name"]
        )
        found = (str(name), loss, low, high)
        worst.setdefault(curve_key(row), {})[int(row["n_kept"])] = found
    mine = table[table["selector"] == best["selector"]]
    there = mine[mine["n_kept"] == _nearest(mine["n_kept"], best["critical_mass"])]
    first = there.sort_values("relative_loss", ascending=False, kind="stable")["class_id"]
    notes = [f"Intervals of classes come from {draws:,} draws."] if draws < _DRAWS else []
    return worst, [classes_plot(mine, [int(c) for c in first])], notes


def _float(value: Any) -> float:
    import pandas as pd

    return float("nan") if pd.isna(value) else float(value)


def _nearest(sizes: pd.Series, size: int) -> int:
    """Return the tested size nearest to one; classes that lose most at full size lose nothing."""
    below = sizes[sizes < sizes.max()]
    known = below if len(below) else sizes
    return int(known.iloc[(known - int(size)).abs().argmin()])


def _agreement_tables(run: Run, best: pd.Series) -> list[pd.DataFrame]:
    """Return the agreement of subsets by size, and as a matrix."""
    from criticalmass.analysis.agreement import agreement
    from criticalmass.analysis.agreement_matrix import agreement_matrix
    from criticalmass.storage.run_view import RunPart, part_of

    where = {"layers": (str(best["layer"]),), "measures": (str(best["measure"]),)}
    alone = part_of(run, **where, selectors=(str(best["selector"]),))
    rows = alone.frame()
    if int(best["n_seeds"]) > _SEEDS:
        first = sorted(rows["seed"].unique())[:_SEEDS]
        alone = RunPart(run.path, table=rows[rows["seed"].isin(first)])
    return [agreement(alone), agreement_matrix(part_of(run, **where))]


def _agreement(tables: list[pd.DataFrame]) -> list[Plot]:
    """Draw agreement of subsets by size, and as a matrix."""
    from criticalmass.reporting.page.effect_plots import agreement_plot, matrix_plot

    by_size, matrix = tables
    return [agreement_plot(by_size), matrix_plot(matrix)]


def _front(run: Run, best: pd.Series, lines: pd.DataFrame) -> list[Plot]:
    """Draw Pareto's front of the measure of the answer; its own layer alone where many compete."""
    from criticalmass.analysis.pareto import pareto
    from criticalmass.reporting.page.effect_plots import pareto_plot
    from criticalmass.storage.run_view import part_of

    measure = str(best["measure"])
    rivals = int((lines["measure"] == measure).sum())
    layers = (str(best["layer"]),) if rivals > _RIVALS else ()
    table = pareto(part_of(run, layers=layers), measure=measure)
    table = table[table["dataset"] == best["dataset"]]
    return [pareto_plot(table)] if len(table) > 1 else []


def _named(told: list[dict[str, Any]], first: int) -> list[dict[str, Any]]:
    """Give every curve its number, and a name of what varies among them."""
    keys = [curve["key"] for curve in told]
    varying = [i for i in range(5) if len({key[i] for key in keys}) > 1]
    return [
        {
            **curve,
            "number": first + place,
            "name": ", ".join(curve["key"][i] for i in (*varying[-1:], *varying[:-1]))
            or f"{curve['key'][3]}, {curve['key'][4]}",
        }
        for place, curve in enumerate(told)
    ]


def _now(told: list[dict[str, Any]], best: pd.Series | None, words: Words) -> dict[str, str]:
    """Return what the readouts say before anything moves."""
    if best is None:
        return {}
    key = curve_key(best)
    rows = next(curve["rows"] for curve in told if curve["key"] == key)
    stop = GRID.index(_stop_near(float(best["delta"])))
    return {part: words.texts[place] for part, place in rows[stop]["says"].items()}


def _stop_near(delta: float) -> float:
    """Return the stop of the slider nearest to a delta."""
    return min(GRID, key=lambda stop: abs(stop - delta))


def _names(column: pd.Series) -> str:
    """Name a column's distinct values, at most two of them."""
    names = [str(name) for name in column.unique()]
    return " and ".join(names) if len(names) < 3 else f"{names[0]} and {len(names) - 1} more"
