"""Write docs/results.md from the local studies.

    criticalmass study local --out studies
    python -m benchmarks.findings studies
    python -m benchmarks.findings studies --only width-local

The second command reads the studies (missing results are computed first), writes tables, figures
and text to ``studies/results``, and copies them to ``docs/``. The third replaces the
tables of the named studies and keeps those of the others.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import criticalmass as cm
from benchmarks.findings.evidence import LOCAL
from benchmarks.findings.findings import DOCS, copy_to_docs, write_findings


def main(argv: Sequence[str] | None = None) -> None:
    """Write the findings and print the path of the text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", type=Path, help="folder of the studies (--out of the study)")
    parser.add_argument("--only", nargs="+", metavar="STUDY", default=[LOCAL], help="these alone")
    arguments = parser.parse_args(argv)
    folder: Path = arguments.studies
    results = [cm.study(name, out=folder, pages=False) for name in arguments.only]
    runs = {name: pairs for one in results for name, pairs in one.runs.items()}
    write_findings(folder, runs, ", ".join(arguments.only))
    print(copy_to_docs(folder / "results", DOCS))


if __name__ == "__main__":
    main()
