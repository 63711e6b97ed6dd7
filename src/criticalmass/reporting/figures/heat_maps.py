"""Heat maps: the value that every layer keeps, and the agreement between subsets.

Each figure is described once, by a function that returns a `Plot`; a second function draws this
description on an ``ax`` that follows the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from criticalmass.errors import CriticalMassError
from criticalmass.reporting.figures.draw import on_axes
from criticalmass.reporting.plots import Cells, Plot

if TYPE_CHECKING:
    import pandas as pd


def layers_plot(lines: pd.DataFrame, *, measure: str, selector: str) -> Plot:
    """Describe the share of its whole layer's value that every layer keeps; darker is more.

    Parameters
    ----------
    lines: rows of `criticalmass.curves`.
    measure, selector: the rows to draw.

    Raises
    ------
    CriticalMassError: if no such row has a value.
    """
    names, fractions, cells = layer_cells(lines, measure=measure, selector=selector)
    rows = lines[(lines["measure"] == measure) & (lines["selector"] == selector)]
    return Plot(
        name="layers",
        title=f"Layers ({measure}, {selector})",
        caption="Share of the layer’s own value that subsets keep; darker is more.",
        summary=f"Heat map of {len(names)} layers by {len(fractions)} fractions of neurons kept.",
        table=rows[rows["ratio"].notna()].reset_index(drop=True),
        cells=Cells(
            names,
            [f"{100 * fraction:.3g} %" for fraction in fractions],
            cells.tolist(),
            label="share of the whole layer’s value",
            column_label="neurons kept",
        ),
    )


def matrix_plot(table: pd.DataFrame) -> Plot:
    """Describe kappa of every two groups of subsets; darker is more agreement.

    Parameters
    ----------
    table: rows of `analysis.agreement_matrix.agreement_matrix` of one layer and measure.

    Raises
    ------
    CriticalMassError: if the rows are not of exactly one layer and measure.
    """
    names, cells = matrix_cells(table)
    by_size = str(table["by"].iloc[0]) == "size"
    return Plot(
        name="agreement-matrix",
        title="Agreement of sizes" if by_size else "Agreement of selectors",
        caption=(
            "Kappa between predictions, mean over pairs of subsets of different seeds. "
            + (
                "Rows and columns: neurons kept."
                if by_size
                else "The subsets keep about a tenth of the neurons."
            )
        ),
        summary=f"Heat map of the agreement between {len(names)} groups of subsets.",
        table=table.reset_index(drop=True),
        cells=Cells(
            names,
            names,
            cells.tolist(),
            label="kappa",
            column_label="neurons kept" if by_size else "selector",
        ),
    )


layers_by_fraction = on_axes(layers_plot)
agreement_by_group = on_axes(matrix_plot)


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
