"""The torch passes against the compiled ones and against float64 formulas; devices by name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

import criticalmass as cm
from criticalmass.measures.logistic import probe, training_rows
from criticalmass.measures.logistic.cpu_passes import Threads
from criticalmass.measures.logistic.preconditioner import Whitening
from criticalmass.measures.logistic.solver import classify
from criticalmass.measures.logistic.stacked_heads import Stack
from criticalmass.measures.logistic.training_rows import HeldRows, StreamedRows, ordered_rows
from criticalmass.measures.probes.task import ProbeTask
from criticalmass.measures.scaling import column_scaling

torch = pytest.importorskip("torch")
torch_passes = pytest.importorskip("criticalmass.measures.logistic.torch_passes")
torch_products = pytest.importorskip("criticalmass.measures.logistic.torch_products")
TorchCrew = torch_passes.TorchCrew

# A CUDA device is tested where there is one.
PLACES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
NAMES = {"cpu": "torch-cpu", "cuda": "cuda"}
Heads = list[tuple[NDArray[np.float32], NDArray[np.float64]]]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_passes, "_MOST_LOGITS", 256)
    monkeypatch.setattr(torch_passes, "_MOST_DOUBLES", 256)


def layer(n: int, d: int, n_classes: int, seed: int = 0) -> tuple[NDArray[Any], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    y[:n_classes] = np.arange(n_classes)
    latent = rng.standard_normal((n, d)) + 0.7 * rng.standard_normal((n_classes, d))[y]
    x = np.maximum(latent @ rng.standard_normal((d, d)), 0.0) + rng.standard_normal((n, d))
    return x.astype(np.float32), y


def held(n: int, d: int, n_classes: int) -> HeldRows:
    x, y = layer(n, d, n_classes)
    return HeldRows(column_scaling(x).apply(x), y)


def streamed(n: int, d: int, n_classes: int) -> StreamedRows:
    x, y = layer(n, d, n_classes)
    found = ordered_rows(x, y, column_scaling(x), np.arange(d), limit=0)
    assert isinstance(found, StreamedRows)
    return found


def heads_of(sizes: tuple[int, ...], n_classes: int) -> Heads:
    rng = np.random.default_rng(5)
    return [
        (
            (rng.standard_normal((n_classes, k)) / np.sqrt(k)).astype(np.float32),
            rng.standard_normal(n_classes),
        )
        for k in sizes
    ]


STACKS = [
    ((9,), 2, 300),
    ((24, 24, 11, 3, 1), 5, 700),
    ((24, 23, 22, 2), 2, 513),
    ((30, 4), 130, 600),
]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("sizes", "n_classes", "n"), STACKS)
@pytest.mark.parametrize("read", [held, streamed])
def test_a_pass_finds_what_float64_finds(
    place: str, read: Any, sizes: tuple[int, ...], n_classes: int, n: int
) -> None:
    data = read(n, max(sizes), n_classes)
    x = np.concatenate([block.copy() for block, _ in data.blocks()]).astype(np.float64)
    heads = heads_of(sizes, n_classes)
    wanted = np.arange(len(sizes)) % 2 == 0
    with TorchCrew(place, 2) as crew:
        found = crew.evaluate(data, Stack.of(heads), wanted)
    with Threads(2) as threads:
        compiled = threads.evaluate(data, Stack.of(heads), wanted)
    onehot = np.eye(n_classes)[data.y]
    for (w, b), got, other, asked in zip(heads, found, compiled, wanted, strict=True):
        logits = x[:, : w.shape[1]] @ w.T + b
        p = softmax(logits, axis=1)
        loss = -float((log_softmax(logits, axis=1) * onehot).sum()) / n
        assert got.loss == pytest.approx(loss, rel=1e-6)
        assert got.loss == pytest.approx(other.loss, rel=1e-6)
        gradient = (p - onehot).T @ x[:, : w.shape[1]] / n
        np.testing.assert_allclose(got.weights, gradient, atol=3e-6)
        np.testing.assert_allclose(got.weights, other.weights, atol=3e-6)
        np.testing.assert_allclose(got.intercepts, (p - onehot).mean(axis=0), atol=1e-7)
        assert (got.square is not None) == asked
        if got.square is not None:
            np.testing.assert_allclose(got.square, p.T @ p / n, atol=1e-6)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("read", [held, streamed])
def test_classes_are_the_same_but_for_ties(place: str, read: Any) -> None:
    data = read(900, 40, 6)
    heads = heads_of((3, 40, 17), 6)
    with TorchCrew(place, 2) as crew, Threads(2) as threads:
        found, compiled = classify(data, heads, crew), classify(data, heads, threads)
    x = np.concatenate([block.copy() for block, _ in data.blocks()]).astype(np.float64)
    assert found.shape == (3, 900)
    assert found.dtype == compiled.dtype
    for h, i in zip(*np.nonzero(found != compiled), strict=True):
        w, b = heads[h]
        best = np.sort(x[i, : w.shape[1]] @ w.T + b)
        assert best[-1] - best[-2] < 1e-5
    assert (found == compiled).mean() > 0.999


@pytest.mark.usefixtures("small_blocks")
def test_stored_logits_give_float64_sums(place: str) -> None:
    data, heads = held(700, 12, 4), heads_of((12, 5), 4)
    with TorchCrew(place, 2) as crew:
        stored = crew.logits(data, Stack.of(heads))
        for i, (w, b) in enumerate(heads):
            # Exact products of float32 numbers: what is compared is the float64 that follows.
            z = stored._heads[i].cpu().numpy().astype(np.float64).T
            np.testing.assert_allclose(z, data.x[:, : w.shape[1]] @ w.T, atol=1e-5)
            loss, mean = stored.moments(i, b)
            p = softmax(z + b, axis=1)
            truth = -log_softmax(z + b, axis=1)[np.arange(700), data.y].sum()
            assert loss == pytest.approx(truth, rel=1e-13)
            np.testing.assert_allclose(mean, p.sum(axis=0), rtol=1e-13)
            np.testing.assert_allclose(stored.square(i, b), p.T @ p, rtol=1e-5)
            stored.to_residuals(i, b)
        gradient = stored.gradient()
    for i, (w, b) in enumerate(heads):
        k = w.shape[1]
        residual = softmax(data.x[:, :k].astype(np.float64) @ w.T + b, axis=1) - np.eye(4)[data.y]
        truth = residual.T @ data.x[:, :k] / 700
        np.testing.assert_allclose(gradient[4 * i : 4 * i + 4, :k], truth, atol=3e-6)


@pytest.mark.parametrize("n_classes", [2, 7, 80])
def test_fits_reach_the_same_objective_and_are_certified(place: str, n_classes: int) -> None:
    x, y = layer(800, 32, n_classes)
    orders = np.array([np.random.default_rng(s).permutation(32) for s in range(2)])
    asked = (x, y, orders, (2, 15, 32), (1e-1, 1e-3))
    there = cm.fit_probes(*asked, device=NAMES[place])
    here = cm.fit_probes(*asked, device="cpu")
    assert there.converged.all()
    assert here.converged.all()
    np.testing.assert_allclose(there.objective, here.objective, rtol=1e-6)
    one, other = there.predict(x, device=NAMES[place]), there.predict(x, device="cpu")
    assert (one == other).mean() > 0.9999
    assert (there.predict(x, device="cpu") == here.predict(x, device="cpu")).mean() > 0.99


def test_streamed_rows_are_fitted_the_same(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = layer(1500, 24, 4)
    order = np.arange(24)[None]
    whole = cm.fit_probes(x, y, order, (6, 24), (1e-2,), device="cpu")
    monkeypatch.setattr(training_rows, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(training_rows, "_BLOCK_BYTES", 4 * 24 * 300)
    monkeypatch.setattr(TorchCrew, "_room", lambda _: 0)
    parts = cm.fit_probes(x, y, order, (6, 24), (1e-2,), device=NAMES[place])
    np.testing.assert_allclose(parts.objective, whole.objective, rtol=1e-6)
    assert parts.converged.all()


@pytest.mark.parametrize(("room", "reads"), [(0, 3), (1 << 30, 1)])
def test_rows_are_uploaded_once_where_they_fit(
    place: str, monkeypatch: pytest.MonkeyPatch, room: int, reads: int
) -> None:
    monkeypatch.setattr(TorchCrew, "_room", lambda _: room)
    data, begun = streamed(400, 8, 3), []
    blocks = StreamedRows.blocks

    def counted(self: StreamedRows) -> Any:
        begun.append(self)
        return blocks(self)

    stack = Stack.of(heads_of((8,), 3))
    with TorchCrew(place, 1) as crew:
        monkeypatch.setattr(StreamedRows, "blocks", counted)
        first = crew.evaluate(data, stack, np.array([True]))[0]
        second = crew.evaluate(data, stack, np.array([True]))[0]
    assert len(begun) == reads
    assert first.loss == second.loss


def test_the_race_ends_alike(place: str) -> None:
    x, y = layer(1200, 20, 4)
    validation = np.zeros(600, bool)
    validation[::5] = True
    order = np.random.default_rng(0).permutation(20)[None]
    task = ProbeTask(x[:600], y[:600], x[600:], 4, order, (4, 20), validation)
    made = [
        probe.logistic(task, protocol=probe.LogisticProtocol(device=name))
        for name in (NAMES[place], "cpu")
    ]
    assert (made[0].l2 == made[1].l2).all()
    assert (made[0].status == "ok").all()
    assert (made[0].predictions == made[1].predictions).mean() > 0.99


def test_same_bytes_twice(place: str) -> None:
    x, y = layer(600, 16, 3)
    one, other = (
        cm.fit_probes(x, y, np.arange(16)[None], (5, 16), (1e-2,), device=NAMES[place])
        for _ in range(2)
    )
    assert one.objective.tobytes() == other.objective.tobytes()
    assert one.heads[0][1][0][0].tobytes() == other.heads[0][1][0][0].tobytes()


def test_the_estimator_takes_a_device(place: str) -> None:
    x, y = layer(300, 10, 3)
    there = cm.LogisticProbe(device=NAMES[place]).fit(x, y)
    here = cm.LogisticProbe(device="cpu").fit(x, y)
    assert there.converged_
    assert there.objective_ == pytest.approx(here.objective_, rel=1e-6)


def test_whitening_solves_with_every_prefix(place: str) -> None:
    a = np.random.default_rng(0).standard_normal((90, 30))
    moment = (a.T @ a / 90).astype(np.float32)
    there = torch_products.TorchWhitening(moment, torch.device(place))
    here = Whitening(moment)
    for k in (1, 7, 30):
        rhs = np.random.default_rng(k).standard_normal((4, k)).astype(np.float32)
        ridged = moment[:k, :k].astype(np.float64) + 4.0**-3 * np.eye(k)
        truth = np.linalg.solve(ridged, rhs.T).T
        np.testing.assert_allclose(there.solve(rhs, -3), truth, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(there.solve(rhs, -3), here.solve(rhs, -3), rtol=1e-3, atol=1e-4)


def test_whitening_refuses_what_no_ridge_mends(place: str) -> None:
    moment = np.diag(np.array([1.0, -(4.0**20)], np.float32))
    with pytest.raises(ArithmeticError, match="not positive semidefinite"):
        torch_products.TorchWhitening(moment, torch.device(place)).solve(moment, 0)


def test_whitening_raises_the_ridge_until_it_factors(place: str) -> None:
    moment = np.diag(np.array([1.0, -2.0], np.float32))
    solved = torch_products.TorchWhitening(moment, torch.device(place)).solve(
        np.ones((1, 2), np.float32), 0
    )
    # 1 does not make -2 positive, 4 does.
    np.testing.assert_allclose(solved, [[1 / 5, 1 / 2]], rtol=1e-6)


def precision() -> str:
    return str(torch.backends.cuda.matmul.fp32_precision)


def test_products_are_float32_and_settings_come_back(place: str) -> None:
    before = precision()
    try:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        with TorchCrew(place, 1):
            assert precision() == "ieee"
            assert not torch.is_autocast_enabled(place)
        assert precision() == "tf32"
        with pytest.raises(KeyError), TorchCrew(place, 1):
            raise KeyError
        assert precision() == "tf32"
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def test_older_torch_has_one_setting_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    told = ["medium"]
    monkeypatch.setattr(torch, "backends", SimpleNamespace())
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: told[-1])
    monkeypatch.setattr(torch, "set_float32_matmul_precision", told.append)
    with torch_products.full_float32():
        assert told[-1] == "highest"
    assert told == ["medium", "highest", "medium"]


def test_the_callers_modes_do_not_matter(place: str) -> None:
    x, y = layer(300, 10, 3)
    asked = (x, y, np.arange(10)[None], (10,), (1e-2,))
    plain = cm.fit_probes(*asked, device=NAMES[place])
    with torch.inference_mode(), torch.autocast(place, dtype=torch.bfloat16):
        inside = cm.fit_probes(*asked, device=NAMES[place])
        assert torch.is_autocast_enabled(place)
        assert torch.is_inference_mode_enabled()
    assert inside.objective.tobytes() == plain.objective.tobytes()
