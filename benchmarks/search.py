"""The main comparison: choose a strength for every subset and fit the probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import SKLEARN, TORCH, Head, Peer
from benchmarks.problems import LayerArrays, LayerRecipe, SearchTask, make_task, synthetic_layer
from benchmarks.proof import (
    OUR_TOLERANCES,
    TARGET,
    CalibrationProblems,
    FinalFit,
    LowerBounds,
    Tolerance,
    calibrate,
    calibrate_ours,
)
from benchmarks.timing import Seconds, cpu_range, limit_to_one_thread, log, median, time_call
from criticalmass.measures.logistic import probe
from criticalmass.measures.logistic.fit_probes import fit_certified, fit_probes
from criticalmass.measures.logistic.probe import LogisticProtocol
from criticalmass.measures.probes.task import ProbeTask
from criticalmass.selectors.sizes import DEFAULT_FRACTIONS

L2S = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)


@dataclass(frozen=True)
class SearchGrid:
    """Fractions, strengths and number of orders of a search."""

    fractions: tuple[float, ...] = DEFAULT_FRACTIONS
    l2s: tuple[float, ...] = L2S
    n_seeds: int = 5

    def describe(self) -> str:
        """Return the sizes of the grid as text."""
        return f"{len(self.fractions)} fractions x {len(self.l2s)} l2 x {self.n_seeds} seeds"


@dataclass(frozen=True)
class ComparisonRow:
    """A row of the table: ours compared with a peer, medians over runs.

    Attributes
    ----------
    work, against: descriptions of the work and of the peer.
    ours, peer: times; the peer's is measured on one thread and scaled to the whole work.
    target: ratio to reach, or None.
    accuracy: accuracies of both, as text; may be empty.
    note: how the times were measured.
    """

    work: str
    against: str
    ours: Seconds
    peer: Seconds
    target: float | None
    accuracy: str
    note: str


@dataclass(eq=False)
class OurSearchResult:
    """The result of one run of our search."""

    task: SearchTask
    predictions: dict[tuple[int, int], NDArray[Any]] = field(default_factory=dict)
    finals: dict[tuple[int, int], FinalFit] = field(default_factory=dict)
    n_not_converged: int = 0


def our_search(task: SearchTask, tol: float) -> OurSearchResult:
    """Search all subsets of all orders and the whole layer once, as ``sweep`` does."""
    result = OurSearchResult(task)
    full_size = tuple(k for k in task.sizes if k == task.n_neurons)
    parts = [
        (task.orders, task.sizes[: len(task.sizes) - len(full_size)]),
        (task.orders[:1], full_size),
    ]
    for orders, sizes in parts:
        if not sizes:
            continue
        final_heads: list[Any] = []

        def recording(*arguments: Any, final_heads: list[Any] = final_heads) -> Any:
            certificates = fit_certified(*arguments)
            final_heads.append([(p.k, p.l2, p.weights, p.intercepts) for p in arguments[1]])
            return certificates

        # The final heads are recorded so that their true gaps can be computed afterwards.
        with mock.patch.object(probe, "fit_certified", recording):
            scores = probe.logistic(
                _probe_task(task, orders, sizes),
                protocol=LogisticProtocol(l2s=task.l2s, tol=tol),
            )
        result.n_not_converged += int((scores.status != "ok").sum())
        for s, heads in enumerate(final_heads):
            for j, (k, l2, weights, intercepts) in enumerate(heads):
                result.predictions[s, k] = scores.predictions[s, j]
                result.finals[s, k] = FinalFit(s, k, l2, Head(weights, intercepts))
    return result


def _probe_task(task: SearchTask, orders: NDArray[np.intp], sizes: tuple[int, ...]) -> ProbeTask:
    layer = task.layer
    return ProbeTask(
        x_train=layer.x_train,
        y_train=layer.y_train,
        x_test=layer.x_test,
        n_classes=layer.n_classes,
        orders=orders,
        sizes=sizes,
        validation=task.validation,
    )


def our_grid(task: SearchTask, tol: float) -> None:
    """Fit every strength of every subset to convergence, without early stopping."""
    x = task.layer.x_train[~task.validation]
    fit_probes(x, task.y_fit, task.orders, task.sizes, task.l2s, tol=tol)


@dataclass(frozen=True, eq=False)
class PeerProbe:
    """The times and results of a peer on one subset."""

    grid: Seconds
    total: Seconds
    predictions: NDArray[Any]
    final: FinalFit


def peer_probe(
    task: SearchTask, peer: Peer, tolerance: Tolerance, seed: int, size: int
) -> PeerProbe:
    """Fit all strengths, choose one by validation accuracy, and fit it on all training rows."""
    columns = task.orders[seed][:size]
    y_fit, y = task.y_fit, task.layer.y_train

    def grid() -> list[Head]:
        x = np.ascontiguousarray(task.x_fit[:, columns])
        return [peer.fit(x, y_fit, l2, tolerance.by_l2[l2]) for l2 in task.l2s]

    def finish() -> tuple[NDArray[Any], FinalFit]:
        validation = task.x_validation[:, columns]
        correct = [float((head.predict(validation) == task.y_validation).mean()) for head in heads]
        l2 = task.l2s[int(np.argmax(correct))]
        x = np.ascontiguousarray(task.x_train[:, columns])
        head = peer.fit(x, y, l2, tolerance.by_l2[l2])
        return head.predict(task.x_test[:, columns]), FinalFit(seed, size, l2, head)

    heads, first = time_call(grid)
    (predictions, final), second = time_call(finish)
    return PeerProbe(first, first + second, predictions, final)


@dataclass(eq=False)
class _PeerRuns:
    """All measurements of one peer."""

    peer: Peer
    tolerance: Tolerance
    grid: list[Seconds] = field(default_factory=list)
    total: list[Seconds] = field(default_factory=list)
    sample: list[PeerProbe] = field(default_factory=list)


@dataclass(eq=False)
class _OurRuns:
    """All our measurements.

    Attributes
    ----------
    tolerance: for the whole grid.
    tol: for the search.
    """

    tolerance: Tolerance
    tol: float
    result: OurSearchResult | None = None
    searches: list[Seconds] = field(default_factory=list)
    grids: list[Seconds] = field(default_factory=list)

    @property
    def grid_tol(self) -> float:
        """The certified tolerance of the whole grid."""
        return next(iter(self.tolerance.by_l2.values()))


def _search_tol(task: SearchTask, bounds: LowerBounds) -> float:
    """Find the loosest certified tolerance with true gaps of final fits within the target.

    It is tested on one final fit of each size, each of a different order.
    """
    for tol in OUR_TOLERANCES:
        finals = our_search(task, tol).finals
        checked = [finals[j % task.n_subsets(size), size] for j, size in enumerate(task.sizes)]
        largest_gap = bounds.largest_gap(checked)
        log(f"our search: certified tol={tol:g} leaves true gaps up to {largest_gap:.1e}")
        if largest_gap <= TARGET:
            return tol
    return OUR_TOLERANCES[-1]


def compare(
    layer: LayerArrays,
    name: str,
    grid: SearchGrid,
    targets: Sequence[tuple[Peer, float]],
    repeats: int,
) -> list[ComparisonRow]:
    """Run our search and the peers in turn; return two rows per peer.

    Parameters
    ----------
    layer: the data.
    name: description of the data.
    grid: fractions, strengths, orders.
    targets: peers, each with the ratio to reach.
    repeats: number of runs.
    """
    task = make_task(layer, grid.fractions, grid.l2s, grid.n_seeds)
    warm_up()
    bounds, problems = LowerBounds(task), CalibrationProblems.from_task(task)
    own = _OurRuns(calibrate_ours(problems), _search_tol(task, bounds))
    with limit_to_one_thread():
        peers = [_PeerRuns(peer, calibrate(problems, peer)) for peer, _ in targets]
    rng = np.random.default_rng(0)
    draws = [rng.permutation(grid.n_seeds) for _ in task.sizes]
    for run in range(repeats):
        own.result, seconds = time_call(lambda: our_search(task, own.tol))
        own.searches.append(seconds)
        own.grids.append(time_call(lambda: our_grid(task, own.grid_tol))[1])
        log(f"{name} run {run + 1}: ours {seconds.cpu:.2f} s, grid {own.grids[-1].cpu:.2f} s")
        for one in peers:
            _run_peer(task, one, [int(draw[run % grid.n_seeds]) for draw in draws])
            log(f"{name} run {run + 1}: {one.peer.name} {one.total[-1].cpu:.1f} s (scaled)")
    rows = []
    for one, (_, target) in zip(peers, targets, strict=True):
        rows += _comparison_rows(task, name, grid, target, own, bounds, one)
    return rows


def _run_peer(task: SearchTask, one: _PeerRuns, seeds: Sequence[int]) -> None:
    grid, total = Seconds(), Seconds()
    with limit_to_one_thread():
        for size, seed in zip(task.sizes, seeds, strict=True):
            seed = 0 if size == task.n_neurons else seed
            measured = peer_probe(task, one.peer, one.tolerance, seed, size)
            one.sample.append(measured)
            grid += measured.grid.scaled(task.n_subsets(size))
            total += measured.total.scaled(task.n_subsets(size))
    one.grid.append(grid)
    one.total.append(total)


def _comparison_rows(
    task: SearchTask,
    name: str,
    grid: SearchGrid,
    target: float,
    own: _OurRuns,
    bounds: LowerBounds,
    one: _PeerRuns,
) -> list[ComparisonRow]:
    result = own.result
    assert result is not None
    pairs = {(p.final.seed, p.final.size): p for p in one.sample}
    first = one.sample[: len(task.sizes)]
    our_finals = [result.finals[p.final.seed, p.final.size] for p in first]
    gaps = bounds.largest_gap(our_finals), bounds.largest_gap([p.final for p in first])
    sample = f"peer timed on {len(task.sizes)} of {task.n_probes} probes a run, one of each size"
    note = (
        f"{sample}, scaled per size; {len(pairs)} different ones in all. Final fits of the first "
        f"run's sample: true relative gap at most {gaps[0]:.1e} (ours), {gaps[1]:.1e} (peer). "
        f"Ours: certified tol {own.tol:g}, {result.n_not_converged} not converged. "
        f"Peer: {one.tolerance.describe()}. CPU over runs: ours {cpu_range(own.searches)}, "
        f"peer {cpu_range(one.total)}."
    )
    return [
        ComparisonRow(
            f"{grid.describe()}, l2 chosen on validation, {name}",
            one.peer.name,
            median(own.searches),
            median(one.total),
            target,
            _accuracy(task, result, pairs),
            note,
        ),
        ComparisonRow(
            f"{grid.describe()}, all fits converged (no early stopping), {name}",
            one.peer.name,
            median(own.grids),
            median(one.grid),
            None,
            "",
            f"{sample} (all strengths), scaled per size. Ours: certified tol {own.grid_tol:g}; "
            f"largest true gap on the calibration problems {own.tolerance.largest_gap:.1e}, "
            f"peer {one.tolerance.largest_gap:.1e}.",
        ),
    ]


def _accuracy(
    task: SearchTask, ours: OurSearchResult, pairs: dict[tuple[int, int], PeerProbe]
) -> str:
    """Return both mean test accuracies on the peer's probes, and their difference, as text."""
    y = task.layer.y_test
    own = np.mean([ours.predictions[key] == y for key in pairs], axis=0)
    peer = np.mean([one.predictions == y for one in pairs.values()], axis=0)
    paired = float((own - peer).std() / np.sqrt(y.size))
    single = float(own.std() / np.sqrt(y.size))
    return (
        f"{own.mean():.4f} / {peer.mean():.4f} (difference {own.mean() - peer.mean():+.4f}, "
        f"se {paired:.4f}; se of either {single:.4f})"
    )


def warm_up() -> None:
    """Compile and load everything before the times are measured."""
    layer = synthetic_layer(LayerRecipe(300, 50, 16, 3, seed=9))
    task = make_task(layer, (0.5, 1.0), (1e-1, 1e-2), 1)
    our_search(task, 1e-5)
    our_grid(task, 1e-5)
    for peer in (SKLEARN, TORCH):
        peer.fit(task.x_fit, task.y_fit, 1e-1, 1e-3)
