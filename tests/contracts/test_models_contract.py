"""Contract of every model: one pass, correct numbers, every layer can be read."""

from __future__ import annotations

import importlib
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import criticalmass as cm
from criticalmass.cli.catalogue import listing
from criticalmass.errors import CriticalMassError, MissingExtraError
from criticalmass.extraction.datasets import Dataset, Split
from criticalmass.extraction.engines import run_torch
from criticalmass.extraction.models import fingerprint, load_model
from criticalmass.extraction.models.onnx_models import OnnxGraph
from criticalmass.extraction.models.optional_imports import import_after_torchvision

torch = pytest.importorskip("torch")
NETS = """
import torch
from torch import nn

def small():
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Linear(5, 2),
        )

def vectors():
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
"""
LETTERS = [chr(code) for code in range(97, 123)]
SPECS = ("timm", "timm-vit", "hf-text", "hf-image", "st", "onnx", "onnx-vectors", "onnx-one",
         "module", "module-vectors")  # fmt: skip


def make_bert(folder: Path) -> None:
    transformers = import_after_torchvision("transformers", "text")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{a}" for a in LETTERS)]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words))
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    transformers.BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)


def make_vit(folder: Path) -> None:
    transformers = import_after_torchvision("transformers", "text")
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        image_size=16, patch_size=4,
    )  # fmt: skip
    transformers.ViTModel(config).save_pretrained(folder)
    size = {"height": 16, "width": 16}
    transformers.ViTImageProcessor(size=size).save_pretrained(folder)


def make_st(folder: Path) -> None:
    library = import_after_torchvision("sentence_transformers", "text")
    make_bert(folder.with_name("inner"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encoder = library.SentenceTransformer(str(folder.with_name("inner")), device="cpu")
        encoder.save(str(folder))


def make_onnx(file: Path, name: str, batch: int | None) -> None:
    pytest.importorskip("onnx")
    net = getattr(importlib.import_module("contract_nets"), name)().eval()
    x = torch.zeros(batch or 2, *((6,) if name == "vectors" else (3, 16, 16)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (x,), str(file), dynamo=False, input_names=["x"], output_names=["y"],
            dynamic_axes=None if batch else {"x": {0: "n"}, "y": {0: "n"}},
        )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("models")
    (root / "contract_nets.py").write_text(NETS)
    sys.path.insert(0, str(root))
    make_bert(root / "bert")
    make_vit(root / "vit")
    make_st(root / "st")
    make_onnx(root / "net.onnx", "small", None)
    make_onnx(root / "three.onnx", "small", 3)
    make_onnx(root / "vectors.onnx", "vectors", None)
    yield root
    sys.path.remove(str(root))
    sys.modules.pop("contract_nets", None)


def spec_of(kind: str, folder: Path) -> str:
    return {
        "timm": "timm:test_resnet?init=random&px=32",
        "timm-vit": "timm:test_vit?init=random&px=32",
        "hf-text": f"hf:{folder / 'bert'}",
        "hf-image": f"hf:{folder / 'vit'}",
        "st": f"st:{folder / 'st'}",
        "onnx": f"onnx:{folder / 'net.onnx'}",
        "onnx-vectors": f"onnx:{folder / 'vectors.onnx'}",
        "onnx-one": f"onnx:{folder / 'three.onnx'}",
        "module": "module:contract_nets:small?px=16",
        "module-vectors": "module:contract_nets:vectors?modality=vector",
    }[kind]


def data(modality: str) -> Dataset:
    rng = np.random.default_rng(3)
    items = {
        "image": lambda n: rng.integers(0, 256, (n, 16, 16, 3)).astype(np.uint8),
        "text": lambda n: ["".join(rng.choice(LETTERS, 1 + i % 7)) for i in range(n)],
        "vector": lambda n: rng.standard_normal((n, 6)),
    }[modality]
    splits = {
        name: Split(items(n), np.arange(n) % 2, [str(i) for i in range(n)])
        for name, n in (("train", 10), ("test", 7))
    }
    return Dataset("tiny", "tiny", modality, splits, ("a", "b"))


@pytest.fixture(params=SPECS)
def spec(request, folder):
    return spec_of(request.param, folder)


def test_every_model_gives_its_layers_in_one_pass(spec, tmp_path):
    model = load_model(spec, device="cpu")
    table = listing("layers", spec)
    assert list(table.columns) == ["layer", "output", "neurons", "what it is"]
    assert table["layer"][0] == "penultimate"
    inner = table[table["neurons"].notna()].iloc[1 :: max(1, len(table) // 4)]
    layers = ("penultimate", *inner["layer"])
    widths = {"penultimate": int(table["neurons"][0])}
    widths |= {row["layer"]: int(row["neurons"]) for _, row in inner.iterrows()}
    with warnings.catch_warnings():
        # A graph for batches of one size cannot run in OpenVINO, which a line says.
        warnings.filterwarnings("ignore", message=".*3 samples at a time")
        store = cm.extract(spec, data(model.modality), out=tmp_path / "s", layers=layers)
    assert store.layers == layers
    assert store.manifest["model"]["weights_digest"] == model.weights_digest
    assert store.manifest["engine"]["name"] in ("openvino", "onnxruntime")
    for layer in layers:
        assert store.features("train", layer).shape == (10, widths[layer])
        assert store.features("test", layer).shape == (7, widths[layer])
    if fingerprint(spec) is not None:
        assert fingerprint(spec) == model.weights_digest


@pytest.mark.parametrize("kind", ["hf-text", "onnx", "onnx-vectors", "onnx-one", "module"])
def test_the_two_engines_of_a_model_agree(kind, folder, tmp_path):
    spec = spec_of(kind, folder)
    model = load_model(spec, device="cpu")
    plain = "onnxruntime" if isinstance(model.module, OnnxGraph) else "torch"
    one = cm.extract(spec, data(model.modality), out=tmp_path / "a", engine=plain)
    if "three.onnx" in spec:
        with pytest.raises(CriticalMassError, match="takes 3 samples at a time"):
            cm.extract(spec, data(model.modality), out=tmp_path / "b", engine="openvino")
        return
    two = cm.extract(spec, data(model.modality), out=tmp_path / "b", engine="openvino")
    expected = one.features("test").array()
    assert np.abs(two.features("test").array() - expected).max() <= 1e-4 * np.abs(expected).max()
    other = {"torch": "onnxruntime", "onnxruntime": "torch"}[plain]
    with pytest.raises(CriticalMassError, match=f"engine '{other}' does not run"):
        cm.extract(spec, data(model.modality), out=tmp_path / "c", engine=other)


def test_a_misspelt_layer_gets_a_suggestion(spec):
    model = load_model(spec, device="cpu")
    name = list(model.places)[-1]
    with pytest.raises(CriticalMassError, match="did you mean") as caught:
        model.tap(f"{name}x")
    assert "\n" not in str(caught.value)
    with pytest.raises(CriticalMassError, match="listed by: criticalmass list layers"):
        model.tap("?!")


def test_transformers_numbers(folder, tmp_path):
    transformers = import_after_torchvision("transformers", "text")
    texts = data("text")
    store = cm.extract(f"hf:{folder / 'bert'}?pool=cls", texts, out=tmp_path / "s", device="cpu")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "bert")
    net = transformers.AutoModel.from_pretrained(folder / "bert").eval()
    batch = tokenizer(list(texts.splits["test"].items), padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = net(**batch).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(store.features("test").array(), expected, atol=1e-5)
    assert store.manifest["layers"]["penultimate"]["pooling"] == "class token"


@pytest.mark.parametrize("side", [16, 40])
def test_transformers_pictures_are_prepared_its_way(folder, side):
    transformers = import_after_torchvision("transformers", "text")
    processor = transformers.AutoImageProcessor.from_pretrained(folder / "vit")
    model = load_model(f"hf:{folder / 'vit'}", device="cpu")
    pictures = np.random.default_rng(0).integers(0, 256, (2, side, side, 3)).astype(np.uint8)
    _, levels = next(iter(model.preprocess.batches(pictures, None)))
    theirs = processor(list(pictures), return_tensors="pt")["pixel_values"]
    ours = (torch.from_numpy(levels).float() / 255 - model.module.mean) / model.module.std
    # Resizing may round a level differently; one level is 2/255 after the scaling.
    tolerance = 1e-5 if side == 16 else 2.1 * 2 / 255
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


def test_the_graphs_numbers_are_the_modules(folder, tmp_path):
    net = load_model("module:contract_nets:small?px=16", device="cpu")
    graph = load_model(f"onnx:{folder / 'net.onnx'}")
    inner = next(name for name, kind in graph.places.items() if kind == "Relu")
    _, batch = next(iter(net.preprocess.batches(data("image").splits["train"].items, None)))
    for pool in ("mean", "max", "flatten"):
        store = cm.extract(
            f"onnx:{folder / 'net.onnx'}", data("image"), out=tmp_path / pool, pool=pool,
            layers=(inner, "penultimate"),
        )  # fmt: skip
        reference = load_model(f"module:contract_nets:small?px=16&pool={pool}", device="cpu")
        expected = run_torch(reference, "1", batch)
        np.testing.assert_allclose(store.features("train", inner).array(), expected, atol=1e-5)
        logits = run_torch(reference, "5", batch)
        np.testing.assert_allclose(store.features("train").array(), logits, atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("onnx:nowhere.onnx", "no ONNX file 'nowhere.onnx'"),
        ("onnx:{0}/contract_nets.py", "is not an ONNX file"),
        ("onnx:{0}/net.onnx?px=20", "takes 16 x 16 pixels; leave out px"),
        ("onnx:{0}/net.onnx?norm=imagnet", "did you mean 'imagenet'"),
        ("hf:{0}/st/1_Pooling", "cannot be loaded"),
        ("hf:{0}/bert?modality=image", "takes texts; leave out modality"),
        ("timm:no-such-network", "timm.list_models"),
        ("timm:resnet10t?init=random&pool=men", "did you mean 'mean'"),
        ("timm:test_vit?init=random&px=8", "does not take px=8"),
    ],
)
def test_bad_models_get_one_line(folder, tmp_path, spec, message):
    with pytest.raises(CriticalMassError, match=message) as caught:
        cm.extract(spec.format(folder), data("image"), out=tmp_path / "s")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("module", "kind", "extra"),
    [("transformers", "hf-text", "text"), ("onnx", "onnx", "export"), ("timm", "timm", "torch")],
)
def test_a_missing_library_is_named(folder, monkeypatch, module, kind, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"'{module}' .*the extra \[{extra}\]"):
        load_model(spec_of(kind, folder))
