"""``explain``: predict the redundancy of a layer from its second moments, without a sweep."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.arguments import validate_arguments
from criticalmass.core.moments import Moments, moments
from criticalmass.core.progress import warn_user
from criticalmass.core.rows import Rows
from criticalmass.core.threads import limit_libraries
from criticalmass.errors import CriticalMassError, RunError, StoreError
from criticalmass.reporting.arguments import sorted_deltas
from criticalmass.reporting.explanation import (
    CKA_DELTA,
    CLASS_VARIANCE_SHARES,
    TASK_DELTA,
    Explanation,
    TaskRequirement,
)
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.run import Run
from criticalmass.theory.degrees_of_freedom import degrees_of_freedom
from criticalmass.theory.prediction import (
    FEWEST_SAMPLES_PER_NEURON,
    Prediction,
    debiased_cka_curve,
    ridge_curve,
)
from criticalmass.theory.prediction_check import compare_critical_masses, residuals
from criticalmass.theory.prediction_file import (
    predict_from_moments,
    read_predictions,
    write_predictions,
)
from criticalmass.theory.spectrum import correlation
from criticalmass.theory.what_if import first_order_critical_mass

if TYPE_CHECKING:
    import pandas as pd

    from criticalmass.analysis.predicted_curves import PredictedCurve
    from criticalmass.measures.probes.closed_form import LinearSystem
    from criticalmass.theory.eigenbasis import Eigenbasis


@validate_arguments
def explain(
    store: FeatureStore | str | os.PathLike[str],
    *,
    layer: str | None = None,
    deltas: Sequence[float] = (0.8, 0.9, 0.95),
    seeds: int = 5,
    level: float = 0.95,
    run: Run | str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
) -> Explanation:
    """Predict DR and critical mass of a layer from its second moments, without a sweep.

    CKA is predicted for the raw features of the split ``test``, on which a sweep measures it.
    With fewer than 5 test samples per neuron plain CKA is biased: the critical mass is too small
    by more than its interval. Then debiased CKA (measure ``cka-debiased``) is predicted too, and
    the paragraph states it. A run is compared measure by measure.
    With labels, ridge probes are predicted too: they train on ``train`` and are scored on
    ``test``. Subsets of up to 64 neurons are sampled, larger ones follow the law. Laws and their
    errors: docs/theory.md.

    Parameters
    ----------
    store: a feature store or its folder.
    layer: layer of the store; by default ``penultimate``, or the only one.
    deltas: shares of the whole layer's value, each in (0, 1].
    seeds, level: the intervals hold the mean and the critical mass of a sweep over ``seeds``
        random subsets with probability ``level``. They do not include the noise of the test
        samples and the error of the laws.
    run: a run of the same features. The prediction is compared with it, and the diffuseness test
        is made.
    out: folder for tables, figures and the paragraph. If it is the folder of a run, only the
        prediction is written into the run, and the report of the run shows it.

    Raises
    ------
    CriticalMassError: if layer, deltas, seeds or level is invalid, or all neurons are constant.
    StoreError: if the store has no split ``test``, or it has fewer than 2 samples.
    RunError: if the run was measured on other features.
    """
    started = time.perf_counter()
    features = FeatureStore.open(store if isinstance(store, FeatureStore) else Path(store))
    layer = _resolve_layer(features, layer)
    deltas = sorted_deltas(deltas)
    measured_run = None if run is None else _open_run_of(run, features, layer)
    target_run = None
    if out is not None and Run.exists(out):
        target_run = _open_run_of(out, features, layer)
    has_run = measured_run is not None or target_run is not None
    prediction, basis, test_moments = _predict(features, layer, test_diffuseness=has_run)
    spectrum = _spectrum_table(basis, test_moments)
    compared, compared_masses = None, None
    if measured_run is not None:
        compared = residuals(prediction, measured_run, level=level)
        compared_masses = compare_critical_masses(prediction, measured_run, deltas, level=level)
    task = None
    if basis is not None:
        task = _task_requirement(prediction, basis, spectrum, seeds, level)
    explanation = Explanation(
        model=features.model,
        dataset=features.dataset,
        prediction=prediction,
        masses=_critical_mass_table(prediction, deltas, seeds, level),
        curves=_curve_table(prediction, seeds, level),
        spectrum=spectrum,
        n_seeds=seeds,
        level=level,
        cka_twice_as_wide=_cka_growth_at_double_width(prediction),
        task=task,
        compared=compared,
        compared_masses=compared_masses,
        seconds=time.perf_counter() - started,
    )
    if target_run is not None:
        with target_run.writer():
            predictions = {**read_predictions(target_run), layer: prediction}
            write_predictions(target_run, predictions.values())
    elif out is not None:
        from criticalmass.reporting.explain_files import write_explanation

        write_explanation(explanation, Path(out))
    return explanation


def _predict(
    store: FeatureStore, layer: str, *, test_diffuseness: bool
) -> tuple[Prediction, Eigenbasis | None, Moments]:
    """Predict a layer.

    Returns
    -------
    The prediction, the eigenbasis of the training split (None without labels), and the moments
    of the test split.
    """
    # A BLAS library that is loaded inside threadpool_limits would not be limited.
    import scipy.linalg.blas  # noqa: F401

    from criticalmass.theory.eigenbasis import decompose

    test_rows, system = store.features("test", layer), _training_system(store, layer)
    with limit_libraries(1), ThreadPoolExecutor(1) as executor:
        basis_future = None if system is None else executor.submit(decompose, *system)
        test_moments = moments(test_rows)
        if not np.diagonal(test_moments.scatter).any():
            raise CriticalMassError(
                f"every neuron of layer {layer!r} is constant on the split 'test' of "
                f"{str(store.path)!r}, so there is nothing to predict; choose another layer"
            )
        basis = None if basis_future is None else basis_future.result()
        prediction_future = executor.submit(
            predict_from_moments,
            test_moments,
            layer=layer,
            digest=store.digest(layer),
            test=test_diffuseness,
        )
        ridge = [] if basis is None else [ridge_curve(basis, test_rows, store.labels("test"))]
        prediction = prediction_future.result()
        curves = (*prediction.curves, *_debiased_curve(prediction, test_rows), *ridge)
    return replace(prediction, curves=curves), basis, test_moments


def _debiased_curve(prediction: Prediction, rows: Rows) -> list[PredictedCurve]:
    """Return the curve of debiased CKA where plain CKA is biased; else nothing.

    Warns if it is biased and there are too few samples for debiased CKA too.
    """
    fewest = FEWEST_SAMPLES_PER_NEURON * prediction.n_neurons
    if prediction.n_test >= fewest:
        return []
    try:
        return [debiased_cka_curve(rows)]
    except CriticalMassError:
        warn_user(
            f"layer {prediction.layer!r}: {prediction.n_test:,} test samples are too few for "
            f"{prediction.n_neurons:,} neurons, so the critical masses of CKA are too small; give "
            f"{fewest:,} or more"
        )
        return []


def _resolve_layer(store: FeatureStore, layer: str | None) -> str:
    """Return the layer to explain.

    Raises
    ------
    StoreError: if the store has no split ``test``, or it has fewer than 2 samples.
    CriticalMassError: if the store does not have the layer, or no layer is given and it has
        several.
    """
    if "test" not in store.splits:
        raise StoreError(
            f"{str(store.path)!r} has no split 'test', only {', '.join(store.splits) or 'none'}; "
            "CKA is predicted for the test split: import the features with one"
        )
    n_test = store.labels("test").size
    if n_test < 2:
        raise StoreError(
            f"the split 'test' of {str(store.path)!r} has {n_test} sample, and explain needs at "
            "least 2; import or extract more test samples"
        )
    if layer is None:
        layer = "penultimate" if "penultimate" in store.layers else store.layers[0]
        if layer != "penultimate" and len(store.layers) > 1:
            raise CriticalMassError(
                f"{str(store.path)!r} has the layers {', '.join(store.layers)}; name the one to "
                "explain with layer="
            )
    store.digest(layer)  # raises if the store does not have the layer
    return layer


def _open_run_of(run: Run | str | os.PathLike[str], store: FeatureStore, layer: str) -> Run:
    """Open a run, or raise RunError if it was not measured on this layer of the store."""
    opened = run if isinstance(run, Run) else Run.open(run)
    digest = opened.manifest.get("layers", {}).get(layer, {}).get("digest")
    if digest != store.digest(layer):
        raise RunError(
            f"{opened.path} was not measured on layer {layer!r} of {str(store.path)!r} as it is "
            "now; sweep this store into it first"
        )
    return opened


def _training_system(store: FeatureStore, layer: str) -> tuple[LinearSystem, int] | None:
    """Return the normal equations of the training split and its number of samples.

    None if there is no training split, or fewer than two classes.
    """
    from criticalmass.theory.eigenbasis import normal_equations

    if len(store.class_names) < 2 or "train" not in store.splits:
        return None
    labels = store.labels("train")
    if np.unique(labels).size < 2:
        return None
    rows, n_classes = store.features("train", layer), len(store.class_names)
    return normal_equations(rows, labels, n_classes=n_classes), labels.size


def _critical_mass_table(
    prediction: Prediction, deltas: Sequence[float], n_seeds: int, level: float
) -> pd.DataFrame:
    """Return predicted critical masses and DR, at the deltas and at that of the paragraph."""
    import pandas as pd

    rows = []
    for curve in prediction.curves:
        paragraph_delta = TASK_DELTA if curve.measure == "ridge" else CKA_DELTA
        for delta in sorted({*deltas, paragraph_delta}):
            mass, low, high = curve.critical_mass(delta, n_seeds, level)
            d = curve.n_neurons
            rows.append(
                {
                    "layer": prediction.layer,
                    "measure": curve.measure,
                    "delta": delta,
                    "n_neurons": d,
                    "value_full": curve.value_full,
                    "critical_mass": mass,
                    "critical_mass_low": low,
                    "critical_mass_high": high,
                    "dr": 1 - mass / d,
                    "dr_low": 1 - high / d,
                    "dr_high": 1 - low / d,
                    "n_seeds": n_seeds,
                    "level": level,
                }
            )
    return pd.DataFrame(rows)


def _curve_table(prediction: Prediction, n_seeds: int, level: float) -> pd.DataFrame:
    """Return the curves at their own sizes, at most about 80 of each."""
    import pandas as pd

    tables = []
    for curve in prediction.curves:
        index: slice | NDArray[np.intp] = slice(None)
        if curve.sizes.size > 80:
            sizes = np.unique(np.round(np.geomspace(1, curve.n_neurons, 80)).astype(np.int64))
            index = np.flatnonzero(np.isin(curve.sizes, sizes))
        n_kept = curve.sizes[index]
        mean, low, high = curve.band(n_kept, n_seeds, level)
        columns = {
            "measure": curve.measure,
            "n_kept": n_kept,
            "fraction": n_kept / curve.n_neurons,
            "mean": mean,
            "std": curve.std[index],
            "low": low,
            "high": high,
            "ratio": mean / curve.value_full if curve.value_full else np.nan,
            "l2": curve.l2[index],
            "source": np.asarray(curve.source)[index],
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def _spectrum_table(basis: Eigenbasis | None, test_moments: Moments) -> pd.DataFrame:
    """Return the spectrum of ``train`` with labels, and of ``test`` without."""
    import pandas as pd

    if basis is None:
        values = np.maximum(np.linalg.eigvalsh(correlation(test_moments.scatter))[::-1], 0.0)
        between: NDArray[Any] = np.full(values.size, np.nan)
    else:
        values, between = basis.eigenvalues, basis.between_classes
    own = np.divide(between, values, out=np.full(values.size, np.nan), where=values > 1e-9)
    total = between.sum()
    return pd.DataFrame(
        {
            "direction": np.arange(1, values.size + 1),
            "eigenvalue": values,
            "variance": values / values.sum(),
            "between": between / total if total > 0 else np.full(values.size, np.nan),
            "own_between": np.minimum(own, 1.0),
            "split": "test" if basis is None else "train",
        }
    )


def _cka_growth_at_double_width(prediction: Prediction) -> float:
    """Return `Explanation.cka_twice_as_wide`."""
    d, share = prediction.n_neurons, prediction.diagonal_share
    wider_mass = first_order_critical_mass(share / 2, 2 * d, CKA_DELTA)
    return wider_mass / first_order_critical_mass(share, d, CKA_DELTA)


def _task_requirement(
    prediction: Prediction, basis: Eigenbasis, spectrum: pd.DataFrame, n_seeds: int, level: float
) -> TaskRequirement | None:
    """Return what the task requires; None if no ridge curve is predicted."""
    curve = prediction.curve("ridge")
    if curve is None:
        return None
    mass, _, _ = curve.critical_mass(TASK_DELTA, n_seeds, level)
    l2 = float(curve.l2[np.searchsorted(curve.sizes, mass)])
    mu = basis.full_penalty(mass, l2)
    freedom = degrees_of_freedom(basis.eigenvalues, mu)
    # With twice as many neurons and every eigenvalue doubled, the same head needs k' neurons:
    # k' = sum (2e + l2)/(2e + 2mu) + d l2/(2mu) = k + l2/(2mu) df(mu).
    wider_mass = mass + l2 / (2.0 * mu) * freedom
    cumulative = np.cumsum(np.sort(np.nan_to_num(spectrum["between"].to_numpy(float)))[::-1])
    return TaskRequirement(
        delta=TASK_DELTA,
        critical_mass=mass,
        degrees_of_freedom=freedom,
        critical_mass_twice_as_wide=int(np.ceil(wider_mass - 1e-9)),
        directions=tuple(
            int(np.searchsorted(cumulative, share - 1e-12) + 1) for share in CLASS_VARIANCE_SHARES
        ),
        n_classes=int((basis.share > 0).sum()),
    )
