"""Broken images: reported together, or left out before the model runs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

import criticalmass as cm
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets import Dataset, Split, load_dataset
from criticalmass.extraction.datasets.images import EncodedImages
from criticalmass.extraction.datasets.undecodable import drop_broken, report_all_broken
from criticalmass.extraction.pixels import BrokenImageError
from criticalmass.reporting.page.provenance import _dataset_note_facts


def noise(path, seed, size=(24, 24)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def cut(path):
    """Truncate a JPEG: its header stays intact, its last rows are lost."""
    path.write_bytes(path.read_bytes()[:-100])


@pytest.fixture
def folder(tmp_path):
    for base, name in enumerate(("cat", "dog")):
        for number in range(8):
            noise(tmp_path / "data" / name / f"{number}.jpg", 8 * base + number)
    return tmp_path / "data"


def test_broken_images_are_counted_and_three_named(folder):
    for number in range(5):
        (folder / "dog" / f"{number}.jpg").write_bytes(b"no image")
    with pytest.raises(BrokenImageError) as caught:
        load_dataset(f"imagefolder:{folder}")
    text = str(caught.value)
    assert text.startswith("5 of 16 images of 'imagefolder:")
    assert text.count(".jpg'") == 3
    assert "and 2 more" in text
    assert "--skip-broken" in text
    assert "\n" not in text


def test_images_broken_after_their_header_are_counted_when_one_is_decoded(folder):
    for name in ("cat/1.jpg", "dog/2.jpg"):
        cut(folder / name)
    data = load_dataset(f"imagefolder:{folder}")
    with pytest.raises(BrokenImageError, match=r"^2 of 16 images"), report_all_broken(data):
        [list(split.items) for split in data.splits.values()]


@settings(max_examples=10, deadline=None)
@given(st.sets(st.integers(0, 15), max_size=6))
def test_intact_images_keep_their_splits(tmp_path_factory, broken):
    root = tmp_path_factory.mktemp("d")
    names = [f"{'ab'[number % 2]}/{number}.png" for number in range(16)]
    for number, name in enumerate(names):
        noise(root / name, number, (4, 4))
    full = load_dataset(f"imagefolder:{root}")
    for number in broken:
        (root / names[number]).write_bytes(b"\x89PNG\r\n\x1a\n rubbish")
    removed = {names[number] for number in broken}
    # A split without any intact image is refused, which is another test.
    assume(all(set(split.ids) - removed for split in full.splits.values()))
    if broken:
        with pytest.warns(UserWarning, match="left out"):
            data = load_dataset(f"imagefolder:{root}", skip_broken=True)
        assert {image["id"] for image in data.notes["skipped"]["images"]} == removed
        assert data.digest != full.digest
    else:
        data = load_dataset(f"imagefolder:{root}", skip_broken=True)
        assert data.digest == full.digest
        assert "skipped" not in data.notes
    for name, split in full.splits.items():
        remaining = [sample for sample in split.ids if sample not in removed]
        assert list(data.splits[name].ids) == remaining
        labels = dict(zip(split.ids, split.labels, strict=True))
        assert data.splits[name].labels.tolist() == [labels[sample] for sample in remaining]


def test_images_too_large_to_decode_can_be_left_out(folder, monkeypatch):
    noise(folder / "cat" / "huge.png", 0, (80, 80))
    # Pillow refuses images of more than twice this many pixels.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(BrokenImageError, match=r"1 of 17 .*huge\.png.*6400 pixels.*--skip-broken"):
        load_dataset(f"imagefolder:{folder}")
    with pytest.warns(UserWarning, match=r"left out 1 image that .*huge\.png"):
        data = load_dataset(f"imagefolder:{folder}", skip_broken=True)
    assert sum(len(split) for split in data.splits.values()) == 16


def test_a_dataset_object_is_checked_too(folder):
    paths = sorted((folder / "cat").iterdir())
    cut(paths[3])
    images = EncodedImages.of_files(paths)
    labels = np.arange(8) % 2
    split = Split(images, labels, [path.name for path in paths])
    dataset = Dataset("own", "own", "image", {"train": split, "test": split}, ("x", "y"))
    with pytest.raises(BrokenImageError, match=r"'.*3\.jpg' is not a readable image"):
        images[3]
    with pytest.warns(UserWarning, match="left out 2 images"):
        assert len(drop_broken(dataset).splits["test"]) == 7


def test_a_split_without_any_image_left_is_refused(tmp_path):
    for part, number in (("train", 0), ("train", 1), ("test", 2)):
        for name in ("cat", "dog"):
            noise(tmp_path / part / name / f"{number}.png", number)
    for path in (tmp_path / "test").rglob("*.png"):
        path.write_bytes(b"rubbish")
    with (
        pytest.warns(UserWarning, match="left out 2"),
        pytest.raises(CriticalMassError, match=r"split 'test' .* has no samples"),
    ):
        load_dataset(f"imagefolder:{tmp_path}", skip_broken=True)


def test_extraction_leaves_broken_images_out_and_warns(folder, tmp_path):
    spec = f"imagefolder:{folder}"
    model = "timm:test_resnet?init=random&px=32"
    cut(folder / "cat" / "1.jpg")
    with pytest.raises(BrokenImageError, match="1 of 16 images"):
        cm.extract(model, spec, out=tmp_path / "s", engine="torch")
    with pytest.warns(UserWarning, match=r"left out 1 image .*cat/1\.jpg"):
        store = cm.extract(model, spec, out=tmp_path / "t", engine="torch", skip_broken=True)
    assert sum(len(store.labels(split)) for split in store.splits) == 15
    notes = json.loads((tmp_path / "t/manifest.json").read_text())["dataset"]["notes"]
    assert [image["id"] for image in notes["skipped"]["images"]] == ["cat/1.jpg"]
    facts = {fact.term: fact.text for fact in _dataset_note_facts(notes)}
    assert facts["Left out"] == "1 image that cannot be decoded: cat/1.jpg"
