"""The solver on a CUDA device: ``python -m benchmarks.gpu [--repeats 3] [--quick]``.

All fits converge (no early stopping) on the same rows: ours on the device, scikit-learn on all
cores of the processor, and a loop of torch's L-BFGS on the same device. Each uses the tolerance at
which the true relative gap of its fits is at most 1e-6. Prints Markdown on stdout: ratios of the
medians of interleaved runs, in wall seconds, because a device has no CPU time.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import proof
from benchmarks.peers import SKLEARN, Head, Peer, fit_tensors
from benchmarks.problems import Labels, LayerRecipe, Matrix, SearchTask, make_task, synthetic_layer
from benchmarks.proof import CalibrationProblems, Tolerance, calibrate, calibrate_ours
from benchmarks.search import SearchGrid
from benchmarks.timing import (
    Seconds,
    add_load_option,
    core_count,
    describe_machine,
    log,
    measure_row,
    median,
    time_call,
)
from criticalmass.errors import CriticalMassError
from criticalmass.measures.logistic.device import find_device
from criticalmass.measures.logistic.fit_probes import fit_probes

# A fifth of the rows is for validation, so fits use 20,000 rows.
RECIPE = LayerRecipe(25_000, 10, 2048, 10)
QUICK_RECIPE = LayerRecipe(300, 10, 32, 4)
QUICK = SearchGrid(fractions=(0.1, 0.5, 1.0), l2s=(1e-1, 1e-2), n_seeds=2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table, or print that there is no device."""
    options = _parse(arguments)
    try:
        device = find_device(options.device)
    except CriticalMassError:
        print("no CUDA device here: not measured")
        return
    grid = QUICK if options.quick else SearchGrid()
    layer = synthetic_layer(QUICK_RECIPE if options.quick else RECIPE)
    task = make_task(layer, grid.fractions, grid.l2s, grid.n_seeds)
    table, load = measure_row(
        partial(_measure, task, grid, device, options.repeats),
        even_if_busy=options.even_if_busy or options.quick,
    )
    if table is not None:
        print(table, f"{load}.", sep="\n")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="interleaved runs (default 3)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, as a test")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or torch-cpu as a test")
    add_load_option(parser)
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error(f"--repeats {options.repeats}: give at least 1")
    if options.device != "torch-cpu" and options.device.partition(":")[0] != "cuda":
        parser.error(f"--device {options.device}: give cuda, cuda:1 or torch-cpu")
    return options


class DeviceTorch:
    """The torch loop; rows stay on the device while all strengths are fitted."""

    def __init__(self, device: str) -> None:
        self._device = "cpu" if device == "torch-cpu" else device
        self._last: tuple[Matrix, Any, Any] | None = None

    def fit(self, x: Matrix, y: Labels, l2: float, tol: float) -> Head:
        """Fit one probe."""
        import torch

        if self._last is None or self._last[0] is not x:
            target = torch.device(self._device)
            self._last = (x, torch.from_numpy(x).to(target), torch.from_numpy(y).to(target))
        return fit_tensors(self._last[1], self._last[2], l2, tol)


@dataclass(frozen=True, eq=False)
class _PeerRuns:
    """A peer, its tolerance, and its times so far."""

    peer: Peer
    tolerance: Tolerance
    runs: list[Seconds]


def _measure(task: SearchTask, grid: SearchGrid, device: str, repeats: int) -> str:
    def fit_on_device(*args: Any, **kwargs: Any) -> Any:
        return fit_probes(*args, **{"device": device, **kwargs})

    # The reference fits and our calibration also run on the device.
    with mock.patch.object(proof, "fit_probes", fit_on_device):
        problems = CalibrationProblems.from_task(task)
        own = calibrate_ours(problems)
    tol = next(iter(own.by_l2.values()))
    peers = (SKLEARN, Peer("a loop of torch LBFGS on the device", DeviceTorch(device).fit))
    peer_runs = [_PeerRuns(peer, calibrate(problems, peer), []) for peer in peers]
    rng = np.random.default_rng(0)
    draws = [rng.permutation(grid.n_seeds) for _ in task.sizes]
    ours: list[Seconds] = []
    x = task.layer.x_train[~task.validation]
    for run in range(repeats):
        ours.append(
            time_call(
                lambda: fit_on_device(x, task.y_fit, task.orders, task.sizes, task.l2s, tol=tol)
            )[1]
        )
        for one in peer_runs:
            one.runs.append(
                _time_peer(task, one, [int(draw[run % grid.n_seeds]) for draw in draws])
            )
        peer_times = ", ".join(f"{one.runs[-1].wall:.3g} s" for one in peer_runs)
        log(f"run {run + 1}: ours {ours[-1].wall:.3g} s, peers {peer_times}")
    return _render(task, grid, device, own, ours, peer_runs)


def _time_peer(task: SearchTask, one: _PeerRuns, seeds: Sequence[int]) -> Seconds:
    """Time a peer on one subset of each size, all strengths, scaled to all orders."""
    total = Seconds()
    for size, seed in zip(task.sizes, seeds, strict=True):
        columns = task.orders[0 if size == task.n_neurons else seed][:size]

        def fit_all(columns: Any = columns) -> None:
            x = np.ascontiguousarray(task.x_fit[:, columns])
            for l2 in task.l2s:
                one.peer.fit(x, task.y_fit, l2, one.tolerance.by_l2[l2])

        total += time_call(fit_all)[1].scaled(task.n_subsets(size))
    return total


def _render(
    task: SearchTask,
    grid: SearchGrid,
    device: str,
    own: Tolerance,
    our_times: Sequence[Seconds],
    peer_runs: Sequence[_PeerRuns],
) -> str:
    n, d = task.x_fit.shape
    ours = median(our_times).wall
    lines = [
        f"Machine: {describe_machine()}. Device: {_describe(device)}. Medians of "
        f"{len(our_times)} interleaved runs, wall seconds. Work: {grid.describe()}, all fits "
        f"converged, n={n} d={d} "
        f"C={task.layer.n_classes}. Peers timed on one subset of each size a run, scaled per size.",
        "",
        "| against | ours wall s | peer wall s | ratio | gaps |",
        "| - | -: | -: | -: | - |",
    ]
    for one in peer_runs:
        peer = median(one.runs).wall
        cores = f" on {core_count()} cores" if one.peer is SKLEARN else ""
        lines.append(
            f"| {one.peer.name}{cores} | {ours:.3g} | {peer:.4g} | **{peer / ours:.3g} x** | "
            f"largest true gap {own.largest_gap:.1e} (ours), "
            f"{one.tolerance.largest_gap:.1e} (peer) |"
        )
    return "\n".join(lines)


def _describe(device: str) -> str:
    import torch

    if not device.startswith("cuda"):
        return f"{device}, as a test; these times are not those of a GPU"
    return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"


if __name__ == "__main__":
    main()
