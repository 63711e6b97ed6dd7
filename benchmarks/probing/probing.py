"""Tables, pictures and text of docs/probing.md."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from benchmarks.findings.writing import fill
from benchmarks.probing.inversion import JOBS
from criticalmass.probing.invert import Inversion
from criticalmass.probing.subsets import FULL
from criticalmass.reporting.figures.inversion import PictureGrid, picture_grid, searches_of
from criticalmass.storage.files import INVERSION, is_kind, scratch_path, write_bytes
from criticalmass.studies.tables import write_tables

DOCS = Path(__file__).parents[2] / "docs"
TEMPLATE = Path(__file__).with_name("probing.md.j2")
#: Job without its start -> the network in words.
NETWORKS: Mapping[str, str] = {
    "plain": "ResNet-8, plain training",
    "adversarial": "ResNet-8, adversarial training",
    "lite0": "EfficientNet-Lite0",
}
SELECTORS: Mapping[str, str] = {
    "random": "random neurons",
    "leverage": "pivoted neurons (best)",
    "greedy-cka-worst": "worst neurons by CKA",
    "projection-gaussian": "random directions",
    FULL: "whole layer",
}
_SIDE, _GAP, _TOP = 84, 4, 16
_ROWS_OF_PICTURES = 4


def read_inversions(folder: Path) -> tuple[dict[str, Inversion], list[str]]:
    """Open the finished jobs of a folder, and name the others."""
    done, missing = {}, []
    for job in JOBS:
        path = folder / job.name
        if is_kind(path, INVERSION) and _is_complete(path):
            done[job.name] = Inversion.open(path)
        else:
            missing.append(job.name)
    return done, missing


def _is_complete(path: Path) -> bool:
    return (path / "results.parquet").is_file()


def make_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Return the tables of a folder of jobs.

    Returns
    -------
    "inversion": means over images with intervals, by job and search; ``expected`` is the root of
    1 - R^2. "missing": jobs that are not finished. "costs": CPU seconds.
    """
    done, missing = read_inversions(folder)
    summaries = []
    for name, inversion in done.items():
        summary = inversion.summary().assign(job=name, network=name.partition("-")[0])
        for column in ("judge_same_class", "judge_same_class_low", "judge_same_class_high"):
            if column not in summary:
                summary[column] = np.nan
        summary["expected"] = np.sqrt((1 - summary["r2"]).clip(lower=0))
        summaries.append(summary)
    tables = {}
    if summaries:
        tables["inversion"] = pd.concat(summaries, ignore_index=True).round(4)
    if missing:
        tables["missing"] = pd.DataFrame({"job": missing})
    if (folder / "costs.csv").is_file():
        tables["costs"] = pd.read_csv(folder / "costs.csv")
    return tables


def write_probing(folder: Path, docs: Path) -> Path:
    """Write ``probing/`` with tables and pictures, and ``probing.md``; return its path."""
    results = docs / "probing"
    (results / "missing.csv").unlink(missing_ok=True)
    write_tables(make_tables(folder), results)
    for name, inversion in read_inversions(folder)[0].items():
        for search in searches_of(inversion.table):
            grid = picture_grid(inversion, search, selector="random", most_images=_ROWS_OF_PICTURES)
            _save_grid(grid, results / f"{name}-{search.objective}.png")
    target = docs / "probing.md"
    write_bytes(target, render(results).encode())
    return target


def render(folder: Path) -> str:
    """Fill the template with the tables of a folder; each experiment is a file it includes."""
    tables = {path.stem: pd.read_csv(path) for path in sorted(folder.glob("*.csv"))}
    helpers = {
        "networks": NETWORKS,
        "selectors": SELECTORS,
        "matches": matches,
        "where": where,
        "agreement": agreement,
        "at_tenth": at_tenth,
        "pictures": sorted(path.stem for path in folder.glob("*.png")),
    }
    return fill(TEMPLATE, tables, helpers)


def where(table: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """Return the rows in which columns have these values; templates have no such operator."""
    for column, value in values.items():
        table = table[table[column] == value]
    return table


def matches(table: pd.DataFrame, network: str) -> pd.DataFrame:
    """Return the rows of a network's searches that start elsewhere than at the target."""
    return table[(table["network"] == network) & (table["start"] != "target")]


def agreement(table: pd.DataFrame, network: str) -> dict[str, Any]:
    """Compare the dropped errors of a network with those that R^2 leaves open.

    Returns
    -------
    ``n`` cells (selector x size, searched from another image by "match"), ``correlation`` of ranks,
    and ``below``: in how many the search ends nearer to the target than R^2 leaves open.
    """
    cells = where(table, network=network, objective="match", start="image")
    cells = cells[cells["dropped_error"].notna()]
    ranks = cells[["dropped_error", "expected"]].rank()
    correlation = float(ranks.corr().iloc[0, 1]) if len(cells) > 2 else float("nan")
    below = int((cells["dropped_error_high"] < cells["expected"]).sum())
    above = int((cells["dropped_error_low"] > cells["expected"]).sum())
    return {"n": len(cells), "correlation": correlation, "below": below, "above": above}


def at_tenth(table: pd.DataFrame, network: str, objective: str) -> dict[str, Any] | None:
    """Return the row of random neurons, nearest to a tenth of the layer; None without one.

    Searches that start from another image come first, those from noise stand in for them.
    """
    cells = where(table, network=network, objective=objective, selector="random")
    starts = [name for name in ("image", "noise") if name in set(cells["start"])]
    cells = where(cells, start=starts[0] if starts else "")
    if cells.empty:
        return None
    distance = (cells["n_kept"] / cells["n_neurons"] - 0.1).abs()
    return dict(cells.loc[distance.idxmin()])


def _save_grid(grid: PictureGrid, path: Path) -> None:
    """Draw a grid of pictures with the titles of its columns."""
    n_columns, n_rows = len(grid.columns), len(grid.rows)
    step = _SIDE + _GAP
    size = (n_columns * step + _GAP, _TOP + n_rows * step + _GAP)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for column, title in enumerate(grid.columns):
        draw.text((_GAP + column * step, 2), title, fill="black")
    for row, (_, pictures) in enumerate(grid.rows):
        for column, picture in enumerate(pictures):
            resized = Image.fromarray(np.ascontiguousarray(picture)).resize(
                (_SIDE, _SIDE), Image.Resampling.NEAREST
            )
            canvas.paste(resized, (_GAP + column * step, _TOP + row * step))
    scratch = scratch_path(path)
    canvas.save(scratch, "PNG", optimize=True)
    os.replace(scratch, path)
