"""`ensembles`: votes of probes on disjoint subsets, compared with one probe on all of them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from criticalmass.analysis.agreement import pair_agreement
from criticalmass.analysis.bootstrap import averaged_over_seeds, resampled_means, seed_counts
from criticalmass.analysis.columns import (
    COUNT,
    FLOAT,
    LAYER_KEY_COLUMNS,
    NOTE_COLUMN,
    SEED_COLUMNS,
    TEXT,
    Draws,
    LayerKey,
    interval_columns,
    percentile_interval,
    seed_note,
    typed_table,
    with_note,
)
from criticalmass.analysis.predictions import Predictions
from criticalmass.core.arguments import validate_arguments
from criticalmass.core.compute import Compute
from criticalmass.core.moments import FloatArray
from criticalmass.core.progress import Progress
from criticalmass.errors import CriticalMassError
from criticalmass.measures.probes.task import LinearHead, ProbeScores, ProbeTask
from criticalmass.measures.registry import get_probe
from criticalmass.selectors.sizes import sizes_for
from criticalmass.storage.features import FeatureStore
from criticalmass.sweeps.layer_data import LayerData, SweepData

__all__ = ["ENSEMBLE_COLUMNS", "KINDS", "ensembles", "hard_vote", "soft_vote"]

KINDS = ("member", "hard vote", "soft vote", "one probe", "whole layer")
# Column of the table -> kind whose accuracy is subtracted.
_REFERENCES = {"value": None, "against_whole": "whole layer", "against_one_probe": "one probe"}
ENSEMBLE_COLUMNS: dict[str, str] = (
    LAYER_KEY_COLUMNS
    | {"n_kept": COUNT, "members": COUNT, "kind": TEXT, "n_used": COUNT, "n_neurons": COUNT}
    | interval_columns(*_REFERENCES)
    | {"kappa": FLOAT, "error_consistency": FLOAT}
    | NOTE_COLUMN
    | SEED_COLUMNS
    | {"n_test": COUNT, "n_not_converged": COUNT}
)


@dataclass(frozen=True)
class _EnsembleSpec:
    """The probes to fit.

    Attributes
    ----------
    sizes: numbers of neurons of a member, ascending.
    n_members: members of an ensemble.
    n_seeds: permutations.
    probe: name of the probe.
    layer: name of the layer.
    """

    sizes: tuple[int, ...]
    n_members: int
    n_seeds: int
    probe: str
    layer: str


@dataclass(frozen=True, eq=False)
class _SizeScores:
    """The scores for one size of a member.

    Attributes
    ----------
    correct: kind -> (n_seeds, n_test) whether the prediction is right; for members the share of
        them that is right.
    agreement: mean kappa and error consistency over pairs of members of a seed.
    n_not_converged: kind -> number of probes that did not converge.
    """

    correct: Mapping[str, npt.NDArray[np.float32]]
    agreement: Mapping[str, float]
    n_not_converged: Mapping[str, int]


@validate_arguments
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
    """Compare votes of disjoint subsets with one probe on the same neurons and on all neurons.

    The subsets in a run are prefixes of permutations, and prefixes of two permutations overlap.
    Here the members of an ensemble are consecutive slices of one permutation, that of the
    selector ``random`` for the seed, so they share no neuron. The first slice is the subset that
    a sweep measures. Every member is a separate probe, fitted as a sweep fits it.

    Parameters
    ----------
    store: a feature store with the splits train and test.
    fractions: share of the neurons of one member, in (0, 1], at most ``1 / members``.
    members: number of members, at least 2.
    seeds: number of permutations, at least 1.
    probe: name of a probe. Soft votes need class scores, which only ``logistic`` returns.
    layer: layer of the store.
    level: confidence level of the percentile intervals.
    resamples: number of bootstrap draws over seeds and test samples.

    Returns
    -------
    One row per size of a member and kind, `ENSEMBLE_COLUMNS`; ``value`` is the accuracy:

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
    CriticalMassError: the probe or layer is unknown, the level is invalid, there are fewer than
        2 members or more members than neurons, or there is no seed.
    """
    draws = Draws(level, resamples, seed=0)
    get_probe(probe)
    source = FeatureStore.open(store if isinstance(store, FeatureStore) else os.fspath(store))
    data = SweepData.from_store(source, Compute())
    n_neurons = int(data.layer(layer).train.shape[1])
    shares = [fractions] if isinstance(fractions, (int, float)) else list(fractions)
    spec = _EnsembleSpec(_member_sizes(shares, members, n_neurons), members, seeds, probe, layer)
    if seeds < 1:
        raise CriticalMassError(f"seeds={seeds}; an ensemble needs at least 1 permutation")
    rows = [
        row
        for size, scores in _score_sizes(data, spec)
        for row in _table_rows(data, spec, size, scores, draws)
    ]
    return typed_table(rows, ENSEMBLE_COLUMNS)


def hard_vote(classes: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return the class with the most votes; ties go to the earliest member of the tied ones.

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
    for member, vote in enumerate(votes):
        # The parts beyond 1 sum to less than 1, so they only break ties.
        tally[vote, columns] += 1.0 + 0.5 ** min(member + 2, 40)
    return np.asarray(tally.argmax(axis=0), dtype=np.int64)


def soft_vote(probabilities: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return the class with the largest mean probability (the linear opinion pool).

    The mean is over probabilities, not logits, so that one overconfident member counts once.

    Parameters
    ----------
    probabilities: (n_members, n_samples, n_classes).

    Returns
    -------
    (n_samples,) class ids.
    """
    mean = np.asarray(probabilities, dtype=np.float64).mean(axis=0)
    return np.asarray(mean.argmax(axis=1), dtype=np.int64)


def _member_sizes(fractions: Sequence[float], members: int, n_neurons: int) -> tuple[int, ...]:
    """Return the neurons of a member, ascending; none exceeds an equal split of the layer."""
    if not 2 <= members <= n_neurons:
        raise CriticalMassError(
            f"members={members} of a layer of {n_neurons} neurons; give 2 to {n_neurons}"
        )
    largest = n_neurons // members
    for fraction in fractions:
        if float(fraction) * members > 1.0 + 1e-9:  # a float16 would overflow
            raise CriticalMassError(
                f"{members} members of fraction {fraction} do not fit without sharing neurons; "
                f"use fractions up to {1.0 / members:.3g} or fewer members"
            )
    return tuple(sorted({min(size, largest) for size in sizes_for(fractions, n_neurons)}))


def _score_sizes(data: SweepData, spec: _EnsembleSpec) -> Iterator[tuple[int, _SizeScores]]:
    """Fit the whole layer, then for each size the members and the joint probes."""
    layer = data.layer(spec.layer)
    selections = [layer.selection("random", seed).order for seed in range(spec.n_seeds)]
    orders = np.stack([order for order in selections if order is not None])
    total = 1 + spec.n_seeds * len(spec.sizes) * (spec.n_members + 1)
    with Progress(f"ensembles on {data.store.dataset}", total, "probes") as bar:
        whole = _fit(data, layer, orders[:1], orders.shape[1], spec.probe)
        bar.advance(1)
        for size in spec.sizes:
            yield size, _score_size(data, spec, orders, size, whole, bar)


def _score_size(
    data: SweepData,
    spec: _EnsembleSpec,
    orders: npt.NDArray[np.intp],
    size: int,
    whole: ProbeScores,
    bar: Progress,
) -> _SizeScores:
    layer, n_used = data.layer(spec.layer), size * spec.n_members
    joint = whole
    if n_used < orders.shape[1]:
        joint = _fit(data, layer, orders, n_used, spec.probe)
    n_seeds = len(orders)
    bar.advance(n_seeds)
    correct: dict[str, list[npt.NDArray[Any]]] = {kind: [] for kind in KINDS[:3]}
    for kind, scores in (("one probe", joint), ("whole layer", whole)):
        is_correct = scores.predictions[:, 0] == data.y_test
        correct[kind] = list(np.broadcast_to(is_correct, (n_seeds, is_correct.shape[1])))
    agreements = []
    n_not_converged = {
        "one probe": _count_not_converged(joint),
        "whole layer": _count_not_converged(whole),
        "member": 0,
    }
    for order in orders:
        # Row k begins with slice k of the order; the rest of the row is not used.
        rotated = np.stack([np.roll(order, -k * size) for k in range(spec.n_members)])
        scores = _fit(data, layer, rotated, size, spec.probe)
        votes = scores.predictions[:, 0]
        correct["member"].append((votes == data.y_test).mean(axis=0))
        correct["hard vote"].append(hard_vote(votes) == data.y_test)
        if scores.heads is not None:
            probabilities = _member_probabilities(data, layer, rotated[:, :size], scores.heads)
            correct["soft vote"].append(soft_vote(probabilities) == data.y_test)
        agreements.append(_mean_agreement(data, votes))
        n_not_converged["member"] += _count_not_converged(scores)
        bar.advance(spec.n_members)
    return _SizeScores(
        {kind: np.stack(rows).astype(np.float32) for kind, rows in correct.items() if rows},
        {name: float(np.mean([one[name] for one in agreements])) for name in agreements[0]},
        n_not_converged,
    )


def _fit(
    data: SweepData, layer: LayerData, orders: npt.NDArray[np.intp], size: int, probe: str
) -> ProbeScores:
    """Fit and score a probe on the first ``size`` neurons of every order."""
    task = ProbeTask(
        x_train=layer.train,
        y_train=data.y_train,
        x_test=layer.test,
        n_classes=len(data.store.class_names),
        orders=orders,
        sizes=(size,),
        validation=data.validation,
        compute=data.compute,
    )
    return get_probe(probe)(task)


def _count_not_converged(scores: ProbeScores) -> int:
    return int((scores.status == "not_converged").sum())


def _member_probabilities(
    data: SweepData,
    layer: LayerData,
    neurons: npt.NDArray[np.intp],
    heads: Sequence[Sequence[LinearHead]],
) -> FloatArray:
    """Return the class probabilities of every member's first head on the test split.

    Parameters
    ----------
    neurons: (n_members, size) neurons of the members.
    heads: one sequence of heads per member.

    Returns
    -------
    (n_members, n_test, n_classes).
    """
    n_classes = len(data.store.class_names)
    members = zip(neurons, heads, strict=True)
    return np.stack(
        [own[0].probabilities(layer.test, columns, n_classes) for columns, own in members]
    )


def _mean_agreement(data: SweepData, votes: npt.NDArray[Any]) -> dict[str, float]:
    """Return the mean kappa and error consistency over pairs of members.

    Parameters
    ----------
    votes: (n_members, n_test) class ids.
    """
    key = LayerKey(data.store.model, "", data.store.dataset, "")
    source = Predictions(key, votes, data.y_test, data.store.class_names, None, ())
    pairs = np.array(list(itertools.combinations(range(len(votes)), 2)), dtype=np.intp)
    values = pair_agreement(source, pairs)
    return {name: float(values[name].mean()) for name in ("kappa", "error_consistency")}


def _shared_columns(data: SweepData, spec: _EnsembleSpec) -> dict[str, Any]:
    """Return the columns that are the same in all rows."""
    return {
        "model": data.store.model,
        "layer": spec.layer,
        "dataset": data.store.dataset,
        "measure": spec.probe,
        "members": spec.n_members,
        "n_seeds": spec.n_seeds,
        "n_test": int(data.y_test.size),
    }


def _table_rows(
    data: SweepData, spec: _EnsembleSpec, size: int, scores: _SizeScores, draws: Draws
) -> list[dict[str, Any]]:
    """Return the rows of one size, one per kind."""
    n_seeds, resamples, level = spec.n_seeds, draws.resamples, draws.level
    counts = seed_counts(n_seeds, resamples, np.random.default_rng([0, n_seeds]))
    kinds = list(scores.correct)
    stacked = np.concatenate([scores.correct[kind] for kind in kinds])
    means = resampled_means(stacked, resamples, seed=draws.seed)
    resampled = dict(zip(kinds, np.split(means, len(kinds), axis=1), strict=True))
    row_index = np.arange(n_seeds, dtype=np.intp)[None]
    width = int(data.layer(spec.layer).train.shape[1])
    table = []
    for kind in kinds:
        row: dict[str, Any] = (
            dict.fromkeys(ENSEMBLE_COLUMNS)
            | _shared_columns(data, spec)
            | {
                "n_kept": size,
                "kind": kind,
                "n_used": {"member": size, "whole layer": width}.get(kind, size * spec.n_members),
                "n_neurons": width,
                "level": level,
                "n_not_converged": scores.n_not_converged.get(
                    kind, scores.n_not_converged["member"]
                ),
            }
        )
        if kind == "member":
            row |= scores.agreement
        for name, reference in _REFERENCES.items():
            value = float(scores.correct[kind].mean())
            values = resampled[kind]
            if reference is not None:
                value -= float(scores.correct[reference].mean())
                values = values - resampled[reference]
            averaged = averaged_over_seeds(values, row_index, counts, level)[:, 0]
            low, high = percentile_interval(averaged, level)
            row |= {name: value, f"{name}_low": low, f"{name}_high": high}
        table.append(with_note(row, seed_note(n_seeds)))
    return table
