"""``explain``: what a layer's spectrum says of its redundancy, before any sweep."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from criticalmass.core.arguments import checked
from criticalmass.core.moments import Moments, moments
from criticalmass.errors import CriticalMassError, RunError, StoreError
from criticalmass.reporting.explanation import CKA_DELTA, SHARES, TASK_DELTA, Explanation, Need
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.run import Run
from criticalmass.theory.degrees_of_freedom import degrees_of_freedom, full_penalty
from criticalmass.theory.prediction import Prediction, ridge_curve
from criticalmass.theory.prediction_check import masses_beside, residuals
from criticalmass.theory.prediction_file import (
    of_second_moment,
    read_predictions,
    write_predictions,
)
from criticalmass.theory.spectrum import correlation
from criticalmass.theory.what_if import first_order_critical_mass

if TYPE_CHECKING:
    import pandas as pd

    from criticalmass.measures.probes.closed_form import System
    from criticalmass.theory.eigenbasis import Eigenbasis

# Half a second of imports, which checking a store's files leaves room for. BLAS libraries that
# come later than the limit on their threads would not heed it.
_COMPUTING = (
    "criticalmass.measures.similarity.cka_kernels",
    "criticalmass.theory.sampled_ridge",
    "criticalmass.theory.ridge",
    "scipy.interpolate",
    "scipy.sparse.linalg",
)


@checked
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

    CKA is that of the raw features of the split ``test``, as a sweep measures it. Ridge probes,
    where there are labels, train on ``train`` and are scored on ``test``: subsets of up to 64
    neurons are drawn, larger ones follow the law. Laws and their errors: docs/theory.md.

    Parameters
    ----------
    store: a feature store or its folder.
    layer: of the store; by default ``penultimate``, or the only one.
    deltas: shares of the whole layer's value, each in (0, 1].
    seeds, level: the intervals say where a sweep over so many random subsets finds its mean and
        its critical mass. The noise of the test samples and the error of the laws are not in them.
    run: a run of the same features to hold the prediction against; the diffuseness test is
        made too.
    out: folder to write tables, figures and the paragraph into. A run's folder gets the
        prediction instead, which its report then shows.

    Raises
    ------
    CriticalMassError: for a layer, delta, number of seeds or level that is none.
    StoreError: if the store has no split ``test``.
    RunError: if the run is one of other features.
    """
    started = time.perf_counter()
    source = _opened(store)
    name, asked = _layer(source, layer), _deltas(deltas)
    beside = None if run is None else _run(run, source, name)
    kept = _run(out, source, name) if out is not None and Run.exists(out) else None
    prediction, basis, whole = _predict(source, name, test=beside is not None or kept is not None)
    spectrum = _spectrum(basis, whole)
    compared, masses = None, None
    if beside is not None:
        compared = residuals(prediction, beside, level=level)
        masses = masses_beside(prediction, beside, asked, level=level)
    made = Explanation(
        model=source.model,
        dataset=source.dataset,
        prediction=prediction,
        masses=_masses(prediction, asked, seeds, level),
        curves=_curves(prediction, seeds, level),
        spectrum=spectrum,
        n_seeds=seeds,
        level=level,
        cka_twice_as_wide=_twice(prediction),
        need=None if basis is None else _need(prediction, basis, spectrum, (seeds, level)),
        compared=compared,
        compared_masses=masses,
        seconds=time.perf_counter() - started,
    )
    if kept is not None:
        with kept.writer():
            write_predictions(kept, {**read_predictions(kept), name: prediction}.values())
    elif out is not None:
        from criticalmass.reporting.explain_files import write_explanation

        write_explanation(made, Path(out))
    return made


def _predict(
    store: FeatureStore, layer: str, *, test: bool
) -> tuple[Prediction, Eigenbasis | None, Moments]:
    """Return the prediction, the training split's eigenbasis where labels allow, the moments."""
    from criticalmass.theory.eigenbasis import decompose

    rows, system = store.features("test", layer), _system(store, layer)
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(1) as aside:
        turning = None if system is None else aside.submit(decompose, *system)
        whole = moments(rows)
        basis = None if turning is None else turning.result()
        unlabelled = aside.submit(
            of_second_moment, whole, layer=layer, digest=store.digest(layer), test=test
        )
        if basis is None:
            return unlabelled.result(), None, whole
        ridge = ridge_curve(basis, rows, store.labels("test"))
        prediction = unlabelled.result()
    return replace(prediction, curves=(*prediction.curves, ridge)), basis, whole


def _opened(store: FeatureStore | str | os.PathLike[str]) -> FeatureStore:
    """Open a store; while its files are held against their digests, what computes is loaded."""
    with ThreadPoolExecutor(1) as aside:
        path = store if isinstance(store, FeatureStore) else Path(store)
        opening = aside.submit(FeatureStore.open, path)
        for name in _COMPUTING:
            importlib.import_module(name)
        return opening.result()


def _layer(store: FeatureStore, layer: str | None) -> str:
    """Return the layer to explain; the store itself refuses one that it does not have."""
    if "test" not in store.splits:
        raise StoreError(
            f"{str(store.path)!r} has the splits {', '.join(store.splits) or 'none'} but no test; "
            "CKA is predicted for the test split, on which a sweep measures it"
        )
    if layer is None:
        layer = "penultimate" if "penultimate" in store.layers else store.layers[0]
        if layer != "penultimate" and len(store.layers) > 1:
            raise CriticalMassError(
                f"{str(store.path)!r} has the layers {', '.join(store.layers)}; name the one to "
                "explain"
            )
    store.digest(layer)
    return layer


def _deltas(deltas: Sequence[float]) -> tuple[float, ...]:
    wanted = tuple(sorted({float(delta) for delta in deltas}))
    if not wanted or not all(0 < delta <= 1 for delta in wanted):
        raise CriticalMassError(f"deltas={tuple(deltas)!r}: each must be in (0, 1], e.g. 0.9")
    return wanted


def _run(run: Run | str | os.PathLike[str], store: FeatureStore, layer: str) -> Run:
    """Open a run of these features."""
    opened = run if isinstance(run, Run) else Run.open(run)
    known = opened.manifest.get("layers", {}).get(layer, {}).get("digest")
    if known != store.digest(layer):
        raise RunError(
            f"{opened.path} was not measured on layer {layer!r} of {str(store.path)!r} as it is "
            "now; sweep this store into it first"
        )
    return opened


def _system(store: FeatureStore, layer: str) -> tuple[System, int] | None:
    """Return normal equations of the training split, None where there is no task to explain."""
    from criticalmass.theory.eigenbasis import normal_equations

    if len(store.class_names) < 2 or "train" not in store.splits:
        return None
    labels = store.labels("train")
    if np.unique(labels).size < 2:
        return None
    rows, n_classes = store.features("train", layer), len(store.class_names)
    return normal_equations(rows, labels, n_classes=n_classes), labels.size


def _masses(
    prediction: Prediction, deltas: Sequence[float], n_seeds: int, level: float
) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for curve in prediction.curves:
        own = CKA_DELTA if curve.measure == "cka" else TASK_DELTA
        for delta in sorted({*deltas, own}):
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


def _curves(prediction: Prediction, n_seeds: int, level: float) -> pd.DataFrame:
    """Lay the curves out at the sizes they are known at, at most about eighty of each."""
    import pandas as pd

    parts = []
    for curve in prediction.curves:
        shown = np.unique(np.round(np.geomspace(1, curve.n_neurons, 80)).astype(np.int64))
        at = np.flatnonzero(np.isin(curve.sizes, shown)) if curve.sizes.size > 80 else slice(None)
        size = curve.sizes[at]
        mean, low, high = curve.band(size, n_seeds, level)
        found = {
            "measure": curve.measure,
            "n_kept": size,
            "fraction": size / curve.n_neurons,
            "mean": mean,
            "std": curve.std[at],
            "low": low,
            "high": high,
            "ratio": mean / curve.value_full if curve.value_full else np.nan,
            "l2": curve.l2[at],
            "source": np.asarray(curve.source)[at],
        }
        parts.append(pd.DataFrame(found))
    return pd.concat(parts, ignore_index=True)


def _spectrum(basis: Eigenbasis | None, whole: Moments) -> pd.DataFrame:
    """Eigendirections of the standardised neurons: of ``train`` with labels, else of ``test``."""
    import pandas as pd

    if basis is None:
        values = np.maximum(np.linalg.eigvalsh(correlation(whole.scatter))[::-1], 0.0)
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


def _twice(prediction: Prediction) -> float:
    """How many times as many neurons twice the width needs for the CKA of the paragraph."""
    d, share = prediction.n_neurons, prediction.diagonal_share
    wide = first_order_critical_mass(share / 2, 2 * d, CKA_DELTA)
    return wide / first_order_critical_mass(share, d, CKA_DELTA)


def _need(
    prediction: Prediction, basis: Eigenbasis, spectrum: pd.DataFrame, how: tuple[int, float]
) -> Need | None:
    """Degrees of freedom at the critical mass of the task, and what carries its classes."""
    curve = prediction.curve("ridge")
    if curve is None:
        return None
    mass, _, _ = curve.critical_mass(TASK_DELTA, *how)
    l2 = float(curve.l2[np.searchsorted(curve.sizes, mass)])
    mu = float(full_penalty(basis.eigenvalues, [mass], l2)[0])
    freedom = degrees_of_freedom(basis.eigenvalues, mu)
    # Twice as many neurons, each eigenvalue doubled: the same head takes k' with
    # k' = sum (2e + l2)/(2e + 2mu) + d l2/(2mu) = k + l2/(2mu) df(mu).
    wider = mass + l2 / (2.0 * mu) * freedom
    carried = np.cumsum(np.sort(np.nan_to_num(spectrum["between"].to_numpy(float)))[::-1])
    return Need(
        delta=TASK_DELTA,
        critical_mass=mass,
        freedom=freedom,
        twice_as_wide=int(np.ceil(wider - 1e-9)),
        directions=tuple(int(np.searchsorted(carried, share - 1e-12) + 1) for share in SHARES),
        n_classes=int((basis.share > 0).sum()),
    )
