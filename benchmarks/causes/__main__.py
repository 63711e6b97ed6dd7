"""Write docs/causes.md from the study `causes`.

    criticalmass study causes --out studies
    python -m benchmarks.causes studies

The second command reads the tables ``studies/studies/NAME-trained/*.csv``, writes their rows at
90 % to docs/causes/, draws the figure, and fills the text. Studies that are not measured are named
in the text.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.causes.causes import DOCS, write_causes


def main(argv: Sequence[str] | None = None) -> None:
    """Write the text and print its path."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", type=Path, help="folder of the study (its --out)")
    print(write_causes(parser.parse_args(argv).studies, DOCS))


if __name__ == "__main__":
    main()
