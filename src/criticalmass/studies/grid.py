"""The jobs of studies: pairs of a model and a dataset, and what is swept on each pair."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from criticalmass.extraction.datasets.loading import DATASET_SOURCES
from criticalmass.extraction.datasets.several_labels import labels_of
from criticalmass.extraction.models.loading import MODEL_SOURCES
from criticalmass.extraction.specs import options_of
from criticalmass.measures.registry import MEASURES
from criticalmass.selectors.registry import SELECTORS
from criticalmass.selectors.sizes import sizes_for
from criticalmass.storage.run import Run
from criticalmass.storage.run_view import RunView
from criticalmass.studies.schema import (
    PROBE,
    PROTOCOLS,
    ModelEntry,
    Study,
    StudyPart,
    StudyProtocol,
)
from criticalmass.studies.trainings import Training, list_trainings
from criticalmass.sweeps.plan import FULL

_WEIGHT_OPTIONS = ("init", "weights")


@dataclass(frozen=True, order=True)
class ModelDatasetPair:
    """A model on a dataset.

    Attributes
    ----------
    dataset, model: specs, with the options that the user gave for them.
    task: one of several labels of the dataset; empty for a dataset with one label.
    """

    dataset: str
    model: str
    task: str = ""

    @property
    def folder(self) -> str:
        """Unique and readable folder name of the pair, the same for all tasks of its dataset."""
        digest = hashlib.sha256(f"{self.model}\0{self.dataset}".encode()).hexdigest()[:8]
        return "-".join([_words(self.model), _words(self.dataset), digest])

    @property
    def run_folder(self) -> str:
        """Unique and readable folder name of the pair and its task."""
        if not self.task:
            return self.folder
        digest = hashlib.sha256(self.task.encode()).hexdigest()[:8]
        return "-".join([self.folder, _words(self.task), digest])

    @property
    def labelled_dataset(self) -> str:
        """The dataset with its task, for lists."""
        return f"{self.dataset} (label {self.task!r})" if self.task else self.dataset

    def __str__(self) -> str:
        return f"{self.model} on {self.labelled_dataset}"


def _words(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text)[-48:].strip("-.")


@dataclass(frozen=True)
class StudyJob:
    """One sweep of a study.

    Attributes
    ----------
    study: name of the study.
    part: the grid that the job belongs to.
    protocol: the settings that the part does not give.
    entry: the model, as the study names it.
    pair: the model and the dataset, as they are loaded.
    control: whether the model is the untrained control of ``entry``.
    training: the network, if the study trains it.
    examples: the protocol of training samples, one of those of the part; empty without any.
    """

    study: str
    part: StudyPart
    protocol: StudyProtocol
    entry: ModelEntry
    pair: ModelDatasetPair
    control: bool = False
    training: Training | None = field(default=None, compare=False)
    examples: str = ""

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures, with the protocol's probe for `PROBE`."""
        probe = self.protocol.probe
        return tuple(dict.fromkeys(probe if m == PROBE else m for m in self.part.measures))

    @property
    def fractions(self) -> tuple[float, ...]:
        """The fractions of the part, or those of its protocol."""
        return self.part.fractions or self.protocol.fractions

    @property
    def seeds(self) -> int:
        """Number of random subsets of a size."""
        return self.part.seeds or self.protocol.seeds

    @property
    def training_sets(self) -> int:
        """Number of halves of the training rows; 0 without a probe, which alone trains."""
        has_probe = any(MEASURES[name].is_probe for name in self.measures)
        return self.part.training_sets if has_probe else 0


@dataclass(frozen=True)
class MissingPart:
    """A model on a dataset that a study could not measure.

    Attributes
    ----------
    study: name of the study.
    model, dataset: specs.
    reason: why, in one line, with the cure.
    optional: whether the study is complete without it.
    """

    study: str
    model: str
    dataset: str
    reason: str
    optional: bool = False

    def __str__(self) -> str:
        return f"{self.study}: {self.model} on {self.dataset}: {self.reason}"


@dataclass
class StudyGrid:
    """The jobs of one command, and what cannot be started."""

    jobs: list[StudyJob] = field(default_factory=list)
    missing: list[MissingPart] = field(default_factory=list)

    @property
    def pairs(self) -> list[ModelDatasetPair]:
        """Each pair once, sorted by dataset so that each dataset is loaded once."""
        return sorted({job.pair for job in self.jobs})

    def jobs_on(self, pair: ModelDatasetPair) -> list[StudyJob]:
        """Return the jobs on one pair, in the order of the studies."""
        return [job for job in self.jobs if job.pair == pair]


def build_grid(
    studies: Iterable[Study],
    weights: Mapping[str, Path],
    data: Path | None = None,
    trained: Path = Path("training"),
) -> StudyGrid:
    """List the jobs of studies.

    Parameters
    ----------
    studies: the studies; those that they include are not added.
    weights: name -> weight file, for the models that need one.
    data: root of torchvision's datasets, for specs without a root.
    trained: folder of the networks that the studies train.
    """
    grid = StudyGrid()
    for study in studies:
        for part in study.parts:
            for protocol in part.protocol:
                for (dataset, task), examples in _datasets(part, data):
                    for entry in part.models:
                        pair = ModelDatasetPair(dataset, entry.spec, task)
                        job = StudyJob(study.name, part, PROTOCOLS[protocol], entry, pair)
                        _add_jobs(grid, replace(job, examples=examples), weights)
                    for training, spec in _trained_models(part, trained):
                        entry, pair = ModelEntry(spec=spec), ModelDatasetPair(dataset, spec, task)
                        job = StudyJob(study.name, part, PROTOCOLS[protocol], entry, pair)
                        grid.jobs.append(replace(job, training=training, examples=examples))
    return grid


def _datasets(part: StudyPart, data: Path | None) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield each spec of a part with each of its labels, and the protocol of training samples."""
    for entry in part.datasets:
        for examples in map(str, part.examples or [""]):
            spec = add_option(entry.text, "examples", examples) if examples else entry.text
            for task in labels_of(spec, ()) or [""]:
                yield (add_root(spec, data), task), examples


def _trained_models(part: StudyPart, folder: Path) -> list[tuple[Training, str]]:
    """Return each network that a part trains, with its spec after each epoch to measure."""
    if part.train is None:
        return []
    return [
        (training, training.spec(epoch))
        for training in list_trainings(part.train, folder)
        for epoch in part.train.at
    ]


def _add_jobs(grid: StudyGrid, job: StudyJob, weights: Mapping[str, Path]) -> None:
    """Add a job with its weights, and that of its untrained control."""
    entry, dataset, named = job.entry, job.pair.dataset, job.pair.labelled_dataset
    if job.part.control:
        untrained = untrained_spec(entry.spec)
        if untrained is None:
            reason = "no untrained control: this kind of model has no random initialisation"
            grid.missing.append(MissingPart(job.study, entry.spec, named, reason, optional=True))
        else:
            pair = ModelDatasetPair(dataset, untrained, job.pair.task)
            grid.jobs.append(replace(job, pair=pair, control=True))
    if entry.weights is None:
        grid.jobs.append(job)
    elif entry.weights in weights:
        spec = add_option(entry.spec, "weights", str(weights[entry.weights]))
        grid.jobs.append(replace(job, pair=ModelDatasetPair(dataset, spec, job.pair.task)))
    else:
        reason = f"needs weights; give --weights {entry.weights}=FILE"
        grid.missing.append(MissingPart(job.study, entry.spec, named, reason, job.part.optional))


def add_option(spec: str, key: str, value: str) -> str:
    """Add an option to a spec."""
    return f"{spec}{'&' if '?' in spec else '?'}{key}={value}"


def add_root(spec: str, data: Path | None) -> str:
    """Add the root folder to the spec of a dataset that takes one and has none."""
    options = options_of(DATASET_SOURCES).get(spec.partition(":")[0], ())
    if data is None or "root" not in options or "root=" in spec:
        return spec
    return add_option(spec, "root", str(data))


def untrained_spec(spec: str) -> str | None:
    """Return the spec of the same network with random weights; None if there is none."""
    name, _, query = spec.partition("?")
    if "init" not in options_of(MODEL_SOURCES).get(name.partition(":")[0], ()):
        return None
    options = [
        option
        for option in query.split("&")
        if option and option.split("=")[0] not in _WEIGHT_OPTIONS
    ]
    return f"{name}?{'&'.join(['init=random', *options])}"


def select_rows(run: Run, jobs: Iterable[tuple[StudyJob, Sequence[str]]]) -> RunView:
    """Return the view of a run with the rows and the training sets of some jobs only.

    Parameters
    ----------
    run: the run of one pair.
    jobs: jobs on that pair, each with the names of its layers.
    """
    table = run.frame()
    selected, n_sets = np.zeros(len(table), dtype=bool), 0
    for job, layers in jobs:
        n_sets = max(n_sets, job.training_sets)
        selected |= _rows_of_job(table, job, layers)
    rows = table[selected].reset_index(drop=True)
    return RunView(run.path, table=rows, most_training_sets=n_sets)


def _rows_of_job(
    table: pd.DataFrame, job: StudyJob, layers: Sequence[str]
) -> npt.NDArray[np.bool_]:
    """Return the (n_rows,) mask of the rows of one job."""
    selector, n_kept = table["selector"], table["n_kept"].astype(int)
    random_selectors = {name for name in job.part.selectors if SELECTORS[name].is_random}
    sizes = {
        (int(width), size)
        for width in table["n_neurons"].unique()
        for size in sizes_for(job.fractions, int(width))
    }
    has_size = np.array(
        [pair in sizes for pair in zip(table["n_neurons"].astype(int), n_kept, strict=True)],
        dtype=bool,
    )
    has_seed = ~selector.isin(random_selectors) | (table["seed"].astype(int) < job.seeds)
    is_subset = selector.isin(job.part.selectors) & has_size & has_seed
    has_layer_and_measure = table["layer"].isin(layers) & table["measure"].isin(job.measures)
    return np.asarray(has_layer_and_measure & (is_subset | (selector == FULL)), dtype=bool)
