"""Critical mass and diffused redundancy against the number of training samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from criticalmass.analysis.columns import CURVE_KEY_COLUMNS, Draws, RunLike, open_runs
from criticalmass.analysis.estimators import DEFAULT_ESTIMATOR
from criticalmass.analysis.redundancy import REDUNDANCY_COLUMNS, redundancy_table
from criticalmass.analysis.targets import Targets
from criticalmass.analysis.training_sets import FOLDER, is_same_task, size_name
from criticalmass.core.arguments import validate_arguments
from criticalmass.errors import CriticalMassError
from criticalmass.measures.registry import is_similarity
from criticalmass.storage.run import Run
from criticalmass.storage.run_view import RunView

_CELL = ["layer", "measure", "selector", "n_kept", "seed"]
_COLUMNS = (
    *CURVE_KEY_COLUMNS,
    *("delta", "n_train", "estimator", "n_neurons", "value_full", "bar", "bar_kind"),
    *("critical_mass", "critical_mass_low", "critical_mass_high", "dr", "dr_low", "dr_high"),
    *("largest_failing", "smallest_passing", "at_floor", "reached"),
    *("level", "n_seeds", "n_test", "training_sets", "n_failed", "n_not_converged"),
    "interval_note",
)
TRAIN_SIZE_COLUMNS: dict[str, str] = {name: REDUNDANCY_COLUMNS[name] for name in _COLUMNS}


@validate_arguments
def train_sizes(
    run: RunLike | Sequence[RunLike],
    deltas: float | Sequence[float] = (0.9,),
    estimator: str = DEFAULT_ESTIMATOR,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Compute critical mass and DR of probes against the number of training samples.

    All numbers of training samples have the same subsets, sizes and test samples; the cells of a
    run that a smaller training set lacks, such as those of refining, are left out. The threshold
    is a share of the whole layer's value with the same training samples.

    Parameters
    ----------
    run: a run that was swept with ``train_sizes``, its path, or several of them.
    deltas: shares of the whole layer's value, each in (0, 1].
    estimator, level, resamples, seed: as in `criticalmass.redundancy`.

    Returns
    -------
    One row per model x layer x dataset x selector x measure x delta x number of training samples,
    `TRAIN_SIZE_COLUMNS`, which are those of `criticalmass.redundancy`. The training sets are
    nested, so neighbouring rows are not independent. ``training_sets`` is 0 where the interval
    does not include the training set.

    Raises
    ------
    CriticalMassError: if an argument is invalid, or a run has one number of training samples.
    """
    draws, targets = Draws(level, resamples, seed), Targets.checked(deltas)
    views = [view for one in open_runs(run) for view in _sized_views(one)]
    table = redundancy_table(views, targets, estimator, draws)[list(_COLUMNS)]
    order = [*CURVE_KEY_COLUMNS, "delta", "n_train"]
    return table.sort_values(order, kind="stable", ignore_index=True)


@dataclass(frozen=True)
class _GridView(RunView):
    """A view of a run without the cells of refining, and without its results."""

    @property
    def manifest(self) -> dict[str, Any]:
        return super().manifest | {"refined": []}


def _sized_views(run: Run) -> Iterator[RunView]:
    """Yield the probes of a run by number of training samples, on the cells that all have."""
    names = [size_name(size) for size in run.manifest.get("train_sizes", ())]
    paths = [run.path / FOLDER / name for name in names]
    parts = [Run.open(path) for path in paths if Run.exists(path)]
    tables = [_comparable_rows(run, part) for part in parts]
    whole = run.frame()
    whole = whole[~whole["measure"].map(is_similarity).astype(bool)]
    cells = [set(table[_CELL].itertuples(index=False, name=None)) for table in (*tables, whole)]
    shared = set.intersection(*cells)
    if not tables or not shared:
        raise CriticalMassError(
            f"{run.path} has probes for one number of training samples; sweep it again with e.g. "
            "train_sizes=(500, 2000)"
        )
    for part, table in zip((*parts, run), (*tables, whole), strict=True):
        is_shared = [cell in shared for cell in table[_CELL].itertuples(index=False, name=None)]
        yield _GridView(part.path, table=table[is_shared])


def _comparable_rows(run: Run, part: Run) -> pd.DataFrame:
    """Return the rows of a part that have the features and the protocol of the run."""
    table = part.frame()
    pairs = zip(table["layer"], table["measure"], strict=True)
    return table[[is_same_task(run, part, layer, measure) for layer, measure in pairs]]
