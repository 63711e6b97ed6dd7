"""Published numbers beside a run: points on its figures, and where they come from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.reporting.figures.style import INK

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

#: Figures that a published number may stand on, and what its x and y are there.
REFERENCED = {
    "value": "x: fraction of neurons kept, in (0, 1]; y: value of the measure",
    "dr": "x: delta, in (0, 1]; y: diffused redundancy",
}


@dataclass(frozen=True)
class ReferencePoint:
    """A published number that a run stands beside.

    Attributes
    ----------
    source: who published it, such as "Nanda et al. 2023, figure 2".
    measure: the run's measure that it is compared with, such as "logistic".
    x, y: where it stands, see `REFERENCED`.
    figure: a key of `REFERENCED`.
    label: what it is, such as "ResNet50, CIFAR10"; may be empty.
    low, high: both ends of its published interval, None without one.
    model, dataset: shown only with runs of this model and dataset; with all if empty.

    Raises
    ------
    CriticalMassError: a number out of range, or an unknown figure.
    """

    source: str
    measure: str
    x: float
    y: float
    figure: str = "value"
    label: str = ""
    low: float | None = None
    high: float | None = None
    model: str = ""
    dataset: str = ""

    def __post_init__(self) -> None:
        if self.figure not in REFERENCED:
            raise unknown_name("figure with references", self.figure, REFERENCED)
        if not 0.0 < self.x <= 1.0 or not -1.0 <= self.y <= 1.0:
            raise CriticalMassError(
                f"reference ({self.x}, {self.y}) of {self.source!r}: {REFERENCED[self.figure]}"
            )

    @property
    def name(self) -> str:
        """How a legend names it."""
        return f"{self.source}: {self.label}" if self.label else self.source


def reference_points(reference: Any) -> tuple[ReferencePoint, ...]:
    """Read published numbers from whatever they are given as.

    Parameters
    ----------
    reference: None, `ReferencePoint` objects, mappings or a DataFrame of their attributes, or
        the path of a CSV file with such columns.

    Raises
    ------
    CriticalMassError: an unknown or missing column, or a number out of range.
    """
    import pandas as pd

    if reference is None:
        return ()
    if isinstance(reference, (str, os.PathLike)):
        try:
            reference = pd.read_csv(reference)
        except (OSError, ValueError) as error:
            raise CriticalMassError(
                f"reference {os.fspath(reference)!r} cannot be read as CSV: {error}"
            ) from error
    if isinstance(reference, pd.DataFrame):
        reference = reference.to_dict("records")
    reference = list(reference)
    for point in reference:
        if not isinstance(point, (ReferencePoint, Mapping)):
            raise CriticalMassError(
                f"reference holds {point!r}; each point must be a ReferencePoint or a mapping of "
                "its attributes, e.g. {'source': 'Nanda et al. 2023', 'x': 0.2, 'y': 0.83}"
            )
    return tuple(
        point if isinstance(point, ReferencePoint) else _point(point) for point in reference
    )


def fitting(
    points: Sequence[ReferencePoint], figure: str, rows: pd.DataFrame
) -> list[ReferencePoint]:
    """Keep the points that stand on one figure of these rows.

    Parameters
    ----------
    points: of any figure, model, dataset and measure.
    figure: a key of `REFERENCED`.
    rows: with columns model, dataset and measure, as the tables of a run have them.
    """
    known = {name: set(rows[name].astype(str)) for name in ("model", "dataset", "measure")}
    return [
        point
        for point in points
        if point.figure == figure
        and point.measure in known["measure"]
        and (not point.model or point.model in known["model"])
        and (not point.dataset or point.dataset in known["dataset"])
    ]


def mark_references(points: Sequence[ReferencePoint], ax: Axes) -> Axes:
    """Draw published numbers as stars, one legend entry per source.

    Parameters
    ----------
    points: those that `fitting` kept.
    ax: the axes of the figure that they belong to.
    """
    for source in dict.fromkeys(point.source for point in points):
        mine = [point for point in points if point.source == source]
        for point in mine:
            if point.low is not None and point.high is not None:
                ax.vlines(point.x, point.low, point.high, color=INK, linewidth=0.9, zorder=6)
        ax.plot(
            [point.x for point in mine],
            [point.y for point in mine],
            "*",
            color=INK,
            markerfacecolor="white",
            markersize=8,
            label=source.replace("$", r"\$"),
            zorder=7,
        )
    return ax


def _point(given: Mapping[str, Any]) -> ReferencePoint:
    """Make a point of a mapping; missing cells count as not given."""
    import pandas as pd

    known = {field.name for field in fields(ReferencePoint)}
    for name in given:
        if name not in known:
            raise unknown_name("column of a reference", str(name), sorted(known))
    told = {name: value for name, value in given.items() if not pd.isna(value)}
    for name in ("source", "measure", "x", "y"):
        if name not in told:
            raise CriticalMassError(
                f"reference {dict(given)!r} has no {name!r}; it needs source, measure, x and y"
            )
    numbers = {name: float(told.pop(name)) for name in ("x", "y", "low", "high") if name in told}
    return ReferencePoint(**{name: str(value) for name, value in told.items()}, **numbers)  # type: ignore[arg-type]
