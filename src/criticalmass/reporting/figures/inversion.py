"""Figures and grids of pictures of `criticalmass.invert`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.optional import import_package
from criticalmass.probing.subsets import FULL
from criticalmass.reporting.plots import Plot, Rule, Series, look, plain_axis, share_axis, unit_axis

if TYPE_CHECKING:
    import pandas as pd

    from criticalmass.probing.invert import Inversion

#: Column of the summary -> title and label of its figure.
QUANTITIES = {
    "dropped_error": ("What the dropped neurons do", "error of the dropped neurons"),
    "same_class": ("The class that the network sees", "share with the target's class"),
    "judge_same_class": ("The class that the judge sees", "share with the target's class"),
    "ssim": ("Likeness of the pictures", "SSIM to the target"),
}
_LEVELS = 255.0


@dataclass(frozen=True)
class Search:
    """An objective, and what its searches begin from."""

    objective: str
    start: str

    @property
    def title(self) -> str:
        """Both in words."""
        beginnings = {"noise": "from noise", "image": "from another image"}
        return f"{self.objective}, {beginnings.get(self.start, 'around the target')}"


def searches_of(table: pd.DataFrame) -> list[Search]:
    """List the objectives and starts of a table or summary."""
    pairs = table[["objective", "start"]].drop_duplicates()
    return [Search(*map(str, pair)) for pair in pairs.itertuples(index=False)]


def inversion_plots(summary: pd.DataFrame, search: Search) -> list[Plot]:
    """Describe what the searches of one objective and start found, against the share kept.

    Parameters
    ----------
    summary: rows of `criticalmass.probing.summary.summarise_images`.
    search: objective and start.
    """
    rows = summary[
        (summary["objective"] == search.objective) & (summary["start"] == search.start)
    ].reset_index(drop=True)
    names = [name for name in QUANTITIES if name in rows and rows[name].notna().any()]
    return [_plot(rows, search, name) for name in names]


def _plot(rows: pd.DataFrame, search: Search, name: str) -> Plot:
    title, label = QUANTITIES[name]
    rows = rows[rows[name].notna()]
    parts = rows[rows["selector"] != FULL]
    full = rows[rows["selector"] == FULL]
    series = _series(parts, search, name)
    rules = [
        Rule("y", float(value), label="whole layer", dashed=True) for value in full[name].tolist()
    ]
    values = [v for one in series for column in (one.y, one.low, one.high) for v in column]
    values += [rule.position for rule in rules]
    is_share = name.endswith("same_class")
    widths = set(rows["n_neurons"])
    images = int(rows["images"].max())
    return Plot(
        name=f"{search.objective}-{search.start}-{name}".replace("_", "-"),
        title=f"{title}: {search.title}",
        caption=f"Means over {images} images; bands: intervals over images. {_explain(name)}",
        summary=f"{label} against the share of neurons held, {search.title}.",
        table=rows,
        x=share_axis(
            float((rows["n_kept"] / rows["n_neurons"]).min()),
            widths.pop() if len(widths) == 1 else 0,
        ),
        y=unit_axis(values, label) if is_share else plain_axis(values, label),
        series=tuple(series),
        rules=tuple(rules),
        free_corner="upper right",
    )


def _series(parts: pd.DataFrame, search: Search, name: str) -> list[Series]:
    """Return a line with its band for each selector, and what R^2 leaves open."""
    selectors = list(dict.fromkeys(parts["selector"]))
    series = []
    for number, selector in enumerate(selectors):
        part = parts[parts["selector"] == selector].sort_values("n_kept")
        share = part["n_kept"] / part["n_neurons"]
        series.append(
            Series(
                selector,
                list(share),
                list(part[name]),
                list(part[f"{name}_low"]),
                list(part[f"{name}_high"]),
                **look(number, len(selectors)),
            )
        )
        if name == "dropped_error" and search.objective == "match":
            expected = np.sqrt((1 - part["r2"]).clip(lower=0))
            series.append(
                Series(
                    f"{selector}, by R^2",
                    list(share),
                    list(expected),
                    shape="bare",
                    legend="" if number else "expected by R^2",
                    colour="grey",
                )
            )
    return series


def _explain(name: str) -> str:
    if name == "dropped_error":
        return (
            "1 is the distance of an unrelated image, 0 the target itself. Grey: what linear "
            "regression leaves open between images of the dataset, the root of 1 - R^2."
        )
    return "Dashed: all neurons are held." if name != "same_class" else ""


@dataclass(frozen=True)
class PictureGrid:
    """Pictures in rows and columns.

    Attributes
    ----------
    columns: their titles.
    rows: title, and the pictures (height, width, 3) of the columns.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[NDArray[np.uint8], ...]], ...]


def picture_grid(
    inversion: Inversion, search: Search, *, selector: str, most_images: int = 6
) -> PictureGrid:
    """Return target, start and the picture found with each size of a selector's first subset.

    Parameters
    ----------
    inversion: finished.
    search: objective and start.
    selector: whose subsets held the pictures; the whole layer comes last.
    most_images: rows of the grid.
    """
    load = import_package("safetensors.numpy", "train").load_file
    table = inversion.table
    is_drawn = (table["selector"] == selector) & (table["seed"] == 0)
    is_drawn |= table["selector"] == FULL
    is_drawn &= (table["objective"] == search.objective) & (table["start"] == search.start)
    rows = []
    columns: list[str] = []
    for number, part in list(table.groupby("image", sort=True))[:most_images]:
        drawn = np.flatnonzero(is_drawn.loc[part.index])
        chosen = part.iloc[drawn]
        drawn = drawn[np.argsort(chosen["n_kept"].to_numpy(), kind="stable")]
        tensors = load(inversion.path / "units" / f"{int(number):04d}.safetensors")
        sizes = part.iloc[drawn]["n_kept"]
        columns = ["target", "start", *(f"{size:,} held" for size in sizes)]
        start = tensors[f"start-{search.start}"]
        pictures = (tensors["target"], start, *tensors["found"][drawn])
        rows.append((str(part["id"].iloc[0]), tuple(map(_to_levels, pictures))))
    return PictureGrid(tuple(columns), tuple(rows))


def _to_levels(picture: NDArray[np.float16]) -> NDArray[np.uint8]:
    """Return (channels, height, width) in 0..1 as (height, width, 3) bytes."""
    levels = np.round(np.moveaxis(picture.astype(np.float32), 0, 2) * _LEVELS)
    return np.broadcast_to(levels.astype(np.uint8), (*levels.shape[:2], 3))
