"""Writing the rows of a sweep into a run as they are computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from criticalmass.core.progress import Progress, write_line
from criticalmass.storage.run import Run, RunWriter
from criticalmass.sweeps.jobs import JobResult
from criticalmass.sweeps.plan import FULL, SweepCell, SweepJob, make_jobs

FullRows = dict[tuple[str, str], dict[str, Any]]
#: Runs jobs on the workers of a backend and yields their results as they complete.
RunJobs = Callable[[Iterable[SweepJob]], Iterator[JobResult]]


class RunRecorder:
    """Writes rows, artifacts and orders of a sweep into a run.

    Parameters
    ----------
    run: the run.
    writer: the open writer of the run.
    """

    def __init__(self, run: Run, writer: RunWriter) -> None:
        self.run = run
        self.writer = writer
        self._saved_orders: set[tuple[str, str, int]] = set()

    def full_rows(self) -> FullRows:
        """Return (layer, measure) -> row of the whole layer, for those in the run."""
        table = self.run.frame()
        rows = table[table["selector"] == FULL].to_dict("records")
        return {(str(row["layer"]), str(row["measure"])): _plain_row(row) for row in rows}

    def write_result(
        self,
        result: JobResult,
        full_rows: FullRows,
        repeats: Mapping[tuple[str, str], Sequence[SweepCell]],
    ) -> int:
        """Write the rows of a job and of the cells that repeat its whole layer.

        Parameters
        ----------
        result: rows of one layer and measure.
        full_rows: (layer, measure) -> row of the whole layer; a new one is added.
        repeats: (layer, measure) -> cells that are the whole layer in another order.

        Returns
        -------
        Number of rows written.
        """
        rows: list[dict[str, Any]] = [
            {**row, "artifact": i if result.artifact is not None else None}
            for i, row in enumerate(result.rows)
        ]
        key = (str(rows[0]["layer"]), str(rows[0]["measure"]))
        new_full_rows = [row for row in rows if row["selector"] == FULL]
        for row in new_full_rows:
            full_rows[key] = row
            rows += _repeat_full_row(row, repeats.get(key, ()), row["artifact"])
        value_full = full_rows[key].get("value") if key in full_rows else None
        self.writer.append([{**row, "value_full": value_full} for row in rows], result.artifact)
        if new_full_rows:
            self.update_full_value(*key, value_full)
        return len(rows)

    def update_full_value(self, layer: str, measure: str, value: float | None) -> None:
        """Set value_full in the earlier rows of a layer and measure."""
        self.writer.flush()
        table = self.run.frame()
        rows = table[(table["layer"] == layer) & (table["measure"] == measure)]
        outdated = rows["value_full"].isna() if value is not None else rows["value_full"].notna()
        if value is not None:
            outdated |= (rows["value_full"] != value).fillna(True)
        records = rows[outdated].to_dict("records")
        self.writer.append([{**_plain_row(row), "value_full": value} for row in records])

    def save_orders(self, result: JobResult) -> None:
        """Write the permutations of a job, each once per sweep."""
        for (selector, seed), order in result.orders.items():
            key = (selector, str(result.rows[0]["layer"]), seed)
            if key not in self._saved_orders:
                self.writer.put_order(*key, order)
                self._saved_orders.add(key)


def compute_cells(
    recorder: RunRecorder, cells: Sequence[SweepCell], run_jobs: RunJobs, label: str
) -> None:
    """Compute cells and write their rows as the jobs complete.

    Parameters
    ----------
    recorder: writes into the run.
    cells: cells to compute.
    run_jobs: runs the jobs.
    label: name of the task in the progress display.
    """
    if not cells:
        write_line(f"{label}: every cell is already computed")
        return
    full_rows = recorder.full_rows()
    recomputed = {cell.key for cell in cells if cell.selector == FULL}
    repeats: dict[tuple[str, str], list[SweepCell]] = {}
    for cell in cells:
        if cell.repeats_full:
            repeats.setdefault(cell.key, []).append(cell)
    with recorder.writer.batched(), Progress(label, total=len(cells), unit="cells") as bar:
        for key, group in repeats.items():
            if key not in recomputed:
                full_row = full_rows[key]
                recorder.writer.append(_repeat_full_row(full_row, group, full_row["artifact"]))
                bar.advance(len(group))
        try:
            for result in run_jobs(make_jobs(cells)):
                recorder.save_orders(result)
                bar.advance(recorder.write_result(result, full_rows, repeats))
        except KeyboardInterrupt:
            write_line(f"{bar.done:,} of these {len(cells):,} cells are in {recorder.run.path}")
            raise


def _repeat_full_row(
    full_row: Mapping[str, Any], cells: Sequence[SweepCell], artifact: Any
) -> list[dict[str, Any]]:
    """Return the rows of cells that repeat the whole layer: its results, in 0 seconds."""
    seconds = None if full_row["status"] == "failed" else 0.0
    return [
        {
            **full_row,
            **asdict(cell),
            "seconds": seconds,
            "artifact": artifact,
            "value_full": full_row.get("value"),
        }
        for cell in cells
    ]


def _plain_row(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a row of the table with None for missing values."""
    return {str(name): None if value is pd.NA else value for name, value in row.items()}
