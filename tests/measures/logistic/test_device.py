"""Devices by name: which are rejected, what "auto" resolves to, and the benchmark for a GPU."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from tests.programs import run_program

import criticalmass as cm
from criticalmass.core.compute import Compute
from criticalmass.errors import CriticalMassError, MissingExtraError
from criticalmass.measures import registry
from criticalmass.measures.logistic import device as device_module

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cdua", "no device 'cdua'; did you mean 'cuda'?"),
        ("torch_cpu", "did you mean 'torch-cpu'?"),
        ("cpu:0", "did you mean 'cpu'?"),
        ("tpu-pod", "no device 'tpu-pod'"),
        ("cuda:x", "device 'cuda:x'; give 'cuda', or with a number: 'cuda:0'"),
        ("cuda:", "device 'cuda:'; give 'cuda'"),
        ("cuda:99", "device 'cuda:99' is not available: torch finds"),
    ],
)
def test_a_wrong_device_is_rejected_before_any_work(device: str, message: str) -> None:
    x = np.random.default_rng(0).standard_normal((30, 4))
    y = np.arange(30) % 2
    with pytest.raises(CriticalMassError) as caught:
        cm.fit_probes(x, y, np.arange(4)[None], (4,), (1e-2,), device=device)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_gpu_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "_count_gpus", lambda: 0)
    message = r"'cuda' is not available: torch finds 0 CUDA devices"
    with pytest.raises(CriticalMassError, match=message):
        device_module.find_device("cuda")
    assert device_module.find_device("auto") == "cpu"
    monkeypatch.setattr(device_module, "_count_gpus", lambda: 2)
    assert [device_module.find_device(name) for name in ("auto", "cuda", "cuda:1")] == [
        "cuda",
        "cuda",
        "cuda:1",
    ]
    with pytest.raises(CriticalMassError, match="finds 2 CUDA devices"):
        device_module.find_device("cuda:2")


@pytest.mark.parametrize("device", ["cuda", "torch-cpu"])
def test_torch_missing_says_what_to_install(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"the extra \[torch\]"):
        device_module.find_device(device)
    assert device_module.find_device("cpu") == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_torch_is_not_imported_to_learn_that_there_is_no_gpu() -> None:
    lines = """
        import sys, numpy as np, criticalmass as cm
        x = np.random.default_rng(0).standard_normal((40, 3))
        fits = cm.fit_probes(x, np.arange(40) % 2, np.arange(3)[None], (3,), (1e-1,))
        assert fits.converged.all() and "torch" not in sys.modules
    """
    program = "\n".join(line.strip() for line in lines.splitlines())
    subprocess.run([sys.executable, "-c", program], check=True, timeout=600)


def test_auto_asks_torch_only_if_there_is_a_driver(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(device_module.sys, "platform", "linux")
    missing = str(tmp_path / "missing")
    assert not device_module._may_have_gpu((missing,))
    assert device_module._may_have_gpu((missing, str(tmp_path)))
    monkeypatch.setattr(device_module.importlib.util, "find_spec", lambda _: None)
    assert not device_module._may_have_gpu((missing, str(tmp_path)))


def test_the_device_is_not_part_of_a_cells_identity() -> None:
    assert {"device", "compute"}.isdisjoint(registry.MEASURES["logistic"].protocol)
    with pytest.raises(CriticalMassError, match="did you mean 'cuda'"):
        device_module.executor_for(Compute(device="cuad"))


WITHOUT_GPU = {"CUDA_VISIBLE_DEVICES": ""}


def benchmark(*arguments: str) -> str:
    return run_program("benchmarks.gpu", *arguments, env=WITHOUT_GPU)


def test_the_benchmark_says_that_there_is_no_gpu() -> None:
    assert benchmark() == "no CUDA device here: not measured\n"


def test_the_benchmark_runs() -> None:
    text = benchmark("--quick", "--repeats", "1", "--device", "torch-cpu")
    assert len(re.findall(r"\*\*\d[\d.e+]* x\*\*", text)) == 2
    gaps = [float(gap) for gap in re.findall(r"largest true gap (\S+) \(ours\)", text)]
    assert len(gaps) == 2
    assert max(gaps) <= 1e-6
