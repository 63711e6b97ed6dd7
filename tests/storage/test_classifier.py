"""The classifier of a store: what was written is read, old stores stay, damage is noticed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from criticalmass.errors import CriticalMassError, StoreError
from criticalmass.storage.classifier import FILE, Classifier
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.features_writer import SplitInfo, StoreWriter

HEADER = {
    "model": {"spec": "test:toy", "name": "toy", "weights_digest": "0"},
    "dataset": {"spec": "test:d", "name": "d", "class_names": ["a", "b"]},
    "layers": {"penultimate": {"dtype": "float32", "shape": [3]}},
    "engine": {"name": "torch"},
    "versions": {},
}
SPLITS = {"test": SplitInfo(np.array([0, 1]), ["x", "y"])}
HEAD = Classifier(
    "penultimate", np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(2, np.float32), ("b", "a")
)


def write(
    folder: Path, classifier: Classifier | None = HEAD, *, finish: bool = True
) -> StoreWriter:
    writer = StoreWriter.begin(folder, HEADER, SPLITS, classifier=classifier)
    if finish:
        for plan in writer.missing():
            writer.put(plan, {"penultimate": np.eye(2, 3, dtype=np.float32)})
        writer.finish()


def test_a_store_returns_the_classifier_of_its_layer(tmp_path: Path) -> None:
    write(tmp_path / "store")
    store = FeatureStore.open(tmp_path / "store")
    read = store.classifier()
    assert read is not None
    np.testing.assert_array_equal(read.weight, HEAD.weight)
    np.testing.assert_array_equal(read.bias, HEAD.bias)
    assert read.output_names == ("b", "a")
    assert store.classifier_digest("penultimate") == HEAD.digest
    assert store.classifier("other") is None


def test_it_changes_neither_the_format_nor_the_digest_of_the_features(tmp_path: Path) -> None:
    write(tmp_path / "with")
    write(tmp_path / "without", None)
    with_it, without = (FeatureStore.open(tmp_path / name) for name in ("with", "without"))
    assert without.classifier() is None
    assert without.classifier_digest("penultimate") == ""
    assert not (tmp_path / "without" / FILE).exists()
    assert with_it.digest() == without.digest()
    assert with_it.manifest["format_version"] == without.manifest["format_version"] == 1


def test_the_same_classifier_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / name)
    one, two = ((tmp_path / name / FILE).read_bytes() for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize("first", [HEAD, None])
def test_an_interrupted_store_gets_its_classifier(tmp_path: Path, first: Classifier | None) -> None:
    write(tmp_path / "store", first, finish=False)
    (tmp_path / "store" / FILE).unlink(missing_ok=True)
    if first is None:
        write(tmp_path / "store")  # The store of an earlier version.
    else:
        with pytest.warns(UserWarning, match="missing or damaged and is written again"):
            write(tmp_path / "store")
    assert FeatureStore.open(tmp_path / "store").classifier_digest("penultimate") == HEAD.digest


def test_a_store_begins_where_only_the_classifier_was_written(tmp_path: Path) -> None:
    write(tmp_path / "store", finish=False)
    (tmp_path / "store" / "manifest.json").unlink()
    write(tmp_path / "store")
    assert FeatureStore.open(tmp_path / "store").classifier() is not None


def test_damage_is_noticed(tmp_path: Path) -> None:
    write(tmp_path / "store")
    path = tmp_path / "store" / FILE
    content = path.read_bytes()
    path.write_bytes(content[:100] + b"?" * (len(content) - 100))
    with pytest.raises(StoreError, match="is damaged"):
        FeatureStore.open(tmp_path / "store")
    with pytest.raises(StoreError, match="cannot be read as a classifier"):
        FeatureStore.open(tmp_path / "store", verify=False).classifier()
    path.write_bytes(content)
    store = FeatureStore.open(tmp_path / "store")
    entry = {**store.manifest["classifier"], "output_names": ["a", "b"]}
    with pytest.raises(StoreError, match="differs from the classifier"):
        replace(store, manifest={**store.manifest, "classifier": entry}).classifier()


def test_outputs_are_matched_by_name() -> None:
    wide = Classifier(
        "l", np.eye(4, dtype=np.float32), np.arange(4, dtype=np.float32), ("d", "a", "c", "b")
    )
    matched = wide.for_classes(("a", "b", "c"))
    np.testing.assert_array_equal(matched.bias, [1.0, 3.0, 2.0])
    np.testing.assert_array_equal(matched.weight, np.eye(4)[[1, 3, 2]])
    assert matched.output_names == ("a", "b", "c")


@pytest.mark.parametrize(
    ("names", "classes", "message"),
    [
        (
            ("a", "b", "c"),
            ("a", "x"),
            "exactly one for 1 of 2 classes of the dataset \\('x'\\)",
        ),
        (
            ("a", "a", "c"),
            ("a", "c"),
            "exactly one for 1 of 2 classes of the dataset \\('a'\\)",
        ),
        ((), ("a", "b"), "3 outputs without names and the dataset 2 classes; extract the data"),
    ],
)
def test_classes_without_an_output_are_refused(
    names: tuple[str, ...], classes: tuple[str, ...], message: str
) -> None:
    classifier = Classifier("l", np.eye(3, dtype=np.float32), np.zeros(3, np.float32), names)
    with pytest.raises(CriticalMassError, match=message) as raised:
        classifier.for_classes(classes)
    assert "\n" not in str(raised.value)


def test_outputs_without_names_are_the_classes_in_order() -> None:
    classifier = Classifier("l", np.eye(3, dtype=np.float32), np.zeros(3, np.float32))
    assert classifier.for_classes(("x", "y", "z")) is classifier


def test_the_manifest_is_plain_json(tmp_path: Path) -> None:
    write(tmp_path / "store")
    entry = json.loads((tmp_path / "store" / "manifest.json").read_text())["classifier"]
    assert entry["layer"] == "penultimate"
    assert entry["shape"] == [2, 3]
    assert entry["output_names"] == ["b", "a"]
