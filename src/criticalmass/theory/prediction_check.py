"""Predicted curves beside measured ones: residuals, and critical masses of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from criticalmass.theory.prediction import SUBSETS, Prediction
from criticalmass.theory.sampled_ridge import ORDERS

if TYPE_CHECKING:
    import pandas as pd

    from criticalmass.storage.run import Run

RESIDUAL_COLUMNS = (
    "measure", "n_kept", "n_neurons", "n_seeds", "measured", "measured_low", "measured_high",
    "predicted", "std", "residual", "error", "deviation", "source",
)  # fmt: skip
MASS_COLUMNS = (
    "measure", "delta", "n_neurons", "n_seeds", "predicted", "predicted_low", "predicted_high",
    "measured", "measured_low", "measured_high", "estimator", "level",
)  # fmt: skip


def residuals(prediction: Prediction, run: Run, *, level: float = 0.95) -> pd.DataFrame:
    """Hold the predicted curves of a layer against the random subsets of a run.

    Parameters
    ----------
    prediction: of one layer.
    run: with random subsets of it.
    level: of the measured band.

    Returns
    -------
    One row per measure and size below the whole layer: the columns `RESIDUAL_COLUMNS`.
    residual: measured mean over seeds less the predicted one. error: its standard error, from
    the predicted scatter over subsets: that of the seeds, and of the draws behind a prediction
    that was drawn. deviation: residual over error, nan where subsets are not predicted to differ.
    """
    import pandas as pd

    from criticalmass.analysis.redundancy import curves

    if run.frame().empty:
        return pd.DataFrame(columns=list(RESIDUAL_COLUMNS))
    table = curves(run, level=level)
    mine = (table["layer"] == prediction.layer) & (table["selector"] == "random")
    parts = []
    for curve in prediction.curves:
        rows = table[mine & (table["measure"] == curve.measure) & table["mean"].notna()]
        rows = rows[rows["n_kept"] < rows["n_neurons"]].sort_values("n_kept")
        if rows.empty:
            continue
        size = rows["n_kept"].to_numpy(np.int64)
        mean, std = curve.at(size)
        gap = rows["mean"].to_numpy(float) - mean
        source = np.array([curve.source[i] for i in np.searchsorted(curve.sizes, size)])
        drawn = np.where(source == SUBSETS, 1.0 / ORDERS, 0.0)
        error = std * np.sqrt(1.0 / rows["n_seeds"].to_numpy(float) + drawn)
        found = {
            "measure": curve.measure,
            "n_kept": size,
            "n_neurons": curve.n_neurons,
            "n_seeds": rows["n_seeds"].to_numpy(np.int64),
            "measured": rows["mean"].to_numpy(float),
            "measured_low": rows["low"].to_numpy(float),
            "measured_high": rows["high"].to_numpy(float),
            "predicted": mean,
            "std": std,
            "residual": gap,
            "error": error,
            "deviation": np.divide(gap, error, out=np.full(gap.size, np.nan), where=error > 0),
            "source": source,
        }
        parts.append(pd.DataFrame(found, columns=list(RESIDUAL_COLUMNS)))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=RESIDUAL_COLUMNS)


def masses_beside(
    prediction: Prediction, run: Run, deltas: Sequence[float], *, level: float = 0.95
) -> pd.DataFrame:
    """Critical masses, predicted and measured on random subsets.

    Measured ones are interpolated between the tested sizes: a law knows no grid.

    Parameters
    ----------
    prediction: of one layer.
    run: with random subsets of it.
    deltas: shares of the whole layer's value, each in (0, 1].
    level: of all intervals.

    Returns
    -------
    One row per measure and delta: the columns `MASS_COLUMNS`.
    """
    import pandas as pd

    from criticalmass.analysis.redundancy import redundancy

    rows = []
    if not run.frame().empty:
        table = redundancy(run, deltas=tuple(deltas), estimator="interpolated", level=level)
        table = table[(table["layer"] == prediction.layer) & (table["selector"] == "random")]
        for row in table[table["critical_mass"].notna()].to_dict("records"):
            curve = prediction.curve(str(row["measure"]))
            if curve is None:
                continue
            n_seeds = int(row["n_seeds"])
            mass, low, high = curve.critical_mass(float(row["delta"]), n_seeds, level)
            rows.append(
                {
                    **{name: row[name] for name in ("measure", "delta", "n_neurons", "estimator")},
                    "n_seeds": n_seeds,
                    "predicted": mass,
                    "predicted_low": low,
                    "predicted_high": high,
                    "measured": row["critical_mass"],
                    "measured_low": row["critical_mass_low"],
                    "measured_high": row["critical_mass_high"],
                    "level": level,
                }
            )
    return pd.DataFrame(rows, columns=list(MASS_COLUMNS))
