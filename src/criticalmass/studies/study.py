"""``study``: extract, sweep, tabulate and report a whole grid; what is there is not made again."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from criticalmass.core.arguments import checked
from criticalmass.core.backends import Backend
from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.storage.run import Run
from criticalmass.studies import library
from criticalmass.studies.feature_stores import Features, Stored, united
from criticalmass.studies.grid import Grid, Job, Missing, Pair, grid_of, view
from criticalmass.studies.progress import Watch
from criticalmass.studies.schema import PROTOCOLS, Study
from criticalmass.studies.tables import Seen
from criticalmass.sweeps.backends import get_sweep_backend


@dataclass(frozen=True)
class Studied:
    """What `study` made.

    Attributes
    ----------
    path: the folder.
    folders: name of each study -> its folder, with tables (CSV) and ``report.html``.
    missing: what could not be measured, and why.
    runs: name of each study -> what it measured of each pair of a model and a dataset.
    """

    path: Path
    folders: Mapping[str, Path]
    missing: tuple[Missing, ...] = ()
    runs: Mapping[str, Sequence[Seen]] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether nothing but optional parts is missing."""
        return all(one.optional for one in self.missing)


@checked
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
) -> Studied:
    """Run a study: every model on every dataset, every measure of it, tables and a page.

    Features and cells that are there already are used again, also those of other studies in
    the same folder. What cannot be had (weights, data, a package) is told by name; the rest
    runs.

    Parameters
    ----------
    name_or_file: a study that comes with the package (`criticalmass list studies`), or a YAML
        file like these (docs/studies.md).
    out: the folder: ``features/``, ``runs/``, and ``studies/NAME/`` with tables and page.
    features: folder of features to share with other studies; that in ``out`` by default.
    weights: name -> weight file, for the models that a study asks weights for.
    data: root folder of torchvision's datasets.
    protocol: "exact" or "paper", instead of what the study says.
    device: as of `criticalmass.extract`.
    backend: where shards and cells are computed, as of `criticalmass.sweep`.
    pages: whether to write ``report.html`` for each study.

    Raises
    ------
    CriticalMassError: no such study, or a file that is none; told before anything runs.
    """
    asked = [_with_protocol(one, protocol) for one in library.gathered(library.load(name_or_file))]
    files = {name: Path(path) for name, path in (weights or {}).items()}
    _check_weights(asked, files)
    folder = Path(out)
    kept = folder / "features" if features is None else Path(features)
    place = Features(kept, device, get_sweep_backend(backend))
    grid = grid_of(asked, files, None if data is None else Path(data))
    work = _Work(folder, place, grid)
    measuring = [one for one in asked if one.parts]
    with Watch(f"study {asked[-1].name}", work.kinds(measuring), folder / "steps.csv") as watch:
        work.measure(watch)
        folders = {one.name: work.tell(one, watch, pages) for one in measuring}
    return Studied(folder, folders, tuple(work.missing), work.seen)


def _with_protocol(study: Study, protocol: str | None) -> Study:
    """Let the user's protocol stand in for the study's own."""
    if protocol is None:
        return study
    if protocol not in PROTOCOLS:
        raise unknown_name("protocol", protocol, PROTOCOLS)
    parts = dict.fromkeys(replace(part, protocol=protocol) for part in study.parts)
    return replace(study, parts=tuple(parts))


def _check_weights(studies: Sequence[Study], files: Mapping[str, Path]) -> None:
    """Refuse weights that no model asks for, and files that are not there."""
    known = {
        entry.weights
        for one in studies
        for part in one.parts
        for entry in part.models
        if entry.weights is not None
    }
    for name, path in files.items():
        if not known:
            raise CriticalMassError(f"no model of {studies[-1].name!r} asks for weights {name!r}")
        if name not in known:
            raise unknown_name(f"weights of {studies[-1].name!r}", name, known)
        if not path.is_file():
            raise CriticalMassError(f"no weight file {str(path)!r}")


@dataclass
class _Work:
    """One command's work.

    Attributes
    ----------
    folder: of the command.
    features: where features are.
    grid: all jobs.
    missing: what could not be done, so far.
    seen: name of each study -> what it measured of each pair, so far.
    """

    folder: Path
    features: Features
    grid: Grid
    missing: list[Missing] = field(init=False)
    _stored: dict[Job, list[Stored]] = field(default_factory=dict)
    seen: dict[str, list[Seen]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.missing = list(self.grid.missing)

    def kinds(self, studies: Sequence[Study]) -> list[str]:
        """List the kinds of all steps, for the time left."""
        pairs = ["features", "sweep"] * len(self.grid.pairs)
        return [*pairs, *["tables"] * len(studies)]

    def measure(self, watch: Watch) -> None:
        """Extract and sweep every pair; what fails is noted, the rest goes on."""
        for pair in self.grid.pairs:
            jobs = self.grid.of(pair)
            with watch.step(f"features of {pair}"):
                before = self.features.made
                self._extract(pair, jobs)
                if self.features.made == before:
                    watch.nothing_to_do()
            with watch.step(f"sweep {pair}"):
                before = self._cells(pair)
                self._sweep(pair, jobs)
                if self._cells(pair) == before:
                    watch.nothing_to_do()

    def _cells(self, pair: Pair) -> int:
        folder = self._run(pair)
        return len(Run.open(folder).frame()) if Run.exists(folder) else 0

    def _run(self, pair: Pair) -> Path:
        return self.folder / "runs" / pair.folder

    def _extract(self, pair: Pair, jobs: Sequence[Job]) -> None:
        try:
            for layers in united([job.part.layers for job in jobs]):
                self.features.of(pair, layers)
        except CriticalMassError as error:
            self._miss(jobs, error)

    def _sweep(self, pair: Pair, jobs: Sequence[Job]) -> None:
        from criticalmass.sweeps.sweep import sweep

        for job in jobs:
            if any(self._same(job, one) for one in self.missing):
                continue
            try:
                stored = self.features.of(pair, job.part.layers)
                for store, layers in stored:
                    sweep(
                        store,
                        out=self._run(pair),
                        layers=layers,
                        selectors=job.part.selectors,
                        fractions=job.fractions,
                        seeds=job.seeds,
                        measures=job.measures,
                        backend=self.features.backend,
                    )
            except CriticalMassError as error:
                self._miss([job], error)
            else:
                self._stored[job] = stored

    def _miss(self, jobs: Sequence[Job], error: CriticalMassError) -> None:
        for job in jobs:
            one = Missing(
                job.study, job.pair.model, job.pair.dataset, str(error), job.part.optional
            )
            if one not in self.missing:
                self.missing.append(one)

    def _same(self, job: Job, one: Missing) -> bool:
        return (one.study, one.model, one.dataset) == (
            job.study,
            job.pair.model,
            job.pair.dataset,
        )

    def tell(self, study: Study, watch: Watch, pages: bool) -> Path:
        """Write a study's tables and page; -> its folder."""
        from criticalmass.reporting.page.report import report
        from criticalmass.studies import tables

        folder = self.folder / "studies" / study.name
        jobs = [job for job in self.grid.jobs if job.study == study.name and job in self._stored]
        with watch.step(f"tables of {study.name}"):
            seen = [self._see(group) for group in tables.grouped(jobs)]
            self.seen[study.name] = seen
            named = tables.tables_of(study, seen)
            tables.write_tables({**named, "missing": self._missing_table(study)}, folder)
            if pages and seen:
                points = tables.references(seen)
                report(
                    [one.part for one in seen],
                    folder / "report.html",
                    deltas=study.deltas,
                    reference=points or None,
                )
        return folder

    def _see(self, jobs: tuple[Job, ...]) -> Seen:
        asked = [
            (job, [name for _, layers in self._stored[job] for name in layers]) for job in jobs
        ]
        stores = {
            name: store for job in jobs for store, layers in self._stored[job] for name in layers
        }
        return Seen(jobs, view(Run.open(self._run(jobs[0].pair)), asked), stores)

    def _missing_table(self, study: Study) -> pd.DataFrame:
        mine = [one for one in self.missing if one.study == study.name]
        columns = ["model", "dataset", "reason", "optional"]
        rows = [[one.model, one.dataset, one.reason, one.optional] for one in mine]
        return pd.DataFrame(rows, columns=columns)
