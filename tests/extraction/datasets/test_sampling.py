"""``?classes=``: some classes of a dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets import load_dataset

DIGITS = load_dataset("sklearn:digits")


def table(folder: Path, names: list[str]) -> str:
    """Write vectors of so many classes; the first column is the class number."""
    labels = np.repeat(np.arange(len(names)), 8)
    x = np.column_stack([labels, np.arange(len(labels))]).astype(np.float32)
    path = folder / "x.npz"
    np.savez(path, X=x, y=np.array(names)[labels])
    return f"npz:{path}"


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0-4", [0, 1, 2, 3, 4]), ("7,0-1", [0, 1, 7]), ("9,8,9", [8, 9]), ("3-3,1", [1, 3])],
)
def test_classes_by_number_keep_the_order_of_the_dataset(text: str, numbers: list[int]) -> None:
    chosen = load_dataset(f"sklearn:digits?classes={text}")
    assert chosen.class_names == tuple(DIGITS.class_names[number] for number in numbers)
    for name, split in chosen.splits.items():
        whole = DIGITS.splits[name]
        rows = np.flatnonzero(np.isin(whole.labels, numbers))
        assert [numbers[label] for label in split.labels] == whole.labels[rows].tolist()
        assert list(split.ids) == [whole.ids[row] for row in rows]
        np.testing.assert_array_equal(np.asarray(split.items), np.asarray(whole.items)[rows])
    assert chosen.digest != DIGITS.digest


def test_classes_by_name(tmp_path: Path) -> None:
    spec = table(tmp_path, ["ant", "bee", "cat, dog", "eel"])
    assert load_dataset(f"{spec}?classes=eel,ant").class_names == ("ant", "eel")
    # A name with a comma is chosen by its number.
    assert load_dataset(f"{spec}?classes=ant,2").class_names == ("ant", "cat, dog")


def test_names_that_are_numbers_come_first(tmp_path: Path) -> None:
    spec = table(tmp_path, ["1", "2", "3", "4"])
    assert load_dataset(f"{spec}?classes=1-2,4").class_names == ("1", "2", "4")
    # 0 is no name here, so the ends of this range are numbers.
    assert load_dataset(f"{spec}?classes=0-2").class_names == ("1", "2", "3")


def test_a_sample_is_taken_of_the_chosen_classes() -> None:
    chosen = load_dataset("sklearn:digits?classes=0,1&n=50")
    assert chosen.class_names == ("0", "1")
    assert len(chosen.splits["train"]) == 50
    assert np.bincount(chosen.splits["train"].labels).min() >= 24


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3", "leaves 1 class; choose at least two"),
        ("2,2", "leaves 1 class"),
        ("0-10", "classes=0-10 in 'sklearn:digits?classes=0-10' must be numbers from 0 to 9"),
        ("5-2", "must be numbers from 0 to 9"),
        ("0,cat", "'cat'"),
        ("0,", "no class in"),
        ("-1,2", "'-1'"),
    ],
)
def test_bad_choices_are_refused(text: str, message: str) -> None:
    with pytest.raises(CriticalMassError) as caught:
        load_dataset(f"sklearn:digits?classes={text}")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_examples_leave_the_test_split_whole() -> None:
    few = load_dataset("sklearn:digits?examples=100")
    train, test = few.splits["train"], few.splits["test"]
    assert (len(train), len(test)) == (100, len(DIGITS.splits["test"]))
    assert list(test.ids) == list(DIGITS.splits["test"].ids)
    assert set(np.bincount(train.labels)) <= {9, 10, 11}
    assert set(train.ids) <= set(DIGITS.splits["train"].ids)
    every = load_dataset("sklearn:digits?examples=all")
    assert list(every.splits["train"].ids) == list(DIGITS.splits["train"].ids)
    # They are taken of a sample and of some classes, if the spec asks for these as well.
    both = load_dataset("sklearn:digits?classes=0-4&n=200&examples=50")
    assert len(both.splits["train"]) == 50
    assert len(both.splits["test"]) == len(
        load_dataset("sklearn:digits?classes=0-4&n=200").splits["test"]
    )
    for spec, words in {
        "examples=9": "below the 10 classes",
        "examples=4000": "at most the 1347 samples of train, or all",
        "examples=half": "must be a whole number",
    }.items():
        with pytest.raises(CriticalMassError, match=words):
            load_dataset(f"sklearn:digits?{spec}")


def test_examples_are_of_the_training_and_the_validation_part(tmp_path: Path) -> None:
    for base, (part, n) in enumerate({"train": 6, "val": 4, "test": 5}.items()):
        for label in ("a", "b"):
            (tmp_path / part / label).mkdir(parents=True)
            for row in range(n):
                level = 60 * base + 10 * row + (label == "b")
                path = tmp_path / part / label / f"{row}.png"
                Image.new("L", (3, 3), level).save(path)
    every = load_dataset(f"imagefolder:{tmp_path}?examples=all")
    assert {name: len(split) for name, split in every.splits.items()} == {"train": 20, "test": 10}
    items, ids = every.splits["train"].items, every.splits["train"].ids
    parts = load_dataset(f"imagefolder:{tmp_path}").splits
    expected = {**dict(zip(parts["train"].ids, parts["train"].items, strict=True)),
                **dict(zip(parts["val"].ids, parts["val"].items, strict=True))}  # fmt: skip
    for image, name in zip(items, ids, strict=True):
        assert np.array_equal(np.asarray(image), np.asarray(expected[name]))
    few = load_dataset(f"imagefolder:{tmp_path}?examples=10").splits["train"]
    assert np.bincount(few.labels).tolist() == [5, 5]
    rows = [list(ids).index(name) for name in few.ids]
    for image, row in zip(few.items, rows, strict=True):
        assert np.array_equal(np.asarray(image), np.asarray(items[row]))
