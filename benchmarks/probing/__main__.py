"""Write docs/probing.md from finished experiments.

    python -m benchmarks.probing.inversion out --training causes/training
    python -m benchmarks.probing out

The second command reads the finished jobs, writes their means and pictures to docs/probing/, and
fills the text; each experiment is a file that the template includes. Jobs that are not finished are
named in the text.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.probing.probing import DOCS, write_probing


def main(argv: Sequence[str] | None = None) -> None:
    """Write the text and print its path."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder of the jobs of benchmarks.probing.inversion")
    print(write_probing(parser.parse_args(argv).out, DOCS))


if __name__ == "__main__":
    main()
