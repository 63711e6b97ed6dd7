"""Heat maps: what every layer keeps, and how far subsets agree with each other.

Each function takes a table and an ``ax``, draws on it and returns it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.measures.registry import is_similarity
from criticalmass.reporting.figures.style import COLOURS, INK

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Up to so many columns every cell also says its number.
_WRITTEN = 8


def layers_by_fraction(lines: pd.DataFrame, ax: Axes, *, measure: str, selector: str) -> Axes:
    """Draw the share of its whole layer's value that every layer keeps; darker keeps more.

    Parameters
    ----------
    lines: rows of `criticalmass.curves`.
    ax: where to draw.
    measure, selector: whose rows.

    Raises
    ------
    CriticalMassError: no such row with a value.
    """
    rows, columns, cells = layer_cells(lines, measure=measure, selector=selector)
    headings = [f"{100 * f:.3g} %" for f in columns]
    _map(cells, ax, rows, headings, label="share of the whole layer's value")
    ax.set_xlabel("neurons kept", fontsize="small")
    return ax


def layer_cells(
    lines: pd.DataFrame, *, measure: str, selector: str
) -> tuple[list[str], list[float], npt.NDArray[np.float64]]:
    """Arrange ratios by layer and requested fraction.

    Returns
    -------
    layers (n,), fractions (m,) and ratios (n, m), NaN where a layer was not measured.

    Raises
    ------
    CriticalMassError: no row of this measure and selector with a value.
    """
    mine = (lines["measure"] == measure) & (lines["selector"] == selector)
    rows = lines[mine & lines["ratio"].notna()]
    if rows.empty:
        raise CriticalMassError(f"no layer to draw for {selector!r} and {measure!r}")
    names = rows["model"].nunique() > 1 or rows["dataset"].nunique() > 1
    key = rows["layer"].astype(str)
    if names:
        key = rows["model"].astype(str) + " " + key + " " + rows["dataset"].astype(str)
    wide = rows.assign(key=key, fraction=rows["fraction"].astype(float).round(6)).pivot_table(
        index="key", columns="fraction", values="ratio", sort=False, aggfunc="mean"
    )
    wide = wide[sorted(wide.columns)]
    return [str(name) for name in wide.index], list(wide.columns), wide.to_numpy(float)


def agreement_by_group(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draw kappa of every two groups of subsets; darker agrees more.

    Parameters
    ----------
    table: rows of `analysis.agreement_matrix.agreement_matrix` of one layer and measure.
    ax: where to draw.

    Raises
    ------
    CriticalMassError: nothing to draw, or rows of more than one layer and measure.
    """
    names, cells = matrix_cells(table)
    _map(cells, ax, names, names, label="kappa")
    ax.set_xlabel("neurons kept" if str(table["by"].iloc[0]) == "size" else "selector")
    ax.xaxis.label.set_fontsize("small")
    return ax


def matrix_cells(table: pd.DataFrame) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Arrange kappas by group: names (n,) and values (n, n).

    Raises
    ------
    CriticalMassError: as `agreement_by_group`.
    """
    keys = table[["model", "layer", "dataset", "measure"]].drop_duplicates()
    if len(keys) != 1:
        raise CriticalMassError(
            f"agreement of {len(keys)} layers and measures to draw; hand over the rows of one"
        )
    names = [str(name) for name in dict.fromkeys(table["a"])]
    cells = table["kappa"].to_numpy(float, na_value=np.nan).reshape(len(names), len(names))
    return names, cells


def draw_map(name: str, run: Any, ax: Axes, measures: Sequence[str] = ()) -> Axes:
    """Compute the table of a named map and draw it for one measure.

    Parameters
    ----------
    name: "layers" or "matrix".
    run: a run or the path of one.
    ax: where to draw.
    measures: the one to draw; by default the first that scores a task.

    Raises
    ------
    CriticalMassError: unknown measure, or nothing to draw.
    """
    from criticalmass.analysis.agreement_matrix import agreement_matrix
    from criticalmass.analysis.redundancy import curves

    table = curves(run) if name == "layers" else agreement_matrix(run)
    known = list(dict.fromkeys(table["measure"].astype(str)))
    for measure in measures:
        if measure not in known:
            raise unknown_name("measure", measure, known)
    first = measures[0] if measures else min(known, key=is_similarity)
    rows = table[table["measure"] == first]
    if name == "matrix":
        return agreement_by_group(rows, ax)
    selectors = list(dict.fromkeys(rows["selector"].astype(str)))
    chosen = "random" if "random" in selectors else selectors[0]
    return layers_by_fraction(rows, ax, measure=first, selector=chosen)


def _scale(mesh: Any, ax: Axes, label: str) -> None:
    """Say beside the map what its shades mean."""
    scale = ax.get_figure(root=True).colorbar(mesh, ax=ax, pad=0.02, aspect=30)  # type: ignore[union-attr]
    scale.outline.set_visible(False)
    scale.set_label(label, fontsize="x-small", color=INK)
    scale.ax.tick_params(colors=INK, length=0, labelsize="x-small")


def _map(
    cells: npt.NDArray[np.float64],
    ax: Axes,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    label: str,
) -> None:
    """Draw cells in [0, 1] from white to the first colour, with their numbers where they fit."""
    from matplotlib.colors import LinearSegmentedColormap

    # Few enough shades that the scale beside is drawn as shapes, not as a picture.
    shades = LinearSegmentedColormap.from_list("kept", ["#ffffff", COLOURS[0]], N=40)
    look: Any = {"vmin": 0.0, "vmax": 1.0, "edgecolors": "white", "linewidth": 0.5}
    mesh = ax.pcolormesh(cells, cmap=shades, **look)
    _scale(mesh, ax, label)
    ax.invert_yaxis()
    if len(columns) <= _WRITTEN:
        for (i, j), value in np.ndenumerate(cells):
            if np.isfinite(value):
                colour = "white" if value > 0.6 else INK
                ax.text(j + 0.5, i + 0.5, f"{value:.2f}", color=colour, ha="center", va="center",
                        fontsize="x-small")  # fmt: skip
    every = max(1, -(-len(columns) // _WRITTEN))
    ax.set_xticks(np.arange(0, len(columns), every) + 0.5, [_plain(c) for c in columns[::every]])
    every = max(1, -(-len(rows) // 20))
    ax.set_yticks(np.arange(0, len(rows), every) + 0.5, [_plain(r) for r in rows[::every]])
    ax.tick_params(colors=INK, length=0, labelsize="x-small")
    for side in ax.spines.values():
        side.set_visible(False)


def _plain(name: str) -> str:
    return name.replace("$", r"\$")
