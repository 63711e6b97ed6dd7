"""The figures of docs/results.md, drawn from its tables."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from criticalmass.reporting.figures.draw import DASHES, style_axes
from criticalmass.reporting.plots import COLOURS, FAINT, INK, MARKERS
from criticalmass.storage.files import scratch_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 110
_COLUMNS = 3
Tables = Mapping[str, pd.DataFrame]


def draw_findings(tables: Tables, folder: Path) -> list[Path]:
    """Draw every figure whose table exists.

    Parameters
    ----------
    tables: name -> table, as `evidence.make_tables` makes them.
    folder: folder of the files ``results-NAME.png``, which are written atomically.

    Returns
    -------
    The files.
    """
    makers: dict[str, tuple[str, Callable[[pd.DataFrame], Figure]]] = {
        "curves": ("curves", _curves),
        "dr": ("transfer", _dr_intervals),
        "protocol": ("protocol_curves", _protocol),
        "pca": ("pca", _axes),
        "fairness": ("fairness", _fairness),
        "layers": ("layers", _layers),
        "networks": ("networks", _networks),
        "orders": ("orders", _orders),
    }
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, (table, make) in makers.items():
        if table in tables and len(tables[table]):
            paths.append(_save(make(tables[table]), folder / f"results-{name}.png"))
    return paths


def _save(figure: Figure, path: Path) -> Path:
    scratch = scratch_path(path)
    figure.savefig(scratch, dpi=_DPI, format="png", metadata={"Software": None})
    os.replace(scratch, path)
    return path


def _panels(table: pd.DataFrame, by: list[str]) -> tuple[Figure, list[tuple[str, Any, Axes]]]:
    """Make a panel for each value of some columns; return the figure, titles, rows and axes."""
    from matplotlib.figure import Figure

    groups = list(table.groupby(by, sort=True))
    rows = -(-len(groups) // _COLUMNS)
    n_columns = min(len(groups), _COLUMNS)
    figure = Figure(figsize=(3.6 * n_columns, 2.9 * rows), layout="constrained", facecolor="white")
    axes = figure.subplots(rows, n_columns, squeeze=False).ravel()
    for ax in axes[len(groups) :]:
        ax.set_axis_off()
    panels = []
    for (key, panel_rows), ax in zip(groups, axes, strict=False):
        title = " on ".join(map(str, key)) if isinstance(key, tuple) else str(key)
        ax.set_title(title, loc="left", size=9)
        style_axes(ax)
        panels.append((title, panel_rows, ax))
    return figure, panels


def _fraction_axis(ax: Axes) -> None:
    """Make the x axis a logarithmic axis of neurons kept."""
    ax.set_xscale("log")
    ticks = {0.001: "0.1 %", 0.01: "1 %", 0.1: "10 %", 1.0: "100 %"}
    shown = [tick for tick in ticks if tick >= 0.9 * ax.dataLim.x0]
    ax.set_xticks(shown, [ticks[tick] for tick in shown])
    ax.minorticks_off()
    ax.set_xlabel("neurons kept", size=8)


def _line(rows: pd.DataFrame, ax: Axes, number: int, label: str, untrained: bool) -> None:
    """Draw one curve with its band; that of an untrained network is dashed and hollow."""
    sorted_rows = rows.sort_values("fraction")
    colour = COLOURS[number % len(COLOURS)]
    ax.fill_between(
        sorted_rows["fraction"],
        sorted_rows["low"],
        sorted_rows["high"],
        color=colour,
        alpha=0.15,
        lw=0,
    )
    ax.plot(
        sorted_rows["fraction"],
        sorted_rows["mean"],
        color=colour,
        linestyle=DASHES[1] if untrained else "-",
        marker=MARKERS[number % len(MARKERS)],
        markersize=3.5,
        markerfacecolor="white" if untrained else colour,
        linewidth=1.2,
        label=label,
    )


def _curves(table: pd.DataFrame) -> Figure:
    """Draw accuracy against the fraction of neurons kept, a panel per dataset."""
    figure, panels = _panels(table[table["measure"] == "logistic"], ["dataset"])
    for _, part, ax in panels:
        names = sorted({str(name).removesuffix("-untrained") for name in part["model"]})
        for (model, control), rows in part.groupby(["model", "control"], sort=True):
            number = names.index(str(model).removesuffix("-untrained"))
            _line(rows, ax, number, str(model), bool(control))
        _fraction_axis(ax)
        ax.set_ylabel("accuracy on held-out data", size=8)
        ax.legend(fontsize=6, loc="best", frameon=False)
    return figure


def _dr_intervals(table: pd.DataFrame) -> Figure:
    """Draw DR(0.9) of every model on every dataset, with its interval."""
    from matplotlib.figure import Figure

    rows = table[table["measure"] == "logistic"].sort_values(["dataset", "model"], ascending=False)
    figure = Figure(figsize=(7.2, 0.2 * len(rows) + 0.8), layout="constrained", facecolor="white")
    ax = figure.subplots()
    style_axes(ax)
    for index, row in enumerate(rows.to_dict("records")):
        colour = FAINT if row["control"] else COLOURS[0]
        ax.plot([row["dr_low"], row["dr_high"]], [index, index], color=colour, linewidth=1.6)
        ax.plot(row["dr"], index, "o", color=colour, markersize=4)
    ax.set_yticks(range(len(rows)), [f"{r.model} on {r.dataset}" for r in rows.itertuples()])
    ax.tick_params(axis="y", labelsize=7)
    ax.set_xlim(0, 1)
    estimator = rows["estimator"].iloc[0]
    ax.set_xlabel(f"DR(0.9) of the accuracy, {estimator}; grey: untrained networks", size=8)
    return figure


_MASSES = {
    "critical_mass": "random neurons",
    "critical_mass_rotation": "random directions",
    "critical_mass_pca-top": "principal axes",
    "critical_mass_lda-top": "discriminant axes",
    "usefulness": "random neurons, untrained layer's accuracy",
}


def _networks(table: pd.DataFrame) -> Figure:
    """Draw how many neurons or directions keep 90 % of each network's accuracy."""
    from matplotlib.figure import Figure

    rows = table[~table["control"]].drop_duplicates(["model", "dataset"], keep="first")
    rows = rows.sort_values(["dataset", "model"], ascending=False)
    figure = Figure(figsize=(7.2, 0.24 * len(rows) + 1.4), layout="constrained", facecolor="white")
    ax = figure.subplots()
    style_axes(ax)
    for number, (column, label) in enumerate(_MASSES.items()):
        place = [y + 0.3 - 0.15 * number for y in range(len(rows))]
        colour = COLOURS[number % len(COLOURS)]
        ax.plot(rows[column], place, MARKERS[number], color=colour, markersize=4, label=label)
        if f"{column}_low" in rows:
            ends = rows[f"{column}_low"], rows[f"{column}_high"]
            ax.hlines(place, *ends, color=colour, linewidth=1.0)
    ax.plot(rows["n_neurons"], range(len(rows)), "|", color=INK, markersize=9, label="whole layer")
    ax.set_yticks(range(len(rows)), [f"{r.model} on {r.dataset}" for r in rows.itertuples()])
    ax.tick_params(axis="y", labelsize=7)
    ax.set_xscale("log")
    ax.set_xlabel("neurons or directions for 90 % of the accuracy", size=8)
    figure.legend(fontsize=7, loc="outside upper center", ncols=3, frameon=False)
    return figure


def _orders(table: pd.DataFrame) -> Figure:
    """Draw the accuracy of the first neurons minus that of random ones."""
    values = table[table["quantity"] == "value"].rename(columns={"difference": "mean"})
    figure, panels = _panels(values, ["dataset"])
    for _, part, ax in panels:
        names = sorted({str(name).removesuffix("-untrained") for name in values["model"]})
        for (model, control), rows in part.groupby(["model", "control"], sort=True):
            number = names.index(str(model).removesuffix("-untrained"))
            _line(rows, ax, number, str(model), bool(control))
        ax.axhline(0, color=INK, linewidth=0.8)
        _fraction_axis(ax)
        ax.set_ylabel("accuracy of the first neurons\nless that of random ones", size=8)
        ax.legend(fontsize=6, frameon=False)
    return figure


def _protocol(table: pd.DataFrame) -> Figure:
    """Draw the accuracy of both probes on the same features."""
    figure, panels = _panels(table[~table["control"]], ["model", "dataset"])
    for _, part, ax in panels:
        for number, (measure, rows) in enumerate(part.groupby("measure", sort=True)):
            _line(rows, ax, number, str(measure), False)
            ax.axhline(
                rows["value_full"].iloc[0], color=COLOURS[number], linewidth=0.8, linestyle=":"
            )
        _fraction_axis(ax)
        ax.set_ylabel("accuracy; dotted: whole layer", size=8)
        ax.legend(fontsize=7, loc="lower right", frameon=False)
    return figure


def _axes(table: pd.DataFrame) -> Figure:
    """Draw the accuracy of principal axes minus that of random neurons."""
    trained = table[~table["control"]].rename(columns={"difference": "mean"})
    figure, panels = _panels(trained, ["model", "dataset"])
    for _, part, ax in panels:
        for number, (selector, rows) in enumerate(part.groupby("selector", sort=False)):
            _line(rows, ax, number, str(selector), False)
        ax.axhline(0, color=INK, linewidth=0.8)
        _fraction_axis(ax)
        ax.set_ylabel("accuracy less that of random neurons", size=8)
        ax.legend(fontsize=7, frameon=False)
    return figure


def _fairness(table: pd.DataFrame) -> Figure:
    """Draw the Gini coefficient of class accuracies, and its part beyond accuracy."""
    figure, panels = _panels(table[~table["control"]], ["model", "dataset"])
    for _, part, ax in panels:
        for number, (name, label) in enumerate(
            (("gini", "Gini coefficient"), ("gini_excess", "beyond its accuracy"))
        ):
            ends = {f"{name}_low": "low", f"{name}_high": "high", name: "mean"}
            rows = part[["fraction", *ends]].rename(columns=ends)
            _line(rows, ax, number, label, False)
        ax.axhline(part["gini_full"].iloc[0], color=COLOURS[0], linewidth=0.8, linestyle=":")
        ax.axhline(0, color=INK, linewidth=0.6)
        _fraction_axis(ax)
        ax.set_ylabel("inequality; dotted: whole layer", size=8)
        ax.legend(fontsize=7, frameon=False)
    return figure


def _layers(table: pd.DataFrame) -> Figure:
    """Draw DR(0.9) of each layer, with its width."""
    rows = table[table["measure"] == "logistic"]
    names = [str(name).removesuffix("-untrained") for name in rows["model"]]
    figure, panels = _panels(rows.assign(network=names), ["network", "dataset"])
    for _, part, ax in panels:
        order = list(dict.fromkeys(part[~part["control"]]["layer"]))
        for control, group in part.groupby("control"):
            by_layer = group.set_index("layer").reindex(order)
            colour = FAINT if control else COLOURS[0]
            x = [index + (0.15 if control else -0.15) for index in range(len(order))]
            ax.vlines(x, by_layer["dr_low"], by_layer["dr_high"], color=colour, linewidth=1.6)
            label = "untrained" if control else "trained"
            ax.plot(x, by_layer["dr"], "o", color=colour, markersize=4, label=label)
        widths = part[~part["control"]].set_index("layer")["n_neurons"]
        short = [name.replace("encoder.layer", "layer") for name in order]
        labels = [f"{word}\n{widths[name]}" for word, name in zip(short, order, strict=True)]
        ax.set_xticks(range(len(order)), labels, rotation=60, size=6)
        ax.set_ylim(-0.02, 1.02)
        ax.set_ylabel("DR(0.9), neurons below", size=8)
        ax.legend(fontsize=7, frameon=False)
    return figure
