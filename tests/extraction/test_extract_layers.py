"""Layer patterns, pooling, concatenated layers, weights; and interruptions in between."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import criticalmass as cm
from criticalmass.errors import CriticalMassError, StoreError
from criticalmass.extraction.datasets import Dataset, Split
from criticalmass.extraction.models import load_model, with_options
from criticalmass.extraction.models.frozen import FrozenModel, Tap
from criticalmass.extraction.models.pooling import TokenLayout, pool_values
from criticalmass.storage import features_writer

torch = pytest.importorskip("torch")
nn = torch.nn
NETS = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.act3 = nn.ReLU()
    def forward(self, x):
        return self.act3(self.conv(x))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1 = nn.Sequential(Block(3, 4), Block(4, 4))
        self.layer2 = nn.Sequential(Block(4, 5))
        self.drop = nn.Sequential(nn.Dropout(0.1))
        self.fc = nn.Linear(5, 2)
    def forward(self, x):
        return self.fc(self.drop(self.layer2(self.layer1(x)).mean((2, 3))))

def net():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Net()

class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(2, 3)
        self.fc = nn.Linear(3, 2)
    def forward(self, x):
        return self.fc(self.embed(x.reshape(len(x), -1, 2)).mean(1))

def tokens():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Tokens()
"""
NET, DIGITS = "module:layer_nets:net?px=8", "sklearn:digits?n=60"
BLOCKS = ("layer1.0", "layer1.1", "layer2.0")


@pytest.fixture(autouse=True)
def nets(tmp_path, monkeypatch):
    (tmp_path / "layer_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("layer_nets", None)


def contents(folder: str) -> dict[str, bytes]:
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def extract(out: str, **options):
    return cm.extract(NET, DIGITS, **{"out": out, "device": "cpu", "engine": "torch", **options})


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("layer?.*.act3", ["layer1.0.act3", "layer1.1.act3", "layer2.0.act3"]),
        ("layer?", ["layer1", "layer2"]),
        ("layer[2-9].*", ["layer2.0"]),
        ("**conv", ["layer1.0.conv", "layer1.1.conv", "layer2.0.conv"]),
        ("fc", ["fc"]),
    ],
)
def test_patterns_stop_at_dots(pattern, expected):
    model = load_model(NET, device="cpu")
    assert list(model.expand([pattern])) == expected
    assert list(model.expand([expected[-1], pattern])) == [expected[-1], *expected[:-1]]


def test_a_pattern_that_fits_nothing():
    with pytest.raises(CriticalMassError, match=r"like 'layer\?\.act3'; did you mean 'layer"):
        extract("s", layers=("layer?.act3",))
    assert not Path("s").exists()


def test_pooling_by_hand():
    x = np.arange(24.0, dtype=np.float32).reshape(1, 2, 3, 4)
    flat = x.reshape(1, -1)
    cases = {
        "mean": (flat.reshape(1, 2, 12).mean(2), "mean over positions"),
        "max": (np.array([[11.0, 23.0]]), "maximum over positions"),
        "flatten": (flat, "flattened positions"),
    }
    for pool, (expected, description) in cases.items():
        for value in (x, torch.from_numpy(x)):
            found, pooling = pool_values(value, pool, TokenLayout())
            np.testing.assert_array_equal(np.asarray(found), expected)
            assert pooling == description
    last, _ = pool_values(np.moveaxis(x, 1, 3), "max", TokenLayout(channels_last=True))
    np.testing.assert_array_equal(last, [[11.0, 23.0]])
    tokens = x[0]
    for pool, expected in (
        ("cls", tokens[:, 0]), ("last", tokens[:, 2]), ("mean", tokens.mean(1)),
        ("max", tokens[:, 2]),
    ):  # fmt: skip
        found, _ = pool_values(tokens, pool, TokenLayout(is_text=True))
        np.testing.assert_array_equal(found, expected)
    for value, has_class in ((x, True), (tokens, False)):
        with pytest.raises(CriticalMassError, match="without a class token"):
            pool_values(value, "cls", TokenLayout(has_class=has_class))
    for value, is_text in ((x, True), (tokens, False)):
        with pytest.raises(CriticalMassError, match="not tokens of a text"):
            pool_values(value, "last", TokenLayout(is_text=is_text))


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_every_pooling_in_both_engines(engine):
    stores = {
        pool: extract(pool, layers=("layer2", "penultimate"), pool=pool, engine=engine)
        for pool in ("mean", "max", "flatten")
    }
    maps = stores["flatten"].features("test", "layer2").array().reshape(-1, 5, 64)
    for pool, expected in (("mean", maps.mean(2)), ("max", maps.max(2))):
        found = stores[pool].features("test", "layer2").array()
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert stores["max"].manifest["layers"]["layer2"]["pooling"] == "maximum over positions"
    assert stores["max"].manifest["model"]["spec"] == f"{NET}&pool=max"
    with pytest.raises(StoreError, match="model spec is"):
        extract("max", layers=("layer2", "penultimate"), engine=engine)


def test_tokens_have_no_class_where_the_network_says_so():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    net.num_prefix_tokens = 0
    model = FrozenModel(
        "net", "net", "text", net, net, None, "w", "0", Tap("penultimate", "1", "input"), "cls"
    )
    from criticalmass.extraction.models.wrappers import TappedModel

    with pytest.raises(CriticalMassError, match=r"layer '0' of 'net' has .* without a class token"):
        TappedModel(model, [model.tap("0")])(torch.zeros(2, 4, 3))
    flat = with_options(model, pool="flatten")
    with pytest.raises(CriticalMassError, match="as many tokens as the text"):
        TappedModel(flat, [model.tap("0")])(torch.zeros(2, 4, 3))


def normalised(parts):
    """Columns over their norm in the training split, from the definition, in float64."""
    train = np.concatenate([x.astype(np.float64) for x in parts["train"]], axis=1)
    test = np.concatenate([x.astype(np.float64) for x in parts["test"]], axis=1)
    norms = np.sqrt((train**2).sum(0))
    norms[norms == 0] = 1.0
    return train / norms, test / norms


@pytest.mark.parametrize("layers", [("all",), ("all", *BLOCKS), ("layer?.?", "all")])
def test_all_is_the_layers_side_by_side(layers):
    store = extract("all", layers=layers)
    single = extract("each", layers=BLOCKS)
    read = {s: [single.features(s, b).array() for b in BLOCKS] for s in ("train", "test")}
    train, test = normalised(read)
    found = store.features("train", "all")
    assert found.shape == (60, 13)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.array(), train, rtol=1e-6)
    np.testing.assert_allclose(store.features("test", "all").array(), test, rtol=1e-6)
    np.testing.assert_array_equal(found[5:9], found.array()[5:9])
    np.testing.assert_array_equal(found[[7, 1]], found.array()[[7, 1]])
    lengths = np.linalg.norm(found.array().astype(np.float64), axis=0)
    np.testing.assert_allclose(lengths[lengths > 0], 1.0, rtol=1e-5)
    entry = store.manifest["layers"]["all"]
    assert tuple(entry["parts"]) == BLOCKS
    assert entry["parts"]["layer2.0"]["pooling"] == "mean over positions"
    assert entry["norm_split"] == "train"
    assert store.layers == (("all",) if layers == ("all",) else (*BLOCKS, "all"))


def test_a_dead_neuron_stays_zero():
    rows = np.random.default_rng(0).standard_normal((6, 6))
    split = Split(rows, np.arange(6) % 2, list("abcdef"))
    data = Dataset("v", "v", "vector", {"only": split}, ("a", "b"))
    net = nn.Sequential(nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 2)).requires_grad_(False)
    net[0].bias[1] = -100.0
    from criticalmass.extraction.models.preprocess import VectorPreprocess

    model = FrozenModel(
        "net", "net", "vector", net, net, VectorPreprocess(), "w", "0",
        Tap("penultimate", "2", "input"),
    )  # fmt: skip
    store = cm.extract(model, data, out="s", layers=("1", "all"), engine="torch")
    np.testing.assert_array_equal(store.features("only", "all").array()[:, 1], 0.0)
    assert store.manifest["layers"]["all"]["norm_split"] == "only"


def test_all_is_ambiguous_for_a_network_without_lists():
    flat = "module:layer_nets:tokens?modality=vector"
    rows = Split(np.eye(4), np.arange(4) % 2, list("abcd"))
    data = Dataset("v", "v", "vector", {"train": rows}, ("a", "b"))
    with pytest.raises(CriticalMassError, match="name the layers in addition to 'all'"):
        cm.extract(flat, data, out="s", layers=("all",), device="cpu")
    # Its len(x) is a constant to the tracer, which must be noticed.
    with pytest.warns(UserWarning, match=r"has 2 rows for 4 samples; .* computed with torch"):
        store = cm.extract(flat, data, out="s", layers=("all", "embed"), device="cpu", pool="cls")
    assert store.manifest["layers"]["embed"]["pooling"] == "class token"


@pytest.mark.parametrize("stop", [1, 3, 6])
@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_stopped_anywhere_and_started_again_gives_the_same_bytes(monkeypatch, engine, stop):
    monkeypatch.setattr(features_writer.StoreWriter, "shard_rows", 16)
    options = {"layers": ("penultimate", "layer?.*", "all"), "pool": "max", "engine": engine}
    extract("whole", **options)
    for method in ("put", "_write_norms"):
        original = getattr(features_writer.StoreWriter, method)
        calls = []

        def stopping(*arguments, original=original, calls=calls, method=method):
            calls.append(arguments)
            if len(calls) == (stop if method == "put" else 1):
                # In the middle of a shard: some layers are written, the manifest is not.
                if method == "put":
                    monkeypatch.setattr(features_writer.StoreWriter, "_save", interrupt)
                else:
                    raise KeyboardInterrupt
            return original(*arguments)

        def interrupt(*_):
            raise KeyboardInterrupt

        out = f"stopped-{method}"
        with monkeypatch.context() as patch:
            patch.setattr(features_writer.StoreWriter, method, stopping)
            save = features_writer.StoreWriter._save
            with pytest.raises(KeyboardInterrupt):
                extract(out, **options)
            patch.setattr(features_writer.StoreWriter, "_save", save)
        monkeypatch.setattr(features_writer.StoreWriter, "_save", save)
        with pytest.raises(StoreError, match="unfinished"):
            cm.FeatureStore.open(out)
        extract(out, **options)
        assert contents(out) == contents("whole")


def test_lost_norms_are_made_again():
    before = (extract("s", layers=("all",)), contents("s"))[1]
    (Path("s") / "norms/all.npy").unlink()
    with pytest.raises(StoreError, match=r"all\.npy"):
        cm.FeatureStore.open("s")
    with pytest.warns(UserWarning, match="missing or damaged"):
        extract("s", layers=("all",))
    assert contents("s") == before


def test_a_finished_store_of_patterns_is_reused_and_another_refused():
    extract("s", layers=("layer?.*", "all"))
    before = {path: path.stat().st_mtime_ns for path in Path("s").rglob("*")}
    extract("s", layers=("layer?.*", "all"))
    assert {path: path.stat().st_mtime_ns for path in Path("s").rglob("*")} == before
    with pytest.raises(StoreError, match=r"layers all parts is .* in the folder"):
        extract("s", layers=("layer?.*", "penultimate", "all"))


def test_weights_are_part_of_the_spec():
    module = load_model(NET, device="cpu").root
    torch.save({f"module.{k}": v + 1 for k, v in module.state_dict().items()}, "w.pt")
    store = extract("s", weights="w.pt")
    assert store.manifest["model"]["spec"] == f"{NET}&weights=w.pt"
    assert store.manifest["model"]["weights"] == "file w.pt"
    plain = extract("plain")
    assert store.manifest["model"]["weights_digest"] != plain.manifest["model"]["weights_digest"]
    assert not np.array_equal(store.features("test").array(), plain.features("test").array())
    for options, message in (
        ({"model": f"{NET}&weights=w.pt", "weights": "w.pt"}, "already sets weights"),
        ({"model": "pypi:minilm-l6", "weights": "w.pt"}, "no .* 'weights'|own weights|option"),
        (
            {"model": load_model(NET, device="cpu"), "weights": "w.pt"},
            "is already loaded; leave out",
        ),
        ({"model": f"{NET}&weights=nowhere.pt"}, "no weight file 'nowhere.pt'"),
    ):
        with pytest.raises(CriticalMassError, match=message) as caught:
            cm.extract(**{"model": NET, "dataset": DIGITS, "out": "x", **options})
        assert "\n" not in str(caught.value)


def test_the_command_line_takes_weights_pool_and_patterns(capsys):
    from criticalmass.cli.main import main

    torch.save(load_model(NET, device="cpu").root.state_dict(), "w.pt")
    arguments = ["extract", NET, DIGITS, "--out", "s", "--weights", "w.pt", "--pool", "max"]
    with pytest.raises(SystemExit) as left:
        main([*arguments, "--layer", "layer?", "--engine", "torch", "-q"])
    assert left.value.code == 0
    manifest = json.loads((Path("s") / "manifest.json").read_text())
    assert list(manifest["layers"]) == ["layer1", "layer2"]
    assert manifest["model"]["spec"] == f"{NET}&weights=w.pt&pool=max"
