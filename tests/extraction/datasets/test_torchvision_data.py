"""torchvision's datasets in their published formats, with a few images of our own."""

from __future__ import annotations

import hashlib
import pickle
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from criticalmass.errors import CriticalMassError, DataUnavailableError
from criticalmass.extraction.datasets import load_dataset
from criticalmass.extraction.datasets.images import EncodedImages
from criticalmass.extraction.datasets.torchvision_data import (
    PARTS,
    TorchvisionImages,
    download_with_torchvision,
)
from criticalmass.extraction.models.optional_imports import import_torchvision

RNG = np.random.default_rng(5)


def md5(path):
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def picture(path, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), (colour, 10, 200)).save(path, quality=95)


def load(name, root):
    return load_dataset(f"torchvision:{name}?root={root}")


@pytest.fixture
def kinds():
    return import_torchvision().datasets


def test_every_name_is_a_dataset_of_torchvision(kinds):
    assert [name for name in PARTS if not hasattr(kinds, name)] == []


@pytest.mark.parametrize(("name", "key"), [("CIFAR10", "labels"), ("CIFAR100", "fine_labels")])
def test_cifar(tmp_path, monkeypatch, kinds, name, key):
    kind = getattr(kinds, name)
    folder = tmp_path / kind.base_folder
    folder.mkdir()
    images = RNG.integers(0, 256, (6, 3072), dtype=np.uint8)
    (folder / "batch").write_bytes(pickle.dumps({"data": images, key: [0, 1, 2, 2, 1, 0]}))
    (folder / "test").write_bytes(pickle.dumps({"data": images[:2], key: [1, 2]}))
    class_names = {"label_names": ["a", "b", "c"], "fine_label_names": ["a", "b", "c"]}
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps(class_names))
    monkeypatch.setattr(kind, "train_list", [["batch", md5(folder / "batch")]])
    monkeypatch.setattr(kind, "test_list", [["test", md5(folder / "test")]])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(folder / kind.meta["filename"])})
    data = load(name, tmp_path)
    assert data.class_names == ("a", "b", "c")
    assert data.splits["train"].labels.tolist() == [0, 1, 2, 2, 1, 0]
    # The published layout: a row holds the red plane, then green, then blue.
    expected = images.reshape(6, 3, 32, 32).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(data.splits["train"].items, expected)
    assert data.splits["test"].labels.tolist() == [1, 2]


def test_svhn_has_its_channels_first(tmp_path, monkeypatch, kinds):
    lists = {}
    for split, n in (("train", 5), ("test", 3)):
        path = tmp_path / f"{split}_32x32.mat"
        images = RNG.integers(0, 256, (32, 32, 3, n), dtype=np.uint8)
        savemat(path, {"X": images, "y": np.array([[10], [1], [2], [3], [4]][:n])})
        lists[split] = ["", path.name, md5(path)]
    monkeypatch.setattr(kinds.SVHN, "split_list", lists)
    data = load("SVHN", tmp_path)
    # In the file the digit 0 has the label 10.
    assert data.splits["train"].labels.tolist() == [0, 1, 2, 3, 4]
    assert isinstance(data.splits["test"].items, np.ndarray)
    np.testing.assert_array_equal(data.splits["test"].items, np.moveaxis(images, 3, 0))


def test_flowers_have_three_parts(tmp_path, monkeypatch, kinds):
    folder = tmp_path / "flowers-102"
    for number in range(1, 10):
        picture(folder / f"jpg/image_{number:05d}.jpg", 20 * number)
    savemat(folder / "imagelabels.mat", {"labels": np.array([1, 2, 3, 1, 2, 3, 1, 2, 3])})
    parts = {"trnid": [1, 2, 3], "valid": [4, 5], "tstid": [6, 7, 8, 9]}
    savemat(folder / "setid.mat", {name: np.array(ids) for name, ids in parts.items()})
    files = {
        "label": ("imagelabels.mat", md5(folder / "imagelabels.mat")),
        "setid": ("setid.mat", md5(folder / "setid.mat")),
    }
    monkeypatch.setattr(kinds.Flowers102, "_file_dict", files)
    data = load("Flowers102", tmp_path)
    assert {name: split.labels.tolist() for name, split in data.splits.items()} == {
        "train": [0, 1, 2],
        "test": [2, 0, 1, 2],
        "val": [0, 1],
    }
    assert isinstance(data.splits["test"].items, EncodedImages)
    assert data.splits["test"].items[0].getpixel((0, 0))[0] == pytest.approx(120, abs=4)
    assert data.class_names[0] == "pink primrose"
    (folder / "jpg/image_00006.jpg").write_bytes(b"broken")
    with pytest.raises(CriticalMassError, match=r"1 of 9 images .*image_00006\.jpg"):
        load("Flowers102", tmp_path)


@pytest.mark.filterwarnings("ignore:.* are also training ")
def test_pets_are_split_as_published(tmp_path):
    folder = tmp_path / "oxford-iiit-pet"
    entries = {"trainval": ["Abyssinian_1 1 1 1", "beagle_1 2 2 1"], "test": ["beagle_2 2 2 1"]}
    (folder / "annotations").mkdir(parents=True)
    for part, lines in entries.items():
        (folder / f"annotations/{part}.txt").write_text("\n".join(lines) + "\n")
        for line in lines:
            picture(folder / "images" / f"{line.split()[0]}.jpg", 99)
    data = load("OxfordIIITPet", tmp_path)
    assert data.class_names == ("Abyssinian", "Beagle")
    assert data.splits["train"].labels.tolist() == [0, 1]
    assert data.splits["test"].labels.tolist() == [1]
    assert "train is 'trainval'" in data.notes["split"]


@pytest.mark.filterwarnings("ignore:.* are also training ")
def test_imagenet_tests_on_its_validation_part(tmp_path):
    wnids = {"n02012849": ("crane",), "n03126707": ("crane",), "n01440764": ("tench", "Tinca")}
    torch.save((wnids, ["n01440764"] * 3), tmp_path / "meta.bin")
    for part, n in (("train", 3), ("val", 2)):
        for wnid in wnids:
            for number in range(n):
                picture(tmp_path / part / wnid / f"{number}.JPEG", 50)
    data = load("ImageNet", tmp_path)
    assert data.class_names == ("tench, Tinca", "crane (1)", "crane (2)")
    assert np.bincount(data.splits["train"].labels).tolist() == [3, 3, 3]
    assert np.bincount(data.splits["test"].labels).tolist() == [2, 2, 2]


def test_places_takes_the_small_images_on_request(tmp_path, monkeypatch, kinds):
    (tmp_path / "categories_places365.txt").write_text("/a/airfield 0\n/b/bar 1\n")
    (tmp_path / "places365_train_standard.txt").write_text("/a/1.jpg 0\n/b/2.jpg 1\n")
    (tmp_path / "places365_val.txt").write_text("v1.jpg 1\nv2.jpg 0\n")
    for name in ("a/1.jpg", "b/2.jpg"):
        picture(tmp_path / "data_256_standard" / name, 30)
    for name in ("v1.jpg", "v2.jpg"):
        picture(tmp_path / "val_256" / name, 60)
    lists = {
        part: (name, md5(tmp_path / name))
        for part, name in (
            ("train-standard", "places365_train_standard.txt"),
            ("val", "places365_val.txt"),
        )
    }
    monkeypatch.setattr(kinds.Places365, "_FILE_LIST_META", lists)
    name = "categories_places365.txt"
    monkeypatch.setattr(kinds.Places365, "_CATEGORIES_META", (name, md5(tmp_path / name)))
    data = load_dataset(f"torchvision:Places365?root={tmp_path}&small=true")
    assert data.splits["train"].labels.tolist() == [0, 1]
    assert data.splits["test"].labels.tolist() == [1, 0]
    assert data.class_names == ("/a/airfield", "/b/bar")
    assert data.notes["small"] is True


@pytest.mark.filterwarnings("ignore:.* are also training ")
def test_images_that_lie_in_no_file_are_read_through_the_dataset(tmp_path, monkeypatch, kinds):
    path = tmp_path / "fer2013" / "fer2013.csv"
    path.parent.mkdir()
    pixels = {n: " ".join(str(value) for value in np.full(48 * 48, n)) for n in (7, 9)}
    rows = [f"0,{pixels[7]},Training", f"1,{pixels[9]},Training", f"1,{pixels[9]},PublicTest"]
    path.write_text("\n".join(["emotion,pixels,Usage", *rows]) + "\n")
    monkeypatch.setattr(kinds.FER2013, "_RESOURCES", {"fer": (path.name, md5(path))})
    data = load("FER2013", tmp_path)
    assert isinstance(data.splits["train"].items, TorchvisionImages)
    assert [item.getpixel((0, 0)) for item in data.splits["train"].items] == [(7,) * 3, (9,) * 3]
    assert data.splits["train"].labels.tolist() == [0, 1]
    assert data.splits["test"].labels.tolist() == [1]
    assert load("FER2013", tmp_path).digest == data.digest


def test_a_part_without_labels_is_refused(tmp_path, monkeypatch, kinds):
    folder = tmp_path / "fer2013"
    folder.mkdir()
    pixels = " ".join(["3"] * 48 * 48)
    (folder / "train.csv").write_text(f"emotion,pixels\n0,{pixels}\n1,{pixels}\n")
    (folder / "test.csv").write_text(f"pixels\n{pixels}\n")
    files = {part: (f"{part}.csv", md5(folder / f"{part}.csv")) for part in ("train", "test")}
    missing = {"fer": ("fer2013.csv", ""), "icml": ("icml_face_data.csv", "")}
    monkeypatch.setattr(kinds.FER2013, "_RESOURCES", {**files, **missing})
    with pytest.raises(CriticalMassError, match=r"part 'test' of 'torchvision:FER2013.* no labels"):
        load("FER2013", tmp_path)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("torchvision:CIFAR1", "did you mean 'CIFAR10'"),
        ("torchvision:CIFAR10?smal=1", "option of dataset torchvision: 'smal'; did you mean"),
        ("torchvision:CIFAR10?small=true", "option of torchvision:CIFAR10 'small'"),
        ("torchvision:ImageNet?root=/nowhere", "'/nowhere' .*cannot fetch it; name the folder"),
    ],
)
def test_bad_specs_get_one_line(spec, message):
    with pytest.raises(CriticalMassError, match=message) as caught:
        load_dataset(spec)
    assert "\n" not in str(caught.value)


def test_missing_data_are_fetched_by_torchvision(tmp_path, monkeypatch):
    commands = []

    def run(command, **options):
        commands.append(command[command.index("-m") + 2 :])
        return subprocess.CompletedProcess(command, 1, "", "Trace\nURLError: no network")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(DataUnavailableError, match=r"cannot be fetched \(URLError: no network\)"):
        load("DTD", tmp_path)
    assert commands == [["DTD", str(tmp_path), '{"split": "train"}']]


def test_the_download_runs_no_module_of_the_working_folder(tmp_path, monkeypatch):
    for name in ("torchvision", "criticalmass", "json", "socket"):
        (tmp_path / f"{name}.py").write_text("import pathlib; pathlib.Path('ran').touch()")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataUnavailableError, match="has no attribute 'Nothing'"):
        download_with_torchvision("Nothing", tmp_path)
    assert not (tmp_path / "ran").exists()
