"""A view of a run: the same folder, fewer rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from criticalmass.errors import unknown_name
from criticalmass.storage.run import Run

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RunView", "filter_run"]


@dataclass(frozen=True)
class RunView(Run):
    """A run that shows only some of its rows; accepted wherever a run is.

    Attributes
    ----------
    path: the folder.
    layers, selectors, measures: names to show; empty shows all. The rows of the whole layer are
        shown with every selector, because subsets are compared with them.
    table: the rows, already read; None reads them on each call.
    most_training_sets: number of halves of the training rows whose runs are shown; None shows all.
    """

    layers: tuple[str, ...] = ()
    selectors: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()
    table: pd.DataFrame | None = field(default=None, compare=False, repr=False)
    most_training_sets: int | None = None

    @property
    def manifest(self) -> dict[str, Any]:
        """The description of the run, with the training sets that are shown."""
        manifest = super().manifest
        halves = manifest.get("training_sets")
        if halves is None or self.most_training_sets is None:
            return manifest
        return {
            **manifest,
            "training_sets": {**halves, "names": halves["names"][: self.most_training_sets]},
        }

    def frame(self) -> pd.DataFrame:
        """Return the shown rows of the long table."""
        rows = super().frame() if self.table is None else self.table
        for column, names in (("layer", self.layers), ("measure", self.measures)):
            if names:
                rows = rows[rows[column].isin(names)]
        if self.selectors:
            rows = rows[rows["selector"].isin({*self.selectors, "full"})]
        return rows.reset_index(drop=True)


def filter_run(
    run: Run,
    *,
    layers: tuple[str, ...] = (),
    selectors: tuple[str, ...] = (),
    measures: tuple[str, ...] = (),
) -> Run:
    """Return a view of a run with only these layers, selectors and measures; empty means all.

    If nothing is left out the same run is returned, so that tables made from it are reused.

    Raises
    ------
    CriticalMassError: if the run has no such name.
    """
    filters = {"layer": layers, "selector": selectors, "measure": measures}
    if not any(filters.values()):
        return run
    frame = run.frame()
    for column, names in filters.items():
        available = [name for name in frame[column].unique() if name != "full"]
        for name in names:
            if name not in available:
                raise unknown_name(column, name, available)
        if set(names) == set(available):
            filters[column] = ()
    if not any(filters.values()):
        return run
    names_shown = filters["layer"], filters["selector"], filters["measure"]
    return RunView(run.path, *names_shown, frame, shown_training_sets(run))


def shown_training_sets(run: Run) -> int | None:
    """Return how many halves of the training rows a run shows; None if it shows all."""
    return run.most_training_sets if isinstance(run, RunView) else None
