"""What `explain` leaves in a folder: tables, figures and the paragraph."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from criticalmass.errors import CriticalMassError
from criticalmass.storage.files import write_atomically

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from criticalmass.reporting.explanation import Explanation

PARAGRAPH = "explanation.txt"


def write_explanation(made: Explanation, folder: Path) -> None:
    """Write an explanation into a folder that is new, empty, or holds an earlier one.

    Each file is written at a stroke; tables as CSV, figures as SVG.

    Raises
    ------
    CriticalMassError: if the folder holds something else.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / PARAGRAPH).is_file():
        raise CriticalMassError(f"{folder} is not empty; choose another folder for --out")
    tables = {"masses": made.masses, "curves": made.curves, "spectrum": made.spectrum}
    if made.compared is not None and made.compared_masses is not None:
        tables |= {"compared": made.compared, "compared_masses": made.compared_masses}
    write_atomically(folder / PARAGRAPH, lambda file: file.write(f"{made.paragraph}\n".encode()))
    for name, table in tables.items():
        write_atomically(folder / f"{name}.csv", partial(_write_csv, table))
    for name, figure in draw(made).items():
        write_atomically(folder / f"{name}.svg", partial(_write_svg, figure))


def draw(made: Explanation) -> dict[str, Figure]:
    """Draw an explanation: its spectrum, its curves, and what was measured of them."""
    from criticalmass.reporting.figures import predictions as draws
    from criticalmass.reporting.figures.style import new_axes

    found = {}
    found["spectrum"], ax = new_axes()
    draws.spectrum(made.spectrum, ax)
    compared = made.compared
    for curve in made.prediction.curves:
        name = curve.measure
        found[name], ax = new_axes()
        if compared is None or not (compared["measure"] == name).any():
            draws.predicted_curve(made.curves, ax, measure=name)
            continue
        draws.predicted_over_measured(made.curves, compared, ax, measure=name)
        found[f"{name}-residual"], ax = new_axes()
        draws.residual_against_fraction(compared, ax, measure=name)
    return found


def _write_csv(table: pd.DataFrame, file: BinaryIO) -> None:
    table.to_csv(file, index=False)


def _write_svg(figure: Figure, file: BinaryIO) -> None:
    figure.savefig(file, format="svg")
