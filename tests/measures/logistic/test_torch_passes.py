"""The torch passes against the compiled ones and against float64 formulas; devices by name."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

import criticalmass as cm
from criticalmass.core.compute import Compute
from criticalmass.measures.logistic import fit_probes as fit_probes_module
from criticalmass.measures.logistic import probe
from criticalmass.measures.logistic.cpu_passes import CpuExecutor
from criticalmass.measures.logistic.preconditioner import Preconditioner
from criticalmass.measures.logistic.solver import classify
from criticalmass.measures.logistic.stacked_heads import StackedHeads
from criticalmass.measures.logistic.training_rows import HeldRows, StreamedRows, ordered_rows
from criticalmass.measures.probes.task import ProbeTask
from criticalmass.measures.scaling import column_scaling

torch = pytest.importorskip("torch")
torch_passes = pytest.importorskip("criticalmass.measures.logistic.torch_passes")
torch_products = pytest.importorskip("criticalmass.measures.logistic.torch_products")
TorchExecutor = torch_passes.TorchExecutor

# A CUDA device is tested if there is one.
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
NAMES = {"cpu": "torch-cpu", "cuda": "cuda"}
Heads = list[tuple[NDArray[np.float32], NDArray[np.float64]]]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TorchExecutor, "block_logits", 256)
    monkeypatch.setattr(torch_passes.TorchLogits, "block_doubles", 256)


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
    rows = ordered_rows(x, y, column_scaling(x), np.arange(d), limit=0)
    assert isinstance(rows, StreamedRows)
    return rows


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
def test_a_pass_agrees_with_float64_and_the_compiled_pass(
    device: str, read: Any, sizes: tuple[int, ...], n_classes: int, n: int
) -> None:
    data = read(n, max(sizes), n_classes)
    x = np.concatenate([block.copy() for block, _ in data.blocks()]).astype(np.float64)
    heads = heads_of(sizes, n_classes)
    with_square = np.arange(len(sizes)) % 2 == 0
    with TorchExecutor(device, 2) as executor:
        evaluations = executor.evaluate(data, StackedHeads.from_heads(heads), with_square)
    with CpuExecutor(2) as cpu:
        compiled = cpu.evaluate(data, StackedHeads.from_heads(heads), with_square)
    onehot = np.eye(n_classes)[data.y]
    for (w, b), got, other, has_square in zip(
        heads, evaluations, compiled, with_square, strict=True
    ):
        logits = x[:, : w.shape[1]] @ w.T + b
        p = softmax(logits, axis=1)
        loss = -float((log_softmax(logits, axis=1) * onehot).sum()) / n
        assert got.loss == pytest.approx(loss, rel=1e-6)
        assert got.loss == pytest.approx(other.loss, rel=1e-6)
        gradient = (p - onehot).T @ x[:, : w.shape[1]] / n
        np.testing.assert_allclose(got.weight_gradient, gradient, atol=3e-6)
        np.testing.assert_allclose(got.weight_gradient, other.weight_gradient, atol=3e-6)
        np.testing.assert_allclose(got.intercept_gradient, (p - onehot).mean(axis=0), atol=1e-7)
        assert (got.square is not None) == has_square
        if got.square is not None:
            np.testing.assert_allclose(got.square, p.T @ p / n, atol=1e-6)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("read", [held, streamed])
def test_classes_are_the_same_except_for_ties(device: str, read: Any) -> None:
    data = read(900, 40, 6)
    heads = heads_of((3, 40, 17), 6)
    with TorchExecutor(device, 2) as executor, CpuExecutor(2) as cpu:
        classes, compiled = classify(data, heads, executor), classify(data, heads, cpu)
    x = np.concatenate([block.copy() for block, _ in data.blocks()]).astype(np.float64)
    assert classes.shape == (3, 900)
    assert classes.dtype == compiled.dtype
    for h, i in zip(*np.nonzero(classes != compiled), strict=True):
        w, b = heads[h]
        best = np.sort(x[i, : w.shape[1]] @ w.T + b)
        assert best[-1] - best[-2] < 1e-5
    assert (classes == compiled).mean() > 0.999


@pytest.mark.usefixtures("small_blocks")
def test_stored_logits_give_float64_sums(device: str) -> None:
    data, heads = held(700, 12, 4), heads_of((12, 5), 4)
    with TorchExecutor(device, 2) as executor:
        stored = executor.logits(data, StackedHeads.from_heads(heads))
        for i, (w, b) in enumerate(heads):
            # The logits that were stored: only the float64 sums that follow are compared.
            z = stored._by_head[i].cpu().numpy().astype(np.float64).T
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
def test_fits_reach_the_same_objective_and_are_certified(device: str, n_classes: int) -> None:
    x, y = layer(800, 32, n_classes)
    orders = np.array([np.random.default_rng(s).permutation(32) for s in range(2)])
    arguments = (x, y, orders, (2, 15, 32), (1e-1, 1e-3))
    by_torch = cm.fit_probes(*arguments, device=NAMES[device])
    by_cpu = cm.fit_probes(*arguments, device="cpu")
    assert by_torch.converged.all()
    assert by_cpu.converged.all()
    np.testing.assert_allclose(by_torch.objective, by_cpu.objective, rtol=1e-6)
    one, other = by_torch.predict(x, device=NAMES[device]), by_torch.predict(x, device="cpu")
    assert (one == other).mean() > 0.9999
    assert (other == by_cpu.predict(x, device="cpu")).mean() > 0.99


def test_streamed_rows_are_fitted_the_same(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = layer(1500, 24, 4)
    order = np.arange(24)[None]
    in_memory = cm.fit_probes(x, y, order, (6, 24), (1e-2,), device="cpu")
    monkeypatch.setattr(StreamedRows, "block_bytes", 4 * 24 * 300)
    monkeypatch.setattr(TorchExecutor, "upload_bytes", 0)
    monkeypatch.setattr(fit_probes_module, "Compute", partial(Compute, held_bytes=0))
    in_blocks = cm.fit_probes(x, y, order, (6, 24), (1e-2,), device=NAMES[device])
    np.testing.assert_allclose(in_blocks.objective, in_memory.objective, rtol=1e-6)
    assert in_blocks.converged.all()


@pytest.mark.parametrize(("upload_bytes", "n_reads"), [(0, 3), (1 << 30, 1)])
def test_rows_are_uploaded_once_if_they_fit(
    device: str, monkeypatch: pytest.MonkeyPatch, upload_bytes: int, n_reads: int
) -> None:
    monkeypatch.setattr(TorchExecutor, "upload_bytes", upload_bytes)
    data, reads = streamed(400, 8, 3), []
    blocks = StreamedRows.blocks

    def counted(self: StreamedRows) -> Any:
        reads.append(self)
        return blocks(self)

    heads = StackedHeads.from_heads(heads_of((8,), 3))
    with TorchExecutor(device, 1) as executor:
        monkeypatch.setattr(StreamedRows, "blocks", counted)
        first = executor.evaluate(data, heads, np.array([True]))[0]
        second = executor.evaluate(data, heads, np.array([True]))[0]
    assert len(reads) == n_reads
    assert first.loss == second.loss


def test_the_strength_search_gives_the_same_choice(device: str) -> None:
    x, y = layer(1200, 20, 4)
    validation = np.zeros(600, bool)
    validation[::5] = True
    order = np.random.default_rng(0).permutation(20)[None]
    task = ProbeTask(x[:600], y[:600], x[600:], 4, order, (4, 20), validation)
    by_torch, by_cpu = (
        probe.logistic(replace(task, compute=Compute(device=name)))
        for name in (NAMES[device], "cpu")
    )
    assert (by_torch.l2 == by_cpu.l2).all()
    assert (by_torch.status == "ok").all()
    assert (by_torch.predictions == by_cpu.predictions).mean() > 0.99


def test_same_bytes_twice(device: str) -> None:
    x, y = layer(600, 16, 3)
    one, other = (
        cm.fit_probes(x, y, np.arange(16)[None], (5, 16), (1e-2,), device=NAMES[device])
        for _ in range(2)
    )
    assert one.objective.tobytes() == other.objective.tobytes()
    assert one.heads[0][1][0][0].tobytes() == other.heads[0][1][0][0].tobytes()


def test_logistic_probe_takes_a_device(device: str) -> None:
    x, y = layer(300, 10, 3)
    by_torch = cm.LogisticProbe(device=NAMES[device]).fit(x, y)
    by_cpu = cm.LogisticProbe(device="cpu").fit(x, y)
    assert by_torch.converged_
    assert by_torch.objective_ == pytest.approx(by_cpu.objective_, rel=1e-6)


def test_the_preconditioner_solves_with_every_prefix(device: str) -> None:
    a = np.random.default_rng(0).standard_normal((90, 30))
    moment = (a.T @ a / 90).astype(np.float32)
    by_torch = torch_products.TorchPreconditioner(moment, torch.device(device))
    by_cpu = Preconditioner(moment)
    for k in (1, 7, 30):
        rhs = np.random.default_rng(k).standard_normal((4, k)).astype(np.float32)
        ridged = moment[:k, :k].astype(np.float64) + 4.0**-3 * np.eye(k)
        truth = np.linalg.solve(ridged, rhs.T).T
        solved = by_torch.solve(rhs, -3)
        np.testing.assert_allclose(solved, truth, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(solved, by_cpu.solve(rhs, -3), rtol=1e-3, atol=1e-4)


def test_a_moment_that_no_ridge_makes_definite_is_an_error(device: str) -> None:
    moment = np.diag(np.array([1.0, -(4.0**20)], np.float32))
    with pytest.raises(ArithmeticError, match="not positive semidefinite"):
        torch_products.TorchPreconditioner(moment, torch.device(device)).solve(moment, 0)


def test_the_ridge_is_raised_until_the_moment_factors(device: str) -> None:
    moment = np.diag(np.array([1.0, -2.0], np.float32))
    solved = torch_products.TorchPreconditioner(moment, torch.device(device)).solve(
        np.ones((1, 2), np.float32), 0
    )
    # 1 does not make -2 positive, 4 does.
    np.testing.assert_allclose(solved, [[1 / 5, 1 / 2]], rtol=1e-6)


def precision() -> str:
    return str(torch.backends.cuda.matmul.fp32_precision)


def test_products_are_float32_and_settings_are_restored(device: str) -> None:
    before = precision()
    try:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        with TorchExecutor(device, 1):
            assert precision() == "ieee"
            assert not torch.is_autocast_enabled(device)
        assert precision() == "tf32"
        with pytest.raises(KeyError), TorchExecutor(device, 1):
            raise KeyError
        assert precision() == "tf32"
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def test_the_one_setting_of_older_torch_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = ["medium"]
    monkeypatch.setattr(torch, "backends", SimpleNamespace())
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: levels[-1])
    monkeypatch.setattr(torch, "set_float32_matmul_precision", levels.append)
    with torch_products.full_float32():
        assert levels[-1] == "highest"
    assert levels == ["medium", "highest", "medium"]


def test_the_callers_modes_do_not_matter(device: str) -> None:
    x, y = layer(300, 10, 3)
    arguments = (x, y, np.arange(10)[None], (10,), (1e-2,))
    plain = cm.fit_probes(*arguments, device=NAMES[device])
    with torch.inference_mode(), torch.autocast(device, dtype=torch.bfloat16):
        inside = cm.fit_probes(*arguments, device=NAMES[device])
        assert torch.is_autocast_enabled(device)
        assert torch.is_inference_mode_enabled()
    assert inside.objective.tobytes() == plain.objective.tobytes()
