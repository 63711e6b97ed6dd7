"""Where the cells of a refinement come from: the run, what is at hand already, or a job."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.backends import Backend
from criticalmass.measures.registry import MEASURES
from criticalmass.storage.artifacts import Artifact
from criticalmass.sweeps.jobs import Outcome, run_job
from criticalmass.sweeps.layer_data import Workbench
from criticalmass.sweeps.plan import Cell, jobs_of
from criticalmass.sweeps.recorder import Ledger, fill, record, save_orders

Wanted = tuple[Cell, Callable[[int], Sequence[Cell]]]


@dataclass(frozen=True, eq=False)
class _Kept:
    """A row that was computed but not asked for yet, with its artifact's kind and row."""

    row: dict[str, Any]
    kind: str = ""
    values: NDArray[Any] | None = None


@dataclass(frozen=True, eq=False)
class Supply:
    """A run that is being written, and how what it lacks is computed.

    Attributes
    ----------
    ledger, bench, backend: the run, the data, and where jobs run.
    rerun: "missing", "failed" or "all", as in `criticalmass.sweep`.
    done: cells that this sweep has computed and need not be computed again.
    """

    ledger: Ledger
    bench: Workbench
    backend: Backend
    rerun: str
    done: set[str]
    _at_hand: dict[str, _Kept] = field(default_factory=dict)

    def values(self) -> dict[str, float]:
        """Return the value of every cell that has one."""
        table = self.ledger.run.frame()
        used = table[table["status"] != "failed"]
        return dict(zip(used["cell"], used["value"].astype(float), strict=True))

    def get(self, wanted: Iterable[Wanted], label: str) -> None:
        """Have cells in the run, computing those that are missing.

        Parameters
        ----------
        wanted: cells, each with a function of its size that lists those which may be asked for
            next: measures that have every size of an order for the price of one compute them
            along, and keep them until they are asked for.
        label: what for, shown with the progress.
        """
        there = self._there()
        missing = [(cell, around) for cell, around in wanted if cell.cell not in there]
        self.done.update(cell.cell for cell, _ in missing)
        one_by_one = [c for c, _ in missing if not MEASURES[c.measure].every_size]
        at_once = [(c, around) for c, around in missing if MEASURES[c.measure].every_size]
        if one_by_one:
            fill(self.ledger, one_by_one, self.bench, self.backend, label)
        if at_once:
            self._compute_around(at_once)
            self._write([cell for cell, _ in at_once])

    def _there(self) -> set[str]:
        """Cells that need not be computed: those of this sweep, and what ``rerun`` leaves."""
        if self.rerun == "all":
            return self.done
        table = self.ledger.run.frame()
        rows = table[table["status"] != "failed"] if self.rerun == "failed" else table
        return self.done | set(rows["cell"])

    def _compute_around(self, wanted: Iterable[Wanted]) -> None:
        """Compute the cells that are not at hand, and those around them, and keep them."""
        cells: dict[str, Cell] = {}
        for cell, around in wanted:
            if cell.cell not in self._at_hand and cell.cell not in cells:
                cells |= {c.cell: c for c in (cell, *around(cell.n_kept))}
        for outcome in self.backend.map(partial(run_job, self.bench), jobs_of(cells.values())):
            save_orders(self.ledger, outcome)
            kept = outcome.artifact
            for i, row in enumerate(outcome.rows):
                mine = _Kept(row) if kept is None else _Kept(row, kept.kind, kept.values[i])
                self._at_hand[row["cell"]] = mine

    def _write(self, cells: Sequence[Cell]) -> None:
        """Write cells that are at hand."""
        groups: dict[tuple[str, str, str], list[_Kept]] = {}
        for cell in cells:
            mine = self._at_hand.pop(cell.cell)
            groups.setdefault((*cell.key, mine.kind), []).append(mine)
        full = self.ledger.full_rows()
        for (_, _, kind), group in groups.items():
            arrays = [one.values for one in group if one.values is not None]
            artifact = Artifact(kind, np.stack(arrays)) if kind else None
            record(self.ledger, Outcome([one.row for one in group], artifact), full, {})
