"""The authors' numbers, and what has to be known of them before anything stands beside them.

The file `library/published.json` holds what was read out of their analysis notebooks. Their sizes
are ``int(f * n_neurons)``: the share that was kept is not the share that was asked for, and none
where that is 0. Their table has the nearest estimator, which may pick a size that misses the bar;
it is never compared with a strict DR.
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

CURVES, TABLE = "Nanda et al. 2023, mean of 5 seeds ± 1 sd", "Nanda et al. 2023, Table 1 (nearest)"
TABLE_DELTA = 0.9
# How the published file calls the datasets of the studies.
DATASETS = {
    "torchvision:CIFAR10": "cifar10",
    "torchvision:CIFAR100": "cifar100",
    "torchvision:Flowers102": "flowers",
    "torchvision:OxfordIIITPet": "oxford-iiit-pets",
}
_STANDARD = "imagenet1k/standard"


@dataclass(frozen=True)
class PublishedCurve:
    """One published curve.

    Attributes
    ----------
    key: network/upstream dataset/upstream loss/downstream dataset.
    n_neurons: of the layer.
    kept: (n_sizes,) neurons that were kept, int(f * n_neurons), without those of 0 neurons.
    mean, std: (n_sizes,) accuracy over 5 random subsets.
    full: accuracy of the whole layer, one seed.
    """

    key: str
    n_neurons: int
    kept: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    full: float

    def dr(self, delta: float, estimator: str) -> float:
        """DR of the published means."""
        shares = np.asarray(self.kept) / self.n_neurons
        means = np.asarray(self.mean)[:, None]
        return float(diffused_redundancy(shares, means, self.full, delta, estimator=estimator))


@cache
def published() -> dict[str, Any]:
    """Read the file of published numbers."""
    text = files("criticalmass.studies").joinpath("library/published.json").read_text("utf-8")
    return dict(json.loads(text))


def models() -> tuple[str, ...]:
    """Names that a study's model may give as ``published``: network/upstream dataset/loss."""
    table = published()["table1_dr_0.9_nearest_estimator"]
    named = [key.rpartition("/")[0] for key in published()["curves"]]
    return tuple(dict.fromkeys([*named, *(f"{m}/{_STANDARD}" for m in table if m != "columns")]))


def check_published(name: str) -> None:
    """Refuse a name that nothing is published under.

    Raises
    ------
    CriticalMassError: with the likely name.
    """
    if name not in models():
        raise unknown_name("published model", name, models())


def curve(model: str | None, dataset: str) -> PublishedCurve | None:
    """Find the published curve of a model on a dataset.

    Parameters
    ----------
    model: one of `models`; None for a model of which nothing is published.
    dataset: the dataset's spec; its options do not matter.
    """
    key = f"{model}/{DATASETS.get(dataset.partition('?')[0], '')}"
    found = published()["curves"].get(key)
    if model is None or found is None:
        return None
    n_neurons = int(published()["n_neurons"][key.partition("/")[0]])
    kept = [int(fraction * n_neurons) for fraction in found["fraction"]]
    there = [place for place, size in enumerate(kept) if size > 0]
    return PublishedCurve(
        key=key,
        n_neurons=n_neurons,
        kept=tuple(kept[place] for place in there),
        mean=tuple(found["mean"][place] for place in there),
        std=tuple(found["std"][place] for place in there),
        full=float(found["full"]),
    )


def table_dr(model: str | None, dataset: str) -> float | None:
    """Find the DR(0.9) of the paper's table (nearest estimator, ImageNet-1k, standard loss)."""
    table = published()["table1_dr_0.9_nearest_estimator"]
    network = (model or "").partition("/")[0]
    column = DATASETS.get(dataset.partition("?")[0])
    if model != f"{network}/{_STANDARD}" or network not in table or column is None:
        return None
    return float(table[network][table["columns"].index(column)])


def points(
    model: str | None, dataset: str, names: tuple[str, str], probes: Sequence[str]
) -> Iterator[ReferencePoint]:
    """Yield what is published of a model on a dataset, to be drawn beside a run.

    Parameters
    ----------
    model, dataset: as of `curve`.
    names: of model and dataset as the run calls them.
    probes: the run's measures that the published accuracies stand beside.
    """
    found, dr = curve(model, dataset), table_dr(model, dataset)
    at = {"model": names[0], "dataset": names[1]}
    for probe in probes:
        if found is not None:
            for kept, mean, std in zip(found.kept, found.mean, found.std, strict=True):
                ends = {"low": mean - std, "high": mean + std}
                yield from _point(CURVES, probe, (kept / found.n_neurons, mean), {**at, **ends})
            whole = f"{CURVES.partition(',')[0]}, whole layer, 1 seed"
            yield from _point(whole, probe, (1.0, found.full), at)
        if dr is not None:
            yield from _point(TABLE, probe, (TABLE_DELTA, dr), {**at, "figure": "dr"})


def _point(
    source: str, probe: str, xy: tuple[float, float], rest: dict[str, Any]
) -> Iterator[ReferencePoint]:
    yield ReferencePoint(source, probe, *xy, **rest)


def beside(model: str | None, dataset: str, measured: pd.DataFrame) -> pd.DataFrame:
    """Put what is published and what was measured side by side.

    Parameters
    ----------
    model, dataset: as of `curve`.
    measured: rows of `criticalmass.curves` of that pair, selector "random", or none.

    Returns
    -------
    One row per published size and measured probe (one with nothing measured where there is
    none): key, n_kept, published, published_std, measure, measured, low, high, difference.
    """
    found = curve(model, dataset)
    columns = ["key", "n_kept", "published", "published_std", "measure", "measured", "low", "high"]
    rows = []
    probes = list(dict.fromkeys(measured["measure"])) if len(measured) else [None]
    for probe in probes if found is not None else ():
        assert found is not None
        mine = measured[measured["measure"] == probe] if probe is not None else measured
        for kept, mean, std in zip(found.kept, found.mean, found.std, strict=True):
            at = mine[mine["n_kept"] == kept].to_dict("records") if len(mine) else []
            told = [at[0]["mean"], at[0]["low"], at[0]["high"]] if at else [None, None, None]
            rows.append([found.key, kept, mean, std, probe, *told])
    table = pd.DataFrame(rows, columns=columns)
    for name in ("measured", "low", "high"):
        table[name] = table[name].astype("Float64")
    return table.assign(difference=table["measured"] - table["published"])
