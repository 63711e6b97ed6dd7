"""Engine ``auto``: no failure of OpenVINO reaches the user, and one line says what happened."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

import criticalmass as cm
from criticalmass.cli.main import main
from criticalmass.errors import CriticalMassError
from criticalmass.storage import features_writer

torch = pytest.importorskip("torch")
openvino_engine = importlib.import_module("criticalmass.extraction.engines.openvino_engine")
registry = importlib.import_module("criticalmass.extraction.engines.registry")
NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 3, stride=2), nn.Linear(6, 2)
    def forward(self, x):
        return self.fc(self.conv(x).relu().mean((2, 3)))

class Traced(Net):
    '''Does not run in torch's tracer.'''
    def forward(self, x):
        if torch.jit.is_tracing():
            raise KeyError("no tracing\\nof this network")
        return super().forward(x)

class Broken(Net):
    def forward(self, x):
        raise ValueError("not these images")

def seeded(kind):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return kind()

def net():
    return seeded(Net)

def broken():
    return Broken()

def traced():
    return seeded(Traced)
"""
NET, TRACED = (f"module:fallback_nets:{name}?px=12" for name in ("net", "traced"))
DIGITS = "sklearn:digits?n=60"


@pytest.fixture(autouse=True)
def nets(tmp_path, monkeypatch):
    (tmp_path / "fallback_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("fallback_nets", None)


def contents(folder: str) -> dict[str, bytes]:
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


class OddError(Exception):
    """An error of no known kind, as OpenVINO's converter raises it."""


class Requests:
    """Stands for OpenVINO's requests; every start after the first few fails."""

    def __init__(self, n_good: int) -> None:
        self.n_good = n_good

    def wrap(self, request):
        outer = self

        class Request:
            def start_async(self, inputs):
                outer.n_good -= 1
                if outer.n_good < 0:
                    raise OddError("the plugin failed\nOut of memory")
                request.start_async(inputs)

            def __getattr__(self, name):
                return getattr(request, name)

        return Request()


@pytest.fixture
def failing(monkeypatch):
    """Let OpenVINO fail after some batches."""

    def fail_after(n_good: int) -> None:
        requests = Requests(n_good)
        compile_model = openvino_engine.OpenVinoEngine._compile

        def wrapped(self, precision):
            compile_model(self, precision)
            self._requests[:] = [requests.wrap(request) for request in self._requests]

        monkeypatch.setattr(openvino_engine.OpenVinoEngine, "_compile", wrapped)

    return fail_after


def extract(out: str, model: str = NET, **options):
    return cm.extract(model, DIGITS, out=out, device="cpu", **options)


@pytest.mark.parametrize("error", [OddError, RuntimeError, ValueError, OSError])
def test_any_error_of_the_conversion_leads_to_torch(monkeypatch, error):
    def fail(*_):
        raise error("a long report\n-- no such operation: aten::odd\n")

    monkeypatch.setattr(registry, "compile_torch", fail)
    line = (
        r"OpenVINO does not convert 'net' \(no such operation: aten::odd\); features of 'net' are "
        "computed with torch, which is slower"
    )
    with pytest.warns(UserWarning, match=f"^{line}$"):
        store = extract("s")
    assert store.manifest["engine"]["name"] == "torch"
    with pytest.raises(CriticalMassError, match=r"does not convert 'net' \(no such") as caught:
        extract("named", engine="openvino")
    assert "\n" not in str(caught.value)
    assert not Path("named").exists()


def test_a_network_that_cannot_be_traced():
    with pytest.warns(UserWarning, match=r"does not convert 'traced' \(.*no tracing.*torch"):
        store = extract("s", TRACED)
    assert store.manifest["engine"]["name"] == "torch"
    assert contents("s") == (extract("t", TRACED, engine="torch"), contents("t"))[1]


def test_the_command_line_says_it_in_one_line(capsys):
    arguments = ["extract", TRACED, DIGITS, "--out", "s", "--engine", "openvino"]
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: OpenVINO does not convert 'traced'")
    assert error.count("\n") == 1
    with pytest.raises(SystemExit) as left:
        main(arguments[:-2])
    assert left.value.code == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "OpenVINO" in line]
    assert len(lines) == 1
    assert "features of 'traced' are computed with torch" in lines[0]


@pytest.mark.parametrize("n_good", [1, 2, 7, 9])
def test_an_engine_that_fails_later_is_replaced_from_the_beginning(monkeypatch, failing, n_good):
    monkeypatch.setattr(features_writer.StoreWriter, "shard_rows", 16)
    extract("torch", engine="torch", batch_size=8)
    # The first run is the comparison with torch; 80 images are 10 batches in 5 shards.
    failing(n_good)
    with pytest.warns(UserWarning, match=r"does not run 'net' \(Out of memory\); .* with torch"):
        store = extract("s", batch_size=8)
    assert store.manifest["engine"]["name"] == "torch"
    assert contents("s") == contents("torch")
    failing(n_good)
    with pytest.raises(CriticalMassError, match=r"does not run 'net' \(Out of memory\)") as caught:
        extract("named", engine="openvino", batch_size=8)
    assert "\n" not in str(caught.value)


def test_a_store_that_torch_began_is_continued_by_torch(monkeypatch, failing):
    monkeypatch.setattr(features_writer.StoreWriter, "shard_rows", 16)
    extract("torch", engine="torch")
    failing(3)
    put, calls = features_writer.StoreWriter.put, []

    def stopping(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return put(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(features_writer.StoreWriter, "put", stopping)
        with pytest.warns(UserWarning, match="does not run"), pytest.raises(KeyboardInterrupt):
            extract("s")
    # OpenVINO works again, but a store holds the features of one engine.
    extract("s")
    assert contents("s") == contents("torch")


def test_an_error_that_is_not_the_engines_stays(monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(registry, "compile_torch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        extract("s")
    # Nor does torch take over from itself: the user's own code keeps its error.
    with pytest.raises(ValueError, match="not these images"):
        extract("s", "module:fallback_nets:broken?px=12")
    assert not Path("s").exists()
