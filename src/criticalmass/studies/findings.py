"""What all local studies say together: tables, figures, verdicts and the text about them."""

from __future__ import annotations

import os
from pathlib import Path

from criticalmass.errors import CriticalMassError
from criticalmass.store_files import scratch_beside
from criticalmass.studies.claims import claims
from criticalmass.studies.drawing import draw_findings
from criticalmass.studies.evidence import SeenBy, evidence
from criticalmass.studies.tabulating import write_tables
from criticalmass.studies.writing import render

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
