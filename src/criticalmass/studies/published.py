"""The numbers that the authors published, for comparison with measured ones.

The file `library/published.json` holds the numbers of the authors' analysis notebooks. Their sizes
are ``int(f * n_neurons)``, so the share that was kept differs from the requested fraction, and
sizes of 0 neurons are left out. Their table uses the nearest estimator, which may choose a size
that misses the threshold; it is not compared with a strict DR.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd

from criticalmass.analysis.estimators import diffused_redundancy
from criticalmass.errors import unknown_name
from criticalmass.reporting.figures.references import ReferencePoint

CURVE_SOURCE = "Nanda et al. 2023, mean of 5 seeds ± 1 sd"
FULL_SOURCE = "Nanda et al. 2023, whole layer, 1 seed"
TABLE_SOURCE = "Nanda et al. 2023, Table 1 (nearest)"
TABLE_DELTA = 0.9
# Dataset spec of the studies -> name in the published file.
DATASETS = {
    "torchvision:CIFAR10": "cifar10",
    "torchvision:CIFAR100": "cifar100",
    "torchvision:Flowers102": "flowers",
    "torchvision:OxfordIIITPet": "oxford-iiit-pets",
}
_STANDARD = "imagenet1k/standard"
_TABLE = "table1_dr_0.9_nearest_estimator"


@dataclass(frozen=True)
class PublishedCurve:
    """One published curve.

    Attributes
    ----------
    key: network/upstream dataset/upstream loss/downstream dataset.
    n_neurons: width of the layer.
    n_kept: (n_sizes,) neurons kept, int(f * n_neurons), without sizes of 0 neurons.
    mean, std: (n_sizes,) accuracy over 5 random subsets.
    full: accuracy of the whole layer, one seed.
    """

    key: str
    n_neurons: int
    n_kept: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    full: float

    def dr(self, delta: float, estimator: str) -> float:
        """Return the DR of the published means."""
        fractions = np.asarray(self.n_kept) / self.n_neurons
        means = np.asarray(self.mean)[:, None]
        return float(diffused_redundancy(fractions, means, self.full, delta, estimator=estimator))


@cache
def read_published() -> dict[str, Any]:
    """Read the file of published numbers."""
    text = files("criticalmass.studies").joinpath("library/published.json").read_text("utf-8")
    return dict(json.loads(text))


def published_models() -> tuple[str, ...]:
    """Return the values of ``published`` in study files: network/upstream dataset/loss."""
    with_curves = [key.rpartition("/")[0] for key in read_published()["curves"]]
    networks = (name for name in read_published()[_TABLE] if name != "columns")
    return tuple(dict.fromkeys([*with_curves, *(f"{name}/{_STANDARD}" for name in networks)]))


def check_published(name: str) -> None:
    """Raise if nothing is published under a name.

    Raises
    ------
    CriticalMassError: the name is unknown; the message suggests a similar one.
    """
    if name not in published_models():
        raise unknown_name("published model", name, published_models())


def published_curve(model: str | None, dataset: str) -> PublishedCurve | None:
    """Return the published curve of a model on a dataset, or None.

    Parameters
    ----------
    model: one of `published_models`, or None.
    dataset: dataset spec; its options are ignored.
    """
    key = f"{model}/{DATASETS.get(dataset.partition('?')[0], '')}"
    entry = read_published()["curves"].get(key)
    if model is None or entry is None:
        return None
    n_neurons = int(read_published()["n_neurons"][key.partition("/")[0]])
    n_kept = [int(fraction * n_neurons) for fraction in entry["fraction"]]
    indices = [index for index, size in enumerate(n_kept) if size > 0]
    return PublishedCurve(
        key=key,
        n_neurons=n_neurons,
        n_kept=tuple(n_kept[index] for index in indices),
        mean=tuple(entry["mean"][index] for index in indices),
        std=tuple(entry["std"][index] for index in indices),
        full=float(entry["full"]),
    )


def published_dr(model: str | None, dataset: str) -> float | None:
    """Return DR(0.9) in the paper's Table 1 (nearest estimator, ImageNet-1k, standard loss)."""
    table = read_published()[_TABLE]
    network = (model or "").partition("/")[0]
    column = DATASETS.get(dataset.partition("?")[0])
    if model != f"{network}/{_STANDARD}" or network not in table or column is None:
        return None
    return float(table[network][table["columns"].index(column)])


def published_points(
    model: str | None, dataset: str, names: tuple[str, str], probes: Sequence[str]
) -> Iterator[ReferencePoint]:
    """Yield the published numbers of a model on a dataset as points for a report.

    Parameters
    ----------
    model, dataset: as of `published_curve`.
    names: model and dataset as the run names them.
    probes: measures of the run to which the published accuracies are compared.
    """
    curve, dr = published_curve(model, dataset), published_dr(model, dataset)
    run_names: dict[str, Any] = {"model": names[0], "dataset": names[1]}
    for probe in probes:
        if curve is not None:
            for n_kept, mean, std in zip(curve.n_kept, curve.mean, curve.std, strict=True):
                yield ReferencePoint(
                    CURVE_SOURCE,
                    probe,
                    n_kept / curve.n_neurons,
                    mean,
                    low=mean - std,
                    high=mean + std,
                    **run_names,
                )
            yield ReferencePoint(FULL_SOURCE, probe, 1.0, curve.full, **run_names)
        if dr is not None:
            yield ReferencePoint(TABLE_SOURCE, probe, TABLE_DELTA, dr, figure="dr", **run_names)


def compare_with_published(model: str | None, dataset: str, measured: pd.DataFrame) -> pd.DataFrame:
    """Return the published and the measured accuracies of the same sizes.

    Parameters
    ----------
    model, dataset: as of `published_curve`.
    measured: rows of `criticalmass.curves` of that pair with the selector "random"; may be empty.

    Returns
    -------
    One row per published size and measured probe: key, n_kept, published, published_std, measure,
    measured, low, high, difference. Without measurements, one row per size with missing values.
    """
    curve = published_curve(model, dataset)
    columns = ["key", "n_kept", "published", "published_std", "measure", "measured", "low", "high"]
    rows = []
    probes = list(dict.fromkeys(measured["measure"])) if len(measured) else [None]
    if curve is not None:
        for probe in probes:
            of_probe = measured[measured["measure"] == probe] if probe is not None else measured
            for n_kept, mean, std in zip(curve.n_kept, curve.mean, curve.std, strict=True):
                records: list[dict[str, Any]] = []
                if len(of_probe):
                    records = of_probe[of_probe["n_kept"] == n_kept].to_dict("records")
                values = [records[0][name] for name in ("mean", "low", "high")] if records else []
                rows.append([curve.key, n_kept, mean, std, probe, *(values or [None] * 3)])
    table = pd.DataFrame(rows, columns=columns)
    for name in ("measured", "low", "high"):
        table[name] = table[name].astype("Float64")
    return table.assign(difference=table["measured"] - table["published"])
