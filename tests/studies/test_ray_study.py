"""A study on Ray: workers load models and data; results are written by this process."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner

import criticalmass as cm
from criticalmass.cli.main import cli

pytest.importorskip("torch", reason="NOT TESTED: the extra [torch] is not installed")

NETS = """
import os
from torch import nn, manual_seed

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        manual_seed(3)
        self.conv = nn.Conv2d(3, 12, 3)
        self.fc = nn.Linear(12, 2)

    def forward(self, x):
        return self.fc(self.conv(x).relu().mean((2, 3)))

def net():
    with open("loads.txt", "a") as file:
        file.write(f"{os.getpid()}\\n")
    return Net().eval()
"""
STUDY = """\
question: Does it run elsewhere?
models: ["module:study_nets:net?px=12"]
datasets: ["sklearn:digits?n=200"]
measures: [ridge, cka]
fractions: [0.25, 0.5, 1.0]
seeds: 3
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "study_nets.py").write_text(NETS)
    (tmp_path / "mine.yaml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CRITICALMASS_THREADS", "1")
    yield
    sys.modules.pop("study_nets", None)


def digests(folder: str) -> dict[str, str]:
    """Return the digests of all feature files."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder, "features").rglob("*.npy"))
    }


def test_features_and_tables_are_those_of_this_process(cluster: Any) -> None:
    local = cm.study("mine.yaml", out="local", pages=False)
    Path("loads.txt").unlink()
    on_ray = cm.study("mine.yaml", out="ray", backend="ray", pages=False)
    assert on_ray.is_complete
    assert len(digests("ray")) >= 2
    assert digests("ray") == digests("local")
    assert len(set(Path("loads.txt").read_text().split())) >= 2  # by this process and by workers
    for name in ("curves.csv", "redundancy.csv"):
        tables = [pd.read_csv(result.folders["mine"] / name) for result in (local, on_ray)]
        pd.testing.assert_frame_equal(*tables, rtol=1e-6)


def test_a_backend_that_does_not_exist_is_named_before_anything_runs() -> None:
    result = CliRunner().invoke(cli, ["study", "mine.yaml", "--out", "out", "--backend", "rya"])
    assert result.exit_code != 0
    assert "did you mean 'ray'" in str(result.exception)
    assert not Path("out").exists()
