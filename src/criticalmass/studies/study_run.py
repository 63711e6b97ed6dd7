"""The results of a study on one model and dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from criticalmass.measures.registry import MEASURES
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.run_view import RunView
from criticalmass.studies.grid import StudyJob

RANDOM = "random"
OPTIONAL_KEYS = ("task", "group", "examples")
"""Key columns that a study has only if one of its results has a value there."""


@dataclass(frozen=True, eq=False)
class StudyRun:
    """The results of a study on one pair of a model and a dataset, under one protocol.

    Attributes
    ----------
    jobs: jobs on that pair with that protocol; at least one.
    view: the rows of the run that belong to the jobs.
    stores: layer -> its features.
    """

    jobs: tuple[StudyJob, ...]
    view: RunView
    stores: Mapping[str, FeatureStore]

    @property
    def key_columns(self) -> dict[str, Any]:
        """The columns that identify these results in the tables of a study.

        Those of `OPTIONAL_KEYS` are empty where the study has no such thing.
        """
        job = self.jobs[0]
        return {
            "protocol": job.protocol.name,
            "model_spec": job.pair.model,
            "dataset_spec": job.pair.dataset,
            "control": job.control,
            "task": job.pair.task,
            "group": job.part.group,
            "examples": job.examples,
        }

    @property
    def probes(self) -> tuple[str, ...]:
        """The measures that score by accuracy."""
        measures = dict.fromkeys(name for job in self.jobs for name in job.measures)
        return tuple(name for name in measures if MEASURES[name].is_probe)
