"""Images in folders: the splits, the classes, the files that are read, and the messages."""

from __future__ import annotations

import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets import UNLABELLED, load_dataset
from criticalmass.extraction.datasets.folder_files import image_suffixes, list_files


def picture(path, seed=None, **options):
    """Write a picture of noise; each path has its own unless ``seed`` is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = list(str(path).encode()) if seed is None else seed
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def classes(root, count=4, names=("cat", "dog")):
    for name in names:
        for number in range(count):
            picture(root / name / f"{number}.png")
    return root


def ids(data):
    return sorted(name for split in data.splits.values() for name in split.ids)


@pytest.mark.parametrize(
    ("train", "test", "val"),
    [
        ("Training", "Testing", None),
        ("Train", "Test", "Val"),
        ("TRAIN", "TEST", "VALID"),
        ("train", "test", "validation"),
        ("training", "valid", None),
    ],
)
def test_the_splits_are_found_in_any_case(tmp_path, train, test, val):
    sizes = {train: 3, test: 2, **({val: 1} if val else {})}
    for part, count in sizes.items():
        classes(tmp_path / part, count)
    data = load_dataset(f"imagefolder:{tmp_path}")
    assert data.class_names == ("cat", "dog")
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 6,
        "test": 4,
        **({"val": 2} if val else {}),
    }
    assert set(data.splits["train"].ids) == {
        f"{train}/{name}/{n}.png" for name in ("cat", "dog") for n in range(3)
    }


@pytest.mark.parametrize(
    ("train", "test", "start"),
    [
        ("train_set", "test_set", ""),
        ("seg_train/seg_train", "seg_test/seg_test", ""),
        ("Training Images", "validation-images", ""),
        ("data/train", "data/test", ""),
        ("a/b/train", "a/b/test", "a"),
    ],
)
def test_names_with_further_words_and_outer_folders_are_splits(tmp_path, train, test, start):
    classes(tmp_path / train, 3)
    classes(tmp_path / test, 2)
    (tmp_path / "__MACOSX" / "data").mkdir(parents=True)
    data = load_dataset(f"imagefolder:{tmp_path / start}")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 6, "test": 4}
    assert data.class_names == ("cat", "dog")


def test_classes_that_only_sound_like_splits_are_classes(tmp_path):
    for name in ("steam train", "crash test", "tram"):
        picture(tmp_path / name / "0.png")
        picture(tmp_path / name / "1.png")
    assert len(load_dataset(f"imagefolder:{tmp_path}").class_names) == 3


def test_an_archive_is_to_be_unpacked(tmp_path):
    classes(tmp_path / "pictures", 2)
    (tmp_path / "zips").mkdir()
    archive = shutil.make_archive(str(tmp_path / "zips" / "p"), "zip", tmp_path / "pictures")
    with pytest.raises(CriticalMassError, match="it is a file; unpack it"):
        load_dataset(f"imagefolder:{archive}")
    with pytest.raises(CriticalMassError, match=r"files not read: 1 \.zip"):
        load_dataset(f"imagefolder:{tmp_path / 'zips'}")


def test_two_folders_for_one_split_are_refused(tmp_path):
    for part in ("train", "val", "valid"):
        classes(tmp_path / part)
    with pytest.raises(CriticalMassError, match="validation folders 'val' and 'valid'; merge"):
        load_dataset(f"imagefolder:{tmp_path}")


def test_a_class_may_be_called_train(tmp_path):
    classes(tmp_path, names=("bus", "train"))
    assert load_dataset(f"imagefolder:{tmp_path}").class_names == ("bus", "train")


def test_folders_other_than_the_splits_are_said(tmp_path):
    classes(tmp_path / "train")
    classes(tmp_path / "test")
    classes(tmp_path / "extra")
    (tmp_path / ".cache").mkdir()
    with pytest.warns(UserWarning, match="other than 'train', 'test' are not read: 'extra'"):
        data = load_dataset(f"imagefolder:{tmp_path}")
    assert data.notes["folders_not_read"] == ["extra"]


def test_hidden_files_and_those_of_systems_are_skipped(tmp_path):
    classes(tmp_path)
    for name in ("__MACOSX", ".ipynb_checkpoints", "__pycache__", ".hidden"):
        picture(tmp_path / name / "x.png")
        picture(tmp_path / "cat" / name / "x.png")
    (tmp_path / "cat" / "._0.png").write_bytes(b"resource fork")
    (tmp_path / "cat" / "Thumbs.db").write_bytes(b"thumbnails")
    data = load_dataset(f"imagefolder:{tmp_path}")
    assert data.class_names == ("cat", "dog")
    assert ids(data) == [f"{name}/{n}.png" for name in ("cat", "dog") for n in range(4)]
    assert set(data.notes) == {"split"}


def test_empty_class_folders_are_no_classes(tmp_path):
    classes(tmp_path)
    (tmp_path / "birds").mkdir()
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "list.csv").write_text("x")
    with pytest.warns(UserWarning, match="without images are no classes: 'birds', 'meta'$"):
        data = load_dataset(f"imagefolder:{tmp_path}")
    assert data.class_names == ("cat", "dog")
    assert data.notes["folders_without_images"] == ["birds", "meta"]
    assert data.notes["files_not_read"] == {".csv": 1}


def test_an_empty_folder_leaves_one_class(tmp_path):
    classes(tmp_path, names=("cat",))
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "0.heic").write_bytes(b"x")
    with pytest.raises(
        CriticalMassError, match=r"'cat', and none in 'dog' \(files not read: 1 \.heic\)"
    ):
        load_dataset(f"imagefolder:{tmp_path}")


def test_images_without_a_class_folder_are_said(tmp_path):
    classes(tmp_path)
    picture(tmp_path / "cover.png")
    with pytest.warns(UserWarning, match="1 images .* in no class folder"):
        data = load_dataset(f"imagefolder:{tmp_path}")
    assert data.notes["images_without_class"] == 1


@pytest.mark.parametrize("suffix", [".jfif", ".JPE", ".tga", ".qoi", ".ico", ".PNG", ".jp2"])
def test_every_suffix_that_pillow_decodes_is_read(tmp_path, suffix):
    classes(tmp_path)
    picture(tmp_path / "dog" / f"x{suffix}")
    assert f"dog/x{suffix}" in ids(load_dataset(f"imagefolder:{tmp_path}"))


def test_the_suffixes_are_those_of_pillow():
    Image.init()
    assert {".png", ".jpg", ".webp", ".tif", ".pgm", ".gif", ".jfif"} <= image_suffixes()
    for suffix in image_suffixes():
        assert Image.registered_extensions()[suffix] in Image.OPEN
    assert not {".pdf", ".h5", ".mpg", ".eps", ".wmf"} & image_suffixes()


def test_files_that_are_not_read_are_counted(tmp_path):
    classes(tmp_path)
    for name in ("a.heic", "b.HEIC", "c.txt", "README"):
        (tmp_path / "dog" / name).write_bytes(b"x")
    data = load_dataset(f"imagefolder:{tmp_path}")
    assert data.notes["files_not_read"] == {".heic": 2, ".txt": 1, "no suffix": 1}


def test_links_to_folders_are_followed_once(tmp_path):
    root = classes(tmp_path / "data")
    picture(tmp_path / "more" / "deep" / "m.png")
    os.symlink(tmp_path / "more", root / "cat" / "link")
    os.symlink(tmp_path / "more", root / "cat" / "same")
    os.symlink(root / "cat", root / "cat" / "itself")
    os.symlink(root, root / "cat" / "above")
    os.symlink(tmp_path / "more", tmp_path / "more" / "deep" / "loop")
    assert [
        path.relative_to(root).as_posix()
        for path in list_files(root / "cat", image_suffixes()).read
    ] == [
        *(f"cat/{number}.png" for number in range(4)),
        "cat/link/deep/m.png",
    ]
    assert "cat/link/deep/m.png" in ids(load_dataset(f"imagefolder:{root}"))


def test_a_link_to_a_missing_file_is_a_broken_image(tmp_path):
    classes(tmp_path)
    os.symlink(tmp_path / "gone.png", tmp_path / "cat" / "9.png")
    with pytest.raises(CriticalMassError, match=r"1 of 9 images .*9\.png' \(No such file"):
        load_dataset(f"imagefolder:{tmp_path}")


def test_the_same_image_in_train_and_test_is_counted(tmp_path):
    classes(tmp_path / "train", 5)
    classes(tmp_path / "test", 3)
    for number in (1, 2):
        content = (tmp_path / "train" / "cat" / f"{number}.png").read_bytes()
        (tmp_path / "test" / "dog" / f"{number}.png").write_bytes(content)
    message = (
        r"^2 of 6 test images of .* are also training images \(equal bytes\), "
        r"first 'test/dog/1\.png' and 'train/cat/1\.png'"
    )
    with pytest.warns(UserWarning, match=message):
        data = load_dataset(f"imagefolder:{tmp_path}")
    assert data.notes["test_images_in_train"] == 2


def test_only_images_have_no_labels(tmp_path):
    for number in range(8):
        picture(tmp_path / f"{number}.png")
    (tmp_path / "__pycache__").mkdir()
    data = load_dataset(f"imagefolder:{tmp_path}")
    assert data.class_names == UNLABELLED
    assert re.match(r"random", data.notes["split"])
