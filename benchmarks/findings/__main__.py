"""Write docs/results.md from the local studies.

    criticalmass study local --out studies
    python -m benchmarks.findings studies

The second command reads the studies (missing results are computed first), writes tables, figures
and text to ``studies/results``, and copies them to ``docs/``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import criticalmass as cm
from benchmarks.findings.findings import DOCS, copy_to_docs, write_findings


def main(argv: Sequence[str] | None = None) -> None:
    """Write the findings and print the path of the text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", type=Path, help="folder of the studies (--out of the study)")
    folder: Path = parser.parse_args(argv).studies
    result = cm.study("local", out=folder, pages=False)
    write_findings(folder, result.runs)
    print(copy_to_docs(folder / "results", DOCS))


if __name__ == "__main__":
    main()
