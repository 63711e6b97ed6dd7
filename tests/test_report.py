"""The report answers in one sentence, hides nothing, and fetches nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from criticalmass.errors import CriticalMassError
from criticalmass.figures import new_axes
from criticalmass.report import report
from criticalmass.report.answers import answer, headline_row, next_smaller
from criticalmass.report.drawing import inline_svg, neuron_field, share_bar
from criticalmass.report.record import caveats, facts
from criticalmass.results import Artifact, Run

N_TEST, N_NEURONS = 3000, 100
ACCURACY = {5: 0.50, 10: 0.70, 20: 0.78, 50: 0.80, 100: 0.80}
MakeRun = Callable[..., Run]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Make a run by hand: accuracies as above, the same in every seed."""

    def make(
        name: str = "run",
        *,
        layer: str = "penultimate",
        seeds: int = 12,
        accuracy: dict[int, float] = ACCURACY,
        n_test: int = N_TEST,
        failing: Sequence[int] = (),
        unfinished: Sequence[int] = (),
        classes: Sequence[str] = ("a", "b"),
    ) -> Run:
        run = Run.create(
            tmp_path / name,
            {
                "model": "toy",
                "dataset": "blobs",
                "model_spec": "test:toy",
                "weights_digest": "0123456789abcdef",
                "dataset_spec": "test:blobs",
                "dataset_notes": {"sample": {"train": 900, "of": 6000, "seed": 0}},
                "engine": "openvino",
                "precision": "f32",
                "validation": {"n_rows": 180},
                "created": "2026-11-22T18:00:00+00:00",
                "versions": {"numpy": np.__version__},
            },
        )
        labels = np.zeros(n_test, np.int64)
        cells = [("full", 0, N_NEURONS)]
        cells += [("random", seed, size) for seed in range(seeds) for size in accuracy]
        rows, predictions = [], []
        for selector, seed, size in cells:
            wrong = round(n_test * (1 - accuracy[size]))
            failed = size in failing and selector == "random"
            status = "failed" if failed else "not_converged" if size in unfinished else "ok"
            predictions.append((np.arange(n_test) < wrong).astype(np.uint8))
            rows.append(
                {
                    "model": "toy",
                    "layer": layer,
                    "dataset": "blobs",
                    "split": "test",
                    "selector": selector,
                    "measure": "logistic",
                    "fraction": size / N_NEURONS,
                    "n_kept": size,
                    "n_neurons": N_NEURONS,
                    "seed": seed,
                    "value": None if failed else 1 - wrong / n_test,
                    "value_full": accuracy[N_NEURONS],
                    "n_train": 900,
                    "n_test": n_test,
                    "l2": 0.01,
                    "gap": 1e-7,
                    "passes": 10,
                    "seconds": 0.5,
                    "status": status,
                    "error": "it <b>broke</b>" if failed else None,
                    "cell": f"{layer}-{selector}-{seed}-{size}",
                }
            )
        with run.writer() as writer:
            writer.put_labels(labels, classes)
            writer.append(rows, Artifact("predictions", np.array(predictions)))
        return run

    return make


def masses(**changes: object) -> pd.DataFrame:
    """Make one row of `criticalmass.redundancy`."""
    row = {
        "model": "toy",
        "layer": "penultimate",
        "dataset": "blobs",
        "selector": "random",
        "measure": "logistic",
        "delta": 0.9,
        "estimator": "strict",
        "n_neurons": 1280,
        "value_full": 0.8,
        "critical_mass": 214,
        "critical_mass_low": 190,
        "critical_mass_high": 242,
        "dr": 0.83,
        "dr_low": 0.81,
        "dr_high": 0.85,
        "at_floor": False,
        "reached": True,
        "level": 0.95,
    }
    return pd.DataFrame([row | changes])


def sentence(**changes: object) -> str:
    """Say the answer of one row, with plain spaces."""
    return answer(headline_row(masses(**changes))).sentence.replace("\N{NO-BREAK SPACE}", " ")


def test_the_answer_is_one_sentence_that_a_newcomer_understands() -> None:
    assert sentence() == (
        "Any 214 of the 1,280 neurons keep 90 % of the accuracy (95 % interval 190 to 242)."
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"at_floor": True, "critical_mass": 13}, "Any 13 of the 1,280 neurons already keep 90 %"),
        ({"at_floor": True, "critical_mass": 1}, "Any 1 of the 1,280 neurons already keeps"),
        ({"critical_mass": 1280}, "All 1,280 neurons are needed to keep 90 %"),
        ({"reached": False, "critical_mass": 1280}, "No tested subset keeps 90 % of the accuracy."),
        ({"measure": "cka"}, "of the similarity (CKA) to the whole layer"),
        ({"selector": "pca-top"}, "The first 214 principal components of the 1,280 neurons keep"),
        ({"selector": "pca-bottom"}, "The last 214 principal components"),
        ({"selector": "projection-gaussian"}, "Random projections to 214 dimensions"),
        ({"selector": "norm-high"}, "'norm-high'"),
        ({"critical_mass_low": 214, "critical_mass_high": 214}, "(95 % interval 214 to 214)"),
        ({"critical_mass_low": pd.NA}, "keep 90 % of the accuracy."),
    ],
)
def test_the_answer_in_other_cases(changes: dict[str, object], said: str) -> None:
    assert said in sentence(**changes)


def test_an_interval_of_one_size_says_what_fails() -> None:
    row = headline_row(masses(critical_mass_low=214, critical_mass_high=214))
    lines = masses().drop(columns="delta").loc[[0] * 4].assign(n_kept=[13, 128, 214, 640])
    assert next_smaller(row, lines) == 128
    assert next_smaller(row, lines.assign(layer="other")) is None
    said = answer(row, 128).sentence.replace("\N{NO-BREAK SPACE}", " ")
    assert said.endswith("accuracy (128 do not, at 95 % confidence; none between was tested).")


def test_headline_prefers_a_task_over_similarity_and_delta_09() -> None:
    table = pd.concat(
        [
            masses(measure="cka"),
            masses(selector="first"),
            masses(delta=0.8),
            masses(critical_mass=7),
        ],
        ignore_index=True,
    )
    row = headline_row(table)
    assert row is not None
    assert row["critical_mass"] == 7
    assert headline_row(masses(critical_mass=None)) is None
    assert "no cell" in answer(None).sentence


class _References(HTMLParser):
    """Collects everything that could make a browser fetch or run something."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in {"src", "srcset", "action", "poster", "data"} or name.startswith("on"):
                self.found.append(f"{tag} {name}={value}")
            if name in {"href", "xlink:href"} and not str(value).startswith("#"):
                self.found.append(f"{tag} {name}={value}")


def test_page_is_one_small_offline_file(make_run: MakeRun, tmp_path: Path) -> None:
    page = report([make_run("one"), make_run("two")], tmp_path / "pages" / "report.html")
    assert [item.name for item in page.parent.iterdir()] == ["report.html"]
    text = page.read_text(encoding="utf-8")
    assert page.stat().st_size < 6e6
    seen = _References()
    seen.feed(text)
    assert seen.found == []
    assert not seen.tags & {"script", "link", "img", "iframe", "object", "embed", "base"}
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", text)
    assert "default-src 'none'" in text
    assert len(seen.ids) == len(set(seen.ids)), "ids of two drawings clash"
    for name in re.findall(r'(?:url\(#|href="#)([^")]+)', text):
        assert name in seen.ids


def test_page_answers_first_then_shows(make_run: MakeRun, tmp_path: Path) -> None:
    text = report(make_run(), tmp_path / "r.html").read_text(encoding="utf-8")
    body = text[text.index("<body>") :].replace("\N{NO-BREAK SPACE}", " ")
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))
    places = [
        words.index(part)
        for part in (
            "Any 20 of the 100 neurons keep 90 % of the accuracy (10 do not",
            "Critical mass and diffused redundancy",
            "Accuracy (logistic)",
            "How it was measured",
            "What could be wrong with it",
            "The numbers behind the curves",
        )
    ]
    assert places == sorted(places)
    for part in ("0123456789ab", "OpenVINO in f32", "900 of 6,000 training samples", "180 of them"):
        assert part in words
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_hostile_names_show_as_text(make_run: MakeRun, tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    one = make_run("a", layer=hostile, classes=(hostile, "b"), failing=(5,))
    text = report([one, make_run("b")], tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<b>broke" not in text
    assert "&lt;script&gt;" in text
    seen = _References()
    seen.feed(text)
    assert "script" not in seen.tags


def test_two_layers_are_told_apart_in_the_drawings(tmp_path: Path) -> None:
    drawing, ax = new_axes()
    ax.plot([0, 1], [0, 1], label='<script>"&')
    ax.legend()
    svg = str(inline_svg(drawing, identity="x", description='a "quoted" <title>'))
    assert "<script" not in svg
    assert "&lt;script&gt;" in svg
    assert "<title>" not in svg
    assert svg.startswith('<svg role="img" aria-label="a &#34;quoted&#34;')
    assert "xmlns" not in svg
    assert "matplotlib.org" not in svg


def test_drawing_follows_the_colours_of_the_page() -> None:
    drawing, ax = new_axes()
    ax.plot([0, 1], [0, 1], color="#0072b2")
    ax.set_title("#0072b2 is a layer")
    svg = str(inline_svg(drawing, identity="x", description=""))
    assert "stroke: var(--series-0)" in svg
    assert "#0072b2 is a layer" in svg


def test_record_finds_what_could_be_wrong(make_run: MakeRun) -> None:
    from criticalmass.redundancy import redundancy

    frail = make_run(seeds=3, n_test=400, failing=(50,), unfinished=(5,))
    found = caveats(frail.frame(), redundancy(frail, deltas=(0.5, 0.9)))
    text = " ".join(f"{caveat.title}: {caveat.text}" for caveat in found)
    assert "3 of 16 cells failed" in text
    assert "it <b>broke</b>" in text
    assert "3 of 16 fits did not converge" in text
    assert "Only 3 seeds" in text
    assert "Small test set: 400 samples" in text
    assert "± 0.040".replace(" ", "\N{NO-BREAK SPACE}") in text  # 2 sqrt(0.8 * 0.2 / 400)
    assert "logistic at 50\N{NO-BREAK SPACE}%" in text
    assert "10 neurons miss 90\N{NO-BREAK SPACE}%, 20 pass" in text
    graves = [caveat.grave for caveat in found]
    assert graves == sorted(graves, reverse=True)


def test_record_is_content_with_a_sound_run(make_run: MakeRun) -> None:
    from criticalmass.redundancy import redundancy

    sound = make_run()
    found = caveats(sound.frame(), redundancy(sound, deltas=(0.9,)))
    assert [caveat.title for caveat in found] == ["Steps between tested sizes"]


def test_facts_come_from_the_record_alone(make_run: MakeRun) -> None:
    run = make_run()
    told = {fact.term: fact.text for fact in facts(run.manifest, run.frame())}
    assert told["Model"] == "toy (test:toy, weights 0123456789ab)"
    assert told["Dataset"] == "blobs (test:blobs, 2 classes)"
    assert told["Selector random"].startswith("12 seeds, nested subsets of 5 sizes from 5 to 100")
    bare = {fact.term: fact.text for fact in facts({}, run.frame())}
    assert bare["Model"] == "toy"
    assert "Software" not in bare


def test_a_run_whose_every_cell_failed_is_still_a_page(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(failing=tuple(ACCURACY))
    text = report(run, tmp_path / "r.html").read_text(encoding="utf-8")
    assert "No answer yet" in text
    assert "60 of 61 cells failed" in text


def test_mistakes_are_named_and_nothing_is_written(make_run: MakeRun, tmp_path: Path) -> None:
    out = tmp_path / "out" / "r.html"
    with pytest.raises(CriticalMassError, match="no run"):
        report([], out)
    with pytest.raises(CriticalMassError, match=r"\(1\.5,\)"):
        report(make_run(), out, deltas=(1.5,))
    empty = Run.create(tmp_path / "empty", {"model": "m", "dataset": "d"})
    with pytest.raises(CriticalMassError, match="no rows yet"):
        report(empty, out)
    assert not out.parent.exists()


def test_same_run_makes_the_same_page(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    one = report(run, tmp_path / "1.html").read_text(encoding="utf-8")
    two = report(run.path, tmp_path / "2.html").read_text(encoding="utf-8")
    assert one == two


@pytest.mark.parametrize(("kept", "neurons"), [(1, 1), (3, 64), (214, 1280), (500, 40_000)])
def test_field_has_a_dot_for_every_neuron_or_group(kept: int, neurons: int) -> None:
    field = str(neuron_field(kept, neurons))
    dots = {
        name: len(re.findall("M", d)) for name, d in re.findall(r'class="(\w+)" d="(.*?)"', field)
    }
    per_dot = max(1, -(-neurons // 1600))
    assert sum(dots.values()) == -(-neurons // per_dot)
    assert dots["kept"] == max(1, round(kept / per_dot))


def test_bar_is_as_long_as_the_share() -> None:
    bar = str(share_bar(0.1, 0.25, 0.5))
    assert 'class="kept" width="25.0"' in bar
    assert 'x="10.0"' in bar
    assert 'width="40.00"' in bar
