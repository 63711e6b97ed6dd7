"""A part of a Run: the same folder, fewer rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from criticalmass.errors import unknown_name
from criticalmass.results import Run

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RunPart", "part_of"]


@dataclass(frozen=True)
class RunPart(Run):
    """A run of which only some rows are seen; stands wherever a run may.

    Attributes
    ----------
    path: the folder.
    layers, selectors, measures: names that are kept; all where empty. The whole layer's rows
        stay with every selector, for subsets are held against them.
    """

    layers: tuple[str, ...] = ()
    selectors: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()

    def frame(self) -> pd.DataFrame:
        """Return the rows of this part of the long table."""
        rows = super().frame()
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
    if not (layers or selectors or measures):
        return run
    frame = run.frame()
    for column, names in (("layer", layers), ("selector", selectors), ("measure", measures)):
        known = [name for name in frame[column].unique() if name != "full"]
        for name in names:
            if name not in known:
                raise unknown_name(column, name, known)
    return RunPart(run.path, layers, selectors, measures)
