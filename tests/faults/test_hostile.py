"""Malicious files. docs/security.md lists the threats and the name of each test."""

from __future__ import annotations

import io
import os
import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.reporting.page.test_rendering import plots

import criticalmass as cm
from criticalmass.core import ray_backend
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets import load_dataset
from criticalmass.extraction.models import load_model
from criticalmass.extraction.models.optional_imports import import_after_torchvision
from criticalmass.reporting.page import rendering
from criticalmass.storage.untrusted import MAX_UNPACKED_BYTES, check_inside_folder

onnx = pytest.importorskip("onnx")


def npy(header_shape: tuple[int, ...], content: bytes) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "<f4", "fortran_order": False, "shape": header_shape}
    )
    return buffer.getvalue() + content


def zip_bomb(path: Path, n_bytes: int = MAX_UNPACKED_BYTES + 2**20) -> Path:
    """A megabyte that unpacks to a gigabyte of zeros."""
    head = npy((n_bytes // 4,), b"")
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open("X.npy", "w", force_zip64=True) as member,
    ):
        member.write(head)
        for _ in range(n_bytes // 2**20):
            member.write(bytes(2**20))
    assert path.stat().st_size < n_bytes / 500
    return path


def test_an_archive_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    bomb = zip_bomb(tmp_path / "bomb.npz")
    calls = [
        lambda: cm.import_features(bomb, out=tmp_path / "out"),
        lambda: load_dataset(f"npz:{bomb}"),
        lambda: load_model("timm:resnet18", weights=bomb),
        lambda: load_model("timm:resnet18", weights=bomb.rename(tmp_path / "bomb.pt")),
    ]
    for call in calls:
        with pytest.raises(CriticalMassError, match=r"bytes but would unpack to 1,07\d,"):
            call()
    assert not (tmp_path / "out").exists()


def test_an_array_that_claims_more_than_it_has_is_refused(tmp_path: Path) -> None:
    """Numpy would ask for the memory first and look for the bytes afterwards."""
    path = tmp_path / "claims.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("X.npy", npy((10**9, 1000), bytes(4000)))
    for call in (
        lambda: cm.import_features(path, out=tmp_path / "out"),
        lambda: load_dataset(f"npz:{path}"),
        lambda: load_model("timm:resnet18", weights=path),
    ):
        with pytest.raises(CriticalMassError, match="declares 4,000,000,000,000 bytes"):
            call()
    bare = tmp_path / "claims.npy"
    bare.write_bytes(npy((10**9, 1000), bytes(4000)))
    with pytest.raises(CriticalMassError, match="it is truncated"):
        cm.import_features(bare, out=tmp_path / "out")


def test_a_table_that_unpacks_to_far_more_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "flat.parquet"
    n = 3000
    row = pa.array(np.zeros(n * 100_000, np.float32))
    pq.write_table(
        pa.table({"x": pa.FixedSizeListArray.from_arrays(row, 100_000)}), path, compression="zstd"
    )
    assert path.stat().st_size < 2**21
    with pytest.raises(CriticalMassError, match="would unpack to 1,200,000,000"):
        cm.import_features(path, out=tmp_path / "out")


def test_a_header_cannot_ask_for_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.safetensors"
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(CriticalMassError, match="header would have"):
        cm.import_features(path, out=tmp_path / "out")


def graph(path: Path, location: str) -> Path:
    """A graph whose weight lies in another file."""
    helper = onnx.helper
    weight = onnx.TensorProto(
        name="w", data_type=onnx.TensorProto.FLOAT, dims=[4, 2], data_location=1
    )
    weight.external_data.add(key="location", value=location)
    made = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 2])],
        [weight],
    )
    path.write_bytes(helper.make_model(made).SerializeToString())
    return path


@pytest.mark.parametrize("where", ["../secret", "/etc/hostname", "a/../../secret", "link/secret"])
def test_weights_of_a_graph_stay_in_its_folder(tmp_path: Path, where: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(np.ones(8, np.float32).tobytes())
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(CriticalMassError, match="outside its folder, which is refused"):
        load_model(f"onnx:{graph(folder / 'm.onnx', where)}")


def test_weights_beside_a_graph_are_part_of_its_digest(tmp_path: Path) -> None:
    path = graph(tmp_path / "m.onnx", "m.onnx.weights")
    with pytest.raises(CriticalMassError, match="which is missing"):
        load_model(f"onnx:{path}")
    beside = tmp_path / "m.onnx.weights"
    beside.write_bytes(np.ones(8, np.float32).tobytes())
    first = load_model(f"onnx:{path}").weights_digest
    beside.write_bytes(np.zeros(8, np.float32).tobytes())
    assert load_model(f"onnx:{path}").weights_digest != first


def test_a_path_beside_a_file_is_taken_as_it_is(tmp_path: Path) -> None:
    assert check_inside_folder(tmp_path, "a/b", tmp_path / "f") == tmp_path / "a" / "b"


class Code:
    """Unpickled, it would write a file."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("scheme", ["hf", "st"])
def test_code_in_the_weights_of_a_text_model_is_never_run(tmp_path: Path, scheme: str) -> None:
    """Code in a weight file alone: see extraction/models/test_weights.py."""
    torch = pytest.importorskip("torch")
    transformers = import_after_torchvision("transformers", "text")
    folder = tmp_path / "model"
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]
    (folder / "vocab.txt").write_text("\n".join(words))
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, max_position_embeddings=16,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    transformers.BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save({"w": Code(tmp_path / "ran")}, folder / "pytorch_model.bin")
    with pytest.raises(CriticalMassError, match=r"pickled code \(.+\), which is refused"):
        load_model(f"{scheme}:{folder}")
    assert not (tmp_path / "ran").exists()


def test_names_reach_no_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs are started with lists of words (ruff's S602 to S605 refuse anything else)."""
    names = ["<script>alert(1)</script>", "$(touch x)", "'; rm -rf ~; '", "a`b`"]
    started: list[object] = []
    monkeypatch.setattr(os, "system", started.append)
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).standard_normal((80, 4)).astype(np.float32)
    x += 9.0 * np.tile(np.eye(4, dtype=np.float32), (20, 1))
    store = cm.import_features(x, out=tmp_path / "store", labels=names * 20)
    assert set(store.class_names) == set(names)
    run = cm.sweep(store, out=tmp_path / "run", fractions=(0.5,), measures=("ridge",), seeds=2)
    page = cm.report(run, tmp_path / "page.html").read_text()
    assert "<script>alert(1)" not in page
    assert not started
    assert not Path("x").exists()


@pytest.mark.parametrize("name", ["ray", "criticalmass", "matplotlib", "pickle"])
def test_modules_in_the_working_folder_are_not_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{name}.py").write_text("import pathlib; pathlib.Path('ran').touch()")
    monkeypatch.chdir(tmp_path)
    assert ray_backend._connection_status("nowhere:1", module=name) is not None
    monkeypatch.setattr(rendering, "thread_count", lambda: 2)
    with rendering.second_process(wanted=True) as process:
        assert len(rendering.render_all(plots(2), process)) == 2
    assert process is not None
    assert process.returncode == 0
    assert not (tmp_path / "ran").exists()


def test_no_process_of_ours_looks_for_modules_in_the_working_folder() -> None:
    source = Path(cm.__file__).parent
    texts = ["".join(path.read_text(encoding="utf-8").split()) for path in source.rglob("*.py")]
    first_options = [
        option for text in texts for option in re.findall(r'sys\.executable,"([^"]*)"', text)
    ]
    assert len(first_options) >= 2
    assert set(first_options) == {"-P"}
