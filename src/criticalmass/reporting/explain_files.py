"""Files of `explain`: tables, figures and the paragraph."""

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

PARAGRAPH_FILE = "explanation.txt"


def write_explanation(explanation: Explanation, folder: Path) -> None:
    """Write tables (CSV), figures (SVG) and the paragraph, each file atomically.

    Parameters
    ----------
    explanation: what to write.
    folder: a new or empty folder, or one with an earlier explanation.

    Raises
    ------
    CriticalMassError: if the folder has other content.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / PARAGRAPH_FILE).is_file():
        raise CriticalMassError(f"{folder} is not empty; choose another folder for --out")
    tables = {
        "masses": explanation.masses,
        "curves": explanation.curves,
        "spectrum": explanation.spectrum,
    }
    if explanation.compared is not None and explanation.compared_masses is not None:
        tables["compared"] = explanation.compared
        tables["compared_masses"] = explanation.compared_masses
    text = f"{explanation.paragraph}\n".encode()
    write_atomically(folder / PARAGRAPH_FILE, lambda file: file.write(text))
    for name, table in tables.items():
        write_atomically(folder / f"{name}.csv", partial(_write_csv, table))
    for name, figure in _draw_figures(explanation).items():
        write_atomically(folder / f"{name}.svg", partial(_write_svg, figure))


def _draw_figures(explanation: Explanation) -> dict[str, Figure]:
    """Draw the spectrum, the predicted curves and, with a run, the measured ones."""
    from criticalmass.reporting.figures import predictions
    from criticalmass.reporting.figures.draw import draw_alone

    plots = {"spectrum": predictions.spectrum_plot(explanation.spectrum)}
    curves, compared = explanation.curves, explanation.compared
    for curve in explanation.prediction.curves:
        measure = curve.measure
        if compared is None or not (compared["measure"] == measure).any():
            plots[measure] = predictions.prediction_plot(curves, measure)
            continue
        plots[measure] = predictions.comparison_plot(curves, compared, measure)
        plots[f"{measure}-residual"] = predictions.residual_plot(compared, measure)
    return {name: draw_alone(plot) for name, plot in plots.items()}


def _write_csv(table: pd.DataFrame, file: BinaryIO) -> None:
    table.to_csv(file, index=False)


def _write_svg(figure: Figure, file: BinaryIO) -> None:
    figure.savefig(file, format="svg")
