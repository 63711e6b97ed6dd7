"""The cells of a refinement: read from the run, from memory, or computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from criticalmass.measures.registry import MEASURES
from criticalmass.storage.artifacts import Artifact
from criticalmass.sweeps.jobs import JobResult
from criticalmass.sweeps.plan import SweepCell, make_jobs
from criticalmass.sweeps.recorder import RunJobs, RunRecorder, compute_cells


class CellRequest(NamedTuple):
    """A cell to compute.

    Attributes
    ----------
    cell: the cell.
    possible_cells: returns, for a size, the cells that may be requested later. Measures that
        compute all sizes of an order at the price of one compute them in the same job.
    """

    cell: SweepCell
    possible_cells: Callable[[int], Sequence[SweepCell]]


@dataclass(frozen=True, eq=False)
class _CachedRow:
    """A row that was computed but not requested yet, with the kind and row of its artifact."""

    row: dict[str, Any]
    kind: str = ""
    values: NDArray[Any] | None = None


class CellCache:
    """Computes the cells that a run lacks and writes them into it.

    Parameters
    ----------
    recorder: writes into the run.
    run_jobs: runs jobs.
    rerun: "missing", "failed" or "all", as in `criticalmass.sweep`.
    computed: names of the cells that this sweep has computed already.
    """

    def __init__(
        self,
        recorder: RunRecorder,
        run_jobs: RunJobs,
        *,
        rerun: str,
        computed: Iterable[str],
    ) -> None:
        self.recorder = recorder
        self._run_jobs = run_jobs
        self._rerun = rerun
        self._computed = set(computed)
        self._unrequested: dict[str, _CachedRow] = {}

    def values(self) -> dict[str, float]:
        """Return cell name -> value for the cells in the run that did not fail."""
        table = self.recorder.run.frame()
        rows = table[table["status"] != "failed"]
        return dict(zip(rows["cell"], rows["value"].astype(float), strict=True))

    def ensure(self, requests: Iterable[CellRequest], label: str) -> None:
        """Compute the requested cells that are missing, and write them into the run.

        Parameters
        ----------
        requests: cells. Those of measures that compute every size at once are computed together
            with their ``possible_cells``, which stay in memory until they are requested.
        label: name of the task in the progress display.
        """
        available = self._available()
        missing = [request for request in requests if request.cell.cell not in available]
        self._computed.update(request.cell.cell for request in missing)
        single = [r.cell for r in missing if not MEASURES[r.cell.measure].every_size]
        every_size = [r for r in missing if MEASURES[r.cell.measure].every_size]
        if single:
            compute_cells(self.recorder, single, self._run_jobs, label)
        if every_size:
            self._compute_possible(every_size)
            self._write([request.cell for request in every_size])

    def _available(self) -> set[str]:
        """Return the names of the cells that need not be computed."""
        if self._rerun == "all":
            return self._computed
        table = self.recorder.run.frame()
        rows = table[table["status"] != "failed"] if self._rerun == "failed" else table
        return self._computed | set(rows["cell"])

    def _compute_possible(self, requests: Iterable[CellRequest]) -> None:
        """Compute the requested cells and those that may be requested later; keep all rows."""
        cells: dict[str, SweepCell] = {}
        for cell, possible_cells in requests:
            if cell.cell not in self._unrequested and cell.cell not in cells:
                cells |= {one.cell: one for one in (cell, *possible_cells(cell.n_kept))}
        for result in self._run_jobs(make_jobs(cells.values())):
            self.recorder.save_orders(result)
            artifact = result.artifact
            for i, row in enumerate(result.rows):
                if artifact is None:
                    cached = _CachedRow(row)
                else:
                    cached = _CachedRow(row, artifact.kind, artifact.values[i])
                self._unrequested[row["cell"]] = cached

    def _write(self, cells: Sequence[SweepCell]) -> None:
        """Write cells that are in memory into the run, grouped by layer, measure and artifact."""
        groups: dict[tuple[str, str, str], list[_CachedRow]] = {}
        for cell in cells:
            cached = self._unrequested.pop(cell.cell)
            groups.setdefault((*cell.key, cached.kind), []).append(cached)
        full_rows = self.recorder.full_rows()
        with self.recorder.writer.batched():
            for (_, _, kind), group in groups.items():
                arrays = [cached.values for cached in group if cached.values is not None]
                artifact = Artifact(kind, np.stack(arrays)) if kind else None
                result = JobResult([cached.row for cached in group], artifact)
                self.recorder.write_result(result, full_rows, {})
