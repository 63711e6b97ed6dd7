"""Votes of probes on subsets that share no neuron, against one probe on the same neurons."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import softmax

from criticalmass.analysis.agreement import compared
from criticalmass.analysis.bootstrap import averaged_over_seeds, resampled_means, seed_counts
from criticalmass.analysis.columns import check_interval, percentiles, typed
from criticalmass.analysis.predictions import Predictions
from criticalmass.core.arguments import checked
from criticalmass.core.moments import FloatArray
from criticalmass.core.progress import Progress, track
from criticalmass.core.rows import Rows
from criticalmass.errors import CriticalMassError
from criticalmass.measures.probes.task import LinearHead, ProbeScores, ProbeTask
from criticalmass.measures.registry import get_probe
from criticalmass.selectors.sizes import sizes_for
from criticalmass.storage.features import FeatureStore
from criticalmass.sweeps.layer_data import LayerData, Workbench

__all__ = ["ENSEMBLE_COLUMNS", "KINDS", "ensembles", "hard_vote", "soft_vote"]

KINDS = ("member", "hard vote", "soft vote", "one probe", "whole layer")
_TEXT, _COUNT, _FLOAT = "string", "Int64", "Float64"
_CHUNK = 2048
ENSEMBLE_COLUMNS: dict[str, str] = (
    dict.fromkeys(("model", "layer", "dataset", "measure"), _TEXT)
    | {"n_kept": _COUNT, "members": _COUNT, "kind": _TEXT, "n_used": _COUNT, "n_neurons": _COUNT}
    | {
        f"{name}{end}": _FLOAT
        for name in ("value", "against_whole", "against_one_probe")
        for end in ("", "_low", "_high")
    }
    | {"kappa": _FLOAT, "error_consistency": _FLOAT}
    | {"level": _FLOAT, "n_seeds": _COUNT, "n_test": _COUNT, "n_not_converged": _COUNT}
)
_Hits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Ask:
    """What is fitted: sizes of a member, members, seeds, probe, and on which layer."""

    sizes: tuple[int, ...]
    members: int
    seeds: int
    probe: str
    layer: str


@dataclass(frozen=True, eq=False)
class _Fitted:
    """What was found for one size: kind -> (n_seeds, n_test) share of right votes per sample.

    ``likeness`` holds mean kappa and error consistency over pairs of members of a seed.
    """

    hits: Mapping[str, _Hits]
    likeness: Mapping[str, float]
    unfinished: Mapping[str, int]


@checked
def ensembles(
    store: FeatureStore | str | os.PathLike[str],
    *,
    fractions: float | Sequence[float] = (0.05, 0.1, 0.25),
    members: int = 4,
    seeds: int = 5,
    probe: str = "logistic",
    layer: str = "penultimate",
    level: float = 0.95,
    resamples: int = 2000,
) -> pd.DataFrame:
    """Compare votes of disjoint subsets with one probe on the same neurons and on all.

    A run holds prefixes of permutations, and prefixes of two permutations overlap. Here the
    members of an ensemble are consecutive slices of one permutation, that of the selector
    ``random`` for the seed, and so share no neuron; the first slice is the subset that a
    sweep measures. Each member is a probe of its own, fitted as a sweep fits it.

    Parameters
    ----------
    store: a feature store with the splits train and test.
    fractions: share of neurons of one member, in (0, 1]; at most ``1 / members`` is used.
    members: how many, at least 2.
    seeds: permutations, at least 1.
    probe: a probe's name. Soft votes need scores: they are there for ``logistic``.
    layer: of the store.
    level: of the intervals, percentiles of the bootstrap over seeds and test samples.
    resamples: bootstrap draws.

    Returns
    -------
    Per size of a member one row per kind, `ENSEMBLE_COLUMNS`; ``value`` is the accuracy:

    - ``member``: mean over members; ``kappa`` and ``error_consistency`` as in
      `criticalmass.agreement`, mean over pairs of members;
    - ``hard vote``: `hard_vote` of the members' classes;
    - ``soft vote``: `soft_vote`, the mean of the members' class probabilities;
    - ``one probe``: one probe on the ``n_used`` neurons of all members together;
    - ``whole layer``.

    ``against_whole`` and ``against_one_probe`` are differences of accuracy, on the same
    resampled test samples.

    Raises
    ------
    CriticalMassError: for an unknown probe, layer or level, fewer than 2 members, more
        members than neurons, or no seed.
    """
    check_interval(level, resamples)
    get_probe(probe)
    opened = FeatureStore.open(store if isinstance(store, FeatureStore) else os.fspath(store))
    bench = Workbench.of(opened)
    data = bench.layer(layer)
    shares = [fractions] if isinstance(fractions, (int, float)) else list(fractions)
    ask = _Ask(_sizes(shares, members, int(data.train.shape[1])), members, seeds, probe, layer)
    if seeds < 1:
        raise CriticalMassError(f"seeds={seeds}; an ensemble needs at least 1 permutation")
    rows = [
        row
        for size, fitted in _fitted(bench, data, ask)
        for row in _rows(bench, ask, size, (fitted, level, resamples))
    ]
    return typed(rows, ENSEMBLE_COLUMNS)


def hard_vote(classes: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Class that most members vote for; a tie goes to the earliest member among its voters.

    Parameters
    ----------
    classes: (n_members, n_samples) class ids.

    Returns
    -------
    (n_samples,) class ids.
    """
    votes = np.asarray(classes, dtype=np.int64)
    tally = np.zeros((int(votes.max(initial=0)) + 1, votes.shape[1]))
    columns = np.arange(votes.shape[1])
    for place, vote in enumerate(votes):
        # The parts beyond 1 sum to less than 1, so they only ever break a tie.
        tally[vote, columns] += 1.0 + 0.5 ** min(place + 2, 40)
    return np.asarray(tally.argmax(axis=0), dtype=np.int64)


def soft_vote(probabilities: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Class of the largest mean probability (the linear opinion pool).

    The mean of probabilities, not of logits: a member that is sure of nonsense counts once.

    Parameters
    ----------
    probabilities: (n_members, n_samples, n_classes).

    Returns
    -------
    (n_samples,) class ids.
    """
    mean = np.asarray(probabilities, dtype=np.float64).mean(axis=0)
    return np.asarray(mean.argmax(axis=1), dtype=np.int64)


def _sizes(fractions: Sequence[float], members: int, n_neurons: int) -> tuple[int, ...]:
    """Neurons of a member, ascending: rounded shares, none above an equal split of the layer."""
    if not 2 <= members <= n_neurons:
        raise CriticalMassError(
            f"members={members} of a layer of {n_neurons} neurons; give 2 to {n_neurons}"
        )
    top = n_neurons // members
    for fraction in fractions:
        if float(fraction) * members > 1.0 + 1e-9:  # a float16 would overflow
            raise CriticalMassError(
                f"{members} members of fraction {fraction} do not fit without sharing neurons; "
                f"use fractions up to {1.0 / members:.3g} or fewer members"
            )
    return tuple(sorted({min(size, top) for size in sizes_for(fractions, n_neurons)}))


def _fitted(bench: Workbench, data: LayerData, ask: _Ask) -> Iterator[tuple[int, _Fitted]]:
    """Fit the whole layer, then all members and the joint probes of one size after the other."""
    picked = [data.selection("random", seed).order for seed in range(ask.seeds)]
    orders = np.stack([order for order in picked if order is not None])
    d = orders.shape[1]
    total = 1 + ask.seeds * len(ask.sizes) * (ask.members + 1)
    with track(f"ensembles on {bench.store.dataset}", total, "probes") as bar:
        whole = _fit(bench, data, orders[:1], d, ask.probe)
        bar.advance(1)
        for size in ask.sizes:
            yield size, _one_size(bench, data, orders, (size, ask, whole, bar))


def _one_size(
    bench: Workbench,
    data: LayerData,
    orders: npt.NDArray[np.intp],
    job: tuple[int, _Ask, ProbeScores, Progress],
) -> _Fitted:
    size, ask, whole, bar = job
    used = size * ask.members
    joint = whole
    if used < orders.shape[1]:
        joint = _fit(bench, data, orders, used, ask.probe)
    bar.advance(len(orders))
    n = len(orders)
    found: dict[str, list[npt.NDArray[Any]]] = {kind: [] for kind in KINDS[:3]}
    for kind, scores in (("one probe", joint), ("whole layer", whole)):
        right = scores.predictions[:, 0] == bench.y_test
        found[kind] = list(np.broadcast_to(right, (n, right.shape[1])))
    likeness = []
    unfinished = {"one probe": _not_converged(joint), "whole layer": _not_converged(whole)}
    unfinished["member"] = 0
    for order in orders:
        # Slice k comes first in its own order; what follows it is never looked at.
        turned = np.stack([np.roll(order, -k * size) for k in range(ask.members)])
        scores = _fit(bench, data, turned, size, ask.probe)
        votes = scores.predictions[:, 0]
        found["member"].append((votes == bench.y_test).mean(axis=0))
        found["hard vote"].append(hard_vote(votes) == bench.y_test)
        if scores.heads is not None:
            pooled = soft_vote(_of_members(bench, data, turned[:, :size], scores.heads))
            found["soft vote"].append(pooled == bench.y_test)
        likeness.append(_likeness(bench, votes))
        unfinished["member"] += _not_converged(scores)
        bar.advance(ask.members)
    hits = {kind: np.stack(rows).astype(np.float32) for kind, rows in found.items() if rows}
    mean = {name: float(np.mean([one[name] for one in likeness])) for name in likeness[0]}
    return _Fitted(hits, mean, unfinished)


def _fit(
    bench: Workbench, data: LayerData, orders: npt.NDArray[np.intp], size: int, probe: str
) -> ProbeScores:
    """Fit and score a probe on the first ``size`` neurons of every order."""
    task = ProbeTask(
        x_train=data.train,
        y_train=bench.y_train,
        x_test=data.test,
        n_classes=len(bench.store.class_names),
        orders=orders,
        sizes=(size,),
        validation=bench.validation,
    )
    return get_probe(probe)(task)


def _not_converged(scores: ProbeScores) -> int:
    return int((scores.status == "not_converged").sum())


def _of_members(
    bench: Workbench,
    data: LayerData,
    kept: npt.NDArray[np.intp],
    heads: Sequence[Sequence[LinearHead]],
) -> FloatArray:
    """(n_members, n_test, n_classes) class probabilities of every member's first head."""
    n_classes = len(bench.store.class_names)
    members = zip(kept, heads, strict=True)
    return np.stack([_probabilities(data.test, mine, own[0], n_classes) for mine, own in members])


def _probabilities(
    rows: Rows, kept: npt.NDArray[np.intp], head: LinearHead, n_classes: int
) -> FloatArray:
    """(n_samples, n_classes) class probabilities of a head on raw rows; 0 for unseen classes."""
    out = np.zeros((int(rows.shape[0]), n_classes))
    for start in range(0, len(out), _CHUNK):
        block = np.asarray(rows[start : start + _CHUNK])[:, kept].astype(np.float64)
        logits = block @ head.coef.T.astype(np.float64) + head.intercept
        out[start : start + len(block), head.classes] = softmax(logits, axis=1)
    return out


def _likeness(bench: Workbench, votes: npt.NDArray[Any]) -> dict[str, float]:
    """Mean kappa and error consistency over pairs of members."""
    key = (bench.store.model, "", bench.store.dataset, "")
    source = Predictions(key, votes, bench.y_test, bench.store.class_names, None, ())
    pairs = np.array(list(itertools.combinations(range(len(votes)), 2)), dtype=np.intp)
    figures = compared(source, pairs)
    return {name: float(figures[name].mean()) for name in ("kappa", "error_consistency")}


def _about(bench: Workbench, ask: _Ask) -> dict[str, Any]:
    """Return the columns that are the same in all rows."""
    return {
        "model": bench.store.model,
        "layer": ask.layer,
        "dataset": bench.store.dataset,
        "measure": ask.probe,
        "members": ask.members,
        "n_seeds": ask.seeds,
        "n_test": int(bench.y_test.size),
    }


def _rows(
    bench: Workbench, ask: _Ask, size: int, found: tuple[_Fitted, float, int]
) -> list[dict[str, Any]]:
    """Rows of one size, one per kind."""
    fitted, level, resamples = found
    counts = seed_counts(ask.seeds, resamples, np.random.default_rng([0, ask.seeds]))
    kinds = list(fitted.hits)
    stacked = np.concatenate([fitted.hits[kind] for kind in kinds])
    means = resampled_means(stacked, resamples, seed=0)
    drawn = dict(zip(kinds, np.split(means, len(kinds), axis=1), strict=True))
    columns = np.arange(ask.seeds, dtype=np.intp)[None]
    d = int(bench.layer(ask.layer).train.shape[1])
    table = []
    for kind in kinds:
        row: dict[str, Any] = (
            dict.fromkeys(ENSEMBLE_COLUMNS)
            | _about(bench, ask)
            | {
                "n_kept": size,
                "kind": kind,
                "n_used": {"member": size, "whole layer": d}.get(kind, size * ask.members),
                "n_neurons": d,
                "level": level,
                "n_not_converged": fitted.unfinished.get(kind, fitted.unfinished["member"]),
            }
        )
        if kind == "member":
            row |= fitted.likeness
        against = {"value": None, "against_whole": "whole layer", "against_one_probe": "one probe"}
        for name, other in against.items():
            value = float(fitted.hits[kind].mean())
            values = drawn[kind]
            if other is not None:
                value -= float(fitted.hits[other].mean())
                values = values - drawn[other]
            averaged = averaged_over_seeds(values, columns, counts, level)[:, 0]
            low, high = percentiles(averaged, level)
            row |= {name: value, f"{name}_low": low, f"{name}_high": high}
        table.append(row)
    return table
