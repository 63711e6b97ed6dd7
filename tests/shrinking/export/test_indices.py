"""Exports that need neither torch nor a database: indices, scikit-learn; and the folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import criticalmass as cm
from criticalmass.cli.main import cli
from criticalmass.errors import CriticalMassError, MissingExtraError, StoreError
from criticalmass.shrinking.codec import BITS, Codec
from criticalmass.shrinking.export.sklearn_pipeline import level_edges, make_pipeline
from criticalmass.shrinking.slim_model import SlimModel

READ_PIPELINES = """
import warnings
warnings.simplefilter("error")
import numpy as np, skops.io
x = np.load("x.npy")
for name in {names}:
    pipeline = skops.io.load(name + "/pipeline.skops", trusted=[])
    np.savez(name + ".npz", short=pipeline[:-1].transform(x), labels=pipeline.predict(x),
             scores=pipeline.decision_function(x), chances=pipeline.predict_proba(x))
"""


def test_indices(
    slim: SlimModel, whole: NDArray[np.float32], tmp_path: Path, fresh: Callable[..., str]
) -> None:
    assert cm.export(slim, format="indices", out=tmp_path / "out") == tmp_path / "out"
    np.save(tmp_path / "x.npy", whole)
    fresh(
        "import json, numpy as np\n"
        "kept = np.load('out/indices.npy')\n"
        "assert kept.tolist() == json.load(open('out/indices.json'))['indices']\n"
        "np.save('found.npy', np.load('x.npy')[:, kept])",
        tmp_path,
    )
    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), slim.transform(whole))
    about = json.loads((tmp_path / "out" / "export.json").read_text())
    assert (about["n_kept"], about["n_neurons"]) == (slim.n_kept, 24)


def test_sklearn(
    at_precision: Callable[[str], SlimModel],
    whole: NDArray[np.float32],
    tmp_path: Path,
    fresh: Callable[..., str],
) -> None:
    for precision in BITS:
        cm.export(at_precision(precision), format="sklearn", out=tmp_path / precision)
    np.save(tmp_path / "x.npy", whole)
    fresh(READ_PIPELINES.format(names=list(BITS)), tmp_path)
    for precision in BITS:
        slim, found = at_precision(precision), np.load(tmp_path / f"{precision}.npz")
        np.testing.assert_array_equal(found["short"], slim.transform(whole))
        np.testing.assert_allclose(found["scores"], slim.scores(whole), rtol=1e-9, atol=1e-9)
        np.testing.assert_array_equal(found["labels"], slim.predict(whole))
        weights = np.exp(slim.scores(whole))
        np.testing.assert_allclose(
            found["chances"], weights / weights.sum(axis=1, keepdims=True), rtol=1e-9
        )


def test_sklearn_of_two_classes(two_classes: SlimModel, whole: NDArray[np.float32]) -> None:
    pipeline = make_pipeline(two_classes)
    scores = two_classes.scores(whole)
    np.testing.assert_allclose(
        pipeline.decision_function(whole), scores[:, 1] - scores[:, 0], rtol=1e-9, atol=1e-9
    )
    np.testing.assert_array_equal(pipeline.predict(whole), two_classes.predict(whole))


def test_sklearn_without_a_head(vectors: cm.FeatureStore, whole: NDArray[np.float32]) -> None:
    slim = cm.shrink(vectors, keep=0.5, measure="cka", selectors=("random",)).slim
    np.testing.assert_array_equal(make_pipeline(slim).transform(whole), slim.transform(whole))


@given(
    low=st.floats(-1e3, 1e3, width=32),
    width=st.floats(2.0**-10, 1e4, width=32),
    place=st.integers(0, 254),
)
def test_levels_begin_at_the_exact_number(low: float, width: float, place: int) -> None:
    """One float32 below the edge of level k is level k-1 or less, the edge itself k or more."""
    codec = Codec("int8", np.array([low], np.float32), np.array([width / 255], np.float32))
    edges = level_edges(codec)[0]
    assert (np.diff(edges) >= 0).all()
    below = np.nextafter(edges[place], np.float32(-np.inf), dtype=np.float32)
    assert codec.encode(edges[place].reshape(1, 1))[0, 0] >= place + 1
    assert codec.encode(below.reshape(1, 1))[0, 0] <= place


def test_an_earlier_export_is_replaced_and_nothing_else(slim: SlimModel, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cm.export(slim, format="sklearn", out=out)
    cm.export(slim, format="indices", out=out)
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "export.json", "indices.json", "indices.npy"
    ]  # fmt: skip
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(CriticalMassError, match="holds no earlier export"):
        cm.export(slim, format="indices", out=tmp_path / "mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out"]


def test_a_failed_export_leaves_the_earlier_one(
    slim: SlimModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    cm.export(slim, format="indices", out=out)
    monkeypatch.setitem(__import__("sys").modules, "skops.io", None)
    monkeypatch.setitem(__import__("sys").modules, "skops", None)
    with pytest.raises(MissingExtraError, match=r"the extra \[export\]"):
        cm.export(slim, format="sklearn", out=out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert (out / "indices.npy").is_file()


def test_invalid_arguments(slim: SlimModel, tmp_path: Path) -> None:
    with pytest.raises(CriticalMassError, match="did you mean 'onnx'"):
        cm.export(slim, format="onxx", out=tmp_path / "out")
    with pytest.raises(CriticalMassError, match="is for format torch or onnx, not 'sklearn'"):
        cm.export(slim, format="sklearn", out=tmp_path / "out", cut=True)
    with pytest.raises(StoreError, match="no slim model at"):
        cm.export(tmp_path / "nowhere", format="indices", out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_command(vectors: cm.FeatureStore, tmp_path: Path) -> None:
    cm.shrink(vectors, keep=0.5, out=tmp_path / "slim", selectors=("random",))
    arguments = ["export", str(tmp_path / "slim"), "--format", "indices", "-q"]
    result = CliRunner().invoke(cli, [*arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert result.output.strip() == str(tmp_path / "out")
    assert (tmp_path / "out" / "indices.json").is_file()
    # The slim model's own folder is no export, so it is never written over.
    again = CliRunner().invoke(cli, [*arguments, "--out", str(tmp_path / "slim")])
    assert isinstance(again.exception, CriticalMassError)
