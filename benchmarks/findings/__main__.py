"""Write docs/results.md from the local studies.

    criticalmass study local --out studies
    python -m benchmarks.findings studies
    python -m benchmarks.findings studies --only whole-local

The second command reads the studies (missing results are computed first), writes tables, figures
and text to ``studies/results``, and copies them to ``docs/``. The last one replaces the
tables of the named studies and keeps those of the others.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import criticalmass as cm
from benchmarks.findings.evidence import LOCAL, WHOLE
from benchmarks.findings.findings import DOCS, copy_to_docs, write_findings


def main(argv: Sequence[str] | None = None) -> None:
    """Write the findings and print the path of the text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", type=Path, help="folder of the studies (--out of the study)")
    parser.add_argument("--only", nargs="+", metavar="STUDY", default=[LOCAL], help="these alone")
    arguments = parser.parse_args(argv)
    folder: Path = arguments.studies
    # The whole data are compared with the samples, whose results are there already.
    samples = ["transfer-local"] if WHOLE in arguments.only and LOCAL not in arguments.only else []
    names = dict.fromkeys([*arguments.only, *samples])
    results = [cm.study(name, out=folder, pages=False) for name in names]
    runs = {name: pairs for one in results for name, pairs in one.runs.items()}
    title = LOCAL if LOCAL in arguments.only else ", ".join(arguments.only)
    write_findings(folder, runs, title)
    print(copy_to_docs(folder / "results", DOCS))


if __name__ == "__main__":
    main()
