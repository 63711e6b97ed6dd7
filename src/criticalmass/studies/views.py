"""What a study sees of a run that several studies share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from criticalmass.selectors.registry import SELECTORS
from criticalmass.selectors.sizes import sizes_for
from criticalmass.storage.run import Run
from criticalmass.storage.run_view import RunPart
from criticalmass.studies.grid import Job

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
