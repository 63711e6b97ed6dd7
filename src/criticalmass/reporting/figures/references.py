"""Published numbers: points that are drawn on the figures of a run, with their sources."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.reporting.plots import Series

if TYPE_CHECKING:
    import pandas as pd

#: Figures on which published numbers can be drawn, with the meaning of their x and y.
REFERENCED = {
    "value": "x: fraction of neurons kept, in (0, 1]; y: value of the measure",
    "dr": "x: delta, in (0, 1]; y: diffused redundancy",
}


@dataclass(frozen=True)
class ReferencePoint:
    """A published number to draw on a figure of a run.

    Attributes
    ----------
    source: the publication, such as "Nanda et al. 2023, figure 2".
    measure: the run's measure that it is compared with, such as "logistic".
    x, y: its position, see `REFERENCED`.
    figure: a key of `REFERENCED`.
    label: description, such as "ResNet50, CIFAR10"; may be empty.
    low, high: ends of its published interval, None without one.
    model, dataset: if set, it is shown only with runs of this model and dataset.

    Raises
    ------
    CriticalMassError: if a number is out of range or the figure is unknown.
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
                f"reference ({self.x}, {self.y}) of {self.source!r} is out of range; "
                f"{REFERENCED[self.figure]}, in [-1, 1]"
            )


def reference_points(reference: Any) -> tuple[ReferencePoint, ...]:
    """Read published numbers from objects, mappings, a DataFrame or a CSV file.

    Parameters
    ----------
    reference: None, `ReferencePoint` objects, mappings or a DataFrame of their attributes, or
        the path of a CSV file with such columns.

    Raises
    ------
    CriticalMassError: if a column is unknown or missing, or a number is out of range.
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
        point if isinstance(point, ReferencePoint) else _point_from_mapping(point)
        for point in reference
    )


def points_for_figure(
    points: Sequence[ReferencePoint], figure: str, rows: pd.DataFrame
) -> list[ReferencePoint]:
    """Select the points that belong to one figure of these rows.

    Parameters
    ----------
    points: of any figure, model, dataset and measure.
    figure: a key of `REFERENCED`.
    rows: a table of a run, with columns model, dataset and measure.
    """
    present = {name: set(rows[name].astype(str)) for name in ("model", "dataset", "measure")}
    return [
        point
        for point in points
        if point.figure == figure
        and point.measure in present["measure"]
        and (not point.model or point.model in present["model"])
        and (not point.dataset or point.dataset in present["dataset"])
    ]


def reference_series(points: Sequence[ReferencePoint]) -> list[Series]:
    """Return published numbers as stars, one series per source.

    Parameters
    ----------
    points: those that `points_for_figure` selected.
    """
    groups: dict[str, list[ReferencePoint]] = {}
    for point in points:
        groups.setdefault(point.source, []).append(point)
    return [
        Series(
            name=source,
            x=[point.x for point in group],
            y=[point.y for point in group],
            low=[point.low for point in group],
            high=[point.high for point in group],
            colour="ink",
            shape="stars",
        )
        for source, group in groups.items()
    ]


def _point_from_mapping(attributes: Mapping[str, Any]) -> ReferencePoint:
    """Make a point of a mapping; missing values count as absent."""
    import pandas as pd

    names = {field.name for field in fields(ReferencePoint)}
    for name in attributes:
        if name not in names:
            raise unknown_name("column of a reference", str(name), sorted(names))
    values = {name: value for name, value in attributes.items() if not pd.isna(value)}
    for name in ("source", "measure", "x", "y"):
        if name not in values:
            raise CriticalMassError(
                f"reference {dict(attributes)!r} has no {name!r}; it needs source, measure, x and y"
            )
    numbers = {
        name: float(values.pop(name)) for name in ("x", "y", "low", "high") if name in values
    }
    return ReferencePoint(**{name: str(value) for name, value in values.items()}, **numbers)  # type: ignore[arg-type]
