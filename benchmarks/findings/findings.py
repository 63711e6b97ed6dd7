"""What all local studies say together: tables, figures, verdicts and the text about them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from benchmarks.findings.claims import claims
from benchmarks.findings.drawing import draw_findings
from benchmarks.findings.evidence import SeenBy, evidence
from benchmarks.findings.writing import render
from criticalmass.errors import CriticalMassError
from criticalmass.storage.files import scratch_beside
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


def write_findings(folder: Path, seen: SeenBy) -> Path:
    """Write ``results/``: compact tables, figures, and ``results.md``.

    Parameters
    ----------
    folder: of the command.
    seen: name of each study -> what it saw.

    Returns
    -------
    The text.

    Raises
    ------
    CriticalMassError: a study that the text is about found nothing.
    """
    place = folder / "results"
    tables = evidence(folder, seen)
    lacking = [name for name in NEEDED if name not in tables or not len(tables[name])]
    if lacking:
        raise CriticalMassError(
            f"nothing was measured for {', '.join(lacking)}, so no findings are written; see what "
            "is missing"
        )
    tables["claims"] = claims(tables)
    write_tables(tables, place)
    draw_findings(tables, place)
    text = render(place, images="")
    target = place / "results.md"
    scratch = scratch_beside(target)
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, target)
    return target


def copy_to_docs(found: Path, docs: Path) -> Path:
    """Replace ``docs/results`` and ``docs/results.md``; -> the text.

    Parameters
    ----------
    found: the folder ``results`` that `write_findings` wrote.
    docs: the folder of documents.
    """
    text = render(found, images=IMAGES)
    place = docs / "results"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for path in sorted([*found.glob("*.csv"), *found.glob("*.png")]):
        shutil.copyfile(path, place / path.name)
    target = docs / "results.md"
    target.write_text(text, encoding="utf-8")
    return target
