"""Extraction on Ray: the same bytes, the model loaded once a worker, one writer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import criticalmass as cm
from criticalmass.errors import CriticalMassError, StoreError
from criticalmass.storage import features_writer

pytest.importorskip("torch", reason="NOT TESTED: the extra [torch] is not installed")

NETS = """
import os
from torch import nn, manual_seed
from pathlib import Path

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        manual_seed(3)
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.conv(x).relu().mean((2, 3)))

def net():
    with open("loads.txt", "a") as file:
        file.write(f"{os.getpid()}\\n")
    return Net().eval()
"""
MODEL, DIGITS = "module:ray_nets:net?px=12", "sklearn:digits?n=60"


@pytest.fixture(autouse=True)
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "ray_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(features_writer.StoreWriter, "shard_rows", 7)
    yield
    sys.modules.pop("ray_nets", None)


def contents(folder: str) -> dict[str, bytes]:
    found = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def extract(out: str, backend: Any = "local") -> None:
    cm.extract(
        MODEL,
        DIGITS,
        out=out,
        layers=("penultimate", "conv"),
        device="cpu",
        engine="torch",
        backend=backend,
    )


def test_shards_of_workers_are_those_of_this_process(cluster: Any) -> None:
    extract("here")
    Path("loads.txt").unlink()
    extract("there", "ray")
    assert len(contents("there")) > 20
    assert contents("there") == contents("here")
    loads = Path("loads.txt").read_text().split()
    assert 2 <= len(loads) <= 4  # here once, and in each process of the two workers
    assert len(set(loads)) == len(loads)


class Stopping:
    """A backend that does its tasks last first, and is interrupted after some."""

    def __init__(self, after: int) -> None:
        self.after, self.done = after, 0

    def map(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        waiting = list(tasks)
        for task in [*waiting[2::-1], *waiting[3:]]:
            if self.done == self.after:
                raise KeyboardInterrupt
            self.done += 1
            yield function(task)


def test_an_interrupted_extraction_goes_on_elsewhere() -> None:
    extract("whole")
    with pytest.raises(KeyboardInterrupt):
        extract("parts", Stopping(2))  # the first shard was not there yet: none is written
    assert not list(Path("parts").rglob("features/**/*.npy"))
    with pytest.raises(KeyboardInterrupt):
        extract("parts", Stopping(4))
    assert len(list(Path("parts").rglob("features/conv/*.npy"))) == 4
    extract("parts", Stopping(1000))
    assert contents("parts") == contents("whole")


def test_a_worker_that_would_compute_something_else_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Elsewhere:
        def map(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
            monkeypatch.setattr("criticalmass.extraction.shards._LIBRARIES", ("numpy", "pillow"))
            return map(function, tasks)

    with pytest.raises(StoreError, match=r"a worker on .* other features: versions criticalmass"):
        extract("out", Elsewhere())


def test_what_a_worker_finds_wrong_is_said_as_here(cluster: Any) -> None:
    with pytest.raises(CriticalMassError, match="no backend 'rya'"):
        extract("out", "rya")
    Path("loads.txt").write_text("")
    with pytest.raises(CriticalMassError, match="ray_nets"):
        cm.extract("module:ray_nets:nothing", DIGITS, out="out", device="cpu", backend="ray")
