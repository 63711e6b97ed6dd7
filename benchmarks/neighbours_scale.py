"""Neighbour search beside the plain product: ``python -m benchmarks.neighbours_scale --dir DIR``.

Makes float16 vectors in DIR (an existing file is reused) and searches them for the 10 nearest of a
sample of queries, once on all neurons and once on all sizes of a sweep. Each is timed in turn with
the plain blocked float32 products of the same shapes, on data in memory, in one process and on one
thread. Their CPU time divided by ours is the fraction of the limit that the search reaches. The
memory is that of a child process that does the search alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.memory import measure
from benchmarks.timing import (
    Seconds,
    add_load_option,
    cpu_range,
    describe_machine,
    log,
    measure_row,
    median,
    time_call,
)
from criticalmass.core.threads import limit_threads
from criticalmass.measures.nearest import Metric, TileRows
from criticalmass.measures.similarity.task import WholeLayer
from criticalmass.selectors.sizes import DEFAULT_FRACTIONS, sizes_for

_BLOCK_ROWS = 16_384
_TARGET = 0.5
_METRICS: tuple[Metric, ...] = ("cosine", "euclidean")


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the vectors, time both, and print the table."""
    options = _parse(arguments)
    rows = make_vectors(options.dir, options.rows, options.neurons)
    layer = WholeLayer(rows, most_queries=options.queries)
    order = np.random.default_rng(1).permutation(options.neurons)
    if options.search is not None:
        layer.finder(options.search)(order, sizes_for(DEFAULT_FRACTIONS, options.neurons))
        return
    lines, load = measure_row(
        partial(_compare_all, layer, order, options), even_if_busy=options.even_if_busy
    )
    if lines is None:
        return
    command = [sys.executable, "-m", "benchmarks.neighbours_scale", "--dir", str(options.dir)]
    for name in ("rows", "neurons", "queries"):
        command += [f"--{name}", str(getattr(options, name))]
    use = measure([*command, "--search", "cosine"])
    print(
        f"Machine: {describe_machine()}. {options.rows:,} x {options.neurons:,} float16, "
        f"{options.queries:,} queries, medians of {options.repeats} runs in turn, one thread; "
        f"{load}. "
        f"Limit: the plain products of the same shapes; target {_TARGET:g} of it.\n\n"
        "| metric | sizes | ours CPU s | products CPU s | fraction of the limit | ranges |\n"
        "| - | -: | -: | -: | -: | - |",
        *lines,
        f"\nA search of {len(sizes_for(DEFAULT_FRACTIONS, options.neurons))} sizes by cosine in "
        f"its own process: peak resident {use.resident:.2f} GiB, of which the file's mapped pages "
        f"are at most {rows.nbytes / 2**30:.2f}; anonymous {use.anonymous:.2f} GiB; "
        f"{use.cpu:.1f} s CPU, {use.wall:.1f} s wall.",
        sep="\n",
    )


def _compare_all(
    layer: WholeLayer, order: NDArray[np.intp], options: argparse.Namespace
) -> list[str]:
    """Return the lines of the table: both metrics, one size and all sizes."""
    lines = []
    with limit_threads(1):
        for metric in _METRICS:
            _search(layer, metric, order, (1, options.neurons))  # compiles, reads the file once
            for sizes in ((options.neurons,), sizes_for(DEFAULT_FRACTIONS, options.neurons)):
                lines.append(_compare(layer, metric, order, sizes, options.repeats))
    return lines


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.neighbours_scale")
    parser.add_argument("--dir", type=Path, required=True, help="folder for the vectors")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--neurons", type=int, default=768)
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--repeats", type=int, default=3)
    add_load_option(parser)
    parser.add_argument("--search", choices=_METRICS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not options.dir.is_dir():
        parser.error(f"--dir {options.dir}: no such folder")
    return options


def make_vectors(folder: Path, n: int, d: int) -> NDArray[np.float16]:
    """Write clustered float16 vectors of decaying variance block by block, and map them."""
    path = folder / f"vectors-{n}x{d}.npy"
    if not path.is_file():
        log(f"{path}: writing")
        rng = np.random.default_rng(0)
        scales = np.arange(1.0, d + 1.0, dtype=np.float32) ** -0.5
        centres = rng.standard_normal((100, d), dtype=np.float32)
        file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(n, d))
        for start in range(0, n, _BLOCK_ROWS):
            block = file[start : start + _BLOCK_ROWS]
            noise = rng.standard_normal(block.shape, dtype=np.float32)
            block[:] = scales * (centres[rng.integers(0, 100, len(block))] + noise)
        file.flush()
    rows: NDArray[np.float16] = np.load(path, mmap_mode="r")
    return rows


def _search(
    layer: WholeLayer, metric: Metric, order: NDArray[np.intp], sizes: tuple[int, ...]
) -> NDArray[np.int32]:
    return layer.finder(metric)(order, sizes)


def _compare(
    layer: WholeLayer,
    metric: Metric,
    order: NDArray[np.intp],
    sizes: tuple[int, ...],
    repeats: int,
) -> str:
    """Time the search and the plain products in turn, and return a row of the table."""
    n, n_queries = int(layer.rows.shape[0]), layer.query_rows.size
    ours: list[Seconds] = []
    products: list[Seconds] = []
    for _ in range(repeats):
        _, seconds = time_call(lambda: _search(layer, metric, order, sizes))
        ours.append(seconds)
        _, seconds = time_call(lambda: _plain_products(n, n_queries, sizes))
        products.append(seconds)
    log(f"{metric}, {len(sizes)} sizes: ours {cpu_range(ours)}, products {cpu_range(products)}")
    mine, limit = median(ours).cpu, median(products).cpu
    return (
        f"| {metric} | {len(sizes)} | {mine:.2f} | {limit:.2f} | **{limit / mine:.3g} x** | "
        f"ours {cpu_range(ours)}, products {cpu_range(products)} |"
    )


def _plain_products(n: int, n_queries: int, sizes: tuple[int, ...]) -> None:
    """Multiply queries and every tile of rows at every size; one tile's data serves for all."""
    n_tile = TileRows().candidates
    queries = np.ones((n_queries, sizes[-1]), dtype=np.float32)
    tile = np.ones((n_tile, sizes[-1]), dtype=np.float32)
    out = np.empty((n_queries, n_tile), dtype=np.float32)
    for k in sizes:
        a, b = queries[:, :k].copy(), tile[:, :k].T.copy(order="F")
        for start in range(0, n, n_tile):
            columns = slice(0, min(n_tile, n - start))
            np.matmul(a, b[:, columns], out=out[:, columns])


if __name__ == "__main__":
    main()
