"""What was predicted of a run's layers before the sweep, beside what it measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from criticalmass.explain_words import verdict
from criticalmass.report.answers import percent

if TYPE_CHECKING:
    import pandas as pd
    from markupsafe import Markup
    from matplotlib.figure import Figure

    from criticalmass.prediction import Prediction
    from criticalmass.results import Run

_SHOWN_SIZES = 120
_CURVE = (
    "Line: predicted from second moments alone. Squares and band: measured, with their interval."
)
_RESIDUAL = (
    "Band: where 95 % of means over as many seeds fall if the law holds. The subsets of a seed are "
    "nested, so neighbouring sizes err together."
)


@dataclass(frozen=True)
class Predicted:
    """The section of one layer.

    Attributes
    ----------
    layer: its name.
    told: sentences about the layer and about how well the prediction holds.
    rows: critical masses, predicted and measured, written out.
    drawings: (title, caption, svg) of each measure.
    """

    layer: str
    told: list[str]
    rows: list[dict[str, str]]
    drawings: list[tuple[str, str, Markup]]


def predicted(run: Run, deltas: Sequence[float], identity: str) -> list[Predicted]:
    """Gather the section 'Predicted without a sweep', empty for a run without predictions.

    Parameters
    ----------
    run: the run; predictions for other features than it was measured on are not there.
    deltas: shares of the whole layer's value, each in (0, 1].
    identity: prefix that keeps the ids of drawings apart.
    """
    from criticalmass.prediction_check import masses_beside, residuals
    from criticalmass.prediction_file import read_predictions

    found = []
    for number, prediction in enumerate(read_predictions(run).values()):
        compared = residuals(prediction, run)
        if compared.empty:
            continue
        masses = masses_beside(prediction, run, deltas)
        found.append(
            Predicted(
                layer=prediction.layer,
                told=_told(prediction, compared),
                rows=[_row(row) for row in masses.to_dict("records")],
                drawings=_drawings(prediction, compared, f"{identity}-law-{number}"),
            )
        )
    return found


def _told(prediction: Prediction, compared: pd.DataFrame) -> list[str]:
    """Say what the layer is, how far measured means lie off, and the outcome of the test."""
    d, ratio = prediction.n_neurons, prediction.participation_ratio
    lines = [
        f"The layer’s {d:,} neurons have {ratio:,.0f} effective dimensions (participation ratio, "
        "standardised)."
    ]
    for measure, rows in compared.groupby("measure", sort=False):
        gap = rows["residual"].abs()
        worst = rows.loc[gap.idxmax()]
        inside = int((rows["deviation"].abs() <= 1.96).sum())
        lines.append(
            f"{measure}: measured means lie within {gap.max():.3f} of the predicted ones (the "
            f"farthest at {int(worst['n_kept']):,} neurons, {abs(worst['deviation']):.1f} standard "
            f"errors off); {inside} of {len(rows)} sizes lie inside the predicted 95 % range."
            if np.isfinite(worst["deviation"])
            else f"{measure}: measured means lie within {gap.max():.3f} of the predicted ones."
        )
    test = prediction.diffuseness
    if test is not None:
        # The laws average over random subsets, so they hold for layers that fail the test too.
        lines.append(verdict(test))
    return lines


def _row(row: dict[Any, Any]) -> dict[str, str]:
    """Write one row of predicted and measured critical masses."""
    return {
        "measure": str(row["measure"]),
        "delta": percent(float(row["delta"])),
        "predicted": f"{int(row['predicted']):,}",
        "predicted_interval": f"{int(row['predicted_low']):,} to {int(row['predicted_high']):,}",
        "measured": _whole(row["measured"]),
        "measured_interval": f"{_whole(row['measured_low'])} to {_whole(row['measured_high'])}",
    }


def _whole(value: Any) -> str:
    import pandas as pd

    return "–" if pd.isna(value) else f"{round(float(value)):,}"


def _drawings(
    prediction: Prediction, compared: pd.DataFrame, identity: str
) -> list[tuple[str, str, Markup]]:
    """Draw each measure: the predicted line over the measured band, and the residual."""
    from criticalmass import figures, figures_explain
    from criticalmass.report.drawing import inline_svg

    lines = _lines(prediction)
    drawn: list[tuple[str, str, Markup]] = []

    def add(title: str, caption: str, figure: Figure) -> None:
        svg = inline_svg(figure, identity=f"{identity}-{len(drawn)}", description=title)
        drawn.append((title, caption, svg))

    for measure in compared["measure"].unique():
        figure, ax = figures.new_axes()
        figures_explain.predicted_over_measured(lines, compared, ax, measure=measure)
        add(f"{measure}: predicted and measured", _CURVE, figure)
        figure, ax = figures.new_axes()
        figures_explain.residual_against_fraction(compared, ax, measure=measure)
        add(f"{measure}: measured less predicted", _RESIDUAL, figure)
    return drawn


def _lines(prediction: Prediction) -> pd.DataFrame:
    """Lay the predicted curves out for drawing."""
    import pandas as pd

    parts = []
    for curve in prediction.curves:
        size = np.unique(np.round(np.geomspace(1, curve.n_neurons, _SHOWN_SIZES)).astype(np.int64))
        mean, _ = curve.at(size)
        line = {"measure": curve.measure, "fraction": size / curve.n_neurons, "mean": mean}
        parts.append(pd.DataFrame(line))
    return pd.concat(parts, ignore_index=True)
