"""`advise` on a large table: ``python -m benchmarks.advise_scale --dir DIR --rows 1000000``.

Makes float16 vectors in DIR (an existing file is reused): ``rows`` of them and 10,000 more, which
`advise` holds out as queries. It runs in a child process, whose memory and times are printed with
the answer. Memory that is mapped to the file counts as resident, but can be dropped at any time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.memory import measure
from benchmarks.neighbours_scale import make_vectors
from benchmarks.timing import add_load_option, describe_machine, measure_row
from criticalmass.studies.advice import N_QUERIES


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the vectors, run the command, and print what it took."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.advise_scale")
    parser.add_argument("--dir", type=Path, required=True, help="folder for the vectors")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--neurons", type=int, default=768)
    parser.add_argument("--keep", type=float, default=0.95)
    add_load_option(parser)
    options = parser.parse_args(arguments)
    if not options.dir.is_dir():
        parser.error(f"--dir {options.dir}: no such folder")
    n = options.rows + N_QUERIES
    rows = make_vectors(options.dir, n, options.neurons)
    path = options.dir / f"vectors-{n}x{options.neurons}.npy"
    command = [sys.executable, "-m", "criticalmass", "advise", str(path)]
    command += ["--keep", str(options.keep)]
    use, load = measure_row(partial(measure, command), even_if_busy=options.even_if_busy)
    if use is None:
        return
    print(
        f"Machine: {describe_machine()}; {load}."
        f"\n{options.rows:,} x {options.neurons} float16 ({rows.nbytes / 1e9:.2f} GB), "
        f"{N_QUERIES:,} queries: {use.cpu:.0f} s CPU, {use.wall:.0f} s wall, peak resident "
        f"{use.resident:.2f} GiB, of which anonymous {use.anonymous:.2f}."
    )


if __name__ == "__main__":
    main()
