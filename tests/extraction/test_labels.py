"""Labels are judged by their values: whole numbers and texts of any type are classes."""

from __future__ import annotations

import datetime
import re
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from criticalmass.core import progress
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.labels import (
    HIDDEN_LABEL,
    LabelColumn,
    check_hidden_labels,
    encode_labels,
)
from criticalmass.storage.class_counts import describe_classes, describe_samples
from criticalmass.storage.features import UNLABELLED

NUMBERS = [2, 0, 10, 0, 2]
TEXTS = ["owl", "cat", "zebra", "cat", "owl"]
# Class numbers of both, in the order of 0, 2, 10 and of cat, owl, zebra.
EXPECTED = [1, 0, 2, 0, 1]


def torch_numbers():
    torch = pytest.importorskip("torch")
    return torch.tensor(NUMBERS)


def torch_half():
    torch = pytest.importorskip("torch")
    return torch.tensor(NUMBERS).to(torch.bfloat16)


def torch_scalars():
    return list(torch_numbers())


def polars_numbers():
    return pytest.importorskip("polars").Series(NUMBERS)


def polars_categories():
    polars = pytest.importorskip("polars")
    return polars.Series(TEXTS).cast(polars.Categorical)


NUMERIC = {
    "list": lambda: NUMBERS,
    "tuple": lambda: tuple(NUMBERS),
    "int8": lambda: np.array(NUMBERS, np.int8),
    "uint64": lambda: np.array(NUMBERS, np.uint64),
    "float64": lambda: np.array(NUMBERS, float),
    "float16": lambda: np.array(NUMBERS, np.float16),
    "list of floats": lambda: [float(n) for n in NUMBERS],
    "object": lambda: np.array(NUMBERS, object),
    "int and float objects": lambda: np.array([2, 0.0, 10, 0, 2.0], object),
    "decimals": lambda: [Decimal(n) for n in NUMBERS],
    "lists of one": lambda: [[n] for n in NUMBERS],
    "arrays of one": lambda: [np.array([n]) for n in NUMBERS],
    "column": lambda: np.array(NUMBERS)[:, None],
    "numpy scalars": lambda: [np.int32(n) for n in NUMBERS],
    "Series": lambda: pd.Series(NUMBERS, index=[9, 8, 7, 6, 5]),
    "Int64": lambda: pd.Series(NUMBERS, dtype="Int64"),
    "Float64": lambda: pd.Series(NUMBERS, dtype="Float64"),
    "categories of numbers": lambda: pd.Categorical(NUMBERS, categories=[99, 10, 2, 0]),
    "Index": lambda: pd.Index(NUMBERS),
    "DataFrame": lambda: pd.DataFrame({"y": NUMBERS}),
    "nullable DataFrame": lambda: pd.DataFrame({"y": NUMBERS}, dtype="Int64"),
    "Arrow table": lambda: pa.table({"y": NUMBERS}),
    "Arrow": lambda: pa.array(NUMBERS),
    "Arrow chunks": lambda: pa.chunked_array([NUMBERS[:2], NUMBERS[2:]]),
    "Arrow decimals": lambda: pa.array([Decimal(n) for n in NUMBERS], pa.decimal128(9, 2)),
    "Arrow lists of one": lambda: pa.array([[n] for n in NUMBERS]),
    "texts of a file": lambda: LabelColumn([str(n) for n in NUMBERS], is_untyped=True),
    "floats of a file": lambda: LabelColumn([f"{n}.0" for n in NUMBERS], is_untyped=True),
    "savetxt": lambda: LabelColumn([f"{n:.18e}" for n in NUMBERS], is_untyped=True),
    "torch": torch_numbers,
    "torch bfloat16": torch_half,
    "torch scalars": torch_scalars,
    "polars": polars_numbers,
}
TEXTUAL = {
    "list": lambda: TEXTS,
    "str array": lambda: np.array(TEXTS),
    "object array": lambda: np.array(TEXTS, object),
    "bytes": lambda: np.array(TEXTS).astype("S"),
    "list of bytes": lambda: [text.encode() for text in TEXTS],
    "StringDType": lambda: np.array(TEXTS, np.dtypes.StringDType()),
    "Series": lambda: pd.Series(TEXTS),
    "object Series": lambda: pd.Series(TEXTS, dtype=object),
    "string": lambda: pd.Series(TEXTS, dtype="string"),
    "category": lambda: pd.Series(TEXTS).astype("category"),
    "ordered": lambda: pd.Categorical(TEXTS, ["zebra", "unused", "owl", "cat"], ordered=True),
    "lists of one": lambda: [[text] for text in TEXTS],
    "spaces": lambda: ["owl", " cat", "zebra", " cat", "owl"],
    "Arrow": lambda: pa.array(TEXTS),
    "Arrow dictionary": lambda: pa.array(TEXTS).dictionary_encode(),
    "Arrow chunks": lambda: pa.chunked_array([TEXTS[:2], TEXTS[2:]], pa.large_string()),
    "Arrow view": lambda: pa.array(TEXTS, pa.string_view()),
    "texts of a file": lambda: LabelColumn(TEXTS, is_untyped=True),
    "polars": polars_categories,
}


@pytest.mark.parametrize("make", NUMERIC.values(), ids=NUMERIC)
def test_whole_numbers_of_any_type_are_classes(make):
    names, (numbers,) = encode_labels([make()])
    assert names == ("0", "2", "10")
    assert numbers.tolist() == EXPECTED
    assert numbers.dtype == np.int64


@pytest.mark.parametrize("make", TEXTUAL.values(), ids=TEXTUAL)
def test_texts_of_any_type_are_classes(make):
    names, (numbers,) = encode_labels([make()])
    assert names == ("cat", "owl", "zebra")
    assert numbers.tolist() == EXPECTED


def test_booleans_are_named_as_they_are():
    for values in (
        np.array([True, False]),
        [True, False],
        pd.Series([True, False], dtype="boolean"),
    ):
        names, (numbers,) = encode_labels([values])
        assert names == ("False", "True")
        assert numbers.tolist() == [1, 0]
    assert encode_labels([[True, 3]])[0] == ("1", "3")


def test_numbers_beyond_int64_are_classes():
    assert encode_labels([[2**70, 1]])[0] == ("1", str(2**70))
    assert encode_labels([np.array([2**64 - 1, 0], np.uint64), np.array([-1])])[0] == (
        "-1",
        "0",
        str(2**64 - 1),
    )


def test_a_text_such_as_007_is_a_name():
    assert encode_labels([LabelColumn(["007", "7"], is_untyped=True)])[0] == ("007", "7")
    assert encode_labels([["1.0", "10", "2"]])[0] == ("1.0", "10", "2")


def test_the_parts_share_their_classes():
    names, numbers = encode_labels([np.array([3.0, 1.0]), pd.Series([7, 3], dtype="Int64")])
    assert names == ("1", "3", "7")
    assert [part.tolist() for part in numbers] == [[1, 0], [2, 1]]


@pytest.fixture
def said(capsys):
    """Return what was written to stderr, with progress on."""
    with progress.display():
        yield lambda: capsys.readouterr().err


def test_spaces_that_merge_classes_are_said(said):
    names, (numbers,) = encode_labels([["cat", "cat ", "dog", "\tdog"]])
    assert names == ("cat", "dog")
    assert numbers.tolist() == [0, 0, 1, 1]
    text = said()
    assert "'cat' and 'cat ' differ in spaces only and are one class" in text
    assert len(text.splitlines()) == 2
    encode_labels([[" cat", "dog"]])
    assert said() == ""


def test_texts_and_numbers_become_texts_and_it_is_said(said):
    assert encode_labels([["a", 1, 2.0, "1", True]])[0] == ("1", "2", "True", "a")
    assert "labels: texts and numbers are mixed; all become texts" in said()
    names, numbers = encode_labels([np.array([0, 1]), np.array(["1", "0"])])
    assert names == ("0", "1")
    assert [part.tolist() for part in numbers] == [[0, 1], [1, 0]]
    assert "some parts hold texts and some numbers" in said()


MISSING = {
    "NaN": np.array([1.0, 2.0, np.nan, np.nan]),
    "None": ["a", "b", None, None],
    "NaN among texts": ["a", "b", float("nan"), float("nan")],
    "pd.NA": pd.Series([1, 2, None, None], dtype="Int64"),
    "string": pd.Series(["a", "b", None, None], dtype="string"),
    "category": pd.Categorical(["a", "b", None, None]),
    "NaT": np.array(["a", "b", pd.NaT, pd.NaT], object),
    "empty texts": ["a", "b", "", " "],
    "list of None": [["a"], ["b"], [None], [None]],
    "masked": np.ma.array([1, 2, 3, 4], mask=[0, 0, 1, 1]),
    "Arrow": pa.array([1, 2, None, None]),
    "Arrow texts": pa.array(["a", "b", None, None]),
    "Arrow dictionary": pa.array(["a", "b", None, None]).dictionary_encode(),
    "cells of a file": LabelColumn(pa.array(["1.0", "2.0", None, None]), is_untyped=True),
    "nan in a file": LabelColumn(["1.0", "2.0", "nan", "nan"], is_untyped=True),
}


@pytest.mark.parametrize("values", MISSING.values(), ids=MISSING)
def test_missing_labels_are_counted_and_the_first_row_is_named(values):
    with pytest.raises(CriticalMassError, match="2 of 4 labels are missing, first in row 2; ") as e:
        encode_labels([values])
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.0, 1.5], "the label in row 1 is 1.5; .* regression is not supported"),
        ([0.0, np.inf], "the label in row 1 is inf"),
        ([Decimal("0.5")], "the label in row 0 is 0.5"),
        (LabelColumn(["1.0", "0.25"], is_untyped=True), "the label in row 1 is 0.25"),
        (np.eye(3), r"labels have shape \(3, 3\); give one label per row .*argmax"),
        ([["a"], ["b", "c"]], r"^labels=\[\['a'\], \['b', 'c'\]\] cannot be made an .* has 2"),
        (pa.array([[1], []]), "row 1 has 0 labels"),
        (np.array([1j]), "of type complex128; they must be whole numbers or texts"),
        (np.array(["2020-01-01"], "M8[D]"), r"of type datetime64\[D\]"),
        ([datetime.date(2020, 1, 1)], "row 0 is datetime.date.* of type date"),
        ([b"\xff"], r"row 0 is b'\\xff', which is not UTF-8"),
        ({"a": 1}, "is not a collection of labels"),
        (5, "labels=5 is not a collection"),
        (
            LabelColumn([{}, 1], "column 'c' of 't.parquet'"),
            r"^column 'c' of 't.parquet': .* row 0",
        ),
    ],
)
def test_what_is_no_label_is_refused_in_one_line(values, message):
    with pytest.raises(CriticalMassError, match=message) as caught:
        encode_labels([values])
    assert "\n" not in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["", *"abc"]).map(lambda t: t or "d"), min_size=1, max_size=40))
def test_names_and_numbers_give_the_labels_back(texts):
    for values in (texts, pd.Series(texts).astype("category"), pa.array(texts)):
        names, (numbers,) = encode_labels([values])
        assert [names[number] for number in numbers] == texts
        assert names == tuple(sorted(set(texts)))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=40))
def test_the_type_of_numbers_is_of_no_matter(values):
    want = encode_labels([values])
    forms = (
        np.array(values, float),
        np.array(values, object),
        pd.Series(values, dtype="Int64"),
        LabelColumn([str(value) for value in values], is_untyped=True),
        LabelColumn([f"{value}.0" for value in values], is_untyped=True),
    )
    for form in forms:
        names, (numbers,) = encode_labels([form])
        assert names == want[0] == tuple(map(str, sorted(set(values))))
        np.testing.assert_array_equal(numbers, want[1][0])


# The label -1


def split_labels(train, test, **others):
    names, numbers = encode_labels([train, test, *others.values()])
    return dict(zip(("train", "test", *others), numbers, strict=True)), names


def test_a_test_part_without_labels_is_refused_with_the_cure():
    labels, names = split_labels([0, 1], [-1, -1, -1])
    with pytest.raises(CriticalMassError, match="3 of 3 labels of the test part are -1") as caught:
        check_hidden_labels(labels, names, "column 'label' of 't.csv'")
    assert str(caught.value).startswith("column 'label' of 't.csv': ")
    assert re.search("leave the part out .*, or choose the test rows with split", str(caught.value))
    labels, names = split_labels([0, 1], [0, -1])
    with pytest.raises(CriticalMassError, match="1 of 2 labels of the test part are -1"):
        check_hidden_labels(labels, names)
    labels, names = split_labels([0, 1], [0, 1], val=["-1", "-1"])
    with pytest.raises(CriticalMassError, match="2 of 2 labels of the val part are -1"):
        check_hidden_labels(labels, names)


def test_a_missing_training_label_is_refused_unless_it_is_a_class():
    labels, names = split_labels([0, -1], [0, 1])
    with pytest.raises(CriticalMassError, match="1 of 2 labels for training are -1, first in s"):
        check_hidden_labels(labels, names)
    labels, names = split_labels([1, -1], [-1, 1])
    assert names == (HIDDEN_LABEL, "1")
    check_hidden_labels(labels, names)


# Counts


def numbers(*counts):
    return np.repeat(np.arange(len(counts)), counts)


def texts_of(train, test):
    names = tuple(f"c{index}" for index in range(len(train)))
    return describe_classes({"train": numbers(*train), "test": numbers(*test)}, names)


def test_classes_with_enough_samples_are_no_problem():
    assert texts_of((5, 5), (2, 2)) == []
    assert describe_classes({"train": numbers(4), "test": numbers(1)}, UNLABELLED) == []


@pytest.mark.parametrize(
    ("train", "test", "text", "is_serious"),
    [
        ((5, 5, 0, 0), (2, 2, 2, 1), "2 classes of the test part have no training .*'c2', 'c3'", 1),
        ((5, 5, 3), (2, 2, 0), "1 class has no test sample, .*: 'c2'", 0),
        ((5, 5, 0), (2, 2, 0), "1 class has neither a training nor a test sample: 'c2'", 0),
        ((5, 5, 1), (2, 2, 2), "1 class has a single training sample, .*: 'c2'", 0),
        ((5,), (2,), "all labels are 'c0': with a single class", 0),
        ((5, 0), (2, 0), "all labels are 'c0': with a single class", 0),
        ((95, 2), (95, 2), "97.9% of the samples are of class 'c0': .* majority .* of 0.979", 1),
        ((5, *[1] * 8), (5, *[1] * 8), "8 classes have a single .*'c1', .*, 'c5' and 3 more$", 0),
    ],
)
def test_each_lack_of_samples_is_one_sentence_with_names(train, test, text, is_serious):
    (problem,) = texts_of(train, test)
    assert re.search(text, problem.text)
    assert problem.is_serious == bool(is_serious)


def test_exactly_90_percent_is_no_majority():
    assert texts_of((90, 10), (90, 10)) == []
    assert len(texts_of((91, 9), (91, 9))) == 1


def test_classes_and_samples_are_counted():
    labels = {"train": numbers(700, 534), "test": numbers(1, 2), "val": numbers(3)}
    assert (
        describe_samples(labels, ("a", "b")) == "2 classes, 1,234 train, 3 test and 3 val samples"
    )
    assert describe_samples(labels, ("a",)).startswith("1 class, ")
    assert describe_samples(labels, UNLABELLED).startswith("no labels, 1,234 train")
