"""A part of a Run: the same folder, fewer rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from criticalmass.errors import unknown_name
from criticalmass.storage.run import Run

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RunPart", "held", "part_of"]


@dataclass(frozen=True)
class RunPart(Run):
    """A run of which only some rows are seen; stands wherever a run may.

    Attributes
    ----------
    path: the folder.
    layers, selectors, measures: names that are kept; all where empty. The whole layer's rows
        stay with every selector, for subsets are held against them.
    table: the rows, read before; None reads them each time.
    """

    layers: tuple[str, ...] = ()
    selectors: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()
    table: pd.DataFrame | None = field(default=None, compare=False, repr=False)

    def frame(self) -> pd.DataFrame:
        """Return the rows of this part of the long table."""
        rows = super().frame() if self.table is None else self.table
        for column, names in (("layer", self.layers), ("measure", self.measures)):
            if names:
                rows = rows[rows[column].isin(names)]
        if self.selectors:
            rows = rows[rows["selector"].isin({*self.selectors, "full"})]
        return rows.reset_index(drop=True)


def part_of(
    run: Run,
    *,
    layers: tuple[str, ...] = (),
    selectors: tuple[str, ...] = (),
    measures: tuple[str, ...] = (),
) -> Run:
    """Narrow a run to layers, selectors and measures; all where none is named.

    Raises
    ------
    CriticalMassError: for a name that the run does not hold.
    """
    asked = {"layer": layers, "selector": selectors, "measure": measures}
    if not any(asked.values()):
        return run
    frame = run.frame()
    for column, names in asked.items():
        known = [name for name in frame[column].unique() if name != "full"]
        for name in names:
            if name not in known:
                raise unknown_name(column, name, known)
        if set(names) == set(known):
            asked[column] = ()
    # The same run where nothing is left out, so that what was made of it can be used again.
    if not any(asked.values()):
        return run
    return RunPart(run.path, asked["layer"], asked["selector"], asked["measure"], frame)


def held(run: Run) -> RunPart:
    """Return a run whose table is read once, for what makes many tables of it."""
    return RunPart(run.path, table=run.frame())
