"""What a study's grids come to: pairs of a model and a dataset, and what is swept over each."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from criticalmass.selectors.registry import SELECTORS
from criticalmass.selectors.sizes import sizes_for
from criticalmass.storage.run import Run
from criticalmass.storage.run_view import RunPart
from criticalmass.studies.schema import PROBE, ModelEntry, Part, Study

_TAKES_INIT = ("pypi:", "timm:")


@dataclass(frozen=True, order=True)
class Pair:
    """A model on a dataset.

    Attributes
    ----------
    dataset, model: specs, with everything that the user told for them.
    """

    dataset: str
    model: str

    @property
    def folder(self) -> str:
        """A name for its folders: readable, and its own."""
        digest = hashlib.sha256(f"{self.model}\0{self.dataset}".encode()).hexdigest()[:8]
        words = (re.sub(r"[^A-Za-z0-9.]+", "-", text)[-48:] for text in (self.model, self.dataset))
        return "-".join([*(word.strip("-.") for word in words), digest])

    def __str__(self) -> str:
        return f"{self.model} on {self.dataset}"


@dataclass(frozen=True)
class Job:
    """One sweep of a study.

    Attributes
    ----------
    study: the study's name.
    part: the grid that it is of.
    entry: the model, as the study names it.
    pair: the model and the dataset, as they are loaded.
    control: whether the model is the untrained stand-in of ``entry``.
    """

    study: str
    part: Part
    entry: ModelEntry
    pair: Pair
    control: bool = False

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures, with the protocol's probe in its place."""
        probe = self.part.rules.probe
        return tuple(dict.fromkeys(probe if m == PROBE else m for m in self.part.measures))

    @property
    def fractions(self) -> tuple[float, ...]:
        """The fractions, those of the protocol where the part has none."""
        return self.part.fractions or self.part.rules.fractions

    @property
    def seeds(self) -> int:
        """Number of random subsets of a size."""
        return self.part.seeds or self.part.rules.seeds


@dataclass(frozen=True)
class Missing:
    """A part of a study that could not be measured.

    Attributes
    ----------
    study, model, dataset: which; the specs as the study names them.
    reason: why, in a line, with the cure.
    optional: whether the study counts as whole without it.
    """

    study: str
    model: str
    dataset: str
    reason: str
    optional: bool = False

    def __str__(self) -> str:
        return f"{self.study}: {self.model} on {self.dataset}: {self.reason}"


@dataclass
class Grid:
    """All jobs of one command, and what cannot even be begun."""

    jobs: list[Job] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)

    @property
    def pairs(self) -> list[Pair]:
        """Each pair once, datasets together so that each is loaded once."""
        return sorted({job.pair for job in self.jobs})

    def of(self, pair: Pair) -> list[Job]:
        """List the jobs on one pair, in the studies' order."""
        return [job for job in self.jobs if job.pair == pair]


def grid_of(
    studies: Iterable[Study], weights: Mapping[str, Path], data: Path | None = None
) -> Grid:
    """Combine everything that studies combine.

    Parameters
    ----------
    studies: without those that they include.
    weights: name -> weight file, for the models that ask for one.
    data: root of torchvision's datasets, for specs that name none.
    """
    grid = Grid()
    for study in studies:
        for part in study.parts:
            for dataset in (with_root(text, data) for text in part.datasets):
                for entry in part.models:
                    _add(grid, study.name, part, (entry, dataset), weights)
    return grid


def _add(
    grid: Grid, study: str, part: Part, what: tuple[ModelEntry, str], weights: Mapping[str, Path]
) -> None:
    """Add a model's job and its control's."""
    entry, dataset = what
    if part.control:
        untrained = untrained_spec(entry.spec)
        if untrained is None:
            reason = "nothing draws its weights anew, so it has no untrained control"
            grid.missing.append(Missing(study, entry.spec, dataset, reason, optional=True))
        else:
            grid.jobs.append(Job(study, part, entry, Pair(dataset, untrained), control=True))
    spec = entry.spec
    if entry.weights is not None:
        if entry.weights not in weights:
            reason = f"needs weights; give --weights {entry.weights}=FILE"
            grid.missing.append(Missing(study, spec, dataset, reason, part.optional))
            return
        spec = with_option(spec, "weights", str(weights[entry.weights]))
    grid.jobs.append(Job(study, part, entry, Pair(dataset, spec)))


def with_option(spec: str, key: str, value: str) -> str:
    """Add an option to a spec."""
    return f"{spec}{'&' if '?' in spec else '?'}{key}={value}"


def with_root(spec: str, data: Path | None) -> str:
    """Tell a torchvision dataset where it lies, if its spec does not."""
    if data is None or not spec.startswith("torchvision:") or "root=" in spec:
        return spec
    return with_option(spec, "root", str(data))


def untrained_spec(spec: str) -> str | None:
    """Name the same network with weights drawn at random; None where nothing makes one."""
    if not spec.startswith(_TAKES_INIT):
        return None
    name, _, query = spec.partition("?")
    kept = [pair for pair in query.split("&") if pair and pair.split("=")[0] not in _WEIGHTS]
    return f"{name}?{'&'.join(['init=random', *kept])}"


_WEIGHTS = ("init", "weights")

FULL = "full"


def view(run: Run, asked: Iterable[tuple[Job, Sequence[str]]]) -> RunPart:
    """Narrow a run to what some jobs asked for, however much else is in it.

    Parameters
    ----------
    run: of one pair.
    asked: jobs on that pair, each with the names of its layers.
    """
    table = run.frame()
    kept = np.zeros(len(table), dtype=bool)
    for job, layers in asked:
        kept |= _asked(table, job, layers)
    return RunPart(run.path, table=table[kept].reset_index(drop=True))


def _asked(
    table: pd.DataFrame, job: Job, layers: Sequence[str]
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Mask the rows of one job: (n_rows,)."""
    selector, size = table["selector"], table["n_kept"].astype(int)
    chance = {name for name in job.part.selectors if SELECTORS[name].is_random}
    wanted = {
        (int(width), kept)
        for width in table["n_neurons"].unique()
        for kept in sizes_for(job.fractions, int(width))
    }
    sizes = np.array(
        [pair in wanted for pair in zip(table["n_neurons"].astype(int), size, strict=True)],
        dtype=bool,
    )
    seeds = ~selector.isin(chance) | (table["seed"].astype(int) < job.seeds)
    mine = selector.isin(job.part.selectors) & sizes & seeds
    whole = selector == FULL
    place = table["layer"].isin(layers) & table["measure"].isin(job.measures)
    return np.asarray(place & (mine | whole), dtype=bool)
