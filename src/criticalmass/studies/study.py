"""`study`: extract, sweep, tabulate and report a grid of models and datasets."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pandas as pd

from criticalmass.analysis.training_sets import check_n_halves
from criticalmass.core.arguments import validate_arguments
from criticalmass.core.backends import Backend
from criticalmass.core.progress import Progress
from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.storage.run import Run
from criticalmass.studies.comparisons import comparison_notes
from criticalmass.studies.feature_stores import StoredLayers, StudyFeatures, merge_layer_choices
from criticalmass.studies.grid import (
    MissingPart,
    ModelDatasetPair,
    StudyGrid,
    StudyJob,
    build_grid,
    select_rows,
)
from criticalmass.studies.library import load_study, with_includes
from criticalmass.studies.progress import StudySteps
from criticalmass.studies.schema import PROTOCOLS, Study
from criticalmass.studies.study_run import StudyRun
from criticalmass.studies.tables import (
    collect_published_points,
    group_jobs,
    make_tables,
    write_tables,
)
from criticalmass.studies.task_tables import group_plots
from criticalmass.studies.training_tables import training_tables
from criticalmass.studies.trainings import Training, train_all, trainings_of
from criticalmass.sweeps.backends import get_sweep_backend

TRAINING_FOLDER = "training"
"""Folder, inside that of a study, of the networks that it trains."""


@dataclass(frozen=True)
class StudyResult:
    """The result of `study`.

    Attributes
    ----------
    path: the folder.
    folders: name of each study -> its folder, with tables (CSV) and ``report.html``.
    missing: what could not be measured, and why.
    runs: name of each study -> its results on each pair of a model and a dataset.
    """

    path: Path
    folders: Mapping[str, Path]
    missing: tuple[MissingPart, ...] = ()
    runs: Mapping[str, Sequence[StudyRun]] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether only optional parts are missing."""
        return all(one.optional for one in self.missing)


@validate_arguments
def study(
    name_or_file: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    features: str | os.PathLike[str] | None = None,
    weights: Mapping[str, str | os.PathLike[str]] | None = None,
    data: str | os.PathLike[str] | None = None,
    protocol: str | None = None,
    device: str = "auto",
    backend: str | Backend = "local",
    pages: bool = True,
    training_sets: int | None = None,
) -> StudyResult:
    """Run a study: sweep every model on every dataset, and write tables and a page.

    Existing features and cells are reused, also those of other studies in the same folder. Parts
    whose weights, data or packages are missing are listed in the result; the others are run.

    Parameters
    ----------
    name_or_file: a study of the package (`criticalmass list studies`), or a YAML file
        (docs/studies.md).
    out: the folder: ``features/``, ``runs/``, and ``studies/NAME/`` with tables and page.
    features: folder of features, to share them with other studies; ``out/features`` by default.
    weights: name -> weight file, for the models of the study that need one.
    data: root folder of torchvision's datasets.
    protocol: "exact" or "paper", instead of the protocols of the study.
    device: as of `criticalmass.extract`.
    backend: where shards and cells are computed, as of `criticalmass.sweep`.
    pages: whether to write ``report.html`` for each study.
    training_sets: as of `criticalmass.sweep`, instead of those of the study.

    Raises
    ------
    CriticalMassError: the study is unknown, or its file is invalid; raised before anything runs.
    """
    studies = [
        _set_training_sets(_set_protocol(one, protocol), training_sets)
        for one in with_includes(load_study(name_or_file))
    ]
    files = {name: Path(path) for name, path in (weights or {}).items()}
    _check_weights(studies, files)
    folder = Path(out)
    features_folder = folder / "features" if features is None else Path(features)
    runner = _StudyRunner(
        folder,
        StudyFeatures(features_folder, device, get_sweep_backend(backend)),
        build_grid(studies, files, None if data is None else Path(data), folder / TRAINING_FOLDER),
        list(trainings_of(studies, folder / TRAINING_FOLDER).values()),
    )
    measured = [one for one in studies if one.parts]
    kinds = runner.step_kinds(measured)
    with Progress(f"study {studies[-1].name}", len(kinds), "steps") as bar:
        steps = StudySteps(bar, kinds, folder / "steps.csv")
        runner.measure(steps)
        folders = {one.name: runner.write_results(one, steps, pages) for one in measured}
    return StudyResult(folder, folders, tuple(runner.missing), runner.runs)


def _set_protocol(study: Study, protocol: str | None) -> Study:
    """Replace the protocols of a study by the one that the user chose."""
    if protocol is None:
        return study
    if protocol not in PROTOCOLS:
        raise unknown_name("protocol", protocol, PROTOCOLS)
    parts = dict.fromkeys(part.model_copy(update={"protocol": (protocol,)}) for part in study.parts)
    return study.model_copy(update={"parts": tuple(parts)})


def _set_training_sets(study: Study, training_sets: int | None) -> Study:
    """Replace the number of training sets of every part by the one that the user chose."""
    if training_sets is None:
        return study
    update = {"training_sets": check_n_halves(training_sets)}
    return study.model_copy(
        update={"parts": tuple(p.model_copy(update=update) for p in study.parts)}
    )


def _check_weights(studies: Sequence[Study], files: Mapping[str, Path]) -> None:
    """Raise if no model needs the weights, or a file does not exist."""
    names = {
        entry.weights
        for one in studies
        for part in one.parts
        for entry in part.models
        if entry.weights is not None
    }
    for name, path in files.items():
        if not names:
            raise CriticalMassError(
                f"weights {name!r}: no model of {studies[-1].name!r} needs weights; leave them out"
            )
        if name not in names:
            raise unknown_name(f"weights of {studies[-1].name!r}", name, names)
        if not path.is_file():
            raise CriticalMassError(
                f"no weight file {str(path)!r}; give the path of an existing file"
            )


class _StudyRunner:
    """Runs the jobs of one command.

    Parameters
    ----------
    folder: folder of the command.
    features: the feature stores.
    grid: all jobs.
    trainings: the networks that are trained first.

    Attributes
    ----------
    missing: what could not be measured so far.
    runs: name of each study -> its results on each pair so far.
    """

    def __init__(
        self,
        folder: Path,
        features: StudyFeatures,
        grid: StudyGrid,
        trainings: Sequence[Training] = (),
    ) -> None:
        self.folder = folder
        self.features = features
        self.grid = grid
        self.trainings = trainings
        self.missing = list(grid.missing)
        self.runs: dict[str, list[StudyRun]] = {}
        self._stored: dict[StudyJob, list[StoredLayers]] = {}

    def step_kinds(self, studies: Sequence[Study]) -> list[str]:
        """Return the kinds of all steps, for the estimate of the remaining time."""
        return [
            *["training"] * len(self.trainings),
            *["features", "sweep"] * len(self.grid.pairs),
            *["tables"] * len(studies),
        ]

    def measure(self, steps: StudySteps) -> None:
        """Train, then extract and sweep every pair; after an error the others go on."""
        self._train(steps)
        for pair in self.grid.pairs:
            jobs = self.grid.jobs_on(pair)
            with steps.step(f"features of {pair}", lambda: self.features.n_extracted):
                self._extract(pair, jobs)
            with steps.step(f"sweep {pair}", partial(self._count_cells, pair)):
                self._sweep(pair, jobs)

    def _train(self, steps: StudySteps) -> None:
        """Train the networks; the error of one is that of each pair with it."""
        results = train_all(self.trainings, self.features.device)
        for number in range(len(self.trainings)):
            with steps.step(f"training {number + 1} of {len(self.trainings)}"):
                training, error = next(results)
            if error is not None:
                for epoch in {0, *training.recipe.kept_epochs}:
                    self.features.mark_unavailable(training.spec(epoch), error)
        # Ends the processes.
        results.close()

    def _count_cells(self, pair: ModelDatasetPair) -> int:
        path = self._run_path(pair)
        return len(Run.open(path).frame()) if Run.exists(path) else 0

    def _run_path(self, pair: ModelDatasetPair) -> Path:
        return self.folder / "runs" / pair.run_folder

    def _extract(self, pair: ModelDatasetPair, jobs: Sequence[StudyJob]) -> None:
        try:
            for layers in merge_layer_choices([job.part.layers for job in jobs]):
                self.features.stores(pair, layers)
        except CriticalMassError as error:
            self._add_missing(jobs, error)

    def _sweep(self, pair: ModelDatasetPair, jobs: Sequence[StudyJob]) -> None:
        from criticalmass.sweeps.sweep import sweep

        for job in jobs:
            if self._is_missing(job):
                continue
            try:
                stored = self.features.stores(pair, job.part.layers)
                for store, layers in stored:
                    sweep(
                        store,
                        out=self._run_path(pair),
                        layers=layers,
                        selectors=job.part.selectors,
                        fractions=job.fractions,
                        seeds=job.seeds,
                        measures=job.measures,
                        training_sets=job.training_sets,
                        backend=self.features.backend,
                    )
            except CriticalMassError as error:
                self._add_missing([job], error)
            else:
                self._stored[job] = stored

    def _add_missing(self, jobs: Sequence[StudyJob], error: CriticalMassError) -> None:
        for job in jobs:
            named = job.pair.labelled_dataset
            missing = MissingPart(job.study, job.pair.model, named, str(error), job.part.optional)
            if missing not in self.missing:
                self.missing.append(missing)

    def _is_missing(self, job: StudyJob) -> bool:
        key = (job.study, job.pair.model, job.pair.labelled_dataset)
        return any((one.study, one.model, one.dataset) == key for one in self.missing)

    def write_results(self, study: Study, steps: StudySteps, pages: bool) -> Path:
        """Write the tables and the page of a study; return its folder."""
        from criticalmass.reporting.page.report import report

        folder = self.folder / "studies" / study.name
        jobs = [job for job in self.grid.jobs if job.study == study.name and job in self._stored]
        with steps.step(f"tables of {study.name}"):
            runs = [self._study_run(group) for group in group_jobs(jobs)]
            self.runs[study.name] = runs
            tables = make_tables(study, runs) | training_tables(study, runs)
            write_tables({**tables, "missing": self._missing_table(study)}, folder)
            if pages and study.page and runs:
                report(
                    [run.view for run in runs],
                    folder / "report.html",
                    deltas=study.deltas,
                    reference=collect_published_points(runs) or None,
                    notes=comparison_notes(study),
                    figures=group_plots(study, tables),
                )
        return folder

    def _study_run(self, jobs: tuple[StudyJob, ...]) -> StudyRun:
        layers = {
            job: [name for stored in self._stored[job] for name in stored.layers] for job in jobs
        }
        stores = {
            name: stored.store
            for job in jobs
            for stored in self._stored[job]
            for name in stored.layers
        }
        view = select_rows(Run.open(self._run_path(jobs[0].pair)), layers.items())
        return StudyRun(jobs, view, stores)

    def _missing_table(self, study: Study) -> pd.DataFrame:
        columns = ["model", "dataset", "reason", "optional"]
        rows = [
            [one.model, one.dataset, one.reason, one.optional]
            for one in self.missing
            if one.study == study.name
        ]
        return pd.DataFrame(rows, columns=columns)
