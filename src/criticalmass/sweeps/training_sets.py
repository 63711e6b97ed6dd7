"""Parts of the training rows on which the probes of a sweep are trained again.

Every part has a run of its own inside the folder of the sweep's run, with the same columns and
files. So the table of the sweep holds the probes on all training rows and nothing else, and what
holds for a run holds for a part: it is continued after an interruption, and it is measured again
if its features, rows or protocol have changed.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.analysis.training_sets import (
    FOLDER,
    RULE,
    check_n_halves,
    half_name,
    size_name,
)
from criticalmass.core.backends import Backend, start_workers
from criticalmass.errors import CriticalMassError
from criticalmass.measures.registry import MEASURES
from criticalmass.storage.run import Run, RunWriter
from criticalmass.sweeps.draw_spread import draw_spreads
from criticalmass.sweeps.jobs import run_job
from criticalmass.sweeps.layer_data import SweepData
from criticalmass.sweeps.plan import SweepRequest, list_cells
from criticalmass.sweeps.recorder import RunRecorder, compute_cells
from criticalmass.sweeps.run_folder import (
    describe,
    drop_stale,
    missing_cells,
    open_run,
    warn_of_failures,
)

_HALVES, _PREFIXES = 1, 2
_FEWEST_ROWS = 4


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Some rows of the training split.

    Attributes
    ----------
    name: of its folder in the run.
    rows: (n_rows,) strictly ascending row numbers of the training split.
    """

    name: str
    rows: NDArray[np.intp]

    def digest(self, layer_digest: str) -> str:
        """Return the digest of a layer on these training rows and all test rows."""
        content = layer_digest.encode() + self.rows.astype("<i8").tobytes()
        return hashlib.sha256(content).hexdigest()

    def half(self, number: int, labels: NDArray[np.int64]) -> TrainingSet:
        """Return a random half of the rows, stratified by class.

        Halves of different numbers are drawn independently of each other.

        Parameters
        ----------
        number: of the half, 0 or more; fixes the draw.
        labels: (n_train,) class ids of the whole training split.
        """
        rng = np.random.default_rng([_HALVES, number])
        permuted = self.rows[_stratified_order(labels[self.rows], rng)]
        # Of an odd number of rows, every second half has the row in the middle.
        n_rows = (self.rows.size + number % 2) // 2
        return TrainingSet(half_name(number), np.sort(permuted[:n_rows]))


def first_rows(labels: NDArray[np.int64], n_rows: int) -> TrainingSet:
    """Return the first rows of one stratified permutation of the training split.

    A smaller set is a part of a larger one. Every set has nearly the class shares of the split.

    Parameters
    ----------
    labels: (n_train,) class ids.
    n_rows: rows to take.
    """
    order = _stratified_order(labels, np.random.default_rng(_PREFIXES))
    return TrainingSet(size_name(n_rows), np.sort(order[:n_rows]))


def _stratified_order(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.intp]:
    """Permute rows so that every prefix has nearly the class shares of all rows."""
    position = np.empty(labels.size)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        # A random start, so that no class is systematically rounded up.
        position[members] = (np.arange(members.size) + rng.random()) / members.size
    return np.argsort(position, kind="stable").astype(np.intp)


@dataclass(frozen=True)
class TrainingPlan:
    """The training sets of a sweep beside the whole training split.

    Attributes
    ----------
    n_halves: random halves of every training set.
    sizes: numbers of training rows, ascending.
    """

    n_halves: int
    sizes: tuple[int, ...]

    @classmethod
    def from_arguments(
        cls, training_sets: Any, train_sizes: Any, request: SweepRequest
    ) -> TrainingPlan:
        """Check the arguments of `criticalmass.sweep` and normalise them.

        Raises
        ------
        CriticalMassError: a number is invalid or does not fit the store, or there is no probe.
        """
        is_sequence = isinstance(train_sizes, Iterable) and not isinstance(train_sizes, str)
        n_halves = _whole_number("training_sets", training_sets)
        given = train_sizes if is_sequence else (train_sizes,)
        sizes = tuple(sorted({_whole_number("train_sizes", size) for size in given}))
        plan = cls(n_halves, sizes)
        plan._check(request, request.layers[0].n_train)
        return plan

    def _check(self, request: SweepRequest, n_train: int) -> None:
        if not (self.n_halves or self.sizes):
            return
        if not any(MEASURES[name].is_probe for name in request.measures):
            raise CriticalMassError(
                "training_sets and train_sizes train probes again, but no measure is a probe; add "
                "e.g. measures=('logistic', 'cka'), or leave them out"
            )
        check_n_halves(self.n_halves)
        fewest = 2 * _FEWEST_ROWS if self.n_halves else _FEWEST_ROWS
        for size in self.sizes:
            if not fewest <= size < n_train:
                raise CriticalMassError(
                    f"train_sizes={size} must be at least {fewest} and below the {n_train} "
                    "training samples of the store, which are always measured"
                )
        if n_train < fewest:
            raise CriticalMassError(
                f"training_sets={self.n_halves} needs at least {fewest} training samples; the "
                f"store has {n_train}"
            )


@dataclass(frozen=True, eq=False)
class TrainingSweep:
    """Sweeps of the probes of a request on parts of the training rows.

    Attributes
    ----------
    data: the whole training split.
    request: the request; the similarities in it are left out, because they train nothing.
    backend: where jobs run.
    rerun: which cells to compute, as in `criticalmass.sweep`.
    """

    data: SweepData
    request: SweepRequest
    backend: Backend
    rerun: str

    def sweep(self, run: Run, writer: RunWriter, plan: TrainingPlan) -> None:
        """Sweep the training sets of a plan into folders of a run.

        Parameters
        ----------
        run, writer: the run on the whole training split.
        plan: the training sets.
        """
        labels = self.data.y_train
        if plan.sizes:
            known = run.manifest.get("train_sizes", ())
            writer.update_manifest(train_sizes=sorted({*known, *plan.sizes}))
        for size in plan.sizes:
            self._sweep_part(run, first_rows(labels, size), plan.n_halves)
        everything = TrainingSet("all", np.arange(labels.size, dtype=np.intp))
        self._sweep_halves(run, writer, everything, plan.n_halves)

    def _sweep_halves(
        self, run: Run, writer: RunWriter, training_set: TrainingSet, n_halves: int
    ) -> None:
        if not n_halves:
            return
        known = (run.manifest.get("training_sets") or {}).get("names", [])
        halves = [training_set.half(i, self.data.y_train) for i in range(n_halves)]
        names = list(dict.fromkeys([*known, *(half.name for half in halves)]))
        writer.update_manifest(training_sets={"rule": RULE, "names": names})
        for half in halves:
            self._sweep_part(run, half, 0)

    def _sweep_part(self, parent: Run, training_set: TrainingSet, n_halves: int) -> None:
        """Sweep one training set, and halves of it, into a folder of the parent."""
        store, rows = self.data.store, training_set.rows
        data = SweepData.from_store(store, self.data.compute, rows)
        request = self._restricted(training_set)
        digests = {layer: training_set.digest(store.digest(layer)) for layer in store.layers}
        run = open_run(parent.path / FOLDER / training_set.name, store)
        with run.writer() as writer:
            drop_stale(run, writer, store, digests)
            describe(run, writer, data, request)
            known = parent.manifest["layers"]
            source = {layer.name: known[layer.name]["digest"] for layer in self.request.layers}
            old = run.manifest.get("training_set", {}).get("layers", {})
            entry = {"name": training_set.name, "n_rows": rows.size, "layers": {**old, **source}}
            writer.update_manifest(training_set=entry)
            missing = missing_cells(list_cells(request), run.frame(), self.rerun)
            if training_set.name == size_name(rows.size):
                draw_spreads(run, writer, data, request)
            if missing:
                title = f"{training_set.name} of the training rows ({rows.size:,})"
                with start_workers(self.backend, partial(run_job, data)) as run_jobs:
                    compute_cells(RunRecorder(run, writer), missing, run_jobs, title)
            self._sweep_halves(run, writer, training_set, n_halves)
        warn_of_failures(run, {cell.cell for cell in missing})

    def _restricted(self, training_set: TrainingSet) -> SweepRequest:
        """Return the request for a training set."""
        layers = tuple(
            replace(layer, n_train=training_set.rows.size, digest=training_set.digest(layer.digest))
            for layer in self.request.layers
        )
        probes = tuple(name for name in self.request.measures if MEASURES[name].is_probe)
        return replace(self.request, layers=layers, measures=probes)


def _whole_number(name: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if number < 0:
        raise CriticalMassError(f"{name}={value!r}; give a whole number of 0 or more")
    return number
