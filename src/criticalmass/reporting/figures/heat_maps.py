"""Heat maps: the value that every layer keeps, and the agreement between subsets.

Each function takes a table and an ``ax``, draws on it and returns it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.measures.registry import is_similarity
from criticalmass.reporting.figures.style import COLOURS, INK, escape_math

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Cells show their numbers in maps of at most this many columns, and so many columns have ticks.
_MAX_COLUMN_TEXTS = 8
_MAX_ROW_TEXTS = 20


def layers_by_fraction(lines: pd.DataFrame, ax: Axes, *, measure: str, selector: str) -> Axes:
    """Draw the share of its whole layer's value that every layer keeps; darker is more.

    Parameters
    ----------
    lines: rows of `criticalmass.curves`.
    ax: where to draw.
    measure, selector: the rows to draw.

    Raises
    ------
    CriticalMassError: if no such row has a value.
    """
    layers, fractions, cells = layer_cells(lines, measure=measure, selector=selector)
    headings = [f"{100 * fraction:.3g} %" for fraction in fractions]
    _draw_cells(cells, ax, layers, headings, label="share of the whole layer's value")
    ax.set_xlabel("neurons kept", fontsize="small")
    return ax


def layer_cells(
    lines: pd.DataFrame, *, measure: str, selector: str
) -> tuple[list[str], list[float], npt.NDArray[np.float64]]:
    """Arrange ratios by layer and requested fraction.

    Parameters
    ----------
    lines: rows of `criticalmass.curves`.
    measure, selector: the rows to use.

    Returns
    -------
    Layers (n,), fractions (m,) and ratios (n, m), NaN where a layer was not measured.

    Raises
    ------
    CriticalMassError: if no row of this measure and selector has a value.
    """
    is_selected = (lines["measure"] == measure) & (lines["selector"] == selector)
    rows = lines[is_selected & lines["ratio"].notna()]
    if rows.empty:
        raise CriticalMassError(
            f"no layer to draw for selector {selector!r} and measure {measure!r}; sweep a run with "
            "them"
        )
    key = rows["layer"].astype(str)
    if rows["model"].nunique() > 1 or rows["dataset"].nunique() > 1:
        key = rows["model"].astype(str) + " " + key + " " + rows["dataset"].astype(str)
    wide = rows.assign(key=key, fraction=rows["fraction"].astype(float).round(6)).pivot_table(
        index="key", columns="fraction", values="ratio", sort=False, aggfunc="mean"
    )
    wide = wide[sorted(wide.columns)]
    return [str(name) for name in wide.index], list(wide.columns), wide.to_numpy(float)


def agreement_by_group(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draw kappa of every two groups of subsets; darker is more agreement.

    Parameters
    ----------
    table: rows of `analysis.agreement_matrix.agreement_matrix` of one layer and measure.
    ax: where to draw.

    Raises
    ------
    CriticalMassError: if the rows are not of exactly one layer and measure.
    """
    names, cells = matrix_cells(table)
    _draw_cells(cells, ax, names, names, label="kappa")
    ax.set_xlabel("neurons kept" if str(table["by"].iloc[0]) == "size" else "selector")
    ax.xaxis.label.set_fontsize("small")
    return ax


def matrix_cells(table: pd.DataFrame) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Arrange kappas by group.

    Parameters
    ----------
    table: rows of `analysis.agreement_matrix.agreement_matrix` of one layer and measure.

    Returns
    -------
    Names of the groups (n,) and kappas (n, n).

    Raises
    ------
    CriticalMassError: if the rows are not of exactly one layer and measure.
    """
    keys = table[["model", "layer", "dataset", "measure"]].drop_duplicates()
    if len(keys) != 1:
        raise CriticalMassError(
            f"cannot draw the agreement of {len(keys)} layers and measures; pass the rows of one"
        )
    names = [str(name) for name in dict.fromkeys(table["a"])]
    cells = table["kappa"].to_numpy(float, na_value=np.nan).reshape(len(names), len(names))
    return names, cells


def draw_heat_map(name: str, run: Any, ax: Axes, measures: Sequence[str] = ()) -> Axes:
    """Compute the table of a named heat map and draw it for one measure.

    Parameters
    ----------
    name: "layers" or "matrix".
    run: a run or the path of one.
    ax: where to draw.
    measures: the first is drawn; by default the run's first measure that scores a task.

    Raises
    ------
    CriticalMassError: if a measure is unknown, or there is nothing to draw.
    """
    from criticalmass.analysis.agreement_matrix import agreement_matrix
    from criticalmass.analysis.redundancy import curves

    table = curves(run) if name == "layers" else agreement_matrix(run)
    available = list(dict.fromkeys(table["measure"].astype(str)))
    for measure in measures:
        if measure not in available:
            raise unknown_name("measure", measure, available)
    measure = measures[0] if measures else min(available, key=is_similarity)
    rows = table[table["measure"] == measure]
    if name == "matrix":
        return agreement_by_group(rows, ax)
    selectors = list(dict.fromkeys(rows["selector"].astype(str)))
    selector = "random" if "random" in selectors else selectors[0]
    return layers_by_fraction(rows, ax, measure=measure, selector=selector)


def _add_colour_bar(mesh: Any, ax: Axes, label: str) -> None:
    bar = ax.get_figure(root=True).colorbar(mesh, ax=ax, pad=0.02, aspect=30)  # type: ignore[union-attr]
    bar.outline.set_visible(False)
    bar.set_label(label, fontsize="x-small", color=INK)
    bar.ax.tick_params(colors=INK, length=0, labelsize="x-small")


def _draw_cells(
    cells: npt.NDArray[np.float64],
    ax: Axes,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    label: str,
) -> None:
    """Draw cells in [0, 1] from white (0) to the first colour (1), with numbers if they fit."""
    from matplotlib.colors import LinearSegmentedColormap

    # With 40 shades matplotlib draws the colour bar as vector shapes, not as a bitmap.
    shades = LinearSegmentedColormap.from_list("kept", ["#ffffff", COLOURS[0]], N=40)
    style: Any = {"vmin": 0.0, "vmax": 1.0, "edgecolors": "white", "linewidth": 0.5}
    mesh = ax.pcolormesh(cells, cmap=shades, **style)
    _add_colour_bar(mesh, ax, label)
    ax.invert_yaxis()
    if len(columns) <= _MAX_COLUMN_TEXTS:
        for (i, j), value in np.ndenumerate(cells):
            if np.isfinite(value):
                colour = "white" if value > 0.6 else INK
                ax.text(j + 0.5, i + 0.5, f"{value:.2f}", color=colour, ha="center", va="center",
                        fontsize="x-small")  # fmt: skip
    for names, most, set_ticks in (
        (columns, _MAX_COLUMN_TEXTS, ax.set_xticks),
        (rows, _MAX_ROW_TEXTS, ax.set_yticks),
    ):
        every = max(1, -(-len(names) // most))
        set_ticks(np.arange(0, len(names), every) + 0.5, [escape_math(n) for n in names[::every]])
    ax.tick_params(colors=INK, length=0, labelsize="x-small")
    for side in ax.spines.values():
        side.set_visible(False)
