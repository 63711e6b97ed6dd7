"""The main comparison: choose a strength for every subset, and fit it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import SKLEARN, TORCH, Head, Peer
from benchmarks.problems import Layer, Recipe, Search, search, synthetic
from benchmarks.proof import (
    OUR_LADDER,
    TARGET,
    Bench,
    Final,
    Optima,
    Tolerance,
    calibrate,
    calibrate_ours,
)
from benchmarks.timing import Seconds, median, one_thread, spread, tell, timed
from criticalmass.measures.logistic import probe
from criticalmass.measures.logistic.fit_probes import fit_certified, fit_probes
from criticalmass.measures.logistic.probe import LogisticProtocol
from criticalmass.measures.probes.task import ProbeTask
from criticalmass.selectors.sizes import DEFAULT_FRACTIONS

L2S = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)


@dataclass(frozen=True)
class Grid:
    """Fractions, strengths and number of orders of a search."""

    fractions: tuple[float, ...] = DEFAULT_FRACTIONS
    l2s: tuple[float, ...] = L2S
    n_seeds: int = 5

    def words(self) -> str:
        """Word it for the table."""
        return f"{len(self.fractions)} fractions x {len(self.l2s)} l2 x {self.n_seeds} seeds"


@dataclass(frozen=True)
class Line:
    """A line of the table: ours against a peer, medians over runs.

    Attributes
    ----------
    work, against: in words.
    ours, peer: seconds; the peer's on one thread, scaled to the whole work.
    target: the ratio that was to be reached, None if there was none.
    accuracy: of the whole work, in words; empty where there is none.
    note: how it was measured.
    """

    work: str
    against: str
    ours: Seconds
    peer: Seconds
    target: float | None
    accuracy: str
    note: str


@dataclass(eq=False)
class Ours:
    """What one run of our search ended with."""

    task: Search
    predictions: dict[tuple[int, int], NDArray[Any]] = field(default_factory=dict)
    finals: dict[tuple[int, int], Final] = field(default_factory=dict)
    unfinished: int = 0


def our_search(task: Search, tol: float) -> Ours:
    """Search all subsets of all orders, the whole layer once, as ``sweep`` does."""
    out = Ours(task)
    whole = tuple(k for k in task.sizes if k == task.n_neurons)
    parts = [(task.orders, task.sizes[: len(task.sizes) - len(whole)]), (task.orders[:1], whole)]
    for orders, sizes in parts:
        if not sizes:
            continue
        seen: list[Any] = []

        def recorded(*given: Any, seen: list[Any] = seen) -> Any:
            proofs = fit_certified(*given)
            seen.append([(p.k, p.l2, p.weights, p.intercepts) for p in given[1]])
            return proofs

        # The final heads are kept so that their true gaps can be checked afterwards.
        with mock.patch.object(probe, "fit_certified", recorded):
            scores = probe.logistic(
                _probe_task(task, orders, sizes),
                protocol=LogisticProtocol(l2s=task.l2s, tol=tol),
            )
        out.unfinished += int((scores.status != "ok").sum())
        for s, mine in enumerate(seen):
            for j, (k, l2, weights, intercepts) in enumerate(mine):
                out.predictions[s, k] = scores.predictions[s, j]
                out.finals[s, k] = Final(s, k, l2, Head(weights, intercepts))
    return out


def _probe_task(task: Search, orders: NDArray[np.intp], sizes: tuple[int, ...]) -> ProbeTask:
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


def our_grid(task: Search, tol: float) -> None:
    """Fit every strength of every subset on the fit rows, without racing."""
    x = task.layer.x_train[~task.validation]
    fit_probes(x, task.y_fit, task.orders, task.sizes, task.l2s, tol=tol)


@dataclass(frozen=True, eq=False)
class Probed:
    """What a peer needed for one subset, and found."""

    grid: Seconds
    whole: Seconds
    predictions: NDArray[Any]
    final: Final


def peer_probe(task: Search, peer: Peer, told: Tolerance, seed: int, size: int) -> Probed:
    """Fit all strengths on the fit rows, choose by validation accuracy, refit on all rows."""
    columns = task.orders[seed][:size]
    y_fit, y = task.y_fit, task.layer.y_train

    def grid() -> list[Head]:
        x = np.ascontiguousarray(task.fit[:, columns])
        return [peer.fit(x, y_fit, l2, told.told[l2]) for l2 in task.l2s]

    def finish() -> tuple[NDArray[Any], Final]:
        judged = task.judged[:, columns]
        right = [float((head.predict(judged) == task.y_judged).mean()) for head in heads]
        l2 = task.l2s[int(np.argmax(right))]
        head = peer.fit(np.ascontiguousarray(task.whole[:, columns]), y, l2, told.told[l2])
        return head.predict(task.test[:, columns]), Final(seed, size, l2, head)

    heads, first = timed(grid)
    (predictions, final), second = timed(finish)
    return Probed(first, first + second, predictions, final)


@dataclass(eq=False)
class _Runs:
    """Everything measured for one peer."""

    peer: Peer
    told: Tolerance
    grid: list[Seconds] = field(default_factory=list)
    whole: list[Seconds] = field(default_factory=list)
    sample: list[Probed] = field(default_factory=list)


@dataclass(eq=False)
class _Own:
    """Everything measured for ours: ``told`` for the whole grid, ``tol`` for the search."""

    told: Tolerance
    tol: float
    found: Ours | None = None
    searches: list[Seconds] = field(default_factory=list)
    grids: list[Seconds] = field(default_factory=list)

    @property
    def grid_tol(self) -> float:
        """The one certified tolerance of the whole grid."""
        return next(iter(self.told.told.values()))


def _search_tol(task: Search, optima: Optima) -> float:
    """Find the loosest certified tolerance that leaves final fits within the true target.

    Judged on one final fit of each size, of another order each.
    """
    for tol in OUR_LADDER:
        finals = our_search(task, tol).finals
        checked = [finals[j % task.seeds_of(size), size] for j, size in enumerate(task.sizes)]
        worst = optima.worst(checked)
        tell(f"our search: certified tol={tol:g} leaves true gaps up to {worst:.1e}")
        if worst <= TARGET:
            return tol
    return OUR_LADDER[-1]


def compare(
    layer: Layer, name: str, grid: Grid, targets: Sequence[tuple[Peer, float]], repeats: int
) -> list[Line]:
    """Run our search and the peers' in turn, and return two lines a peer.

    Parameters
    ----------
    layer: the data.
    name: of the data, in words.
    grid: fractions, strengths, orders.
    targets: peers, each with the ratio that was to be reached.
    repeats: runs of everything.
    """
    task = search(layer, grid.fractions, grid.l2s, grid.n_seeds)
    warm_up()
    optima, bench = Optima(task), Bench.of(task)
    own = _Own(calibrate_ours(bench), _search_tol(task, optima))
    with one_thread():
        peers = [_Runs(peer, calibrate(bench, peer)) for peer, _ in targets]
    rng = np.random.default_rng(0)
    draws = [rng.permutation(grid.n_seeds) for _ in task.sizes]
    for run in range(repeats):
        own.found, seconds = timed(lambda: our_search(task, own.tol))
        own.searches.append(seconds)
        own.grids.append(timed(lambda: our_grid(task, own.grid_tol))[1])
        tell(f"{name} run {run + 1}: ours {seconds.cpu:.2f} s, grid {own.grids[-1].cpu:.2f} s")
        for one in peers:
            _run_peer(task, one, [int(draw[run % grid.n_seeds]) for draw in draws])
            tell(f"{name} run {run + 1}: {one.peer.name} {one.whole[-1].cpu:.1f} s (scaled)")
    lines = []
    for one, (_, target) in zip(peers, targets, strict=True):
        lines += _lines(task, (name, grid, target), (own, optima), one)
    return lines


def _run_peer(task: Search, one: _Runs, seeds: Sequence[int]) -> None:
    grid, whole = Seconds(), Seconds()
    with one_thread():
        for size, seed in zip(task.sizes, seeds, strict=True):
            seed = 0 if size == task.n_neurons else seed
            probed = peer_probe(task, one.peer, one.told, seed, size)
            one.sample.append(probed)
            grid += probed.grid.times(task.seeds_of(size))
            whole += probed.whole.times(task.seeds_of(size))
    one.grid.append(grid)
    one.whole.append(whole)


def _lines(
    task: Search,
    about: tuple[str, Grid, float],
    ours: tuple[_Own, Optima],
    one: _Runs,
) -> list[Line]:
    name, grid, target = about
    (own, optima), found = ours, ours[0].found
    assert found is not None
    pairs = {(p.final.seed, p.final.size): p for p in one.sample}
    first = one.sample[: len(task.sizes)]
    mine = [found.finals[p.final.seed, p.final.size] for p in first]
    gaps = optima.worst(mine), optima.worst([p.final for p in first])
    sample = f"peer timed on {len(task.sizes)} of {task.n_probes} probes a run, one of each size"
    note = (
        f"{sample}, scaled per size; {len(pairs)} different ones in all. Final fits of the first "
        f"run's sample: true relative gap at most {gaps[0]:.1e} (ours), {gaps[1]:.1e} (peer). "
        f"Ours: certified tol {own.tol:g}, {found.unfinished} not converged. "
        f"Peer: {one.told.words()}. CPU over runs: ours {spread(own.searches)}, "
        f"peer {spread(one.whole)}."
    )
    return [
        Line(
            f"{grid.words()}, l2 chosen on validation, {name}",
            one.peer.name,
            median(own.searches),
            median(one.whole),
            target,
            _accuracy(task, found, pairs),
            note,
        ),
        Line(
            f"{grid.words()}, every fit to the end (no racing), {name}",
            one.peer.name,
            median(own.grids),
            median(one.grid),
            None,
            "",
            f"{sample} (all strengths), scaled per size. Ours: certified tol {own.grid_tol:g}; "
            f"largest true gap on the calibration problems {own.told.worst:.1e}, "
            f"peer {one.told.worst:.1e}.",
        ),
    ]


def _accuracy(task: Search, ours: Ours, pairs: dict[tuple[int, int], Probed]) -> str:
    """Word both mean test accuracies on the probes the peer was timed on, and their difference."""
    y = task.layer.y_test
    mine = np.mean([ours.predictions[at] == y for at in pairs], axis=0)
    theirs = np.mean([probed.predictions == y for probed in pairs.values()], axis=0)
    paired = float((mine - theirs).std() / np.sqrt(y.size))
    alone = float(mine.std() / np.sqrt(y.size))
    return (
        f"{mine.mean():.4f} / {theirs.mean():.4f} (difference {mine.mean() - theirs.mean():+.4f}, "
        f"se {paired:.4f}; se of either {alone:.4f})"
    )


def warm_up() -> None:
    """Compile and load everything outside the clock."""
    layer = synthetic(Recipe(300, 50, 16, 3, seed=9))
    task = search(layer, (0.5, 1.0), (1e-1, 1e-2), 1)
    our_search(task, 1e-5)
    our_grid(task, 1e-5)
    for peer in (SKLEARN, TORCH):
        peer.fit(task.fit, task.y_fit, 1e-1, 1e-3)
