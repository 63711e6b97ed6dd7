"""Live objects: modules, loaders and data of a notebook, read once and left as they were."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import criticalmass as cm
from criticalmass.core import progress
from criticalmass.errors import CriticalMassError, StoreError
from criticalmass.extraction import tensors
from criticalmass.extraction.models.live import load_live
from criticalmass.extraction.models.optional_imports import import_after_torchvision
from criticalmass.storage import features_writer

torch = importlib.import_module("torch")
nn = torch.nn
data = importlib.import_module("torch.utils.data")
pytestmark = pytest.mark.filterwarnings("ignore:.*are also training:UserWarning")
N = 40
LABELS = torch.arange(N) % 2
IMAGES = torch.randn(N, 1, 6, 6, generator=torch.Generator().manual_seed(0))
VECTORS = IMAGES[:, 0, :2].reshape(N, 12)


@pytest.fixture
def net() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(64, 3),
        )
        net(torch.randn(8, 1, 6, 6))
    return net


@pytest.fixture
def mlp() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 3))


def extract(model: Any, values: Any, out: Path, **options: Any) -> cm.FeatureStore:
    return cm.extract(model, values, out=out, **{"engine": "torch", **options})


def features(store: cm.FeatureStore, layer: str = "penultimate") -> dict[str, Any]:
    """Return id -> row, over all splits."""
    return {
        name: row
        for split in store.splits
        for name, row in zip(
            store.sample_ids(split), store.features(split, layer).array(), strict=True
        )
    }


def assert_features(store: cm.FeatureStore, expected: Any, layer: str = "penultimate") -> None:
    rows = features(store, layer)
    assert len(rows) == len(expected)
    for name, row in rows.items():
        reference = expected[int(name.rpartition("-")[2])]
        np.testing.assert_allclose(row, reference.numpy(), rtol=1e-5, atol=1e-6)


def test_a_module_is_read_in_evaluation_mode_and_stays_as_it_was(net: Any, tmp_path: Path) -> None:
    net.train()
    net[1].eval()
    net[0].weight.requires_grad_(False)
    flags = [module.training for module in net.modules()]
    grads = [weight.requires_grad for weight in net.parameters()]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    random_state = torch.get_rng_state()
    loader = data.DataLoader(data.TensorDataset(IMAGES, LABELS), batch_size=7, shuffle=True)
    store = extract(net, loader, tmp_path / "f", layers=("penultimate", "0"))
    assert flags == [module.training for module in net.modules()]
    assert grads == [weight.requires_grad for weight in net.parameters()]
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
    assert torch.equal(random_state, torch.get_rng_state())
    frozen = net.eval()
    with torch.no_grad():
        assert_features(store, frozen[:4](IMAGES))
        assert_features(store, frozen[0](IMAGES).mean((2, 3)), "0")
    assert store.manifest["model"]["spec"] == "live:Sequential"


def test_flags_are_restored_after_an_error(mlp: Any, tmp_path: Path) -> None:
    mlp.train()
    with pytest.raises(CriticalMassError, match="does not run on its input"):
        extract(mlp, VECTORS[:, :5], tmp_path / "f")
    assert mlp.training
    assert all(weight.requires_grad for weight in mlp.parameters())


def test_a_loader_that_shuffles_is_read_in_the_order_of_its_dataset(
    net: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = data.TensorDataset(IMAGES, LABELS)
    plain = extract(net, data.DataLoader(samples, batch_size=8), tmp_path / "a")
    loader = data.DataLoader(samples, batch_size=8, shuffle=True, drop_last=True)
    with progress.display():
        shuffled = extract(net, loader, tmp_path / "b")
    assert plain.manifest["dataset"] == shuffled.manifest["dataset"]
    lines = capsys.readouterr().err
    assert "shuffles: it is read in the order of its dataset" in lines
    assert "a quarter" in lines or "test share 0.25" in lines


class Bag(data.Dataset):
    """Token ids of several lengths."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"input_ids": torch.arange(row + 1, row + 3 + row % 5), "labels": row % 2}


def pad(samples: list[dict[str, Any]]) -> dict[str, Any]:
    ids = nn.utils.rnn.pad_sequence([one["input_ids"] for one in samples], batch_first=True)
    labels = torch.tensor([one["labels"] for one in samples])
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}


class Reader(nn.Module):
    """The mean over tokens is that of the text only if padding is removed."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(60, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, input_ids: Any, attention_mask: Any = None) -> Any:
        return self.head(self.table(input_ids).mean(1))


def test_padding_is_removed_from_batches_of_tokens(tmp_path: Path) -> None:
    reader, bag = Reader(), Bag()
    store = extract(
        reader, data.DataLoader(bag, batch_size=6, collate_fn=pad), tmp_path / "f",
        layers=("penultimate", "table"),
    )  # fmt: skip
    with torch.no_grad():
        expected = torch.stack([reader.table(bag[row]["input_ids"]).mean(0) for row in range(N)])
    assert_features(store, expected)
    assert_features(store, expected, "table")


def scale(image: Any) -> Any:
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)[None]


class Pictures(data.Dataset):
    """PIL images with the names of their classes, as those of torchvision."""

    classes = ("cat", "dog", "owl")

    def __init__(self) -> None:
        from PIL import Image

        grey = (IMAGES[:, 0].clamp(0, 1) * 255).to(torch.uint8).numpy()
        self.pictures = [Image.fromarray(image) for image in grey]

    def __len__(self) -> int:
        return N

    def __getitem__(self, row: int) -> tuple[Any, int]:
        return self.pictures[row], row % 2


def test_images_need_a_function_and_get_it(net: Any, tmp_path: Path) -> None:
    pictures = Pictures()
    with pytest.raises(CriticalMassError, match="give preprocess=, the function"):
        extract(net, pictures, tmp_path / "f")
    store = extract(net, pictures, tmp_path / "f", preprocess=scale)
    assert store.class_names == ("cat", "dog", "owl")
    frozen = net.eval()
    with torch.no_grad():
        assert_features(store, frozen[:4](torch.stack([scale(p) for p in pictures.pictures])))


@pytest.mark.parametrize(
    "values",
    [
        (VECTORS, LABELS),
        (VECTORS.double().numpy(), [str(int(y)) for y in LABELS]),
        {"x": VECTORS, "label": LABELS},
        {"train": (VECTORS, LABELS), "test": (VECTORS[:9], LABELS[:9])},
        {"validation": (VECTORS, LABELS)},
        data.TensorDataset(VECTORS, LABELS),
        data.DataLoader(data.TensorDataset(VECTORS, LABELS), batch_size=9),
        [row.numpy() for row in VECTORS],
        ({"x": x, "y": int(y)} for x, y in zip(VECTORS, LABELS, strict=True)),
    ],
    ids=[
        "pair",
        "numpy",
        "columns",
        "splits",
        "one-split",
        "dataset",
        "loader",
        "list",
        "generator",
    ],
)
def test_vectors_of_any_container(mlp: Any, values: Any, tmp_path: Path) -> None:
    store = extract(mlp, values, tmp_path / "f")
    with torch.no_grad():
        expected = mlp[:2](VECTORS).numpy()
    for name, row in features(store).items():
        np.testing.assert_allclose(row, expected[int(name.rpartition("-")[2])], atol=1e-6)
    assert set(store.splits) == {"train", "test"}


def test_datasets_of_the_library(tmp_path: Path) -> None:
    library = pytest.importorskip("datasets")
    pictures = Pictures()
    columns = {"image": pictures.pictures, "label": LABELS.tolist()}
    one = library.Dataset.from_dict(columns)
    net = cm.load_model("timm:test_resnet?init=random&px=32")
    both = cm.load_dataset({"train": one, "test": one.select(range(8))})
    assert {name: len(split) for name, split in both.splits.items()} == {"train": N, "test": 8}
    texts = library.Dataset.from_dict({"a": ["x"] * 8, "b": ["y"] * 8})
    with pytest.raises(CriticalMassError, match="select_columns"):
        cm.load_dataset(texts)
    assert extract(net, one, tmp_path / "f").splits == ("train", "test")


def test_a_network_of_timm_has_its_own_preprocessing(tmp_path: Path) -> None:
    spec = "timm:test_resnet?init=random"
    frozen = cm.load_model(spec)
    images = (Pictures().pictures, LABELS)
    live = extract(frozen.root, images, tmp_path / "live")
    named = extract(frozen, images, tmp_path / "named")
    assert live.manifest["model"]["preprocessing"] == named.manifest["model"]["preprocessing"]
    np.testing.assert_array_equal(live.features("test").array(), named.features("test").array())


def test_an_interrupted_extraction_continues(
    mlp: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features_writer.StoreWriter, "shard_rows", 8)
    loader = data.DataLoader(data.TensorDataset(VECTORS, LABELS), batch_size=7, shuffle=True)
    put, shards = features_writer.StoreWriter.put, []

    def put_one(self: Any, plan: Any, arrays: Any) -> None:
        if shards:
            raise KeyboardInterrupt
        shards.append(plan)
        put(self, plan, arrays)

    with monkeypatch.context() as patch:
        patch.setattr(features_writer.StoreWriter, "put", put_one)
        with pytest.raises(KeyboardInterrupt):
            extract(mlp, loader, tmp_path / "f")
    assert mlp.training
    later: list[Any] = []

    def record(self: Any, plan: Any, arrays: Any) -> None:
        later.append(plan)
        put(self, plan, arrays)

    monkeypatch.setattr(features_writer.StoreWriter, "put", record)
    store = extract(mlp, loader, tmp_path / "f")
    assert shards[0] not in later
    with torch.no_grad():
        assert_features(store, mlp[:2](VECTORS))
    with torch.no_grad():
        mlp[0].weight.add_(1)
    with pytest.raises(StoreError, match="weights_digest"):
        extract(mlp, loader, tmp_path / "f")


def test_a_model_that_was_trained_further_has_another_digest(mlp: Any) -> None:
    before = cm.load_model(mlp)
    with torch.no_grad():
        mlp[0].weight.add_(1)
    assert cm.load_model(before).weights_digest != before.weights_digest


def test_half_weights_are_computed_in_a_copy(mlp: Any, tmp_path: Path) -> None:
    store = extract(mlp.half(), (VECTORS, LABELS), tmp_path / "f")
    assert {weight.dtype for weight in mlp.parameters()} == {torch.float16}
    with torch.no_grad():
        assert_features(store, mlp.float()[:2](VECTORS))


def test_inputs_beyond_the_memory_go_to_a_file(
    net: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = data.DataLoader(data.TensorDataset(IMAGES, LABELS), batch_size=7)
    held = extract(net, loader, tmp_path / "a")
    monkeypatch.setattr(tensors, "MEMORY_BYTES", 2000)
    dataset = cm.load_dataset(loader)
    parts = [type(part) for part in dataset.splits["train"].items.parts]  # type: ignore[union-attr]
    assert parts[0] is np.ndarray
    assert np.memmap in parts
    filed = extract(net, dataset, tmp_path / "b")
    assert held.manifest["dataset"] == filed.manifest["dataset"]
    np.testing.assert_array_equal(held.features("test").array(), filed.features("test").array())


def test_exports_need_the_object(mlp: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    inputs = VECTORS + 3 * LABELS[:, None]
    noise = 0.1 * torch.randn(8 * N, 12, generator=torch.Generator().manual_seed(0))
    store = extract(mlp, (inputs.repeat(8, 1) + noise, LABELS.repeat(8)), tmp_path / "f")
    plan = cm.shrink(store, keep=0.5)
    assert plan.path is None
    with pytest.raises(CriticalMassError, match="give the object as model="):
        cm.export(plan, format="onnx", out=tmp_path / "x")
    with pytest.raises(CriticalMassError, match="use format='onnx'"):
        cm.export(plan, format="torch", model=mlp, out=tmp_path / "x")
    with pytest.raises(CriticalMassError, match="has weights"):
        cm.export(plan, format="onnx", model=nn.Linear(12, 3), out=tmp_path / "x")
    mlp.train()
    folder = cm.export(plan, format="onnx", model=mlp, out=tmp_path / "x")
    assert mlp.training
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(str(folder / "model.onnx"))
    short, _ = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    with torch.no_grad():
        whole = mlp[:2](inputs).numpy()
    np.testing.assert_allclose(short, plan.slim.transform(whole), atol=1e-5)
    with pytest.raises(CriticalMassError, match="which no spec can load"):
        cm.load_model("live:Sequential")


@pytest.mark.parametrize(
    "values",
    [None, 5, [], {}, {"train": []}, "", len, object(), Path("x"), [None], ["a", None],
     [[1], [1, 2]], (VECTORS, LABELS[:3]), {"train": (VECTORS, LABELS), "test": VECTORS}, [1.0],
     data.TensorDataset(VECTORS, VECTORS), data.DataLoader(data.TensorDataset(*[VECTORS] * 3)),
     {"a": 1}, {"label": LABELS}, (x for x in ()), torch.tensor(1.0), torch.empty(0, 3),
     np.array(["2020"], "M8[D]"), {"train": VECTORS, "test": IMAGES}, {"a": ["x"], "b": ["y"]}],
)  # fmt: skip
def test_anything_else_is_one_line(mlp: Any, values: Any, tmp_path: Path) -> None:
    with pytest.raises(CriticalMassError) as error:
        extract(mlp, values, tmp_path / "f")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "model", [None, 5, nn.Linear, len, object(), [1], np.zeros((2, 2)), nn.LazyLinear(3)]
)
def test_any_other_model_is_one_line(model: Any, tmp_path: Path) -> None:
    with pytest.raises(CriticalMassError) as error:
        extract(model, (VECTORS, LABELS), tmp_path / "f")
    assert "\n" not in str(error.value)


def test_measure_takes_live_objects(mlp: Any, tmp_path: Path) -> None:
    x = torch.randn(400, 12, generator=torch.Generator().manual_seed(0))
    values = (x, (x[:, 0] > 0).long())
    options: Any = {"measures": ("ridge",), "seeds": 3, "fractions": (0.5, 1.0), "refine": None}
    result = cm.measure(mlp, values, out=tmp_path / "m", preprocess=np.negative, **options)
    assert result.report.is_file()
    assert result.store.manifest["model"]["spec"] == "live:Sequential"


def test_the_module_inside_a_wrapper_is_read(mlp: Any) -> None:
    digest = load_live(mlp, None, "auto").weights_digest
    assert load_live(nn.DataParallel(mlp), None, "auto").weights_digest == digest


def test_a_model_of_transformers_without_a_head_has_its_last_hidden_states(tmp_path: Path) -> None:
    import_after_torchvision("transformers", "text")
    transformers = importlib.import_module("transformers")
    config = transformers.BertConfig(
        vocab_size=60,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    bag, bert = Bag(), transformers.BertModel(config).train()
    store = extract(bert, data.DataLoader(bag, batch_size=6, collate_fn=pad), tmp_path / "f")
    assert bert.training
    frozen = bert.eval()
    with torch.no_grad():
        states = [frozen(bag[row]["input_ids"][None]).last_hidden_state for row in range(N)]
    assert_features(store, torch.stack([state[0].mean(0) for state in states]))
