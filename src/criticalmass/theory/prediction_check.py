"""Comparison of predicted and measured curves: residuals and critical masses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from criticalmass.analysis.predicted_curves import SUBSETS
from criticalmass.theory.prediction import Prediction
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
    """Compare the predicted curves of a layer with the random subsets of a run.

    Parameters
    ----------
    prediction: of one layer.
    run: has random subsets of that layer.
    level: of the measured intervals.

    Returns
    -------
    One row per measure and size below the whole layer, with the columns `RESIDUAL_COLUMNS`.
    residual: measured mean over seeds minus the predicted mean. error: its standard error, from
    the predicted spread over subsets, the number of seeds, and for a sampled prediction its
    number of draws. deviation: residual over error; nan where the predicted spread is 0.
    """
    import pandas as pd

    from criticalmass.analysis.redundancy import curves

    if run.frame().empty:
        return pd.DataFrame(columns=list(RESIDUAL_COLUMNS))
    table = curves(run, level=level)
    table = table[(table["layer"] == prediction.layer) & (table["selector"] == "random")]
    table = table[table["mean"].notna() & (table["n_kept"] < table["n_neurons"])]
    parts = []
    for curve in prediction.curves:
        rows = table[table["measure"] == curve.measure].sort_values("n_kept")
        if rows.empty:
            continue
        n_kept = rows["n_kept"].to_numpy(np.int64)
        mean, std = curve.interpolate(n_kept)
        residual = rows["mean"].to_numpy(float) - mean
        source = np.array([curve.source[i] for i in np.searchsorted(curve.sizes, n_kept)])
        of_draws = np.where(source == SUBSETS, 1.0 / ORDERS, 0.0)
        error = std * np.sqrt(1.0 / rows["n_seeds"].to_numpy(float) + of_draws)
        out = np.full(residual.size, np.nan)
        columns = {
            "measure": curve.measure,
            "n_kept": n_kept,
            "n_neurons": curve.n_neurons,
            "n_seeds": rows["n_seeds"].to_numpy(np.int64),
            "measured": rows["mean"].to_numpy(float),
            "measured_low": rows["low"].to_numpy(float),
            "measured_high": rows["high"].to_numpy(float),
            "predicted": mean,
            "std": std,
            "residual": residual,
            "error": error,
            "deviation": np.divide(residual, error, out=out, where=error > 0),
            "source": source,
        }
        parts.append(pd.DataFrame(columns, columns=list(RESIDUAL_COLUMNS)))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=RESIDUAL_COLUMNS)


def compare_critical_masses(
    prediction: Prediction, run: Run, deltas: Sequence[float], *, level: float = 0.95
) -> pd.DataFrame:
    """Compare critical masses, predicted and measured on random subsets, measure by measure.

    The measured ones are interpolated between the tested sizes, because a predicted critical mass
    does not depend on a grid. Plain CKA is compared with plain, debiased with debiased CKA.

    Parameters
    ----------
    prediction: of one layer.
    run: has random subsets of that layer.
    deltas: shares of the whole layer's value, each in (0, 1].
    level: of all intervals.

    Returns
    -------
    One row per measure and delta, with the columns `MASS_COLUMNS`.
    """
    import pandas as pd

    from criticalmass.analysis.columns import Draws
    from criticalmass.analysis.estimators import DEFAULT_ESTIMATOR
    from criticalmass.analysis.redundancy import redundancy_table
    from criticalmass.analysis.targets import Targets

    rows = []
    if not run.frame().empty:
        draws = Draws(level, resamples=2000, seed=0)
        table = redundancy_table([run], Targets.checked(deltas), DEFAULT_ESTIMATOR, draws)
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
