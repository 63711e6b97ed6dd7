"""The section of the page about one run, made from the public tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from criticalmass.analysis.columns import CurveKey
from criticalmass.core.threads import map_in_threads
from criticalmass.errors import CriticalMassError
from criticalmass.reporting.basis_numbers import LayerNumbers, layer_numbers, missing_numbers
from criticalmass.reporting.figures.classes import agreement_plot, classes_plot
from criticalmass.reporting.figures.curves import CurveNumbers, curve_key, dr_plot, value_plot
from criticalmass.reporting.figures.heat_maps import layers_plot, matrix_plot
from criticalmass.reporting.figures.references import ReferencePoint, points_for_figure
from criticalmass.reporting.figures.selectors import pareto_plot
from criticalmass.reporting.formatting import is_missing
from criticalmass.reporting.page.headline import Headline, headline, headline_row
from criticalmass.reporting.page.prediction_section import PredictionSection, prediction_sections
from criticalmass.reporting.page.provenance import Caveat, Fact, caveats, facts, method_summary
from criticalmass.reporting.page.slider_data import (
    SLIDER_DELTAS,
    ClassLoss,
    SliderCurve,
    StringTable,
    WorstClasses,
    curve_keys,
    slider_curves,
)
from criticalmass.reporting.page.tables import critical_mass_blocks, curve_rows
from criticalmass.reporting.plots import Plot

if TYPE_CHECKING:
    import pandas as pd

    from criticalmass.storage.run import Run

# Class accuracies of all bootstrap draws together; runs with more classes get fewer draws.
_MAX_CLASS_DRAWS = 1_500_000
_MIN_RESAMPLES, _MAX_RESAMPLES = 200, 2000
# Agreement is computed for at most this many seeds; its cost grows with their square.
_MAX_AGREEMENT_SEEDS = 6
# Number of classes, those of the largest losses, with a colour and a legend entry.
_N_NAMED_CLASSES = 6
# With fewer test samples their number is written after the name of a class.
_FEW_CLASS_SAMPLES = 50
# With more subsets the Pareto front is that of one layer; its cost grows with their square.
_MAX_PARETO_SUBSETS = 200


@dataclass(frozen=True)
class NamedCurve:
    """A curve in the list from which the reader chooses."""

    number: int
    name: str
    slider: SliderCurve


@dataclass(frozen=True)
class RunSection:
    """The section about one run.

    Attributes
    ----------
    identity: id in the page.
    title, subtitle: model and dataset; layers.
    path: folder of the run.
    headline: the headline at first.
    readouts: texts of the readouts at first, by name; empty without a headline.
    headline_curve: number of the curve of the headline, None without one.
    delta: delta of the headline, rounded to a stop of the slider; 0 without a headline.
    curves: all curves.
    blocks: critical masses, see `tables.critical_mass_blocks`.
    layer_numbers: compression, diffuseness and usefulness, where they were measured.
    missing_numbers: which of them were not, and what measures them.
    plots: each figure, and the number of the curve whose critical mass it marks, or None.
    predictions: sections on predictions.
    method: summary of how the headline was measured.
    facts, caveats: see `provenance`.
    references: published numbers in the figures.
    rows: values of the curves, see `tables.curve_rows`.
    notes: remarks on the figures.
    """

    identity: str
    title: str
    subtitle: str
    path: str
    headline: Headline
    readouts: dict[str, str]
    headline_curve: int | None
    delta: float
    curves: list[NamedCurve]
    blocks: list[dict[str, Any]]
    layer_numbers: list[LayerNumbers]
    missing_numbers: list[str]
    plots: list[tuple[Plot, int | None]]
    predictions: list[PredictionSection]
    method: str
    facts: list[Fact]
    caveats: list[Caveat]
    references: list[ReferencePoint]
    rows: list[dict[str, Any]]
    notes: list[str]


@dataclass(frozen=True)
class SectionOptions:
    """Options of a section.

    Attributes
    ----------
    deltas: shares of the whole layer's value to report.
    references: published numbers.
    strings: collects the texts of the slider.
    first_curve: number of the section's first curve.
    control: run whose whole layers give the accuracy for the usefulness, or None.
    """

    deltas: tuple[float, ...]
    references: tuple[ReferencePoint, ...]
    strings: StringTable
    first_curve: int = 0
    control: Run | None = None


def run_section(run: Run, number: int, options: SectionOptions) -> RunSection:
    """Make the section of a run.

    Parameters
    ----------
    run: the run.
    number: its position among the runs of the page, from 1.
    options: deltas, references and what the sections share.

    Raises
    ------
    CriticalMassError: if the run has no rows.
    """
    from criticalmass.analysis.redundancy import curves, redundancy
    from criticalmass.reporting.tables import probes_first

    frame = run.frame()
    if frame.empty:
        raise CriticalMassError(f"run {str(run.path)!r} has no rows yet; run a sweep into it first")
    identity = f"run-{number}"
    curve_table = probes_first(_in_sweep_order(curves(run), frame))
    all_deltas = tuple(sorted({*SLIDER_DELTAS, *options.deltas}))
    masses = probes_first(_in_sweep_order(redundancy(run, deltas=all_deltas), frame))
    table = masses[masses["delta"].isin(options.deltas)]
    basis_table = _with_control(run, table, options)
    best = headline_row(table)
    keys = curve_keys(masses)
    numbers = {key: options.first_curve + index for index, key in enumerate(keys)}
    slider_masses = masses[masses["delta"].isin(SLIDER_DELTAS)]
    plots = _curve_plots(curve_table, slider_masses, numbers, options.references)
    effects = _side_effects(run, best, curve_table)
    sliders = slider_curves(masses, effects.worst, options.strings)
    headline_curve = None if best is None else numbers[curve_key(best)]
    layers = frame["layer"].unique()
    return RunSection(
        identity=identity,
        title=f"{_names_text(frame['model'])} on {_names_text(frame['dataset'])}",
        subtitle=f"layer {layers[0]}" if len(layers) == 1 else f"{len(layers)} layers",
        path=str(run.path),
        headline=headline(best),
        readouts=_initial_readouts(sliders, best, options.strings),
        headline_curve=headline_curve,
        delta=0.0 if best is None else _nearest_stop(float(best["delta"])),
        curves=_named_curves(sliders, options.first_curve),
        blocks=critical_mass_blocks(table),
        layer_numbers=layer_numbers(basis_table),
        missing_numbers=missing_numbers(basis_table, str(run.path)),
        plots=[
            *((plot, None) for plot in plots),
            *((plot, headline_curve) for plot in effects.plots),
        ],
        predictions=prediction_sections(run, options.deltas),
        method=method_summary(frame, best),
        facts=facts(run.manifest, frame),
        caveats=caveats(frame, table),
        references=[
            *points_for_figure(options.references, "value", curve_table),
            *points_for_figure(options.references, "dr", curve_table),
        ],
        rows=curve_rows(curve_table),
        notes=effects.notes,
    )


def _with_control(run: Run, table: pd.DataFrame, options: SectionOptions) -> pd.DataFrame:
    """Return the table with the rows of the control, if there is one."""
    from criticalmass.analysis.redundancy import redundancy
    from criticalmass.reporting.tables import probes_first

    if options.control is None:
        return table
    return probes_first(redundancy(run, options.deltas, control=options.control))


def _in_sweep_order(table: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """Sort layers in the order of the sweep, which is that of the network."""
    position = {name: index for index, name in enumerate(frame["layer"].unique())}
    positions = table["layer"].map(position).astype(int)
    return table.iloc[np.argsort(positions.to_numpy(), kind="stable")].reset_index(drop=True)


def _curve_plots(
    curves: pd.DataFrame,
    redundancy: pd.DataFrame,
    numbers: CurveNumbers,
    references: Sequence[ReferencePoint],
) -> list[Plot]:
    """Describe values (one figure per measure), DR and the heat map of layers."""
    values = curves[curves["mean"].notna()]
    plots = [
        value_plot(rows, numbers=numbers, references=references)
        for _, rows in values.groupby("measure", sort=False)
    ]
    if redundancy["dr"].notna().any():
        plots.append(dr_plot(redundancy, numbers=numbers, references=references))
    rows = curves[curves["ratio"].notna()]
    if rows.empty:
        return plots
    selectors = [str(name) for name in rows["selector"].unique()]
    selector = "random" if "random" in selectors else selectors[0]
    measure = str(rows["measure"].iloc[0])
    rows = rows[(rows["measure"] == measure) & (rows["selector"] == selector)]
    if len(rows[["model", "layer", "dataset"]].drop_duplicates()) > 1:
        plots.append(layers_plot(rows, measure=measure, selector=selector))
    return plots


@dataclass(frozen=True)
class _SideEffects:
    """Figures and notes on classes, agreement and the Pareto front."""

    worst: WorstClasses
    plots: list[Plot]
    notes: list[str]


def _side_effects(run: Run, best: pd.Series | None, curves: pd.DataFrame) -> _SideEffects:
    """Describe side effects for the layer and measure of the headline."""
    if best is None:
        return _SideEffects({}, [], [])
    plots: list[Plot] = []
    notes: list[str] = []
    worst: WorstClasses = {}
    if _has_predictions(run, best):
        (classes,), agreements = map_in_threads(
            lambda compute: compute(run, best), (_class_table, _agreement_tables)
        )
        worst, class_plots, notes = _class_effects(classes, best)
        by_size, matrix = agreements
        plots += [*class_plots, agreement_plot(by_size), matrix_plot(matrix)]
        if int(best["n_seeds"]) > _MAX_AGREEMENT_SEEDS:
            notes = [
                *notes,
                f"Agreement by size is that of the first {_MAX_AGREEMENT_SEEDS} seeds.",
            ]
    plots += _pareto_plots(run, best, curves)
    if plots and curves["layer"].nunique() > 1:
        scope = f"layer {best['layer']}, measure {best['measure']}"
        notes = [*notes, f"Classes and agreement are those of {scope}."]
    return _SideEffects(worst, plots, notes)


def _has_predictions(run: Run, best: pd.Series) -> bool:
    """Whether the run stores class predictions of the layer and measure of the headline."""
    frame = run.frame()
    rows = frame[(frame["measure"] == best["measure"]) & (frame["layer"] == best["layer"])]
    return bool(rows["artifact"].fillna("").astype(str).str.startswith("predictions/").any())


def _class_table(run: Run, best: pd.Series) -> list[pd.DataFrame]:
    """Return the loss of every class; ``attrs["resamples"]`` is the number of draws."""
    from criticalmass.analysis.fairness import class_accuracy
    from criticalmass.storage.run_view import filter_run

    part = filter_run(run, layers=(str(best["layer"]),), measures=(str(best["measure"]),))
    n_values = len(part.frame()) * max(1, len(run.class_names))
    resamples = int(np.clip(_MAX_CLASS_DRAWS / n_values, _MIN_RESAMPLES, _MAX_RESAMPLES))
    table = class_accuracy(part, resamples=resamples)
    table = table[table["relative_loss"].notna()]
    table.attrs["resamples"] = resamples
    return [table]


def _class_effects(
    table: pd.DataFrame, best: pd.Series
) -> tuple[WorstClasses, list[Plot], list[str]]:
    """Return the class that loses most by curve and size, the figure of classes, and notes."""
    resamples = table.attrs["resamples"]
    if table.empty:
        return {}, [], []
    worst: dict[CurveKey, dict[int, ClassLoss]] = {}
    largest = table.loc[table.groupby(["selector", "n_kept"])["relative_loss"].idxmax()]
    for row in largest.to_dict("records"):
        name = str(row["class_name"])
        if row["class_n_test"] < _FEW_CLASS_SAMPLES:
            name = f"{name} ({row['class_n_test']} test samples)"
        loss, low, high = (
            float("nan") if is_missing(row[column]) else float(row[column])
            for column in ("relative_loss", "relative_loss_low", "relative_loss_high")
        )
        sizes = worst.setdefault(curve_key(row), {})
        sizes[int(row["n_kept"])] = ClassLoss(name, loss, low, high)
    curve = table[table["selector"] == best["selector"]]
    rows = curve[curve["n_kept"] == _nearest_size(curve["n_kept"], best["critical_mass"])]
    order = rows.sort_values("relative_loss", ascending=False, kind="stable")["class_id"]
    notes = []
    if resamples < _MAX_RESAMPLES:
        notes = [f"Intervals of classes come from {resamples:,} bootstrap draws."]
    plot = classes_plot(curve, order=[int(class_id) for class_id in order], most=_N_NAMED_CLASSES)
    return worst, [plot], notes


def _nearest_size(sizes: pd.Series, size: int) -> int:
    """Return the tested size nearest to one; the whole layer, without losses, only if alone."""
    partial_sizes = sizes[sizes < sizes.max()]
    candidates = partial_sizes if len(partial_sizes) else sizes
    return int(candidates.iloc[(candidates - int(size)).abs().argmin()])


def _agreement_tables(run: Run, best: pd.Series) -> list[pd.DataFrame]:
    """Return the agreement of subsets by size, and that between sizes or selectors."""
    from criticalmass.analysis.agreement import agreement
    from criticalmass.analysis.agreement_matrix import agreement_matrix
    from criticalmass.storage.run_view import RunView, filter_run

    layers, measures = (str(best["layer"]),), (str(best["measure"]),)
    part = filter_run(run, layers=layers, measures=measures)
    one_selector = filter_run(
        run, layers=layers, measures=measures, selectors=(str(best["selector"]),)
    )
    rows = one_selector.frame()
    if int(best["n_seeds"]) > _MAX_AGREEMENT_SEEDS:
        seeds = sorted(rows["seed"].unique())[:_MAX_AGREEMENT_SEEDS]
        one_selector = RunView(run.path, table=rows[rows["seed"].isin(seeds)])
    return [agreement(one_selector), agreement_matrix(part)]


def _pareto_plots(run: Run, best: pd.Series, curves: pd.DataFrame) -> list[Plot]:
    """Draw the Pareto front of the measure of the headline, if it has more than one subset."""
    from criticalmass.analysis.pareto import pareto
    from criticalmass.storage.run_view import filter_run

    measure = str(best["measure"])
    n_subsets = int((curves["measure"] == measure).sum())
    layers = (str(best["layer"]),) if n_subsets > _MAX_PARETO_SUBSETS else ()
    table = pareto(filter_run(run, layers=layers), measure=measure)
    table = table[table["dataset"] == best["dataset"]]
    return [pareto_plot(table, measure=measure)] if len(table) > 1 else []


def _named_curves(sliders: list[SliderCurve], first: int) -> list[NamedCurve]:
    """Return the curves with numbers, and names made of what differs between them."""
    keys = [curve.key for curve in sliders]
    varying = [i for i in range(len(CurveKey._fields)) if len({key[i] for key in keys}) > 1]
    # The measure, or what else varies last, stands first.
    order = (*varying[-1:], *varying[:-1])
    return [
        NamedCurve(
            number=first + index,
            name=", ".join(curve.key[i] for i in order)
            or f"{curve.key.selector}, {curve.key.measure}",
            slider=curve,
        )
        for index, curve in enumerate(sliders)
    ]


def _initial_readouts(
    sliders: list[SliderCurve], best: pd.Series | None, strings: StringTable
) -> dict[str, str]:
    """Return the texts of the readouts for the headline."""
    if best is None:
        return {}
    key = curve_key(best)
    rows = next(curve.rows for curve in sliders if curve.key == key)
    row = rows[SLIDER_DELTAS.index(_nearest_stop(float(best["delta"])))]
    return {part: strings.texts[index] for part, index in row["strings"].items()}


def _nearest_stop(delta: float) -> float:
    """Return the delta of the slider that is nearest to a delta."""
    return min(SLIDER_DELTAS, key=lambda stop: abs(stop - delta))


def _names_text(column: pd.Series) -> str:
    """Name the distinct values of a column: one, two, or one and the number of the others."""
    names = [str(name) for name in column.unique()]
    return " and ".join(names) if len(names) < 3 else f"{names[0]} and {len(names) - 1} more"
