"""Labels of VTAB from tiny data in the published formats, against classes found by hand."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from criticalmass.errors import CriticalMassError, DataUnavailableError
from criticalmass.extraction.datasets import Dataset, load_dataset
from criticalmass.extraction.datasets.demo_sprites import draw_factors, draw_sprites
from criticalmass.extraction.datasets.label_schemes import (
    CLEVR_DISTANCES,
    KITTI_DISTANCES,
    bins,
    groups_of_levels,
)
from criticalmass.extraction.datasets.vtab_data import DSPRITES_FILE, NORB_FILES


def classes_by_id(data: Dataset, label: str = "") -> dict[str, str]:
    """Return the class name of each sample of all splits."""
    found = {}
    for split in data.splits.values():
        names = data.task_classes[label] if label else data.class_names
        numbers = split.tasks[label] if label else split.labels
        found |= {sample: names[n] for sample, n in zip(split.ids, numbers, strict=True)}
    return found


def grey_png(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), level).save(path)


def test_a_value_at_a_threshold_is_not_above_it() -> None:
    # The last threshold below the value counts: 8 m is still in the nearest class.
    assert bins([7.9, 8.0, 8.01, 20.0, 20.5, 1000.0], KITTI_DISTANCES).tolist() == [
        0, 0, 1, 1, 2, 3,
    ]  # fmt: skip
    assert bins([0.1, 8.0, 8.4, 9.0, 9.7, 10.0, 30.0], CLEVR_DISTANCES).tolist() == [
        0, 0, 1, 2, 4, 4, 5,
    ]  # fmt: skip


def test_levels_are_grouped_in_equal_widths() -> None:
    # 40 orientations in 16 groups of 2.5: 0 1 2 | 3 4 | 5 6 7 | 8 9 ...
    assert groups_of_levels(range(10), 40, 16).tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert groups_of_levels([0, 1, 2, 31], 32, 16).tolist() == [0, 0, 1, 15]


@pytest.fixture
def clevr(tmp_path: Path) -> Path:
    """CLEVR with 3 to 5 objects; the nearest is given by the third pixel coordinate."""
    base = tmp_path / "clevr" / "CLEVR_v1.0"
    for part, n in (("train", 12), ("val", 6)):
        scenes = []
        for row in range(n):
            name = f"CLEVR_{part}_{row:06d}.png"
            grey_png(base / "images" / part / name, row + 20 * (part == "val"))
            depths = [12.0 + i for i in range(2 + row % 3)] + [7.5 + row % 3]
            objects = [{"pixel_coords": [10, 20, depth]} for depth in depths]
            scenes.append({"image_filename": name, "objects": objects})
        path = base / "scenes" / f"CLEVR_{part}_scenes.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        # The order of the scenes is not that of the images.
        path.write_text(json.dumps({"scenes": scenes[::-1]}))
    return tmp_path


def test_clevr_counts_and_distances(clevr: Path) -> None:
    spec = f"torchvision:CLEVRClassification?root={clevr}"
    data = load_dataset(spec, labels=("count", "distance"))
    assert data.task_classes["count"] == ("3", "4", "5")
    counts, distances = (classes_by_id(data, label) for label in ("count", "distance"))
    assert [counts[f"train-{row}"] for row in range(6)] == ["3", "4", "5", "3", "4", "5"]
    # Nearest at 7.5, 8.5 and 9.5: the last two lie on a threshold, which they do not exceed.
    assert [distances[f"val-{row}"] for row in range(3)] == ["over 0", "over 8", "over 9"]
    single = load_dataset(f"{spec}&label=distance")
    assert classes_by_id(single) == distances
    assert single.name == "CLEVRClassification-distance"
    # Without the option the label is torchvision's own, numbered from 0 objects on.
    assert load_dataset(spec).class_names == ("0", "1", "2", "3", "4", "5")
    with pytest.raises(CriticalMassError, match="did you mean 'distance'"):
        load_dataset(f"{spec}&label=distanc")
    # Several protocols of training samples compose with labels.
    few = load_dataset(f"{spec}&label=count&examples=6")
    assert {name: len(split) for name, split in few.splits.items()} == {"train": 6, "test": 6}


KITTI_OBJECT = "{} 0.00 0 -0.20 712.40 143.00 810.73 307.92 1.89 0.48 1.20 1.84 1.47 {} 0.01"


def test_kitti_distances_of_the_nearest_vehicle(tmp_path: Path) -> None:
    raw = tmp_path / "Kitti" / "raw" / "training"
    (raw / "label_2").mkdir(parents=True)
    scenes = [
        [("Pedestrian", 3.0), ("Car", 8.41)],  # a pedestrian is no vehicle
        [("Van", 8.0), ("Truck", 30.0)],
        [("Truck", 25.0)],
        [("Cyclist", 5.0), ("DontCare", -1000.0)],
    ] * 3
    for row, scene in enumerate(scenes):
        grey_png(raw / "image_2" / f"{row:06d}.png", row)
        lines = [KITTI_OBJECT.format(kind, distance) for kind, distance in scene]
        (raw / "label_2" / f"{row:06d}.txt").write_text("\n".join(lines) + "\n")
    data = load_dataset(f"torchvision:Kitti?root={tmp_path}&label=distance")
    found = classes_by_id(data)
    expected = ["8 to 20 m", "up to 8 m", "over 20 m", "no vehicle"] * 3
    assert [found[f"all-{row}"] for row in range(12)] == expected
    for split in data.splits.values():
        for image, sample in zip(split.items, split.ids, strict=True):
            assert np.asarray(image)[0, 0, 0] == int(sample.removeprefix("all-"))
    # It has no other label, so this one is the default.
    assert classes_by_id(load_dataset(f"torchvision:Kitti?root={tmp_path}")) == found


def test_dsprites_of_the_published_archive(tmp_path: Path) -> None:
    folder = tmp_path / "dsprites"
    folder.mkdir()
    factors = np.zeros((200, 6), dtype=np.int64)
    factors[:, 1] = np.arange(200) % 3
    factors[:, 3] = np.arange(200) % 40
    factors[:, 4] = np.arange(200) % 32
    images = np.zeros((200, 64, 64), dtype=np.uint8)
    images[:, 0, 0] = 1
    np.savez(folder / DSPRITES_FILE, imgs=images, latents_classes=factors)
    data = load_dataset(f"vtab:dsprites?root={tmp_path}&labels=location,orientation")
    sizes = {name: len(split) for name, split in data.splits.items()}
    assert sizes == {"train": 160, "val": 20, "test": 20}
    location, orientation = (classes_by_id(data, name) for name in ("location", "orientation"))
    for row in range(200):
        assert location[f"dsprites-{row}"] == str(row % 32 // 2)
        assert orientation[f"dsprites-{row}"] == str(int(row % 40 / 2.5))
    assert data.splits["test"].items.max() == 255
    with pytest.raises(DataUnavailableError, match=r"no such folder.*download it from"):
        load_dataset(f"vtab:dsprites?root={tmp_path / 'elsewhere'}")
    (tmp_path / "smallnorb").mkdir()
    with pytest.raises(DataUnavailableError, match="no file 'smallnorb-5x46789x9"):
        load_dataset(f"vtab:smallnorb?root={tmp_path}")


def norb(path: Path, array: np.ndarray) -> None:
    """Write an array as NORB has it: little-endian, at least three sizes."""
    magic = 0x1E3D4C55 if array.dtype == np.uint8 else 0x1E3D4C54
    sizes = [*array.shape, 1, 1][: max(3, array.ndim)]
    content = np.array([magic, array.ndim, *sizes], "<i4").tobytes() + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def test_small_norb_of_the_published_files(tmp_path: Path) -> None:
    folder = tmp_path / "smallnorb"
    folder.mkdir()
    for (_, stem), suffix, n in zip(NORB_FILES.items(), ("", ".gz"), (36, 20), strict=True):
        pairs = np.zeros((n, 2, 6, 6), np.uint8)
        pairs[:, 0] = np.arange(n, dtype=np.uint8)[:, None, None]  # the left image
        info = np.stack(
            [np.zeros(n), np.arange(n) % 9, 2 * (np.arange(n) % 18), np.zeros(n)], axis=1
        )
        norb(folder / f"{stem}-dat.mat{suffix}", pairs)
        norb(folder / f"{stem}-info.mat{suffix}", info.astype("<i4"))
        norb(folder / f"{stem}-cat.mat{suffix}", (np.arange(n) % 5).astype("<i4"))
    data = load_dataset(f"vtab:smallnorb?root={tmp_path}&labels=azimuth,elevation")
    sizes = {name: len(split) for name, split in data.splits.items()}
    assert sizes == {"train": 36, "val": 10, "test": 10}
    assert len(data.task_classes["azimuth"]) == 18
    assert len(data.task_classes["elevation"]) == 9
    azimuth, elevation = (classes_by_id(data, name) for name in ("azimuth", "elevation"))
    for row in range(36):
        assert azimuth[f"train-{row}"] == str(2 * (row % 18))
        assert elevation[f"train-{row}"] == str(row % 9)
    test = data.splits["test"]
    rows = [int(name.removeprefix("test-")) for name in test.ids]
    assert np.array_equal(test.items[:, 0, 0], rows)
    # All of the training and the validation part, as VTAB trains at the end.
    every = load_dataset(f"vtab:smallnorb?root={tmp_path}&label=azimuth&examples=all")
    assert {name: len(split) for name, split in every.splits.items()} == {"train": 46, "test": 10}
    path = folder / f"{NORB_FILES['train']}-cat.mat"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CriticalMassError, match=r"does not hold \[36\] values"):
        load_dataset(f"vtab:smallnorb?root={tmp_path}")


def test_sprites_show_their_factors() -> None:
    factors = draw_factors(60, 0)
    images = draw_sprites(factors)
    assert len(np.unique(factors, axis=0)) == 60
    _, columns = np.mgrid[:64, :64]
    centres = (images * columns).sum((1, 2)) / images.astype(float).sum((1, 2))
    # The place is that of the horizontal factor, from 16 to 48.
    assert np.abs(centres + 0.5 - (16 + 32 * factors[:, 3] / 31)).max() < 1.5
    is_square = factors[:, 0] == 0
    side = 1.8 * (5 + factors[is_square, 1])
    assert (images[is_square] > 0).sum((1, 2)) == pytest.approx(side**2, rel=0.08)
    # A square turned by a quarter is the same square.
    turned = factors[is_square].copy()
    turned[:, 2] = (turned[:, 2] + 10) % 40
    assert (draw_sprites(turned) != images[is_square]).mean() < 0.002


def test_classes_and_their_kinds_are_labels_of_one_input(monkeypatch, tmp_path: Path) -> None:
    folder = tmp_path / "debian/dataset-fashion-mnist/usr/share/datasets/fashion-mnist"
    folder.mkdir(parents=True)
    for prefix, n in (("train", 40), ("t10k", 20)):
        for kind, array in (
            ("images-idx3", np.arange(n * 784).reshape(n, 28, 28) % 251),
            ("labels-idx1", np.arange(n) % 10),
        ):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            content = gzip.compress(header + array.astype(np.uint8).tobytes())
            (folder / f"{prefix}-{kind}-ubyte.gz").write_bytes(content)
    monkeypatch.setenv("CRITICALMASS_CACHE", str(tmp_path))
    data = load_dataset("demo:fashion-mnist?labels=class,kind")
    names, kinds = (classes_by_id(data, label) for label in ("class", "kind"))
    assert names["train-00009"] == "ankle boot"
    assert [kinds[f"test-0000{row}"] for row in range(10)] == [
        "top", "trousers", "top", "top", "top", "shoe", "top", "shoe", "bag", "shoe",
    ]  # fmt: skip
    # Without the option nothing has changed.
    plain = load_dataset("demo:fashion-mnist")
    assert plain.class_names[0] == "T-shirt/top"
    assert classes_by_id(plain) == names
    with pytest.raises(CriticalMassError, match="did you mean 'kind'"):
        load_dataset("demo:fashion-mnist?label=kinds")
