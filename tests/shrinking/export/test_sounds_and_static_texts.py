"""Exports of networks of sounds and of a table of token embeddings, read without their packages."""

from __future__ import annotations

import json
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.extraction.models.wordllama_package import write_wordllama

import criticalmass as cm
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.models import whisper
from criticalmass.shrinking.slim_model import SlimModel

pytest.importorskip("torch")
RATE = 16_000


def write_sounds(root: Path) -> str:
    """Write low and high tones of two lengths in class folders."""
    for name, pitch in (("low", 200.0), ("high", 3000.0)):
        (root / name).mkdir(parents=True)
        for row in range(20):
            times = np.arange(1600 * (1 + row % 2)) / RATE
            values = np.round(9000 * np.sin(2 * np.pi * (pitch + 5 * row) * times))
            with wave.open(str(root / name / f"{row}.wav"), "wb") as file:
                file.setparams((1, 2, RATE, 0, "NONE", ""))
                file.writeframes(values.astype("<i2").tobytes())
    return f"audiofolder:{root}"


def shrunk(spec: str, data: Any, folder: Path) -> tuple[SlimModel, NDArray[np.float32]]:
    """Shrink the features of a model; return the short vectors of the test split too."""
    store = cm.extract(spec, data, out=folder / "store", engine="torch", device="cpu")
    plan = cm.shrink(store, keep=0.1, selectors=("random",), measure="ridge", max_dims=6)
    return plan.slim, plan.slim.transform(store.features("test").array())


def run_graph(file: Path, batch: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return np.asarray(session.run(["short"], dict(zip(names, batch, strict=True)))[0])


@pytest.mark.parametrize("name", ["crepe-tiny", whisper.WHISPER])
def test_networks_of_sounds(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("soundfile")
    small = {"_WIDTH": 8, "_N_HEADS": 2, "_N_BLOCKS": 1, "SECONDS": 1, "N_FRAMES": 100}
    for constant, value in small.items():
        monkeypatch.setattr(whisper, constant, value)
    monkeypatch.setenv("CRITICALMASS_CACHE", str(tmp_path / "cache"))
    spec, data = f"pypi:{name}?init=random", write_sounds(tmp_path / "sounds")
    slim, expected = shrunk(spec, data, tmp_path)
    items = cm.load_dataset(data).splits["test"].items
    cm.export(slim, format="torch", out=tmp_path / "torch")
    read = cm.load_slim_torch(tmp_path / "torch", device="cpu")
    np.testing.assert_allclose(read.transform(items), expected, rtol=1e-4, atol=1e-5)
    # The classifier of pitches is not read.
    assert "classifier.weight" not in "".join(read.module.state_dict())
    assert json.loads((tmp_path / "torch" / "config.json").read_text())["inputs"] == ["sounds"]
    cm.export(slim, format="onnx", out=tmp_path / "onnx")
    for rows, batch in cm.load_model(spec).preprocess.batches(items, None):
        short = run_graph(tmp_path / "onnx" / "model.onnx", [batch])
        np.testing.assert_allclose(short, expected[rows], rtol=1e-4, atol=1e-5)
    with pytest.raises(CriticalMassError, match="export without cut"):
        cm.export(slim, format="torch", out=tmp_path / "cut", cut=True)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("is_cut", [False, True])
def test_a_table_of_token_embeddings(
    is_cut: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRITICALMASS_CACHE", str(tmp_path / "cache"))
    words = ("red", "green", "blue", "one", "two", "three")
    write_wordllama(words, 12)
    texts = [f"{words[k % 6]} {words[k % 5]} {'red ' * (k % 3)}" for k in range(40)]
    data = {part: (texts, [k % 6 // 3 for k in range(40)]) for part in ("train", "test")}
    with pytest.warns(UserWarning, match="also training texts"):
        slim, expected = shrunk("pypi:wordllama-256", data, tmp_path)
    for kind in ("torch", "onnx"):
        cm.export(slim, format=kind, out=tmp_path / kind, cut=is_cut)
    preprocess = cm.load_model("pypi:wordllama-256").preprocess
    with pytest.raises(CriticalMassError, match="not those of a sentence-transformers model"):
        cm.export(slim, format="sentence-transformers", out=tmp_path / "encoder")
    # The folder is read where there is no package.
    monkeypatch.setenv("CRITICALMASS_CACHE", str(tmp_path / "nothing"))
    read = cm.load_slim_torch(tmp_path / "torch", device="cpu")
    np.testing.assert_allclose(read.transform(texts), expected, rtol=1e-4, atol=1e-5)
    width = read.module.backbone.embedding.weight.shape[1]
    assert width == (slim.n_kept if is_cut else 12)
    assert slim.n_kept < 12
    for rows, ids in preprocess.batches(texts, None):
        # Longer by padding, which the mask leaves out.
        padded = np.pad(ids, ((0, 0), (0, 3)))
        mask = np.pad(np.ones_like(ids), ((0, 0), (0, 3)))
        short = run_graph(tmp_path / "onnx" / "model.onnx", [padded, mask])
        np.testing.assert_allclose(short, expected[rows], rtol=1e-4, atol=1e-5)
    savings = json.loads((tmp_path / "torch" / "config.json").read_text()).get("savings")
    if is_cut:
        assert savings["parameters_before"] == 8 * 12
        assert savings["parameters_after"] == 8 * slim.n_kept
