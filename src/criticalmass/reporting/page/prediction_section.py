"""The section of the page that compares predictions made without a sweep with the sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from criticalmass.reporting.explanation import diffuseness_sentence
from criticalmass.reporting.figures.predictions import comparison_plot, residual_plot
from criticalmass.reporting.formatting import count_of, decimal, integer, is_missing, percent
from criticalmass.reporting.plots import Plot

if TYPE_CHECKING:
    import pandas as pd

    from criticalmass.storage.run import Run
    from criticalmass.theory.prediction import Prediction

_N_SIZES = 120


@dataclass(frozen=True)
class PredictionSection:
    """The section of one layer.

    Attributes
    ----------
    layer: its name.
    sentences: about the layer, and about how well the prediction holds.
    rows: predicted and measured critical masses, as text.
    plots: for each measure, the curve and the residuals.
    """

    layer: str
    sentences: list[str]
    rows: list[dict[str, str]]
    plots: list[Plot]


def prediction_sections(run: Run, deltas: Sequence[float]) -> list[PredictionSection]:
    """Return one section per predicted layer; none for a run without predictions.

    Parameters
    ----------
    run: the run; predictions for other features than its own are ignored.
    deltas: shares of the whole layer's value, each in (0, 1].
    """
    from criticalmass.theory.prediction_check import compare_critical_masses, residuals
    from criticalmass.theory.prediction_file import read_predictions

    sections = []
    for prediction in read_predictions(run).values():
        compared = residuals(prediction, run)
        if compared.empty:
            continue
        masses = compare_critical_masses(prediction, run, deltas)
        sections.append(
            PredictionSection(
                layer=prediction.layer,
                sentences=_sentences(prediction, compared),
                rows=[_row(row) for row in masses.to_dict("records")],
                plots=_plots(prediction, compared),
            )
        )
    return sections


def _sentences(prediction: Prediction, compared: pd.DataFrame) -> list[str]:
    """Describe the layer, the residuals and the outcome of the diffuseness test."""
    sentences = [
        f"The layer’s {prediction.n_neurons:,} neurons have "
        f"{prediction.participation_ratio:,.0f} effective dimensions (participation ratio of the "
        "standardised neurons)."
    ]
    for measure, rows in compared.groupby("measure", sort=False):
        distance = rows["residual"].abs()
        largest = rows.loc[distance.idxmax()]
        text = (
            f"{measure}: measured means differ from the predicted ones by at most "
            f"{decimal(distance.max(), 3)}"
        )
        if np.isfinite(largest["deviation"]):
            n_inside = int((rows["deviation"].abs() <= 1.96).sum())
            text += (
                f" (at {count_of(int(largest['n_kept']), 'neuron')}, "
                f"{decimal(abs(largest['deviation']), 1)} standard errors); {n_inside} of "
                f"{len(rows)} sizes are inside the predicted 95 % range"
            )
        sentences.append(f"{text}.")
    if prediction.diffuseness is not None:
        # The laws average over random subsets, so they also hold for layers that fail the test.
        sentences.append(diffuseness_sentence(prediction.diffuseness))
    return sentences


def _row(row: dict[Any, Any]) -> dict[str, str]:
    """Return one row of predicted and measured critical masses as text."""
    texts = {"measure": str(row["measure"]), "delta": percent(float(row["delta"]))}
    for name in ("predicted", "measured"):
        texts[name] = integer(row[name])
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        texts[f"{name}_interval"] = "" if is_missing(low) else f"{integer(low)} to {integer(high)}"
    return texts


def _plots(prediction: Prediction, compared: pd.DataFrame) -> list[Plot]:
    """Describe the predicted and the measured curve and the residuals of each measure."""
    curves = _curve_table(prediction)
    plots: list[Plot] = []
    for measure in compared["measure"].unique():
        plots.append(comparison_plot(curves, compared, measure))
        plots.append(residual_plot(compared, measure))
    return plots


def _curve_table(prediction: Prediction) -> pd.DataFrame:
    """Return the predicted curves at the sizes to draw: columns measure, fraction, mean."""
    import pandas as pd

    tables = []
    for curve in prediction.curves:
        sizes = np.unique(np.round(np.geomspace(1, curve.n_neurons, _N_SIZES)).astype(np.int64))
        mean, _ = curve.interpolate(sizes)
        columns = {"measure": curve.measure, "fraction": sizes / curve.n_neurons, "mean": mean}
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)
