"""Qrels in a feature store: read back as written, with digests."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import criticalmass as cm
from criticalmass.errors import StoreError
from criticalmass.storage.qrels import FILE, Qrels, read_qrels

X = np.random.default_rng(0).normal(size=(30, 4)).astype("f4")


def draw(seed: int) -> Qrels:
    rng = np.random.default_rng(seed)
    grades = rng.random((9, 14)) * (rng.random((9, 14)) < 0.3)
    grades[0, 0] = 2
    queries, documents = np.nonzero(grades)
    own = np.where(rng.random(9) < 0.3, rng.integers(0, 14, 9), -1)
    return Qrels.of_pairs((queries, documents, grades[queries, documents]), grades.shape, own)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_what_is_read_is_what_was_written(tmp_path_factory, seed):
    folder, qrels = tmp_path_factory.mktemp("qrels"), draw(seed)
    again = read_qrels(folder / FILE, qrels.write(folder))
    for name in ("queries", "documents", "grades", "own"):
        np.testing.assert_array_equal(getattr(again, name), getattr(qrels, name))
    assert (again.n_queries, again.n_documents) == (9, 14)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_parts_keep_their_pairs(seed):
    rng, qrels = np.random.default_rng(seed), draw(seed)
    queries, documents = np.sort(rng.permutation(9)[:5]), np.sort(rng.permutation(14)[:8])
    part = qrels.of_queries(queries).of_documents(documents)
    dense = np.zeros((9, 14))
    dense[qrels.queries, qrels.documents] = qrels.grades
    of_part = np.zeros((5, 8))
    of_part[part.queries, part.documents] = part.grades
    np.testing.assert_array_equal(of_part, dense[np.ix_(queries, documents)])
    for row, query in enumerate(queries):
        own = qrels.own[query]
        assert part.own[row] == (list(documents).index(own) if own in documents else -1)


def store(folder, grade=1):
    return cm.import_features(X, queries=X[:9], qrels=[[0, 1, grade], [3, 2, 1]], out=folder)


def test_a_damaged_file_is_noticed(tmp_path):
    store(tmp_path / "s")
    (tmp_path / "s" / FILE).write_text("query\tdocument\tgrade\n0\t1\t9\n")
    with pytest.raises(StoreError, match="damaged"):
        cm.FeatureStore.open(tmp_path / "s")
    unchecked = cm.FeatureStore.open(tmp_path / "s", verify=False)
    with pytest.raises(StoreError, match=r"qrels\.tsv"):
        _ = unchecked.qrels


def test_the_digest_of_a_layer_covers_the_qrels(tmp_path):
    assert store(tmp_path / "a").digest() == store(tmp_path / "b").digest()
    assert store(tmp_path / "a").digest() != store(tmp_path / "c", grade=2).digest()


def test_an_interrupted_import_continues_with_its_qrels(tmp_path):
    one = store(tmp_path / "s")
    (tmp_path / "s" / FILE).unlink()
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    assert manifest["format_version"] == 1
    with pytest.warns(UserWarning, match=r"qrels\.tsv.*written again"):
        again = store(tmp_path / "s")
    assert again.qrels is not None
    assert one.qrels is not None
    assert again.qrels.digest == one.qrels.digest


def test_a_store_without_qrels_is_no_collection(tmp_path):
    plain = cm.import_features(X, out=tmp_path / "s")
    assert plain.qrels is None
    assert not plain.is_collection
    assert "qrels" not in plain.manifest
