"""Take what ``criticalmass study local`` found into the documentation.

    criticalmass study local --out studies
    python -m benchmarks.results studies

copies the tables and figures of ``studies/results`` to ``docs/results`` and writes
``docs/results.md`` from them.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from criticalmass.studies.writing import render

DOCS = Path(__file__).parents[1] / "docs"
IMAGES = "results/"


def take(found: Path, docs: Path) -> Path:
    """Replace ``docs/results`` and ``docs/results.md``; -> the text.

    Parameters
    ----------
    found: the folder ``results`` of a study.
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


def main(argv: Sequence[str] | None = None) -> None:
    """Take over, and say what was written."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("studies", type=Path, help="what --out of the study was")
    asked = options.parse_args(argv)
    print(take(asked.studies / "results", DOCS))


if __name__ == "__main__":
    main()
