"""Write the results of all local studies: tables, figures, verdicts and the text."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd

from benchmarks.findings.claims import claims
from benchmarks.findings.drawing import draw_findings
from benchmarks.findings.evidence import LOCAL, StudyRuns, Tables, make_tables
from benchmarks.findings.writing import render
from criticalmass.errors import CriticalMassError
from criticalmass.storage.files import write_bytes
from criticalmass.studies.tables import write_tables

DOCS = Path(__file__).parents[2] / "docs"
IMAGES = "results/"
NEEDED = (
    "transfer",
    "layers",
    "protocol",
    "cka",
    "pca",
    "fairness",
    "agreement",
    "tasks",
    "datasets",
)


def write_findings(folder: Path, runs: StudyRuns, title: str = LOCAL) -> Path:
    """Write ``results/``: compact tables, figures, and ``results.md``.

    Parameters
    ----------
    folder: folder of the studies.
    runs: name of each study -> its results on each pair.
    title: names the studies; unless they are all, tables of others are those of ``docs/``.

    Returns
    -------
    Path of the text.

    Raises
    ------
    CriticalMassError: a table that the text needs is missing or empty.
    """
    results = folder / "results"
    tables = make_tables(folder, runs, title)
    if title != LOCAL:
        tables = with_earlier(tables, DOCS / "results")
    missing = [name for name in NEEDED if name not in tables or not len(tables[name])]
    if missing:
        raise CriticalMassError(
            f"there are no results for {', '.join(missing)}, so nothing is written; see the files "
            "missing.csv of the studies"
        )
    tables["claims"] = claims(tables)
    write_tables(tables, results)
    draw_findings(tables, results)
    text = render(results, images="")
    target = results / "results.md"
    write_bytes(target, text.encode())
    return target


def with_earlier(tables: Tables, results: Path) -> Tables:
    """Add the tables of a folder of results that these studies do not make."""
    earlier = {path.stem: pd.read_csv(path) for path in sorted(results.glob("*.csv"))}
    cost = earlier["cost"]
    other = cost[~cost["studies"].isin(tables["cost"]["studies"])]
    return {**earlier, **tables, "cost": pd.concat([other, tables["cost"]], ignore_index=True)}


def copy_to_docs(results: Path, docs: Path) -> Path:
    """Replace ``docs/results`` and ``docs/results.md``; return the path of the text.

    Parameters
    ----------
    results: folder ``results`` that `write_findings` wrote.
    docs: folder of the documentation.
    """
    text = render(results, images=IMAGES)
    folder = docs / "results"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in sorted([*results.glob("*.csv"), *results.glob("*.png")]):
        shutil.copyfile(path, folder / path.name)
    target = docs / "results.md"
    target.write_text(text, encoding="utf-8")
    return target
