"""Trained networks with their runs, and the gates that a comparison of recipes must pass.

A recipe that failed to train, or a layer that knows nothing of the target, has a fine diffused
redundancy. So every comparison says whether it may be read: both networks are equally good at
what they were trained for, their neurons are alive, their whole layer is good at the target, and
the probes are certified.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import pandas as pd

from criticalmass.analysis.columns import FEWEST_SEEDS, Draws, LayerKey, RunLike
from criticalmass.analysis.constant_answer import ConstantAnswer
from criticalmass.analysis.spread_records import SpreadRecord, read_spreads, unreliable_interval
from criticalmass.analysis.training_seed_intervals import NetworkCurve
from criticalmass.core.progress import warn_user
from criticalmass.errors import CriticalMassError, shorten, unknown_name
from criticalmass.measures.registry import has_critical_mass, is_similarity
from criticalmass.storage.run import Run

#: Largest difference of the upstream accuracies of two recipes.
MOST_ACCURACY_DIFFERENCE = 0.01
#: Share of dead neurons that is too many.
DEAD_SHARE = 0.05
#: By how much the whole layer must be better than always answering the largest class.
LEAST_ABOVE_MAJORITY = 0.20
PASS, FAIL, UNKNOWN = "pass", "fail", "unknown"
_SHARES = ("upstream_accuracy", "train_error", "live_share")
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class TrainingFacts:
    """What training left to know of a network; NaN where it is unknown.

    Attributes
    ----------
    upstream_accuracy: accuracy on held-out samples of the task that it was trained for, 0 to 1.
    train_error: share of its training samples that it answers wrongly, 0 to 1.
    live_share: share of the layer's neurons that are not dead, 0 to 1.
    n_neurons: neurons of the layer.
    seconds: time of training.
    pr_raw, pr_standardised: participation ratio of the layer's raw and standardised neurons.
    """

    upstream_accuracy: float = math.nan
    train_error: float = math.nan
    live_share: float = math.nan
    n_neurons: float = math.nan
    seconds: float = math.nan
    pr_raw: float = math.nan
    pr_standardised: float = math.nan

    def __post_init__(self) -> None:
        """Refuse percentages and negative numbers."""
        for name in (entry.name for entry in fields(self)):
            value = getattr(self, name)
            top = 1.0 if name in _SHARES else math.inf
            if not (math.isnan(value) or 0.0 <= value <= top):
                expected = "a share from 0 to 1" if name in _SHARES else "0 or more"
                raise CriticalMassError(
                    f"{name}={value} of a trained network must be {expected}, or NaN if unknown"
                )


@dataclass(frozen=True)
class TrainedRun:
    """One trained network: a recipe, a training seed, and what was measured.

    Attributes
    ----------
    recipe: name of the recipe.
    training_seed: the integer that fixed the training. Two recipes are paired by it.
    view: the run on the network's features, or a view of it. Several runs of one network, on
        several datasets, have one entry each.
    facts: what training left to know.
    """

    recipe: str
    training_seed: int
    view: Run
    facts: TrainingFacts = field(default_factory=TrainingFacts)


def trained_runs(
    recipe: str,
    runs: Sequence[RunLike] | Mapping[int, RunLike],
    facts: Mapping[int, TrainingFacts] | None = None,
) -> list[TrainedRun]:
    """Name the runs of one's own networks, so that `compare_recipes` takes them.

    Parameters
    ----------
    recipe: name of the recipe.
    runs: training seed -> run or its folder; or a sequence, whose training seeds are 0, 1, ...
    facts: training seed -> what training left to know.
    """
    numbered = runs if isinstance(runs, Mapping) else dict(enumerate(runs))
    known = facts or {}
    return [
        TrainedRun(recipe, seed, Run.open(run), known.get(seed, TrainingFacts()))
        for seed, run in numbered.items()
    ]


@dataclass(frozen=True, order=True)
class TargetKey:
    """What networks are compared by: a dataset, a layer and a measure."""

    dataset: str
    layer: str
    measure: str


@dataclass(frozen=True, eq=False)
class MeasuredNetwork:
    """One measure on one layer of one trained network.

    Attributes
    ----------
    trained: the network.
    curve: value against size.
    majority: accuracy of always answering the largest class; NaN without a probe on the layer.
    accuracy: accuracy of the whole layer, by ``accuracy_of``; NaN without a probe.
    accuracy_of: the measure itself; for a similarity the best probe on the same layer.
    labels: checksum of the test labels; 0 without a probe.
    caveat: why the value is not reliable, such as that of CKA on few test samples; or empty.
    """

    trained: TrainedRun
    curve: NetworkCurve
    majority: float
    accuracy: float
    accuracy_of: str
    labels: int
    caveat: str


#: recipe -> target -> training seed -> network; None if its run has no value of the measure.
Networks = dict[str, dict[TargetKey, dict[int, MeasuredNetwork | None]]]


def measured_networks(
    runs: Sequence[TrainedRun], measures: Sequence[str], selector: str, draws: Draws
) -> Networks:
    """Read the curves of trained networks.

    Parameters
    ----------
    runs: the networks.
    measures: measures to read; empty for all.
    selector: the selector of the subsets.
    draws: settings of the bootstrap of the test samples.

    Raises
    ------
    CriticalMassError: if no run has the selector or a measure, a measure has no critical masses,
        or a network is given twice.
    """
    frames = [run.view.frame() for run in runs]
    _check_names(frames, "selector", (selector,))
    _check_names(frames, "measure", measures)
    without = [name for name in measures if not has_critical_mass(name)]
    if without:
        raise CriticalMassError(
            f"measure {without[0]!r} has no critical mass: a small subset may have a higher value "
            "than the whole layer; leave it out"
        )
    networks: Networks = {run.recipe: {} for run in runs}
    for run, frame in zip(runs, frames, strict=True):
        spreads = read_spreads(run.view)
        chosen = frame[frame["selector"].isin([selector, "full"])]
        chosen = chosen[chosen["measure"].map(has_critical_mass).astype(bool)]
        if measures:
            chosen = chosen[chosen["measure"].isin(measures)]
        for names, rows in chosen.groupby(list(LayerKey._fields), sort=True):
            if (rows["selector"] == "full").all():
                continue
            key = LayerKey(*names)
            target = TargetKey(key.dataset, key.layer, key.measure)
            of_target = networks[run.recipe].setdefault(target, {})
            if run.training_seed in of_target:
                raise CriticalMassError(
                    f"recipe {shorten(run.recipe)} has two networks of training seed "
                    f"{run.training_seed} on {key.dataset} ({key.layer}, {key.measure}); give "
                    "each network and dataset once"
                )
            curve = NetworkCurve.of(run.view, rows, draws)
            if curve is None or curve.full <= 0.0:
                of_target[run.training_seed] = None
                continue
            record = spreads.get((key.layer, key.measure))
            of_target[run.training_seed] = _network(
                run, frame, key, curve, _caveat(curve, selector, record)
            )
    return networks


def _check_names(frames: Sequence[pd.DataFrame], column: str, names: Sequence[str]) -> None:
    known = {str(name) for frame in frames for name in frame[column].unique()} - {"full"}
    for name in names:
        if name not in known:
            raise unknown_name(column, name, known)


def _network(
    run: TrainedRun, frame: pd.DataFrame, key: LayerKey, curve: NetworkCurve, caveat: str
) -> MeasuredNetwork:
    """Add the accuracy of the whole layer to a curve."""
    same_layer = (frame["selector"] == "full") & (frame["status"] != "failed")
    for name in ("model", "layer", "dataset"):
        same_layer &= frame[name] == getattr(key, name)
    by_measure = frame[same_layer].groupby("measure")["value"].mean()
    probes = [name for name in by_measure.index if not is_similarity(str(name))]
    if not is_similarity(key.measure):
        by_measure, probes = pd.Series({key.measure: curve.full}), [key.measure]
    if not probes:
        return MeasuredNetwork(run, curve, math.nan, math.nan, "", 0, caveat)
    best = max(probes, key=lambda name: float(by_measure[name]))
    labels = run.view.labels()
    return MeasuredNetwork(
        trained=run,
        curve=curve,
        majority=ConstantAnswer.best(labels).accuracy,
        accuracy=float(by_measure[best]),
        accuracy_of=str(best),
        labels=zlib.crc32(labels.tobytes()),
        caveat=caveat,
    )


def _caveat(curve: NetworkCurve, selector: str, record: SpreadRecord | None) -> str:
    """Say why the values of a curve are not reliable; its few subset seeds are not meant here."""
    if curve.seeds.size < FEWEST_SEEDS:
        return ""
    subsets = curve.rows[(curve.rows["selector"] != "full") & (curve.rows["status"] != "failed")]
    return unreliable_interval(subsets, selector, record, curve.mean_draws.std(axis=0))


@dataclass(frozen=True)
class Gate:
    """One condition on a comparison of two recipes.

    Attributes
    ----------
    name: what it is about.
    state: `PASS`, `FAIL` or `UNKNOWN`.
    number: what was compared with the limit; NaN if unknown.
    reason: why it fails; empty if it does not.
    """

    name: str
    state: str
    number: float
    reason: str


Pairs = Sequence[tuple[MeasuredNetwork, MeasuredNetwork]]


def gates_of(pairs: Pairs, measure: str, delta: float) -> dict[str, Gate]:
    """Return the gates of a recipe (first of each pair) against a baseline (second).

    Parameters
    ----------
    pairs: the networks.
    measure: of their curves.
    delta: share of the whole layer's value, whose critical mass is compared.

    Returns
    -------
    With the keys "upstream", "live", "full" and "certified".
    """
    return {
        "upstream": _upstream(pairs),
        "live": _live(pairs),
        "full": _full(pairs),
        "certified": _certified(pairs, measure, delta),
    }


def _gate(name: str, number: float, fails: bool, reason: str) -> Gate:
    if math.isnan(number):
        return Gate(name, UNKNOWN, number, "")
    return Gate(name, FAIL if fails else PASS, number, reason if fails else "")


def mean_of(values: Sequence[float]) -> float:
    """Return the mean; NaN of no values, and if one is unknown."""
    return float(np.mean(values)) if len(values) else math.nan


def _upstream(pairs: Pairs) -> Gate:
    a, b = (mean_of([pair[i].trained.facts.upstream_accuracy for pair in pairs]) for i in (0, 1))
    difference = a - b
    fails = abs(difference) > MOST_ACCURACY_DIFFERENCE + _TOLERANCE
    return _gate("upstream accuracy", difference, fails, f"{a:.3f} against {b:.3f}")


def _live(pairs: Pairs) -> Gate:
    networks = [network.trained for pair in pairs for network in pair]
    dead = [1.0 - network.facts.live_share for network in networks]
    if not dead or np.isnan(dead).any():
        return _gate("live neurons", math.nan, fails=False, reason="")
    worst = int(np.argmax(dead))
    reason = (
        f"{100 * dead[worst]:.0f} % dead in {networks[worst].recipe}, training seed "
        f"{networks[worst].training_seed}"
    )
    return _gate("live neurons", dead[worst], dead[worst] >= DEAD_SHARE - _TOLERANCE, reason)


def _full(pairs: Pairs) -> Gate:
    sides = [[pair[i] for pair in pairs] for i in (0, 1)]
    above = [mean_of([n.accuracy - n.majority for n in side]) for side in sides]
    worst = int(np.argmin(above))
    number = math.nan if np.isnan(above).any() else above[worst]
    reason = ""
    if not math.isnan(number):
        first = sides[worst][0]
        reason = (
            f"{first.trained.recipe} is {100 * number:.0f} points above the largest class "
            f"({first.accuracy_of})"
        )
    return _gate("whole layer", number, number <= LEAST_ABOVE_MAJORITY + _TOLERANCE, reason)


def _certified(pairs: Pairs, measure: str, delta: float) -> Gate:
    """Count the fits without a certificate among those that the critical masses depend on.

    A fit that stopped early or failed has none. A probe in closed form needs none: it takes one
    pass over its samples. A probe of many passes without an optimality gap, such as that of the
    paper, can have none, which is unknown.
    """
    name = "certified probes"
    if not pairs or is_similarity(measure):
        return _gate(name, 0.0 if pairs else math.nan, fails=False, reason="")
    rows = [network.curve.rows_behind(delta) for pair in pairs for network in pair]
    n_bad = sum(int((part["status"] != "ok").sum()) for part in rows)
    n_all = sum(len(part) for part in rows)
    if n_bad:
        return _gate(name, float(n_bad), fails=True, reason=f"{n_bad:,} of {n_all:,} fits not")
    iterates = [part["gap"].isna() & (part["passes"].fillna(0) > 1) for part in rows]
    unknown = any(bool(part.any()) for part in iterates)
    return _gate(name, math.nan if unknown else 0.0, fails=False, reason="")


def warn_of_recipes_without_runs(networks: Networks) -> None:
    """Warn of recipes that have no subset of the chosen selector and measures."""
    empty = [recipe for recipe, targets in networks.items() if not targets]
    if empty:
        warn_user(f"recipes without such a curve: {', '.join(empty)}")
