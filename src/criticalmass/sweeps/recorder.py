"""How a sweep writes: cells as they come, the whole layer's value in every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import pandas as pd

from criticalmass.core.backends import Backend
from criticalmass.core.progress import say, track
from criticalmass.storage.run import Run, RunWriter
from criticalmass.sweeps.jobs import Outcome, run_job
from criticalmass.sweeps.layer_data import Workbench
from criticalmass.sweeps.plan import FULL, Cell, jobs_of


@dataclass(frozen=True)
class Ledger:
    """The run that is being written; ``saved``: the orders that this sweep has written."""

    run: Run
    writer: RunWriter
    saved: set[tuple[str, str, int]] = field(default_factory=set)

    def full_rows(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Return the row of the whole layer, for every layer and measure that has one."""
        table = self.run.frame()
        rows = table[table["selector"] == FULL].to_dict("records")
        return {(str(row["layer"]), str(row["measure"])): plain_row(row) for row in rows}

    def settle(self, layer: str, measure: str, value: float | None) -> None:
        """Bring value_full of rows that stood there before up to date."""
        table = self.run.frame()
        mine = table[(table["layer"] == layer) & (table["measure"] == measure)]
        told = mine["value_full"].isna() if value is not None else mine["value_full"].notna()
        if value is not None:
            told |= (mine["value_full"] != value).fillna(True)
        rows = [{**plain_row(row), "value_full": value} for row in mine[told].to_dict("records")]
        self.writer.append(rows)


def fill(
    ledger: Ledger,
    cells: Sequence[Cell],
    bench: Workbench,
    backend: Backend,
    label: str | None = None,
) -> None:
    """Compute cells and write them as they come; ``label`` says what for."""
    label = label or f"sweep of {bench.store.model} on {bench.store.dataset}"
    if not cells:
        say(f"{label}: every cell is there already")
        return
    full = ledger.full_rows()
    anew = {cell.key for cell in cells if cell.selector == FULL}
    repeats: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        if cell.repeats_full:
            repeats.setdefault(cell.key, []).append(cell)
    with track(label, total=len(cells), unit="cells") as bar:
        for key, mine in repeats.items():
            if key not in anew:
                ledger.writer.append(_repeat(full[key], mine, full[key]["artifact"]))
                bar.advance(len(mine))
        for outcome in backend.map(partial(run_job, bench), jobs_of(cells)):
            save_orders(ledger, outcome)
            bar.advance(record(ledger, outcome, full, repeats))


def record(
    ledger: Ledger,
    outcome: Outcome,
    full: dict[tuple[str, str], dict[str, Any]],
    repeats: Mapping[tuple[str, str], Sequence[Cell]],
) -> int:
    """Write the rows of a job and those that repeat its whole layer; return how many."""
    rows: list[dict[str, Any]] = [
        {**row, "artifact": i if outcome.artifact is not None else None}
        for i, row in enumerate(outcome.rows)
    ]
    key = (str(rows[0]["layer"]), str(rows[0]["measure"]))
    fresh = [row for row in rows if row["selector"] == FULL]
    for row in fresh:
        full[key] = row
        rows += _repeat(row, repeats.get(key, ()), row["artifact"])
    value = full[key].get("value") if key in full else None
    ledger.writer.append([{**row, "value_full": value} for row in rows], outcome.artifact)
    if fresh:
        ledger.settle(*key, value)
    return len(rows)


def _repeat(full: Mapping[str, Any], cells: Sequence[Cell], artifact: Any) -> list[dict[str, Any]]:
    """Rows of cells that are the whole layer again: its fit, at no further cost."""
    seconds = None if full["status"] == "failed" else 0.0
    return [
        {
            **full,
            **asdict(cell),
            "seconds": seconds,
            "artifact": artifact,
            "value_full": full.get("value"),
        }
        for cell in cells
    ]


def save_orders(ledger: Ledger, outcome: Outcome) -> None:
    """Keep the permutations of a job, each once per sweep."""
    for (selector, seed), order in outcome.orders.items():
        key = (selector, str(outcome.rows[0]["layer"]), seed)
        if key not in ledger.saved:
            ledger.writer.order(*key, order)
            ledger.saved.add(key)


def plain_row(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a row of the table with None where a value is missing."""
    return {str(name): None if value is pd.NA else value for name, value in row.items()}
