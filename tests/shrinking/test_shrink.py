"""``shrink``: the subset keeps enough, the promise holds, no choice reads the test split."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import criticalmass as cm
from criticalmass.cli.main import cli
from criticalmass.errors import CriticalMassError, StoreError
from criticalmass.shrinking.candidates import Goal, geometric_sizes
from criticalmass.shrinking.slim_model import SlimModel
from criticalmass.theory import synthetic

QUICK: dict[str, Any] = {"measure": "ridge", "selectors": ("random", "anova")}


@pytest.fixture(scope="module")
def needle(tmp_path_factory: pytest.TempPathFactory) -> cm.FeatureStore:
    """Neuron 5 of 24 tells two classes apart, the rest are noise."""
    population = synthetic.needle(24, at=5, separation=4.0)
    sample = synthetic.draw(population, n_train=1200, n_test=1500, seed=0)
    return synthetic.to_store(sample, tmp_path_factory.mktemp("needle") / "store")


def arrays(store: cm.FeatureStore, split: str) -> tuple[np.ndarray, np.ndarray]:
    return store.features(split, "penultimate").array(), store.labels(split)


def test_the_one_neuron_that_matters_is_kept(needle: cm.FeatureStore, tmp_path: Path) -> None:
    plan = cm.shrink(needle, keep=0.95, out=tmp_path / "slim", selectors=("random", "anova"))
    assert plan.safe
    assert plan.slim.indices.tolist() == [5]
    assert plan.slim.record["selector"] == "anova"
    assert (
        "Keep 1 of 24 neurons (anova, float32: 4 instead of 96 bytes per vector)" in plan.sentence
    )


def test_the_folder_holds_the_certified_model(needle: cm.FeatureStore, tmp_path: Path) -> None:
    plan = cm.shrink(needle, keep=0.97, out=tmp_path / "slim", selectors=("random", "leverage"))
    slim = SlimModel.open(tmp_path / "slim")
    x, y = arrays(needle, "test")
    assert np.mean(slim.predict(x) == y) == pytest.approx(slim.record["measured"]["value"])
    np.testing.assert_array_equal(slim.scores(x), plan.slim.scores(x))
    assert slim.record == json.loads(json.dumps(plan.slim.record))
    kept = json.loads((tmp_path / "slim" / "indices.json").read_text())["indices"]
    assert kept == sorted(kept) == slim.indices.tolist()
    np.testing.assert_array_equal(slim.transform(x), x[:, kept])
    card = (tmp_path / "slim" / "README.md").read_text()
    assert plan.sentence in card
    assert "Not tested" in card


def test_no_choice_reads_the_test_split(needle: cm.FeatureStore, tmp_path: Path) -> None:
    """With inverted test labels all candidates and the best one are the same."""
    (x, y), (x_test, y_test) = arrays(needle, "train"), arrays(needle, "test")
    other = cm.import_features(
        {"train": x, "test": -x_test},
        out=tmp_path / "store",
        labels={"train": y, "test": 1 - y_test},
    )
    options: dict[str, Any] = {"keep": 0.9, "measure": "ridge", "selectors": ("random", "leverage")}
    one, two = cm.shrink(needle, **options), cm.shrink(other, **options)
    assert one.candidates.equals(two.candidates)
    assert one.tried["n_kept"].tolist() == two.tried["n_kept"].tolist()


def test_a_goal_too_strict_for_the_data_keeps_the_whole_layer(
    needle: cm.FeatureStore, tmp_path: Path
) -> None:
    (x, y), (x_test, y_test) = arrays(needle, "train"), arrays(needle, "test")
    few = cm.import_features(
        {"train": x, "test": x_test[:40]},
        out=tmp_path / "store",
        labels={"train": y, "test": y_test[:40]},
    )
    plan = cm.shrink(few, keep=0.99, worst_class_drop=0.01, **QUICK)
    assert not plan.safe
    assert plan.n_kept == 24
    assert plan.slim.indices.tolist() == list(range(24))
    assert plan.sentence.startswith("Nothing smaller is safe")
    assert not plan.tried["holds"].any()
    largest = plan.tried.sort_values("n_kept").iloc[-1]
    assert f"Why not fewer: {largest['n_kept']} neurons keep" in plan.sentence
    assert f"confirm no more than {largest['bound']:.4f}" in plan.sentence


def test_a_model_that_keeps_most_neurons_says_why(needle: cm.FeatureStore, tmp_path: Path) -> None:
    """Random neurons keep the one that matters only if nearly all are kept."""
    plan = cm.shrink(
        needle, keep=0.97, measure="ridge", selectors=("random",), seed=1, out=tmp_path / "slim"
    )
    assert plan.safe
    assert plan.n_kept > 12
    failed = plan.tried[(plan.tried["n_kept"] < plan.n_kept) & ~plan.tried["holds"]]
    row = failed.loc[failed["n_kept"].idxmax()]
    ratio = row["value"] / plan.slim.record["measured"]["value_full"]
    assert (
        f"Why not fewer: {row['n_kept']} neurons keep {ratio:.4f}, of which the 1,500 samples "
        f"confirm no more than {row['bound']:.4f}"
    ) in plan.sentence
    # An opened folder says the same.
    assert plan.sentence in (tmp_path / "slim" / "README.md").read_text()
    assert SlimModel.open(tmp_path / "slim").record["failed"]["n_kept"] == row["n_kept"]
    small = cm.shrink(needle, keep=0.95, measure="ridge", selectors=("random", "anova"))
    assert "Why not fewer" not in small.sentence


def test_classes_count_only_with_worst_class_drop(needle: cm.FeatureStore) -> None:
    free = cm.shrink(needle, keep=0.5, **QUICK)
    strict = cm.shrink(needle, keep=0.5, worst_class_drop=0.05, **QUICK)
    assert strict.n_kept >= free.n_kept
    classes = strict.slim.record["measured"]["classes"]
    assert all(row["drop_bound"] < 0.05 for row in classes)
    assert "no class loses 5 points" in strict.sentence


def test_the_precision_with_fewest_bytes_is_chosen(needle: cm.FeatureStore) -> None:
    plan = cm.shrink(needle, keep=0.8, precisions=("float32", "int8", "binary"), **QUICK)
    assert plan.slim.bytes_per_vector == 1
    assert plan.slim.precision == "int8", "one bit takes a byte too, and keeps less"
    front = plan.candidates[plan.candidates["on_front"]]
    assert front["bytes"].is_monotonic_increasing
    assert front["value"].is_monotonic_increasing
    assert set(plan.candidates["precision"]) == {"float32", "int8", "binary"}
    x, y = arrays(needle, "test")
    assert plan.slim.encode(x).nbytes == len(y)
    bits = cm.shrink(needle, keep=0.6, precisions=("binary",), **QUICK).slim
    assert set(np.unique(bits.transform(x))) == {-1.0, 1.0}


def test_a_budget_is_respected(needle: cm.FeatureStore) -> None:
    plan = cm.shrink(needle, keep=0.9, budget_bytes=16, **QUICK)
    assert plan.slim.bytes_per_vector <= 16
    assert plan.candidates["bytes"].max() <= 16
    with pytest.raises(CriticalMassError, match=r"max_dims=3: nothing .* best lower bound there"):
        cm.shrink(needle, keep=0.99, max_dims=3, measure="ridge", selectors=("random",))


def test_the_order_effect_is_measured_with_and_without_an_order(
    needle: cm.FeatureStore, tmp_path: Path
) -> None:
    ordered = synthetic.draw(synthetic.nested(32), n_train=1500, n_test=3000, seed=1)
    store = synthetic.to_store(ordered, tmp_path / "nested")
    plan = cm.shrink(store, keep=0.9, measure="ridge", selectors=("random", "first"))
    effect = plan.slim.record["verdict"]
    assert plan.slim.record["selector"] == "first"
    assert effect["first_minus_random"]["low"] > 0
    assert "the layer is ordered" in effect["sentence"]
    rows = synthetic.draw(synthetic.diffuse(32), n_train=1500, n_test=3000, seed=1)
    flat = cm.shrink(
        synthetic.to_store(rows, tmp_path / "diffuse"), keep=0.9, measure="ridge",
        selectors=("random", "first"),
    )  # fmt: skip
    for either in (plan, flat):
        effect = either.slim.record["verdict"]
        keeps_enough = effect["first_ratio_bound"] >= 0.9
        assert ("keeps enough" in effect["sentence"]) == keeps_enough
        assert ("do not truncate" in effect["sentence"]) != keeps_enough
    assert "keeps enough" in plan.slim.record["verdict"]["sentence"], "it kept the first neurons"
    assert flat.slim.record["verdict"]["first_minus_random"]["low"] <= 0


def test_not_worse_than_random_neurons_is_no_licence_to_truncate(
    needle: cm.FeatureStore,
) -> None:
    """The first neuron is noise, as most random ones are: it keeps half of the accuracy."""
    effect = cm.shrink(needle, keep=0.95, **QUICK).slim.record["verdict"]
    y = needle.labels("test")
    majority = np.bincount(y).max() / len(y)
    assert effect["first_minus_random"]["low"] <= 0 <= effect["first_minus_random"]["high"]
    assert effect["first_ratio"] * effect["chosen"] == pytest.approx(majority, abs=0.05)
    assert "is not decided" in effect["sentence"]
    assert "do not truncate the layer" in effect["sentence"]
    assert f"keep {effect['first_ratio']:.1%} of the whole layer's value" in effect["sentence"]


def test_names_from_data_are_escaped_in_the_model_card(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 400)
    x = rng.standard_normal((400, 6)) + 2 * y[:, None]
    names = np.array(["<script>alert(1)</script>", "a|b [c](d)"])[y]
    store = cm.import_features(x, out=tmp_path / "store", labels=names)
    cm.shrink(store, keep=0.9, out=tmp_path / "slim", **QUICK)
    card = (tmp_path / "slim" / "README.md").read_text()
    assert "<script>" not in card.replace("\\<script\\>", "")
    assert "\\[c\\](d)" in card


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keep": 1.5}, r"keep=1\.5 is outside"),
        ({"keep": 0.0}, "keep=0"),
        ({"level": 0.2}, r"level=0\.2"),
        ({"worst_class_drop": -1.0}, "worst_class_drop=-1"),
        ({"budget_bytes": 0}, "budget_bytes=0"),
        ({"budget_bytes": 3}, "no room for one neuron"),
        ({"max_dims": 0}, "max_dims=0"),
        ({"measure": "logistik"}, "did you mean 'logistic'"),
        ({"selectors": ("randm",)}, "did you mean 'random'"),
        ({"selectors": ("pca-top",)}, "makes no layer smaller"),
        ({"selectors": ()}, "no selector"),
        ({"precisions": ("int9",)}, "did you mean 'int8'"),
        ({"layer": "penultimat"}, "did you mean 'penultimate'"),
        ({"measure": "cka", "worst_class_drop": 0.1}, "applies to probes only"),
        ({"relevance": "label"}, "did you mean 'labels'"),
        ({"relevance": "labels"}, "applies to retrieval measures only"),
    ],
)
def test_errors_are_one_line(needle: cm.FeatureStore, options: dict[str, Any], words: str) -> None:
    with pytest.raises(CriticalMassError, match=words) as caught:
        cm.shrink(needle, **options)
    assert "\n" not in str(caught.value)


def test_a_damaged_folder_is_named(needle: cm.FeatureStore, tmp_path: Path) -> None:
    cm.shrink(needle, keep=0.9, out=tmp_path / "slim", **QUICK)
    path = tmp_path / "slim" / "indices.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(StoreError, match=r"indices\.npy.*damaged"):
        SlimModel.open(tmp_path / "slim")
    with pytest.raises(StoreError, match="no slim model at"):
        SlimModel.open(tmp_path)
    with pytest.raises(
        StoreError,
        match=r"is a feature store, not a slim model; .*criticalmass shrink \S+store --out",
    ):
        SlimModel.open(needle.path)


def test_another_width_is_refused(needle: cm.FeatureStore) -> None:
    slim = cm.shrink(needle, keep=0.9, **QUICK).slim
    with pytest.raises(CriticalMassError, match=r"\(n_samples, 24\)"):
        slim.transform(np.zeros((3, 7)))
    with pytest.raises(CriticalMassError, match="has no head"):
        slim.predict(np.zeros((3, 24)))


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> cm.FeatureStore:
    """30 clusters in 4 directions, seen by 32 neurons; the labels are clusters modulo 3."""
    rng = np.random.default_rng(3)
    centres, mix = rng.standard_normal((30, 4)), rng.standard_normal((4, 32)) / 2
    cluster = rng.integers(0, 30, 2400)
    x = (centres[cluster] + 0.3 * rng.standard_normal((2400, 4))) @ mix
    out = tmp_path_factory.mktemp("vectors") / "store"
    return cm.import_features(x.astype(np.float32), out=out, labels=cluster % 3)


def test_retrieval_needs_no_labels_and_finds_the_latent_width(vectors: cm.FeatureStore) -> None:
    """Neurons are mixtures of 4 directions: a few more than 4 find nearly the same neighbours."""
    plan = cm.shrink(vectors, keep=0.9, measure="retrieval", selectors=("random", "leverage"))
    assert plan.safe
    assert 4 <= plan.n_kept <= 12
    assert plan.slim.head is None
    assert plan.slim.record["measured"]["value_full"] == 1.0
    assert "of the neighbour agreement (nDCG@10 of whole vectors' own neighbours" in plan.sentence
    n_queries = vectors.labels("test").size
    assert f"on {n_queries} held-out samples" in plan.sentence


def test_the_card_of_vectors_says_what_counts_as_right_and_counts_no_classes(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(4)
    x = rng.standard_normal((900, 3)) @ rng.standard_normal((3, 8))
    store = cm.import_features(x, out=tmp_path / "store")
    cm.shrink(store, keep=0.8, measure="retrieval", selectors=("random",), out=tmp_path / "slim")
    card = (tmp_path / "slim" / "README.md").read_text()
    assert "classes" not in card
    assert f"Each query searches the {store.labels('train').size:,} training vectors." in card
    assert "- relevance that people have judged" in card


def test_the_card_of_relevance_by_labels_names_it(vectors: cm.FeatureStore, tmp_path: Path) -> None:
    plan = cm.shrink(
        vectors, keep=0.8, measure="retrieval", relevance="labels", selectors=("random",),
        out=tmp_path / "slim",
    )  # fmt: skip
    assert "of the nDCG@10 of training vectors of the query's class" in plan.sentence
    card = (tmp_path / "slim" / "README.md").read_text()
    assert "those of its class are relevant" in card
    assert "(measure retrieval, 3 classes)" in card
    assert "people have judged" not in card


def test_relevance_by_labels_scores_whole_vectors_by_labels(
    vectors: cm.FeatureStore,
) -> None:
    plan = cm.shrink(
        vectors, keep=0.9, measure="retrieval", relevance="labels", selectors=("leverage",)
    )
    full = plan.slim.record["measured"]["value_full"]
    x, y = arrays(vectors, "train")
    q, y_q = arrays(vectors, "test")
    unit, unit_q = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, q))
    ten = np.argsort(-(unit_q @ unit.T), axis=1)[:, :10]
    discounts = 1 / np.log2(np.arange(2, 12))
    expected = ((y[ten] == y_q[:, None]) @ discounts / discounts.sum()).mean()
    assert full == pytest.approx(expected, abs=2e-3)


def test_shrinking_by_a_similarity(vectors: cm.FeatureStore) -> None:
    plan = cm.shrink(vectors, keep=0.8, measure="cka", selectors=("random", "greedy-cka"))
    assert plan.safe
    x = vectors.features("test", "penultimate").array()
    measured = cm.linear_cka(x[:, plan.slim.indices], x)
    assert plan.slim.record["measured"]["value"] == pytest.approx(measured, abs=1e-6)
    assert plan.slim.record["promise"]["ratio_bound"] < measured
    with pytest.raises(CriticalMassError, match="compares float32 values"):
        cm.shrink(vectors, measure="cka", precisions=("int8",))


def test_the_promise_of_a_head_is_tested_on_new_data(
    needle: cm.FeatureStore, tmp_path: Path
) -> None:
    """The slim head is compared with the whole layer's probe on the new test rows."""
    plan = cm.shrink(needle, keep=0.9, selectors=("anova",))
    again = cm.verify(plan.slim, needle)
    assert again.holds
    assert again.value == pytest.approx(plan.slim.record["measured"]["value"])
    assert again.ratio_bound == pytest.approx(plan.verdict["ratio_bound"], abs=1e-6)
    (x, y), (x_test, y_test) = arrays(needle, "train"), arrays(needle, "test")
    moved = cm.import_features(
        {"train": np.roll(x, 1, axis=1), "test": np.roll(x_test, 1, axis=1)},
        out=tmp_path / "moved",
        labels={"train": y, "test": y_test},
    )
    assert not cm.verify(plan.slim, moved).holds, "the kept neuron is noise there"
    headless = cm.shrink(needle, keep=0.9, **QUICK)
    with pytest.raises(CriticalMassError, match="without a head"):
        cm.verify(headless.slim, needle)
    unsafe = dataclasses.replace(plan.slim, record={**plan.slim.record, "safe": False})
    with pytest.raises(CriticalMassError, match="promises nothing"):
        cm.verify(unsafe, needle)
    with pytest.raises(CriticalMassError, match=r"level=0\.2"):
        cm.verify(plan.slim, needle, level=0.2)


def test_cost(needle: cm.FeatureStore) -> None:
    plan = cm.shrink(needle, keep=0.9, **QUICK)
    # 24 and 1 neurons of 4 bytes, a billion vectors: 96 GB and 4 GB.
    assert "cost 2.00 instead of 48.00 a month" in plan.cost(0.5, 1_000_000_000)
    with pytest.raises(CriticalMassError, match="price_per_gb=-1"):
        plan.cost(-1, 10)


def test_sizes_have_a_constant_ratio() -> None:
    assert geometric_sizes(1, 1000, 4) == (1, 10, 100, 1000)
    assert geometric_sizes(3, 3, 5) == (3,)
    assert geometric_sizes(2, 4, 10) == (2, 3, 4)
    assert Goal(0.9, 0.95, budget_bytes=10).max_neurons(50, "float16") == 5
    assert Goal(0.9, 0.95, max_dims=3).max_neurons(50, "binary") == 3


def test_the_command(needle: cm.FeatureStore, tmp_path: Path) -> None:
    arguments = ["shrink", str(needle.path), "--keep", "0.9", "--measure", "ridge", "-q"]
    result = CliRunner().invoke(
        cli,
        [*arguments, "--selector", "anova", "--out", str(tmp_path / "slim"),
         "--price-per-gb", "0.5", "--vectors", "1000"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "Keep 1 of 24 neurons" in result.output
    assert "a month" in result.output
    assert SlimModel.open(tmp_path / "slim").n_kept == 1
    as_json = CliRunner().invoke(cli, [*arguments, "--selector", "anova", "--format", "json"])
    verdict = json.loads(as_json.output)
    assert (verdict["n_kept"], verdict["selector"], verdict["safe"]) == (1, "anova", True)
    assert verdict["ratio_bound"] >= verdict["keep"] == 0.9
    assert verdict["candidates"][0]["selector"] == "anova"


def test_a_measure_of_neighbours_is_bounded_by_its_queries(tmp_path: Path) -> None:
    """Half of the neurons are faint noise: without them most neighbours stay, but not all."""
    rng = np.random.default_rng(0)
    x = 0.1 * rng.standard_normal((1200, 12)).astype(np.float32)
    x[:, ::2] = rng.standard_normal((1200, 6))
    store = cm.import_features(x, out=tmp_path / "store")
    plan = cm.shrink(store, keep=0.7, measure="mutual-knn")
    assert plan.safe
    assert plan.slim.indices.size < 12
    measured = plan.slim.record["measured"]["value"]
    bound = plan.slim.record["promise"]["ratio_bound"]
    assert 0.7 <= bound < measured < 1.0
    # The mean of 300 scores in [0, 1] is known to a few hundredths.
    assert measured - bound < 0.06


def few_shots(folder: Path, per_class: int) -> cm.FeatureStore:
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(20), per_class + 1)
    x = 3 * rng.standard_normal((20, 8))[y] + rng.standard_normal((y.size, 8))
    is_test = np.arange(y.size) % (per_class + 1) == 0
    return cm.import_features(x, labels=y, split=is_test, out=folder / "store")


@pytest.mark.filterwarnings("ignore:.*single training sample")
def test_one_training_sample_per_class_is_refused_and_the_cures_work(tmp_path: Path) -> None:
    one = few_shots(tmp_path / "one", 1)
    with pytest.raises(CriticalMassError, match="has a single sample, but shrink") as caught:
        cm.shrink(one, measure="ridge")
    assert "give some classes two or more, or use measure='retrieval' or 'cka'" in str(caught.value)
    for measure in ("retrieval", "cka"):
        assert cm.shrink(one, measure=measure).n_kept <= 8
    assert cm.shrink(few_shots(tmp_path / "two", 2), measure="logistic").n_kept <= 8


@pytest.mark.filterwarnings("ignore:.*training sample")
def test_test_classes_without_training_samples_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(8), 20)
    x = 3 * rng.standard_normal((8, 6))[y] + rng.standard_normal((y.size, 6))
    store = cm.import_features(x, labels=y, split=y >= 4, out=tmp_path / "store")
    with pytest.raises(CriticalMassError, match=r"no class of the split 'test' .* training sample"):
        cm.shrink(store)
    with pytest.raises(CriticalMassError, match="relevance='neighbours'"):
        cm.shrink(store, measure="retrieval", relevance="labels")
    for measure in ("retrieval", "cka"):
        assert cm.shrink(store, measure=measure).slim.record["measured"]["value_full"] == 1.0


def test_one_name_stands_for_a_list_of_one(needle: cm.FeatureStore) -> None:
    options: dict[str, Any] = {"keep": 0.9, "measure": "ridge"}
    one = cm.shrink(needle, selectors="anova", precisions="float16", **options)
    two = cm.shrink(needle, selectors=("anova",), precisions=["float16"], **options)
    assert one.sentence == two.sentence
    assert set(one.candidates["selector"]) == {"anova"}
    with pytest.raises(CriticalMassError, match="no selector 'anvoa'; did you mean 'anova'"):
        cm.shrink(needle, selectors="anvoa", **options)
