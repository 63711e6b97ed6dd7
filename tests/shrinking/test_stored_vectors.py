"""Stored vectors: exact arithmetic, the certified codes, the front, and what must be refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import criticalmass as cm
from criticalmass.cli.main import cli, run_command
from criticalmass.core.rows import RowSlice
from criticalmass.core.threads import limit_threads
from criticalmass.errors import CriticalMassError
from criticalmass.shrinking import stored_search, stored_vectors
from criticalmass.shrinking.codec import BITS, Codec
from criticalmass.shrinking.data_parts import split_data
from criticalmass.shrinking.evaluators import make_stored_evaluator
from criticalmass.shrinking.shrink import ShrinkPlan
from criticalmass.shrinking.slim_model import SlimModel
from criticalmass.shrinking.stored_candidates import (
    StoredCandidate,
    advise,
    forms_to_test,
    on_front,
)
from criticalmass.shrinking.stored_search import Encoding, learn_encodings, search_stored
from criticalmass.shrinking.stored_vectors import (
    ALL,
    PCA,
    Family,
    ShortMap,
    make_families,
    on_grid,
    round_directions,
    unit_rows,
)

QUICK: dict[str, Any] = {"measure": "retrieval-recall", "selectors": ("random", PCA)}


def draw_vectors(n: int, seed: int) -> NDArray[np.float32]:
    """Vectors of 24 dimensions that lie near 5 directions, of very different lengths."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99).standard_normal((5, 24))
    x = rng.standard_normal((n, 5)) @ mix + 0.2 * rng.standard_normal((n, 24))
    return (x * 10.0 ** rng.integers(-3, 4, (n, 1))).astype(np.float32)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> cm.FeatureStore:
    x = draw_vectors(1000, 0)
    out = tmp_path_factory.mktemp("vectors") / "store"
    return cm.import_features({"train": x[:800], "test": x[800:]}, out=out)


@pytest.fixture(scope="module")
def plan(store: cm.FeatureStore) -> ShrinkPlan:
    return cm.shrink(store, keep=0.8, **QUICK)


def orthogonal(d: int, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return round_directions(np.linalg.qr(rng.standard_normal((d, d)))[0])


@given(
    st.integers(1, 70), st.integers(1, 24), st.floats(1e-30, 1e30), st.booleans(), st.integers(0, 9)
)
def test_a_short_vector_does_not_depend_on_its_batch(
    n: int, k: int, scale: float, is_projected: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = (scale * rng.standard_normal((n, 24))).astype(np.float32)
    matrix = orthogonal(24)[:, :k].copy() if is_projected else None
    short_map = ShortMap(24, None if is_projected else rng.permutation(24)[:k], matrix)
    together = short_map(x)
    alone = np.concatenate([short_map(x[i : i + 1]) for i in range(n)])
    reordered = short_map(np.asfortranarray(x[::-1]))[::-1]
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(together, reordered)
    kept = x.astype(np.float64) @ matrix if matrix is not None else x[:, short_map.indices]
    kept = kept.astype(np.float64)
    unit = kept / np.linalg.norm(kept, axis=1, keepdims=True)
    # A projection's error is relative to the length of the whole vector.
    shares = np.linalg.norm(kept, axis=1) / np.linalg.norm(x.astype(np.float64), axis=1)
    assert (np.abs(together - unit).max(axis=1) <= 2e-7 / np.minimum(shares, 1.0)).all()


def test_a_wide_projection_does_not_depend_on_the_batch() -> None:
    """Products of one row and of many are summed in other orders by BLAS."""
    x = np.random.default_rng(2).standard_normal((300, 384)).astype(np.float32)
    short_map = ShortMap(384, None, np.ascontiguousarray(orthogonal(384)[:, :150]))
    alone = np.concatenate([short_map(x[i : i + 1]) for i in range(len(x))])
    np.testing.assert_array_equal(short_map(x), alone)


def test_products_with_directions_are_exact() -> None:
    """Sums of whole numbers below 2**53: any order of summation gives the same float64."""
    matrix = orthogonal(24)
    numbers = on_grid(draw_vectors(5, 3))
    directions = np.ldexp(matrix.astype(np.float64), stored_vectors._DIRECTION_BITS)
    for whole in (numbers, directions):
        np.testing.assert_array_equal(whole, np.rint(whole))
    sums = [[sum(int(a) * int(b) for a, b in zip(x, w, strict=True)) for w in directions.T]
            for x in numbers]  # fmt: skip
    np.testing.assert_array_equal(
        (numbers @ directions).astype(object), np.array(sums, dtype=object)
    )
    lengths = np.linalg.norm(numbers, axis=1).max() * np.linalg.norm(directions, axis=0).max()
    assert lengths < 2.0**53


def test_a_vector_of_zeros_stays_zero() -> None:
    zeros = np.zeros((2, 24), np.float32)
    for short_map in (ShortMap(24), ShortMap(24, np.arange(3)), ShortMap(24, None, orthogonal(24))):
        assert not short_map(zeros).any()


def test_what_is_certified_is_what_is_exported(store: cm.FeatureStore, tmp_path: Path) -> None:
    """Codes of the evaluator, of a saved model in other chunks, and of the export are equal."""
    parts = split_data(store, None)
    evaluator = make_stored_evaluator("retrieval", parts, True)
    x = store.features("train").array()
    for precision in BITS:
        p = cm.shrink(
            store, keep=0.3, out=tmp_path / precision, **QUICK, precisions=(precision,),
            reranks=(0,),
        )  # fmt: skip
        slim = SlimModel.open(tmp_path / precision)
        assert slim.short_map is not None
        (encoding,) = learn_encodings(evaluator.stored.rows, [(slim.short_map, precision)])
        certified = encoding.codec.encode(encoding.short_map(x))
        np.testing.assert_array_equal(p.slim.encode(x), certified)
        in_parts = [slim.encode(x[i : i + 7]) for i in range(0, len(x), 7)]
        np.testing.assert_array_equal(np.concatenate(in_parts), certified)
        cm.export(slim, format="vectors", vectors=store.path, out=tmp_path / "out")
        np.testing.assert_array_equal(np.load(tmp_path / "out" / "train.npy"), certified)
        table = pd.read_parquet(tmp_path / "out" / "train.parquet")
        np.testing.assert_array_equal(np.stack(table["code"]), certified)
        assert certified.nbytes == len(x) * slim.bytes_per_vector


def test_the_measured_recall_is_that_of_a_plain_search(
    store: cm.FeatureStore, plan: ShrinkPlan
) -> None:
    x, q = store.features("train").array(), store.features("test").array()
    slim = plan.slim
    stored = slim.transform(x)
    whole = x / np.linalg.norm(x, axis=1, keepdims=True)
    right = np.argsort(-(q @ whole.T), axis=1, kind="stable")[:, :10]
    for rerank in (0, 3):
        listed = np.argsort(-(slim.queries(q) @ stored.T), axis=1, kind="stable")
        got = listed[:, : max(1, rerank) * 10]
        if rerank:
            cosines = np.take_along_axis(q @ whole.T, got, axis=1)
            got = np.take_along_axis(got, np.argsort(-cosines, axis=1, kind="stable"), 1)[:, :10]
        expected = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(got, right, strict=True)])
        evaluator = make_stored_evaluator("retrieval-recall", split_data(store, None), True)
        ((scores,),) = evaluator.scores([(slim.short_map, slim.precision)], (rerank,))
        assert scores.mean() == pytest.approx(expected, abs=2e-3)
        if not rerank:
            assert plan.slim.record["stored"]["recall"] == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("relevance", ["neighbours", "labels"])
def test_re_ranking_everything_is_a_search_with_whole_vectors(
    relevance: str, tmp_path: Path
) -> None:
    x = draw_vectors(500, 5)
    y = (x[:, 0] > 0).astype(int)
    store = cm.import_features(
        {"train": x[:400], "test": x[400:]},
        out=tmp_path / "store",
        labels={"train": y[:400], "test": y[400:]},
    )
    evaluator = make_stored_evaluator(
        "retrieval",
        split_data(store, None),
        True,
        relevance,  # type: ignore[arg-type]
    )
    one = ShortMap(24, np.array([3]))
    ((once, always),) = evaluator.scores([(one, "binary")], (0, 40))
    assert once.mean() < always.mean()
    np.testing.assert_allclose(always, evaluator.reference.scores_full, atol=1e-12)


def test_principal_directions_keep_most_of_the_inner_products() -> None:
    x = draw_vectors(300, 7)
    families = make_families(RowSlice(x, 0, 300), {}, seed=0, with_pca=True)
    assert [family.name for family in families] == [ALL, PCA, f"{PCA}, rotated"]
    unit = x / np.linalg.norm(x, axis=1, keepdims=True).astype(np.float64)
    errors = {}
    for family in families[1:]:
        matrix = family.short_map(5).matrix
        assert matrix is not None
        np.testing.assert_allclose(matrix.T @ matrix, np.eye(5), atol=1e-6)
        short = unit @ matrix
        errors[family.name] = np.linalg.norm(unit @ unit.T - short @ short.T)
    best = np.sqrt(np.sum(np.linalg.svd(unit, compute_uv=False)[5:] ** 4))
    assert errors[PCA] == pytest.approx(best, rel=1e-5)
    assert errors[f"{PCA}, rotated"] == pytest.approx(best, rel=1e-5)


def test_the_table_has_the_whole_front(plan: ShrinkPlan) -> None:
    front = plan.front
    assert front["chosen"].sum() == 1
    assert (front["bound"] >= front["bound_all"]).all()
    plain = front[(front["selector"] == ALL) & (front["rerank"] == 0)]
    assert set(plain["precision"]) == set(BITS)
    assert set(plain["bytes"]) == {96, 48, 24, 3}
    assert set(front["rerank"]) == {0, 4}
    re_ranked = front[front["rerank"] == 4]
    assert (re_ranked["bytes_total"] == re_ranked["bytes"] + 96).all()
    int8 = front[(front["precision"] == "int8") & (front["selector"] == PCA)]
    assert (int8["bytes_once"] == 4 * 24 * int8["n_kept"] + 8 * int8["n_kept"]).all()
    chosen = front[front["chosen"]].iloc[0]
    assert chosen["n_kept"] == plan.n_kept
    assert chosen["bound"] == pytest.approx(plan.verdict["ratio_bound"])
    assert plan.safe
    families = {name.split(",")[0] for name in plan.candidates["selector"]}
    assert families == {ALL, PCA, "random"}
    # 5 directions carry the vectors: a subset needs more dimensions of the same precision.
    assert plan.slim.record["selector"].startswith(PCA)
    json.dumps(plan.as_dict())


def test_no_choice_reads_the_test_split(
    store: cm.FeatureStore, plan: ShrinkPlan, tmp_path: Path
) -> None:
    x = store.features("train").array()
    other = cm.import_features(
        {"train": x, "test": draw_vectors(400, 123)[:, ::-1]}, out=tmp_path / "store"
    )
    again = cm.shrink(other, keep=0.8, **QUICK)
    assert again.candidates.equals(plan.candidates)
    columns = ["selector", "n_kept", "precision", "rerank"]
    rows = [set(map(tuple, p.front[~p.front["chosen"]][columns].to_numpy())) for p in (plan, again)]
    chosen = {tuple(p.front[p.front["chosen"]][columns].iloc[0]) for p in (plan, again)}
    assert rows[0] - chosen == rows[1] - chosen


def test_the_sequence_of_tests_begins_with_all_dimensions() -> None:
    family = Family("random", 0, 100, np.arange(100))
    candidate = StoredCandidate(family, "int8", 0, {40: 0.9}, 1.0, 40, 100)
    forms = forms_to_test(candidate, ("float16", "int8"))
    assert [(form.family.selector, form.precision) for form in forms[:2]] == [
        (ALL, "float16"), (ALL, "int8"),
    ]  # fmt: skip
    sizes = [form.n_kept for form in forms[2:]]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[:2] == [100, 80], "three times what is needed, at most all, then twice"
    assert min(sizes) < 40 < max(sizes)
    whole = StoredCandidate(Family(ALL, 0, 100), "float32", 0, {100: 1.0}, 1.0, 100, 100)
    assert forms_to_test(whole, ()) == [], "the reference itself is no candidate"


def front_row(**changes: Any) -> dict[str, Any]:
    row = {
        "selector": ALL, "precision": "float16", "n_kept": 384, "rerank": 0, "bytes": 768,
        "bytes_total": 768, "recall": 0.995, "bound_all": 0.99, "chosen": False,
    }  # fmt: skip
    return {**row, **changes}


def test_plain_float16_is_recommended_where_it_is_the_better_deal() -> None:
    chosen = front_row(
        selector="greedy-cka", precision="float32", n_kept=282, bytes=1128, bytes_total=1128,
        recall=0.891, chosen=True,
    )  # fmt: skip
    assert "are the better deal: 768 bytes" in advise(pd.DataFrame([front_row(), chosen]), 0.8)[0]
    small = {**chosen, "bytes": 128, "bytes_total": 128}
    listed = front_row(precision="binary", bytes=48, bytes_total=1584, rerank=4)
    trade, reranked = advise(pd.DataFrame([front_row(), small, listed]), 0.8)
    assert "6 times as many" in trade
    assert "better deal" not in trade
    assert "48 bytes a vector in the index are enough" in reranked
    listed["bound_all"] = 0.5
    assert len(advise(pd.DataFrame([front_row(), small, listed]), 0.8)) == 1


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)), min_size=1))
def test_the_front_is_what_nothing_dominates(rows: list[tuple[int, int, int]]) -> None:
    frame = pd.DataFrame(rows, columns=["bytes", "bytes_total", "value"])
    kept = {row for row, is_kept in zip(rows, on_front(frame), strict=True) if is_kept}
    expected = {
        row
        for row in rows
        if not any(
            other[0] <= row[0] and other[1] <= row[1] and other[2] >= row[2] and other != row
            for other in rows
        )
    }
    assert kept == expected


def test_neighbours_of_bits_are_those_of_the_hamming_distance() -> None:
    rng = np.random.default_rng(0)
    rows, queries = (unit_rows(x) for x in rng.standard_normal((2, 300, 16)))
    codec = Codec.learn("binary", rows)
    encoding = Encoding(ShortMap(16), codec)
    (got,) = search_stored(rows, queries[:20], [encoding], 30)
    different = (
        np.unpackbits(codec.encode(queries[:20]), axis=1)[:, None]
        != np.unpackbits(codec.encode(rows), axis=1)[None]
    ).sum(axis=2)
    np.testing.assert_array_equal(got, np.argsort(different, axis=1, kind="stable")[:, :30])


@pytest.mark.parametrize("threads", [1, 3])
def test_forms_are_searched_together_or_alone(threads: int) -> None:
    """Prefixes of one matrix share its product; blocks and threads change no list."""
    x, queries = draw_vectors(9000, 1), draw_vectors(40, 2)
    wide = orthogonal(24)
    maps = [ShortMap(24, None, np.ascontiguousarray(wide[:, :k])) for k in (3, 9, 24)]
    maps += [ShortMap(24, np.arange(5)), ShortMap(24, None, orthogonal(24, 1)[:, :7].copy())]
    forms = [(m, precision) for m in maps for precision in ("int8", "binary")]
    with limit_threads(threads):
        encodings = learn_encodings(x, forms)
        together = search_stored(x, queries, encodings, 12)
    for (short_map, precision), encoding, lists in zip(forms, encodings, together, strict=True):
        short = short_map(x)
        codec = Codec.learn(precision, short)
        np.testing.assert_array_equal(encoding.codec.offset, codec.offset)
        np.testing.assert_array_equal(encoding.codec.step, codec.step)
        (alone,) = search_stored(x, queries, [encoding], 12)
        np.testing.assert_array_equal(lists, alone)
        products = encoding.queries(queries) @ codec.decode(codec.encode(short)).T
        found = np.take_along_axis(products, lists.astype(np.int64), axis=1)
        best = -np.sort(-products, axis=1)[:, :12]
        np.testing.assert_allclose(found, best, atol=1e-5)


def test_many_vectors_are_measured_on_samples(
    store: cm.FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = store.features("train").array()
    monkeypatch.setattr(stored_search, "MOST_CODEC_ROWS", 200)
    (encoding,) = learn_encodings(x, [(ShortMap(24), "int8")])
    whole = Codec.learn("int8", ShortMap(24)(x))
    assert (encoding.codec.offset >= whole.offset).all()
    assert (encoding.codec.offset > whole.offset).any()
    evaluator = make_stored_evaluator("retrieval-recall", split_data(store, None), True)
    orders = [np.arange(24), np.arange(24)[::-1]]
    before = evaluator.evaluate_orders(orders, 12, "float32")
    monkeypatch.setattr(stored_search, "MANY_ROWS", 100)
    monkeypatch.setattr(stored_search, "_FEW_QUERIES", 50)
    after = evaluator.evaluate_orders(orders, 12, "float32")
    for few, all_queries in zip(after, before, strict=True):
        np.testing.assert_array_equal(few.scores, all_queries.scores[:, ::4])


def test_limits_that_cannot_be_met_are_an_error(store: cm.FeatureStore, capsys: Any) -> None:
    with pytest.raises(CriticalMassError, match=r"max_dims=2: nothing within .* lower bound"):
        cm.shrink(store, keep=0.95, max_dims=2, reranks=(0,), **QUICK)
    command = ["shrink", str(store.path), "--measure", "retrieval", "--selector", "random", "-q"]
    assert run_command([*command, "--budget-bytes", "1", "--rerank", "0"]) == 2
    assert "--budget-bytes=1: nothing within the limits" in capsys.readouterr().err
    with pytest.raises(CriticalMassError, match="applies to retrieval measures only"):
        cm.shrink(store, measure="cka", reranks=(0,))
    with pytest.raises(CriticalMassError, match=r"must be 0 .* or more"):
        cm.shrink(store, measure="retrieval", reranks=(-1,))
    with pytest.raises(CriticalMassError, match="the one for stored vectors is 'pca-top'"):
        cm.shrink(store, measure="retrieval", selectors=("pca-bottom",))


def test_what_a_projection_cannot_be_is_refused(plan: ShrinkPlan, tmp_path: Path) -> None:
    assert plan.slim.matrix is not None
    with pytest.raises(CriticalMassError, match="format='vectors'"):
        cm.export(plan.slim, format="indices", out=tmp_path / "out")
    with pytest.raises(CriticalMassError, match=r"needs the whole vectors.*--vectors"):
        cm.export(plan.slim, format="vectors", out=tmp_path / "out")


def test_a_promise_is_tested_on_new_data(
    store: cm.FeatureStore, plan: ShrinkPlan, tmp_path: Path, capsys: Any
) -> None:
    plan.slim.save(tmp_path / "slim", "card")
    new, noise = draw_vectors(1600, 77), np.random.default_rng(1).standard_normal((1600, 24))
    stores = {
        name: cm.import_features(
            {"train": x[:1200].astype(np.float32), "test": x[1200:].astype(np.float32)},
            out=tmp_path / name,
        )
        for name, x in (("new", new), ("noise", noise))
    }
    again = cm.verify(tmp_path / "slim", store)
    assert again.value == pytest.approx(plan.slim.record["stored"]["recall"], abs=1e-9)
    assert again.ratio_bound == pytest.approx(plan.verdict["ratio_bound"])
    assert cm.verify(plan.slim, stores["new"]).holds
    assert not cm.verify(plan.slim, stores["noise"]).holds
    for name, code in (("new", 0), ("noise", 3)):
        command = ["verify", str(tmp_path / "slim"), str(tmp_path / name), "-q"]
        assert CliRunner().invoke(cli, command).exit_code == code
    shown = CliRunner().invoke(cli, ["info", str(tmp_path / "slim")]).output
    assert "0.8 at 95%" in shown
    few = np.random.default_rng(0).standard_normal((40, 3))
    narrow = cm.import_features(few, out=tmp_path / "narrow")
    with pytest.raises(CriticalMassError, match="made from 24"):
        cm.verify(plan.slim, narrow)


def test_the_json_of_the_command_has_the_verdict(store: cm.FeatureStore) -> None:
    command = ["shrink", str(store.path), "--measure", "retrieval", "--selector", PCA, "-q"]
    answer = CliRunner().invoke(cli, [*command, "--keep", "0.8", "--format", "json"])
    verdict = json.loads(answer.output)
    assert verdict["safe"] is True
    assert verdict["n_kept"] < 24
    assert verdict["ratio_bound"] >= 0.8
    assert {row["chosen"] for row in verdict["front"]} == {True, False}
    unsafe = [*command, "--keep", "1", "--fail-if-unsafe"]
    assert CliRunner().invoke(cli, unsafe).exit_code == 3
    assert CliRunner().invoke(cli, unsafe[:-1]).exit_code == 0


def test_more_vectors_than_the_choice_saw_leave_all_dimensions_in_fewer_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The choice sees few vectors, and none of its sizes passes among all of them.
    monkeypatch.setattr("criticalmass.shrinking.stored_candidates._STEPS", (1.0, 0.5))
    monkeypatch.setattr("criticalmass.shrinking.data_parts._MAX_FIT_ROWS", 60)
    rng = np.random.default_rng(0)
    store = cm.import_features(
        {name: rng.standard_normal((n, 24)) for name, n in (("train", 4000), ("test", 400))},
        out=tmp_path / "store",
    )
    plan = cm.shrink(store, measure="retrieval", keep=0.9, precisions=("float16", "int8"))
    assert plan.safe
    assert plan.slim.bytes_per_vector <= 24, "all dimensions as int8, not as float16"
