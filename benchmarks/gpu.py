"""The solver on a CUDA device: ``python -m benchmarks.gpu [--repeats 3] [--quick]``.

Every fit to the end (no racing), on the same rows: ours on the device, scikit-learn on the
processor with all its cores, and a loop of torch's L-BFGS on the same device. Each is told the
tolerance with which its fits come within a true relative gap of 1e-6. Prints Markdown on stdout:
ratios of the medians of interleaved runs, in wall seconds, since a device keeps no CPU time.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import proof
from benchmarks.peers import SKLEARN, Head, Peer, fit_tensors
from benchmarks.problems import Labels, Matrix, Recipe, Search, search, synthetic
from benchmarks.proof import Bench, Tolerance, calibrate, calibrate_ours
from benchmarks.search import Grid
from benchmarks.timing import Seconds, cores, machine, median, tell, timed
from criticalmass.errors import CriticalMassError
from criticalmass.measures.logistic.device import find_device
from criticalmass.measures.logistic.fit_probes import fit_probes

# A fifth is kept for validation, so that fits see 20,000 rows.
RECIPE = Recipe(25_000, 10, 2048, 10)
QUICK_RECIPE = Recipe(300, 10, 32, 4)
QUICK = Grid(fractions=(0.1, 0.5, 1.0), l2s=(1e-1, 1e-2), n_seeds=2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print, or say that there is nothing to measure on."""
    asked = _parse(arguments)
    try:
        device = find_device(asked.device)
    except CriticalMassError:
        print("no CUDA device here: not measured")
        return
    grid = QUICK if asked.quick else Grid()
    layer = synthetic(QUICK_RECIPE if asked.quick else RECIPE)
    task = search(layer, grid.fractions, grid.l2s, grid.n_seeds)
    print(_measure(task, grid, device, asked.repeats))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="interleaved runs (default 3)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument(
        "--device", default="cuda", help="cuda, cuda:1, or torch-cpu to see that it runs"
    )
    asked = parser.parse_args(arguments)
    if asked.repeats < 1:
        parser.error(f"--repeats {asked.repeats}: give at least 1")
    if asked.device != "torch-cpu" and asked.device.partition(":")[0] != "cuda":
        parser.error(f"--device {asked.device}: give cuda, cuda:1 or torch-cpu")
    return asked


class OnDevice:
    """The torch loop; rows stay on the device while strength after strength is fitted on them."""

    def __init__(self, device: str) -> None:
        self._device = "cpu" if device == "torch-cpu" else device
        self._last: tuple[Matrix, Any, Any] | None = None

    def fit(self, x: Matrix, y: Labels, l2: float, tol: float) -> Head:
        """Fit one probe."""
        import torch

        if self._last is None or self._last[0] is not x:
            there = torch.device(self._device)
            self._last = (x, torch.from_numpy(x).to(there), torch.from_numpy(y).to(there))
        return fit_tensors(self._last[1], self._last[2], l2, tol)


@dataclass(frozen=True, eq=False)
class _Contest:
    """A peer, what it is told, and its wall seconds so far."""

    peer: Peer
    told: Tolerance
    runs: list[Seconds]


def _measure(task: Search, grid: Grid, device: str, repeats: int) -> str:
    def fit_there(*given: Any, **more: Any) -> Any:
        return fit_probes(*given, **{"device": device, **more})

    # The references and our calibration, too, run on the device under test.
    with mock.patch.object(proof, "fit_probes", fit_there):
        bench = Bench.of(task)
        own = calibrate_ours(bench)
    tol = next(iter(own.told.values()))
    peers = (SKLEARN, Peer("a loop of torch LBFGS on the device", OnDevice(device).fit))
    contests = [_Contest(peer, calibrate(bench, peer), []) for peer in peers]
    rng = np.random.default_rng(0)
    draws = [rng.permutation(grid.n_seeds) for _ in task.sizes]
    ours: list[Seconds] = []
    x = task.layer.x_train[~task.validation]
    for run in range(repeats):
        ours.append(
            timed(lambda: fit_there(x, task.y_fit, task.orders, task.sizes, task.l2s, tol=tol))[1]
        )
        for one in contests:
            one.runs.append(_run(task, one, [int(draw[run % grid.n_seeds]) for draw in draws]))
        told = ", ".join(f"{one.runs[-1].wall:.3g} s" for one in contests)
        tell(f"run {run + 1}: ours {ours[-1].wall:.3g} s, peers {told}")
    return _render(task, (grid, device), (own, ours), contests)


def _run(task: Search, one: _Contest, seeds: Sequence[int]) -> Seconds:
    """Time a peer on one subset of each size, all strengths, scaled to all orders."""
    total = Seconds()
    for size, seed in zip(task.sizes, seeds, strict=True):
        columns = task.orders[0 if size == task.n_neurons else seed][:size]

        def fit_all(columns: Any = columns) -> None:
            x = np.ascontiguousarray(task.fit[:, columns])
            for l2 in task.l2s:
                one.peer.fit(x, task.y_fit, l2, one.told.told[l2])

        total += timed(fit_all)[1].times(task.seeds_of(size))
    return total


def _render(
    task: Search,
    about: tuple[Grid, str],
    ours: tuple[Tolerance, list[Seconds]],
    contests: Sequence[_Contest],
) -> str:
    (grid, device), (own, runs) = about, ours
    n, d = task.fit.shape
    mine = median(runs).wall
    lines = [
        f"Machine: {machine()}. Device: {_describe(device)}. Medians of {len(runs)} interleaved "
        f"runs, wall seconds. Work: {grid.words()}, every fit to the end, n={n} d={d} "
        f"C={task.layer.n_classes}. Peers timed on one subset of each size a run, scaled per size.",
        "",
        "| against | ours wall s | peer wall s | ratio | proof |",
        "| - | -: | -: | -: | - |",
    ]
    for one in contests:
        theirs = median(one.runs).wall
        where = f" on {cores()} cores" if one.peer is SKLEARN else ""
        lines.append(
            f"| {one.peer.name}{where} | {mine:.3g} | {theirs:.4g} | **{theirs / mine:.3g} x** | "
            f"largest true gap {own.worst:.1e} (ours), {one.told.worst:.1e} (peer) |"
        )
    return "\n".join(lines)


def _describe(device: str) -> str:
    import torch

    if not device.startswith("cuda"):
        return f"{device}, to see that this runs: says nothing about a GPU"
    return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"


if __name__ == "__main__":
    main()
