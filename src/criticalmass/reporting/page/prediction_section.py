"""What was predicted of a run's layers before the sweep, beside what it measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from criticalmass.reporting.explanation import verdict
from criticalmass.reporting.figures.axes import plain_axis, share_axis
from criticalmass.reporting.formatting import percent
from criticalmass.reporting.page.plot_spec import Plot, Series

if TYPE_CHECKING:
    import pandas as pd

    from criticalmass.storage.run import Run
    from criticalmass.theory.prediction import Prediction

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
    plots: of each measure, the curve and what is left of it.
    """

    layer: str
    told: list[str]
    rows: list[dict[str, str]]
    plots: list[Plot]


def predicted(run: Run, deltas: Sequence[float]) -> list[Predicted]:
    """Gather the section 'Predicted without a sweep', empty for a run without predictions.

    Parameters
    ----------
    run: the run; predictions for other features than it was measured on are not there.
    deltas: shares of the whole layer's value, each in (0, 1].
    """
    from criticalmass.theory.prediction_check import masses_beside, residuals
    from criticalmass.theory.prediction_file import read_predictions

    found = []
    for prediction in read_predictions(run).values():
        compared = residuals(prediction, run)
        if compared.empty:
            continue
        masses = masses_beside(prediction, run, deltas)
        found.append(
            Predicted(
                layer=prediction.layer,
                told=_told(prediction, compared),
                rows=[_row(row) for row in masses.to_dict("records")],
                plots=_plots(prediction, compared),
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


def _plots(prediction: Prediction, compared: pd.DataFrame) -> list[Plot]:
    """Draw each measure: the predicted line over the measured band, and the residual."""
    lines = _lines(prediction)
    found: list[Plot] = []
    for measure in compared["measure"].unique():
        rows = compared[compared["measure"] == measure].sort_values("n_kept")
        found.append(_curve(lines[lines["measure"] == measure], rows, str(measure)))
        found.append(_residual(rows, str(measure)))
    return found


def _curve(line: pd.DataFrame, rows: pd.DataFrame, measure: str) -> Plot:
    from criticalmass.measures.registry import measure_label
    from criticalmass.reporting.figures import predictions, style

    drawing, ax = style.new_axes()
    predictions.predicted_over_measured(line, rows, ax, measure=measure)
    kept = (rows["n_kept"] / rows["n_neurons"]).astype(float)
    shown = line[line["fraction"] >= 0.9 * kept.min()]
    measured = [rows[name].tolist() for name in ("measured", "measured_low", "measured_high")]
    values = [*shown["mean"], *(v for part in measured for v in part if v == v)]
    return Plot(
        name=f"predicted-{measure}",
        title=f"{measure}: predicted and measured",
        caption=_CURVE,
        summary=f"Predicted and measured {measure} against the share of neurons kept.",
        table=rows.reset_index(drop=True),
        drawing=drawing,
        x=share_axis(float(kept.min()), int(rows["n_neurons"].iloc[0])),
        y=plain_axis(values, measure_label(measure), top=1.02),
        series=(
            Series("predicted", shown["fraction"].tolist(), shown["mean"].tolist(), shape="bare"),
            Series(
                "measured",
                kept.tolist(),
                measured[0],
                measured[1],
                measured[2],
                style=1,
                shape="points",
            ),
        ),
    )


def _residual(rows: pd.DataFrame, measure: str) -> Plot:
    from criticalmass.reporting.figures import predictions, style

    drawing, ax = style.new_axes()
    predictions.residual_against_fraction(rows, ax, measure=measure)
    kept = (rows["n_kept"] / rows["n_neurons"]).astype(float)
    reach = (1.96 * rows["error"]).astype(float)
    band = [(-reach).tolist(), reach.tolist()]
    values = [*rows["residual"], *band[0], *band[1]]
    return Plot(
        name=f"residual-{measure}",
        title=f"{measure}: measured less predicted",
        caption=_RESIDUAL,
        summary=f"Difference of measured and predicted {measure} by share of neurons kept.",
        table=rows.reset_index(drop=True),
        drawing=drawing,
        x=share_axis(float(kept.min()), int(rows["n_neurons"].iloc[0])),
        y=plain_axis([v for v in values if v == v], "measured less predicted"),
        series=(
            Series("95 % range", kept.tolist(), [0.0] * len(kept), band[0], band[1], shape="bare"),
            Series("measured less predicted", kept.tolist(), rows["residual"].tolist(), style=1),
        ),
        rules=(("y", 0.0, "", False),),
    )


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
